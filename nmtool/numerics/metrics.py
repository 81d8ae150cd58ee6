"""What a head's predictions are worth: accuracy, macro-F1, mean per class, correlations, confusion, calibration.

All of them are fractions in [0, 1] (correlations in [-1, 1]), not percentages. They refuse empty and unequal inputs,
and unlabelled rows (-1): whoever calls decides what to leave out. The module needs numpy alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmtool.errors import DataError

Index = NDArray[np.int64]


def _classes_of(values: ArrayLike, name: str) -> Index:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} of shape {array.shape}", "one dimension, not empty")
    if array.dtype.kind not in "iu":
        raise DataError(f"{name} of dtype {array.dtype}", "whole numbers")
    if array.min() < 0:
        raise DataError(f"{name} with class {array.min()}", "0 or more", "leave unlabelled rows out")
    return array.astype(np.int64)


def _pair(predicted: ArrayLike, y: ArrayLike) -> tuple[Index, Index]:
    guess, truth = _classes_of(predicted, "predictions"), _classes_of(y, "labels")
    if guess.size != truth.size:
        raise DataError(f"{guess.size} predictions and {truth.size} labels", "as many of one as of the other")
    return guess, truth


def accuracy(predicted: ArrayLike, y: ArrayLike) -> float:
    """Share of predictions that are right; both [N].

    Raises:
        DataError: empty, of unequal length, not whole numbers of 0 or more.
    """
    guess, truth = _pair(predicted, y)
    return float((guess == truth).mean())


def confusion(predicted: ArrayLike, y: ArrayLike, classes: int) -> Index:
    """Counts [classes, classes] int64: true class by row, predicted class by column.

    Raises:
        DataError: as :func:`accuracy`, or a class of ``classes`` or more.
    """
    guess, truth = _pair(predicted, y)
    highest = max(int(guess.max()), int(truth.max()))
    if highest >= classes:
        raise DataError(f"class {highest}", f"less than the number of classes, {classes}")
    return np.bincount(truth * classes + guess, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def macro_f1(predicted: ArrayLike, y: ArrayLike, classes: int) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN).

    Classes that occur in neither ``y`` nor ``predicted`` are left out, as sklearn's ``f1_score(average="macro",
    zero_division=0)`` does; a class that occurs in one of them only has F1 0. The F1 that NMTune's Table 1 prints is
    about half of this and can't be compared with it.

    Raises:
        DataError: as :func:`confusion`.
    """
    guess, truth = _pair(predicted, y)
    highest = max(int(guess.max()), int(truth.max()))
    if highest >= classes:
        raise DataError(f"class {highest}", f"less than the number of classes, {classes}")
    hits, guessed, there = _marginals(guess, truth)
    occurrences = guessed + there  # 2 TP + FP + FN
    present = occurrences > 0
    return float((2 * hits[present] / occurrences[present]).mean())


def _marginals(guess: Index, truth: Index) -> tuple[Index, Index, Index]:
    """By class: right predictions, predictions, true labels. What the scores need of a confusion matrix, in O(C)."""
    classes = max(int(guess.max()), int(truth.max())) + 1
    counts = [np.bincount(values, minlength=classes) for values in (truth[guess == truth], guess, truth)]
    return counts[0], counts[1], counts[2]


def mean_per_class(predicted: ArrayLike, y: ArrayLike) -> float:
    """Mean recall over the classes present in ``y`` (balanced accuracy).

    Raises:
        DataError: as :func:`accuracy`.
    """
    guess, truth = _pair(predicted, y)
    totals = np.bincount(truth)
    hits = np.bincount(truth[guess == truth], minlength=totals.size)
    there = totals > 0
    return float((hits[there] / totals[there]).mean())


def matthews_correlation(predicted: ArrayLike, y: ArrayLike) -> float:
    """Matthews correlation, for any number of classes (Gorodkin 2004); CoLA's metric. 0 where either is constant.

    Returns:
        in [-1, 1].

    Raises:
        DataError: as :func:`accuracy`.
    """
    guess, truth = _pair(predicted, y)
    hits, guessed, there = (counts.astype(np.float64) for counts in _marginals(guess, truth))
    n = float(guess.size)
    covariance = hits.sum() * n - guessed @ there
    spread = (n * n - guessed @ guessed) * (n * n - there @ there)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def pearson_correlation(predicted: ArrayLike, y: ArrayLike) -> float:
    """Pearson correlation of two real-valued vectors; STS-B's metric.

    Args:
        predicted, y: [N], finite, N of 2 or more.

    Returns:
        in [-1, 1]; 0 where either is constant, as a score needs a number.

    Raises:
        DataError: unequal length, fewer than two values, values that are not finite.
    """
    x, z = np.asarray(predicted, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != z.shape or x.size < 2:
        raise DataError(f"predictions of shape {x.shape}, labels of shape {z.shape}", "[N] each, N of 2 or more")
    if not (np.isfinite(x).all() and np.isfinite(z).all()):
        raise DataError("predictions or labels that are not finite", "finite numbers")
    x, z = x - x.mean(), z - z.mean()
    # each by its own largest value first: squares of very large or small numbers would leave the range
    spread_x, spread_z = np.abs(x).max(), np.abs(z).max()
    if spread_x == 0 or spread_z == 0:
        return 0.0
    x, z = x / spread_x, z / spread_z
    return float(np.clip((x @ z) / np.sqrt((x @ x) * (z @ z)), -1.0, 1.0))


def spearman_correlation(predicted: ArrayLike, y: ArrayLike) -> float:
    """Spearman correlation: Pearson's of the ranks, equal values sharing the mean of theirs; arguments and errors as of
    :func:`pearson_correlation`."""
    x, z = np.asarray(predicted, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not (np.isfinite(x).all() and np.isfinite(z).all()):
        raise DataError("predictions or labels that are not finite", "finite numbers")
    return pearson_correlation(_ranks(x), _ranks(z))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return shared


def by_class(predicted: ArrayLike, y: ArrayLike, classes: int) -> dict[str, NDArray[np.float64]]:
    """Of each class: rows ``n``, ``recall`` (NaN without rows), ``precision`` (NaN if never predicted), ``f1``.

    F1 is 2 TP / (2 TP + FP + FN): 0 for a class that is only there or only predicted, NaN for one that is neither; its
    mean over the others is :func:`macro_f1`.

    Returns:
        float64 [classes] by name.

    Raises:
        DataError: as :func:`confusion`.
    """
    guess, truth = _pair(predicted, y)
    highest = max(int(guess.max()), int(truth.max()))
    if highest >= classes:
        raise DataError(f"class {highest}", f"less than the number of classes, {classes}")
    hits, guessed, there = (
        np.bincount(values, minlength=classes).astype(np.float64) for values in (truth[guess == truth], guess, truth)
    )
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is meant
        return {"n": there, "recall": hits / there, "precision": hits / guessed, "f1": 2 * hits / (guessed + there)}


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over equal-width bins, weighted by their sizes (Guo et al. 2017, Eq. 3).

    Args:
        confidence: [N] probability of the predicted class, in [0, 1].
        correct: [N] bool or 0/1: was the prediction right.
        bins: number of bins; bin b is ((b - 1)/bins, b/bins], the first takes 0 too.

    Returns:
        in [0, 1].

    Raises:
        DataError: empty, of unequal length, confidence out of range, fewer than one bin.
    """
    level, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if level.ndim != 1 or level.size == 0 or level.shape != right.shape:
        raise DataError(f"confidence of shape {level.shape}, correct of shape {right.shape}", "[N] each, N above 0")
    if not ((level >= 0) & (level <= 1)).all():
        raise DataError(f"confidence from {level.min()} to {level.max()}", "numbers from 0 to 1")
    if not ((right == 0) | (right == 1)).all():
        raise DataError("correct with values other than 0 and 1", "booleans")
    if bins < 1:
        raise DataError(f"{bins} bins", "1 or more")
    index = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:], level, side="left")
    gaps = np.bincount(index, weights=right - level, minlength=bins)
    return float(np.abs(gaps).sum() / level.size)


def _found(scores: ArrayLike, wanted: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(wanted)
    if values.ndim != 1 or values.size == 0 or truth.shape != values.shape or truth.dtype != np.bool_:
        raise DataError(f"scores of shape {values.shape}, truth of {truth.shape} {truth.dtype}", "[N] each, N above 0")
    if np.isnan(values).any():
        raise DataError("scores that are no numbers", "numbers")
    return values, truth


def area_under_roc(scores: ArrayLike, wanted: ArrayLike) -> float | None:
    """Chance that what is wanted scores higher than what is not, ties counted half (Mann-Whitney).

    Args:
        scores: [N], higher: more likely wanted.
        wanted: bool [N].

    Returns:
        in [0, 1]; None where all or none are wanted: there is nothing to compare.

    Raises:
        DataError: empty, of unequal length, not a number.
    """
    values, truth = _found(scores, wanted)
    positives = int(truth.sum())
    negatives = truth.size - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank, from 1, of each distinct score
    total = float(ranks[place][truth].sum())
    return (total - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(scores: ArrayLike, wanted: ArrayLike) -> float | None:
    """Precision averaged over the recall steps of the distinct scores, as scikit-learn's; None where none is wanted.

    Raises:
        DataError: as :func:`area_under_roc`.
    """
    values, truth = _found(scores, wanted)
    if not truth.any():
        return None
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.append(np.flatnonzero(np.diff(values[order])), truth.size - 1)  # of equal scores
    recall = hits[last] / hits[-1]
    precision = hits[last] / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def precision_recall(chosen: ArrayLike, wanted: ArrayLike) -> tuple[float | None, float | None]:
    """Share of the chosen that is wanted, and share of the wanted that is chosen; None for a share of nothing."""
    mine, truth = np.asarray(chosen, dtype=np.bool_), np.asarray(wanted, dtype=np.bool_)
    if mine.ndim != 1 or mine.shape != truth.shape:
        raise DataError(f"choices of shape {mine.shape}, truth of {truth.shape}", "[N] each")
    both, some, all_ = int((mine & truth).sum()), int(mine.sum()), int(truth.sum())
    return (both / some if some else None), (both / all_ if all_ else None)
