"""What the four task scripts share."""
