"""Label noise: each function takes clean labels and a generator, and returns new noisy labels.

Labels are whole numbers in [0, classes); -1 stands for *unlabelled*, is never flipped and never counted. The number of
flips is exact wherever the model permits (largest-remainder apportionment), since the usual shortcuts undershoot, some
of them down to no noise at all. This module refuses to change its inputs, to draw from any generator but the one given,
and to guess: a ratio, label or matrix that makes no sense is a ``DataError``. It needs numpy alone.

With ``nested``, and a generator in the same state for each ratio, what flips at one ratio flips at every higher one, to
the same label; the counts are as exact (see ``nested``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmtool.errors import DataError
from nmtool.numerics.checks import (
    UNLABELLED,
    Labels,
    as_labels,
    as_ratio,
    check_classes,
    count_classes,
    half_up,
    shuffled_by_class,
)
from nmtool.numerics.flips import Concentration, concentration, flip_counts, transition_matrix
from nmtool.numerics.instances import instance
from nmtool.numerics.nested import first_flips
from nmtool.numerics.swaps import SwapMode, swap_captions

__all__ = [
    "UNLABELLED",
    "Concentration",
    "Labels",
    "SwapMode",
    "asymmetric",
    "concentration",
    "flip_counts",
    "group_successors",
    "instance",
    "matrix",
    "pairflip",
    "swap_captions",
    "symmetric",
    "transition_matrix",
]


# ------------------------------------------------------------------------------------------------------------ counting


def _apportion(counts: Labels, share: Fraction, rng: np.random.Generator) -> Labels:
    """How many of each class flip: the total is share * sum(counts), half up, and each is floor or ceil of its quota.

    Ties between equal remainders are broken by the generator, so that no class is favoured for its number.
    """
    quotas = [share * int(count) for count in counts]
    taken = np.array([math.floor(quota) for quota in quotas], dtype=np.int64)
    missing = half_up(share, int(counts.sum())) - int(taken.sum())
    tie = rng.permutation(len(quotas))
    order = sorted(range(len(quotas)), key=lambda c: (math.floor(quotas[c]) - quotas[c], tie[c]))
    taken[order[:missing]] += 1
    return taken


def _choose(labels: Labels, taken: Labels, rng: np.random.Generator) -> Labels:
    """Row numbers: ``taken[c]`` of the rows of each class c, without replacement."""
    order = shuffled_by_class(labels, rng)
    order = order[np.searchsorted(labels[order], 0) :]  # the unlabelled come first
    grouped = labels[order]
    place = np.arange(order.size) - np.searchsorted(grouped, np.arange(taken.size))[grouped]
    return order[place < taken[grouped]]


def _rows(labels: Labels, eligible: Labels, share: Fraction, rng: np.random.Generator, nested: bool) -> Labels:
    """The rows that flip: ``share`` of the eligible rows, of each class the floor or ceil of its quota."""
    if nested:
        return first_flips(labels, eligible, share, rng)
    return _choose(labels, _apportion(eligible, share, rng), rng)


# -------------------------------------------------------------------------------------------------------- class noise


def symmetric(
    labels: ArrayLike,
    ratio: float | Fraction,
    classes: int,
    *,
    rng: np.random.Generator,
    include_self: bool = False,
    bernoulli: bool = False,
    nested: bool = False,
) -> Labels:
    """Flip a share of the labels to a class drawn uniformly (NMTune §2.1: "uniformly flip into the other classes").

    Exactly round(ratio * N) labels, half up, are chosen without replacement; of each class the floor or ceil of
    ratio * n_c.

    Args:
        labels: [N], in [0, classes) or -1.
        ratio: share of the labelled rows, 0 to 1.
        classes: number of classes.
        rng: source of every draw.
        include_self: draw the target from all classes, as the code of ELR and DivideMix does; about 1/classes of the
            chosen labels then keep their class, and the realised ratio is lower.
        bernoulli: choose each label by its own coin instead, as CORES does; the count is then only right on average.
        nested: what flips at a ratio flips at every higher one, to the same label.

    Returns:
        [N] int64.

    Raises:
        DataError: ratio or labels out of range; one class only, with a ratio above 0.
    """
    noisy, share = as_labels(labels, classes), as_ratio(ratio)
    check_classes(classes, share)
    if share == 0 or noisy.size == 0:
        return noisy
    if bernoulli:
        rows = np.flatnonzero((rng.random(noisy.size) < float(ratio)) & (noisy >= 0))
    else:
        rows = _rows(noisy, count_classes(noisy, classes), share, rng, nested)
    if nested:  # a step for each row there is, so that those taken do not depend on the ratio
        step = rng.integers(0 if include_self else 1, classes, size=noisy.size)[rows]
    else:
        step = rng.integers(0 if include_self else 1, classes, size=rows.size)
    noisy[rows] = (noisy[rows] + step) % classes
    return noisy


def _as_mapping(mapping: Mapping[int, int] | ArrayLike, present: int) -> Labels:
    """The mapping as an array [C] that covers the classes present; classes it does not name map to themselves."""
    if isinstance(mapping, Mapping):
        pairs = {int(source): int(target) for source, target in mapping.items()}
        for source, target in pairs.items():
            if source < 0 or target < 0:
                raise DataError(f"mapping of class {source} to {target}", "classes of 0 or more")
        table = np.arange(max([present - 1, *pairs]) + 1, dtype=np.int64)
        for source, target in pairs.items():
            table[source] = target
        return table
    table = as_labels(mapping, name="mapping")
    if table.size and int(table.min()) < 0:
        raise DataError(f"mapping to class {int(table.min())}", "classes of 0 or more")
    if table.size < present:
        raise DataError(f"label {present - 1}", f"one of the {table.size} classes that the mapping names")
    return table


def asymmetric(
    labels: ArrayLike,
    ratio: float | Fraction,
    mapping: Mapping[int, int] | ArrayLike,
    *,
    rng: np.random.Generator,
    nested: bool = False,
) -> Labels:
    """Flip a share of each mapped class to the one class it is mistaken for (TURN §4.1, "asymmetric").

    Rows are chosen by their original label, so none flips twice (cat→dog→cat in ELR's generator does). The total is
    round(ratio * rows in mapped classes), half up. The ratio over all rows is lower where some classes are unmapped.

    Args:
        labels: [N], 0 or more, or -1.
        ratio: share of the rows *of mapped classes*, 0 to 1.
        mapping: class to class, as a dict or an array [C]. A class that maps to itself, or that a dict does not name,
            never flips.
        rng: source of every draw.
        nested: what flips at a ratio flips at every higher one.

    Returns:
        [N] int64.

    Raises:
        DataError: ratio, labels or mapping out of range; a label that an array mapping does not cover.
    """
    noisy, share = as_labels(labels), as_ratio(ratio)
    present = int(noisy.max(initial=-1)) + 1
    table = _as_mapping(mapping, present)
    if share == 0 or noisy.size == 0:
        return noisy
    counts = count_classes(noisy, table.size)
    counts[table == np.arange(table.size)] = 0
    rows = _rows(noisy, counts, share, rng, nested)
    noisy[rows] = table[noisy[rows]]
    return noisy


def pairflip(
    labels: ArrayLike, ratio: float | Fraction, classes: int, *, rng: np.random.Generator, nested: bool = False
) -> Labels:
    """Flip a share of each class to the next class, the last to the first; otherwise as :func:`asymmetric`.

    Raises:
        DataError: ratio or labels out of range; one class only, with a ratio above 0.
    """
    check_classes(classes, as_ratio(ratio))
    return asymmetric(as_labels(labels, classes), ratio, (np.arange(classes) + 1) % classes, rng=rng, nested=nested)


def group_successors(groups: ArrayLike) -> Labels:
    """For each class the next class of its group, cyclic by ascending class id.

    With CIFAR-100's 20 super-classes this is the asymmetric noise of TURN's text; with ``arange(100) // 5`` that of
    the code of ELR and UNICON.

    Args:
        groups: [C], the group of each class, 0 or more; -1: in none.

    Returns:
        [C] int64 mapping for :func:`asymmetric`; a class alone in its group, or in none, maps to itself.
    """
    member_of = as_labels(groups, name="groups")
    order = np.argsort(member_of, kind="stable")
    grouped = member_of[order]
    follower = np.roll(order, -1)
    last = np.append(grouped[1:] != grouped[:-1], True)[: order.size]
    follower[last] = order[np.searchsorted(grouped, grouped[last])]
    successors: Labels = np.arange(member_of.size, dtype=np.int64)
    successors[order] = follower
    return np.where(member_of < 0, np.arange(member_of.size), successors)


def _apportion_row(row: NDArray[np.float64], total: int, rng: np.random.Generator) -> Labels:
    """``total`` split by the probabilities of ``row``: floor or ceil of each quota, cells of probability 0 get none."""
    quotas = row * total
    taken = np.floor(quotas + 1e-9)  # 0.3 * 10 may be 2.9999999999999996 or 3.0000000000000004
    remainder = np.where(row > 0, np.maximum(quotas - taken, 0.0), -1.0)
    missing = total - int(taken.sum())
    order = np.lexsort((rng.permutation(row.size), -np.round(remainder, 9)))
    taken[order[:missing]] += 1
    return taken.astype(np.int64)


def matrix(labels: ArrayLike, transition: ArrayLike, *, rng: np.random.Generator) -> Labels:
    """Noise by a transition matrix T[clean, noisy] = P(noisy | clean), with exact counts.

    The n_c rows of class c are split over row c of the matrix by largest remainder (each cell gets floor or ceil of
    n_c * T[c, k], their sum is n_c) and dealt out at random. Unlike plain truncation this keeps the noise even where
    each cell expects less than one sample, as uniform noise on ImageNet does.

    Args:
        labels: [N], in [0, C) or -1.
        transition: [C, C], entries 0 or more, **rows** summing to 1 within 1e-6 (cleanlab's matrix is the transpose).
        rng: source of every draw.

    Returns:
        [N] int64.

    Raises:
        DataError: the matrix is not square, or one of its rows (named) is no distribution; labels out of range.
    """
    table = np.asarray(transition, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise DataError(f"transition matrix of shape {table.shape}", "a square")
    for c, row in enumerate(table):
        if not np.isfinite(row).all() or (row < 0).any() or abs(row.sum() - 1.0) > 1e-6:
            raise DataError(
                f"row {c} of the transition matrix with minimum {row.min()} and sum {row.sum()}",
                "probabilities that sum to 1",
                "rows are clean classes and columns noisy ones; transpose a matrix whose columns sum to 1",
            )
    noisy = as_labels(labels, table.shape[0])
    order = shuffled_by_class(noisy, rng)
    start = int((noisy < 0).sum())
    result = noisy.copy()
    for c, count in enumerate(count_classes(noisy, table.shape[0])):
        rows = order[start : start + count]
        start += int(count)
        if count:
            taken = _apportion_row(table[c] / table[c].sum(), int(count), rng)
            result[rows] = np.repeat(np.arange(taken.size), taken)
    return result
