"""What came of a draw: counts, the realised transition matrix, and how concentrated the flips are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmtool.errors import DataError
from nmtool.numerics.checks import Labels, as_labels


def _both(clean: ArrayLike, noisy: ArrayLike, classes: int) -> tuple[Labels, Labels]:
    """Clean and noisy labels of the rows that have both."""
    before, after = as_labels(clean, classes), as_labels(noisy, classes, "noisy labels")
    if before.size != after.size:
        raise DataError(f"{before.size} clean and {after.size} noisy labels", "as many of one as of the other")
    labelled = (before >= 0) & (after >= 0)
    return before[labelled], after[labelled]


def flip_counts(clean: ArrayLike, noisy: ArrayLike, classes: int) -> Labels:
    """How many rows of each clean class (row) carry each noisy label (column); rows kept are on the diagonal.

    Args:
        clean: [N]; noisy: [N]; both in [0, classes), or -1. Rows unlabelled in either are left out.

    Returns:
        [classes, classes] int64.

    Raises:
        DataError: labels out of range or of unequal length.
    """
    before, after = _both(clean, noisy, classes)
    return np.bincount(before * classes + after, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def flip_pairs(clean: ArrayLike, noisy: ArrayLike, classes: int) -> tuple[Labels, Labels, Labels]:
    """The cells of :func:`flip_counts` that are not 0, where classes are too many for a square: clean, noisy, count.

    Raises:
        DataError: as :func:`flip_counts`.
    """
    before, after = _both(clean, noisy, classes)
    cells, counts = np.unique(before * classes + after, return_counts=True)
    return cells // classes, cells % classes, counts.astype(np.int64)


def transition_matrix(clean: ArrayLike, noisy: ArrayLike, classes: int) -> NDArray[np.float64]:
    """The realised P(noisy | clean), [classes, classes]; the row of a class without samples is that of the identity.

    Raises:
        DataError: as :func:`flip_counts`.
    """
    counts = flip_counts(clean, noisy, classes).astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1.0), np.eye(classes))


@dataclass(frozen=True, slots=True, kw_only=True)
class ByClass:
    """A row a class, int64 [classes] each.

    Attributes:
        rows: labelled rows of the class.
        flipped: of these, those that carry another label now.
        received: rows of other classes that carry its label now.
    """

    rows: Labels
    flipped: Labels
    received: Labels


def by_class(clean: ArrayLike, noisy: ArrayLike, classes: int) -> ByClass:
    """Rows, flips and arrivals of each class; O(classes), never a square.

    Raises:
        DataError: as :func:`flip_counts`.
    """
    before, after = _both(clean, noisy, classes)
    wrong = before != after
    rows, flipped, received = (
        np.bincount(values, minlength=classes).astype(np.int64) for values in (before, before[wrong], after[wrong])
    )
    return ByClass(rows=rows, flipped=flipped, received=received)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concentration:
    """Where the flips went.

    Attributes:
        flips: number of labels that changed.
        top_share: share of the flips that the most hit class took, 0 to 1; 0 without flips.
        classes_hit: number of classes that took at least one flip.
        biggest_class_share: share of all labelled rows that carry the commonest noisy label, 0 to 1.
    """

    flips: int
    top_share: float
    classes_hit: int
    biggest_class_share: float


def concentration(clean: ArrayLike, noisy: ArrayLike, classes: int) -> Concentration:
    """How concentrated the flips are: instance noise on raw pixels may flood one class with most of them.

    Raises:
        DataError: as :func:`flip_counts`.
    """
    table = by_class(clean, noisy, classes)
    flips, total = int(table.flipped.sum()), int(table.rows.sum())
    now = table.rows - table.flipped + table.received
    return Concentration(
        flips=flips,
        top_share=float(table.received.max()) / flips if flips else 0.0,
        classes_hit=int((table.received > 0).sum()),
        biggest_class_share=float(now.max()) / total if total else 0.0,
    )


def block_shares(clean: ArrayLike, noisy: ArrayLike, classes: int, blocks: int) -> tuple[NDArray[np.float64], int]:
    """The flips between blocks of consecutive classes: a picture of classes too many to be drawn one by one.

    What stayed right is left out, so that the diagonal, too, shows noise: flips within the block.

    Args:
        clean: [N]; noisy: [N]; both in [0, classes), or -1.
        blocks: at most so many.

    Returns:
        [blocks, blocks] of the rows of a block of clean classes the share that flipped to each block; classes a block.

    Raises:
        DataError: as :func:`flip_counts`.
    """
    before, after = _both(clean, noisy, classes)
    size = -(-classes // blocks)
    used = -(-classes // size)
    rows = np.bincount(before // size, minlength=used).astype(np.float64)
    wrong = before != after
    cells = (before[wrong] // size) * used + after[wrong] // size
    counts = np.bincount(cells, minlength=used * used).reshape(used, used)
    return counts / np.maximum(rows, 1.0)[:, None], size
