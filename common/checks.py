"""What public functions ask of their arguments where a mistake would otherwise give a wrong answer silently."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

Kept = TypeVar("Kept")


def remembered(kept: Kept | None) -> Kept:
    """Return what a forward pass kept for the backward pass; raise ValueError when there was none."""
    if kept is None:
        raise ValueError("backward came before a forward pass with remember=True; call that first")
    return kept


def check_shape(array: np.ndarray, *wanted: int | None) -> None:
    """Raise ValueError unless the array has the wanted shape, in which None stands for any length but zero."""
    found = array.shape
    fits = len(found) == len(wanted) and 0 not in found
    for want, length in zip(wanted, found, strict=False):  # a plain loop: every layer asks, every step
        fits = fits and want in (None, length)
    if not fits:
        shape = ", ".join(name if want is None else str(want) for name, want in zip("NC", wanted, strict=False))
        raise ValueError(f"expected an array of shape [{shape}], got {list(found)}")


def check_labels(labels: np.ndarray, count: int, classes: int) -> None:
    """Raise ValueError unless the labels are `count` whole numbers from 0 to `classes` - 1."""
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"expected {count} integer labels [N], got {labels.dtype} of shape {list(labels.shape)}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
