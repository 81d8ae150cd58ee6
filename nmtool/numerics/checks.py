"""What every noise model checks and counts first: labels, ratios, classes. Needs numpy alone; guesses nothing."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmtool.errors import DataError

Labels = NDArray[np.int64]
UNLABELLED = -1


def as_labels(labels: ArrayLike, classes: int | None = None, name: str = "labels") -> Labels:
    """A fresh int64 copy of one-dimensional labels, checked: -1 or in [0, classes).

    Raises:
        DataError: another shape, no whole numbers, a label out of range.
    """
    array = np.asarray(labels)
    if array.ndim != 1:
        raise DataError(f"{name} of shape {array.shape}", "one dimension")
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise DataError(f"{name} of dtype {array.dtype}", "whole numbers")
    low, high = int(array.min()), int(array.max())
    if low < UNLABELLED:
        raise DataError(f"label {low}", "0 or more, or -1 for unlabelled")
    if high > np.iinfo(np.int64).max:
        raise DataError(f"label {high}", "a number that fits 64 bits with sign")
    if classes is not None and high >= classes:
        raise DataError(f"label {high}", f"less than the number of classes, {classes}")
    return array.astype(np.int64, copy=True)


def as_ratio(ratio: float | Fraction) -> Fraction:
    """The ratio as the decimal that was written: 0.145 of 100 is 14.5, not 14.499999999999998. A fraction is exact."""
    value = float(ratio)
    if not 0.0 <= value <= 1.0:  # also true of nan
        raise DataError(f"noise ratio {value}", "a number from 0 to 1")
    return ratio if isinstance(ratio, Fraction) else Fraction(repr(value))


def half_up(share: Fraction, count: int) -> int:
    """round(share * count), a half upwards, without a rounding error."""
    return math.floor(share * count + Fraction(1, 2))


def check_classes(classes: int, share: Fraction) -> None:
    """Raise ``DataError`` where there is no class, or only one and noise is asked for."""
    if classes < 1:
        raise DataError(f"{classes} classes", "1 or more")
    if classes == 1 and share > 0:
        raise DataError("1 class", "2 or more, since noise needs another class to flip to", "use ratio 0")


def count_classes(labels: Labels, classes: int) -> Labels:
    """int64 [classes]: labelled rows of each class."""
    return np.bincount(labels[labels >= 0], minlength=classes).astype(np.int64)


def shuffled_by_class(labels: Labels, rng: np.random.Generator) -> Labels:
    """Row numbers grouped by ascending label (the unlabelled first), in random order within each label."""
    order = rng.permutation(labels.size)
    return order[np.argsort(labels[order], kind="stable")]
