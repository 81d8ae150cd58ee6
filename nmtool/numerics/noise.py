"""Label noise: each function takes clean labels and a generator, and returns new noisy labels.

Labels are whole numbers in [0, classes); -1 stands for *unlabelled*, is never flipped and never counted. The number of
flips is exact wherever the model permits (largest-remainder apportionment), since the usual shortcuts undershoot, some
of them down to no noise at all. This module refuses to change its inputs, to draw from any generator but the one given,
and to guess: a ratio, label or matrix that makes no sense is a ``DataError``. It needs numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmtool.errors import DataError, UsageError

Labels = NDArray[np.int64]
UNLABELLED = -1

# numbers held at once while instance noise is drawn; 2**22 float64 are 32 MiB
_BLOCK_ELEMENTS = 2**22


# ---------------------------------------------------------------------------------------------------------- validation


def _as_labels(labels: ArrayLike, classes: int | None = None, name: str = "labels") -> Labels:
    """A fresh int64 copy of one-dimensional labels, checked."""
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


def _as_ratio(ratio: float) -> Fraction:
    """The ratio as the decimal that was written: 0.145 of 100 is 14.5, not 14.499999999999998."""
    value = float(ratio)
    if not 0.0 <= value <= 1.0:  # also true of nan
        raise DataError(f"noise ratio {value}", "a number from 0 to 1")
    return Fraction(repr(value))


def _check_classes(classes: int, share: Fraction) -> None:
    if classes < 1:
        raise DataError(f"{classes} classes", "1 or more")
    if classes == 1 and share > 0:
        raise DataError("1 class", "2 or more, since noise needs another class to flip to", "use ratio 0")


# ------------------------------------------------------------------------------------------------------------ counting


def _apportion(counts: Labels, share: Fraction, rng: np.random.Generator) -> Labels:
    """How many of each class flip: the total is share * sum(counts), half up, and each is floor or ceil of its quota.

    Ties between equal remainders are broken by the generator, so that no class is favoured for its number.
    """
    quotas = [share * int(count) for count in counts]
    taken = np.array([math.floor(quota) for quota in quotas], dtype=np.int64)
    missing = math.floor(share * int(counts.sum()) + Fraction(1, 2)) - int(taken.sum())
    tie = rng.permutation(len(quotas))
    order = sorted(range(len(quotas)), key=lambda c: (math.floor(quotas[c]) - quotas[c], tie[c]))
    taken[order[:missing]] += 1
    return taken


def _shuffled_by_class(labels: Labels, rng: np.random.Generator) -> Labels:
    """Row numbers grouped by ascending label, in random order within each label."""
    order = rng.permutation(labels.size)
    return order[np.argsort(labels[order], kind="stable")]


def _choose(labels: Labels, taken: Labels, rng: np.random.Generator) -> Labels:
    """Row numbers: ``taken[c]`` of the rows of each class c, without replacement."""
    order = _shuffled_by_class(labels, rng)
    order = order[np.searchsorted(labels[order], 0) :]  # the unlabelled come first
    grouped = labels[order]
    place = np.arange(order.size) - np.searchsorted(grouped, np.arange(taken.size))[grouped]
    return order[place < taken[grouped]]


def _count(labels: Labels, classes: int) -> Labels:
    return np.bincount(labels[labels >= 0], minlength=classes).astype(np.int64)


# -------------------------------------------------------------------------------------------------------- class noise


def symmetric(
    labels: ArrayLike,
    ratio: float,
    classes: int,
    *,
    rng: np.random.Generator,
    include_self: bool = False,
    bernoulli: bool = False,
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

    Returns:
        [N] int64.

    Raises:
        DataError: ratio or labels out of range; one class only, with a ratio above 0.
    """
    noisy, share = _as_labels(labels, classes), _as_ratio(ratio)
    _check_classes(classes, share)
    if share == 0 or noisy.size == 0:
        return noisy
    if bernoulli:
        rows = np.flatnonzero((rng.random(noisy.size) < float(ratio)) & (noisy >= 0))
    else:
        rows = _choose(noisy, _apportion(_count(noisy, classes), share, rng), rng)
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
    table = _as_labels(mapping, name="mapping")
    if table.size and int(table.min()) < 0:
        raise DataError(f"mapping to class {int(table.min())}", "classes of 0 or more")
    if table.size < present:
        raise DataError(f"label {present - 1}", f"one of the {table.size} classes that the mapping names")
    return table


def asymmetric(
    labels: ArrayLike, ratio: float, mapping: Mapping[int, int] | ArrayLike, *, rng: np.random.Generator
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

    Returns:
        [N] int64.

    Raises:
        DataError: ratio, labels or mapping out of range; a label that an array mapping does not cover.
    """
    noisy, share = _as_labels(labels), _as_ratio(ratio)
    present = int(noisy.max(initial=-1)) + 1
    table = _as_mapping(mapping, present)
    if share == 0 or noisy.size == 0:
        return noisy
    counts = _count(noisy, table.size)
    counts[table == np.arange(table.size)] = 0
    rows = _choose(noisy, _apportion(counts, share, rng), rng)
    noisy[rows] = table[noisy[rows]]
    return noisy


def pairflip(labels: ArrayLike, ratio: float, classes: int, *, rng: np.random.Generator) -> Labels:
    """Flip a share of each class to the next class, the last to the first; otherwise as :func:`asymmetric`.

    Raises:
        DataError: ratio or labels out of range; one class only, with a ratio above 0.
    """
    _check_classes(classes, _as_ratio(ratio))
    return asymmetric(_as_labels(labels, classes), ratio, (np.arange(classes) + 1) % classes, rng=rng)


def group_successors(groups: ArrayLike) -> Labels:
    """For each class the next class of its group, cyclic by ascending class id.

    With CIFAR-100's 20 super-classes this is the asymmetric noise of TURN's text; with ``arange(100) // 5`` that of
    the code of ELR and UNICON.

    Args:
        groups: [C], the group of each class.

    Returns:
        [C] int64 mapping for :func:`asymmetric`; a class alone in its group maps to itself.
    """
    member_of = _as_labels(groups, name="groups")
    successors: Labels = np.arange(member_of.size, dtype=np.int64)
    for group in np.unique(member_of):
        members = np.flatnonzero(member_of == group)
        successors[members] = np.roll(members, -1)
    return successors


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
    noisy = _as_labels(labels, table.shape[0])
    order = _shuffled_by_class(noisy, rng)
    start = int((noisy < 0).sum())
    result = noisy.copy()
    for c, count in enumerate(_count(noisy, table.shape[0])):
        rows = order[start : start + count]
        start += int(count)
        if count:
            taken = _apportion_row(table[c] / table[c].sum(), int(count), rng)
            result[rows] = np.repeat(np.arange(taken.size), taken)
    return result


# ------------------------------------------------------------------------------------------------------ instance noise


def _truncated_normal(mean: float, std: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``count`` draws of normal(mean, std) given that they lie in [0, 1], by rejection; the mean must lie there too."""
    drawn = np.full(count, mean)
    todo = np.arange(count if std > 0 else 0)
    while todo.size:
        if std < 1:  # at least about a third of the proposals is inside, whatever the mean
            proposal = rng.normal(mean, std, size=todo.size)
            accepted = (proposal >= 0) & (proposal <= 1)
        else:  # wide: nearly uniform over [0, 1], where normal proposals would nearly always be outside
            proposal = rng.random(todo.size)
            accepted = rng.random(todo.size) < np.exp(-0.5 * ((proposal - mean) / std) ** 2)
        drawn[todo[accepted]] = proposal[accepted]
        todo = todo[~accepted]
    return drawn


def _draw_other_class(scores: NDArray[np.float64], own: Labels, uniform: NDArray[np.float64]) -> Labels:
    """One draw a row from softmax(scores) with the own class taken out; stable for scores of any size."""
    rows = np.arange(own.size)
    scores[rows, own] = -np.inf
    likeliest = scores.argmax(axis=1)
    scores -= scores[rows, likeliest][:, None]
    cumulative = np.cumsum(np.exp(scores), axis=1)
    # "<=" steps over cells of probability 0, the own class among them
    drawn = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(axis=1)
    result: Labels = np.where(drawn < scores.shape[1], drawn, likeliest).astype(np.int64)
    return result


def _inputs_of(inputs: NDArray[Any], rows: Labels) -> NDArray[np.float64]:
    block = np.asarray(inputs[rows], dtype=np.float64)
    bad = int((~np.isfinite(block)).any(axis=1).sum())
    if bad:
        raise DataError(f"{bad} rows of the inputs with a value that is not finite", "finite numbers")
    return block


def instance(
    labels: ArrayLike,
    ratio: float,
    inputs: NDArray[Any],
    classes: int,
    *,
    rng: np.random.Generator,
    std: float = 0.1,
    per_class_weights: bool = False,
) -> Labels:
    """Instance-dependent noise (the algorithm of PartT in the form of CORES, which TURN §4.1 cites).

    Each sample flips with its own probability q, from normal(ratio, std) truncated to [0, 1]; whither is drawn from
    softmax(x·W) over the other classes, with W standard normal. So P(y) = 1 - q and P(k) = q * softmax(x·W)_k. Since
    the normal is truncated, the mean of q is above the ratio where the ratio is below 0.5 (0.129 for ratio 0.1). The
    scale of the inputs decides how concentrated the flips are: see :func:`concentration`.

    Args:
        labels: [N], in [0, classes) or -1.
        ratio: mean of the untruncated normal, 0 to 1; exactly 0 means no noise at all.
        inputs: [N, L] numbers, such as raw pixels or features; read in blocks, so a memory map will do.
        classes: number of classes.
        rng: source of every draw.
        std: deviation of the normal, 0 or more.
        per_class_weights: one W for each clean class, as PartT has it, instead of one for all.

    Returns:
        [N] int64.

    Raises:
        DataError: ratio, std, labels or shapes out of range; inputs of flipped rows that are not finite.
    """
    noisy, share = _as_labels(labels, classes), _as_ratio(ratio)
    _check_classes(classes, share)
    if inputs.ndim != 2 or inputs.shape[0] != noisy.size or inputs.shape[1] == 0:
        raise DataError(f"inputs of shape {inputs.shape}", f"({noisy.size}, L): one non-empty row a label")
    if not 0.0 <= std < math.inf:
        raise DataError(f"standard deviation {std}", "a finite number of 0 or more")
    if share == 0:
        return noisy
    flip_probability = _truncated_normal(float(ratio), std, noisy.size, rng)
    flips = (rng.random(noisy.size) < flip_probability) & (noisy >= 0)
    uniform = rng.random(noisy.size)
    result = noisy.copy()
    length = inputs.shape[1]
    step = max(1, _BLOCK_ELEMENTS // max(length, classes))
    groups = [np.flatnonzero(flips & (noisy == c)) for c in range(classes)] if per_class_weights else []
    for group in groups or [np.flatnonzero(flips)]:
        weights = rng.standard_normal((length, classes))
        for start in range(0, group.size, step):
            rows = group[start : start + step]
            scores = _inputs_of(inputs, rows) @ weights
            result[rows] = _draw_other_class(scores, noisy[rows], uniform[rows])
    return result


# ------------------------------------------------------------------------------------------------------------ captions

SwapMode = Literal["exact", "random-swaps", "until"]


def _swap_sequentially(n: int, swaps: int | None, wanted: int, rng: np.random.Generator) -> Labels:
    """A permutation of n by random transpositions: ``swaps`` of them, or until ``wanted`` positions are displaced."""
    permutation = np.arange(n, dtype=np.int64)
    cells = permutation.data  # a memoryview; item access through it is some times faster than through the array
    displaced = done = 0
    while True:
        size = min(2**16, n) if swaps is None else min(2**16, swaps - done)
        if size == 0:
            return permutation
        left = rng.integers(0, n, size=size)
        right = rng.integers(0, n - 1, size=size)
        right += right >= left  # two different positions
        for i, j in zip(left.tolist(), right.tolist(), strict=True):
            a, b = cells[i], cells[j]
            cells[i], cells[j] = b, a
            displaced += (b != i) + (a != j) - (a != i) - (b != j)
            if swaps is None and displaced >= wanted:
                return permutation
        done += size


def swap_captions(
    labels: ArrayLike | int, ratio: float, *, rng: np.random.Generator, mode: SwapMode = "exact"
) -> Labels:
    """Give a share of image-text pairs the text of another pair (NMTune §2.1, YFCC15M).

    Modes: ``exact`` chooses 2 * floor(ratio * N / 2) positions without replacement, pairs them at random and swaps
    within pairs, so that exactly so many positions are mismatched. ``random-swaps`` makes int(ratio * N) swaps of two
    random positions, as the authors' script does; about 1 - exp(-2 * ratio) of the pairs end up mismatched. ``until``
    swaps random positions until at least ratio * N are mismatched, as the paper words it. Positions count, not texts:
    two pairs with equal captions may be swapped with each other.

    Args:
        labels: [N] caption rows, usually ``arange(N)``, with -1 for pairs that take no part; or N itself.
        ratio: 0 to 1.
        rng: source of every draw.
        mode: ``exact``, ``random-swaps`` or ``until``.

    Returns:
        [N] int64: the caption row of each position. 15 million pairs take seconds in mode ``exact``.

    Raises:
        DataError: ratio or labels out of range; fewer than two pairs where a swap is asked for.
        UsageError: an unknown mode.
    """
    share = _as_ratio(ratio)
    if isinstance(labels, (int, np.integer)):
        if labels < 0:
            raise DataError(f"{labels} captions", "0 or more")
        captions = np.arange(labels, dtype=np.int64)
    else:
        captions = _as_labels(labels, name="captions")
    rows = np.flatnonzero(captions >= 0)
    n = rows.size
    if mode == "exact":
        chosen = rng.permutation(rows)[: 2 * math.floor(share * n / 2)]
        left, right = chosen[0::2], chosen[1::2]
        captions[left], captions[right] = captions[right], captions[left]
        return captions
    if mode not in ("random-swaps", "until"):
        raise UsageError(f"caption mode {mode!r}", "exact, random-swaps or until")
    swaps, wanted = (math.floor(share * n), 0) if mode == "random-swaps" else (None, math.ceil(share * n))
    if not (swaps or wanted):
        return captions
    if n < 2:
        raise DataError(f"{n} caption", "2 or more to swap", "use ratio 0")
    captions[rows] = captions[rows[_swap_sequentially(n, swaps, wanted, rng)]]
    return captions


# ------------------------------------------------------------------------------------------------------ what came of it


def flip_counts(clean: ArrayLike, noisy: ArrayLike, classes: int) -> Labels:
    """How many rows of each clean class (row) carry each noisy label (column); rows kept are on the diagonal.

    Args:
        clean: [N]; noisy: [N]; both in [0, classes), or -1. Rows unlabelled in either are left out.

    Returns:
        [classes, classes] int64.

    Raises:
        DataError: labels out of range or of unequal length.
    """
    before, after = _as_labels(clean, classes), _as_labels(noisy, classes, "noisy labels")
    if before.size != after.size:
        raise DataError(f"{before.size} clean and {after.size} noisy labels", "as many of one as of the other")
    both = (before >= 0) & (after >= 0)
    cells = before[both] * classes + after[both]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def transition_matrix(clean: ArrayLike, noisy: ArrayLike, classes: int) -> NDArray[np.float64]:
    """The realised P(noisy | clean), [classes, classes]; the row of a class without samples is that of the identity.

    Raises:
        DataError: as :func:`flip_counts`.
    """
    counts = flip_counts(clean, noisy, classes).astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1.0), np.eye(classes))


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
    counts = flip_counts(clean, noisy, classes)
    received = counts.sum(axis=0) - np.diag(counts)
    flips, total = int(received.sum()), int(counts.sum())
    return Concentration(
        flips=flips,
        top_share=float(received.max()) / flips if flips else 0.0,
        classes_hit=int((received > 0).sum()),
        biggest_class_share=float(counts.sum(axis=0).max()) / total if total else 0.0,
    )
