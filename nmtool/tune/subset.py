"""Which training rows a run sees, and in which order: from its seed alone, so that methods compare like with like."""

from __future__ import annotations

import math

import numpy as np

from nmtool.numerics.seeds import generator
from nmtool.records import Int


def share(y: Int, seed: int, fraction: float, nested: bool = True) -> Int:
    """A stratified share of the labelled rows, sorted.

    Of each class max(1, floor(fraction * n_c)) rows, without replacement. Smaller shares of one seed lie inside larger
    ones, unless they are not to be nested: then each is drawn for itself. (The authors' code floors to 0 and its
    subsets are not nested; published-code 1.4.)

    Args:
        y: int64 [N] labels of training, -1 for rows that take no part.
        seed: of the run.
        fraction: in (0, 1].
        nested: whether shares of one seed lie inside each other.
    """
    if fraction >= 1:
        return np.flatnonzero(y >= 0).astype(np.int64)
    chosen = []
    for c in np.unique(y[y >= 0]):
        rows = np.flatnonzero(y == c)
        # 0.29 * 100 is 28.999…: what is whole on paper must not be floored
        count = max(1, math.floor(fraction * len(rows) + 1e-9))
        rng = generator(seed, "tune", "fraction", int(c), *(() if nested else (repr(fraction),)))
        chosen.append(rng.permutation(rows)[:count])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def hold_out(y: Int, rows: Int, seed: int, share: float) -> tuple[Int, Int]:
    """Training rows without, and with, those that a search holds out: both sorted, stratified by the labels trained on.

    Of each class with two rows or more max(1, floor(share * n_c)) rows; a class of one row is not judged.

    Args:
        y: int64 [N] labels of training.
        rows: int64 [n] training rows of a run.
        seed: of the run.
        share: in (0, 1).
    """
    held = []
    for c in np.unique(y[rows]):
        mine = rows[y[rows] == c]
        count = max(1, math.floor(share * len(mine) + 1e-9)) if len(mine) > 1 else 0
        held.append(generator(seed, "tune", "holdout", int(c)).permutation(mine)[:count])
    out = np.sort(np.concatenate(held)).astype(np.int64)
    return np.setdiff1d(rows, out, assume_unique=True), out


def order(rows: Int, seed: int, epoch: int, part: str = "probe") -> Int:
    """``rows`` in the order of one epoch, int64."""
    return rows[generator(seed, "tune", "order", part, epoch).permutation(len(rows))]
