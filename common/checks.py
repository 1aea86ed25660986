"""Argument checks, and the error that a user can fix."""

from typing import Any

import numpy as np


class Failure(ValueError):
    """An error that the user can fix: the message is one line that says what is wrong and what to do."""


def saved_by_forward(saved: Any) -> Any:
    """Return what a forward pass saved for the backward pass; raise ValueError when there was none."""
    if saved is None:
        raise ValueError("backward came before a forward pass with remember=True; call that first")
    return saved


def check_shape(array: np.ndarray, *expected: int | str) -> None:
    """Raise ValueError unless the array has this shape; a letter stands for any length but zero."""
    fits = array.ndim == len(expected) and 0 not in array.shape
    for length, wanted in zip(array.shape, expected, strict=False):  # a plain loop: every layer asks, in every step
        fits = fits and (length == wanted or isinstance(wanted, str))
    if not fits:
        raise ValueError(f"expected an array of shape [{', '.join(map(str, expected))}], got {list(array.shape)}")


def check_labels(labels: np.ndarray, count: int, classes: int) -> None:
    """Raise ValueError unless the labels are `count` integers from 0 to `classes` - 1."""
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"expected {count} integer labels [N], got {labels.dtype} of shape {list(labels.shape)}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
