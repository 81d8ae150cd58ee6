"""Judging a stack of heads: predictions on every split, the scores, and the spectrum of the transformed space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from nmtool.numerics import metrics
from nmtool.numerics.singular import (
    GramAccumulator,
    largest_singular_value_ratio,
    singular_value_entropy,
    singular_values,
)
from nmtool.records import Float, Int
from nmtool.tune.material import Bench, Target
from nmtool.tune.outcome import Array, Scores
from nmtool.tune.scale import Scaling

if TYPE_CHECKING:
    from nmtool.tune.feed import Feed
    from nmtool.tune.heads import LinearHeads

# Activations of one block of rows over all heads: enough to keep the cores busy, little beside the features.
_BLOCK_BYTES: Mapping[str, int] = {"cpu": 64 << 20, "cuda": 1 << 30}
_GRAM_ROWS = 4096
_OF_CLASSES = (
    *("accuracy", "macro_f1", "mean_per_class", "matthews", "calibration_error", "never_predicted"),
    *("best_accuracy", "best_epoch"),
)
_CORRELATIONS: Mapping[str, Callable[[Array, Float], float]] = {
    "pearson": metrics.pearson_correlation,
    "spearman": metrics.spearman_correlation,
}
_DIRECT_BELOW = 2**20  # elements: below, LAPACK on the matrix itself is fast; above, the smaller Gram matrix is


def blocks(n: int, bytes_per_row: int, device: torch.device) -> list[slice]:
    """Row slices whose activations fit the block size of this kind of device; at least one row each."""
    step = max(1, _BLOCK_BYTES.get(device.type, _BLOCK_BYTES["cpu"]) // max(1, bytes_per_row))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


@torch.no_grad()
def logits(head: LinearHeads, scaling: Scaling, X: Tensor) -> Iterator[Tensor]:
    """Logits [b, C] of one head, block by block of rows.

    A head is asked alone, so that its numbers do not depend on the stack that it was trained in.
    """
    classes = head.parameters["classifier.bias"].shape[-1]
    for rows in blocks(len(X), 4 * (head.row_width + 2 * classes), X.device):
        yield head.classify(head.transform(scaling(X[rows])[None], training=False))[0]


@torch.no_grad()
def predict(head: LinearHeads, scaling: Scaling, X: Tensor) -> tuple[Array, Array]:
    """Classes int32 [n] that one head predicts, and their probabilities float32 [n]."""
    predicted, confidence = [], []
    for block in logits(head, scaling, X):
        top = block.softmax(-1).max(-1)
        predicted.append(top.indices.to(torch.int32).cpu().numpy())
        confidence.append(top.values.cpu().numpy())
    return np.concatenate(predicted), np.concatenate(confidence)


@torch.no_grad()
def correct(heads: LinearHeads, feed: Feed, X: Tensor, y: Tensor) -> list[float]:
    """Accuracy of each head: the quick look after every epoch."""
    hits = torch.zeros(heads.heads, device=X.device)
    classes = heads.parameters["classifier.bias"].shape[-1]
    for rows in blocks(len(X), 4 * heads.heads * (heads.row_width + classes), X.device):
        logits = heads.classify(heads.transform(feed.scaled(X[rows]), training=False))
        hits += (logits.argmax(-1) == y[rows]).sum(-1)
    return [float(h) / len(X) for h in hits.double().cpu()]


@torch.no_grad()
def held_out(heads: LinearHeads, feed: Feed) -> list[float]:
    """Accuracy of each head on the rows that its search holds out, by the labels that are trained on."""
    rows = feed.held
    hits = torch.zeros(heads.heads, device=rows.device)
    classes = heads.parameters["classifier.bias"].shape[-1]
    for part in blocks(rows.shape[1], 4 * heads.heads * (heads.row_width + classes), rows.device):
        x, y = feed.batch(rows[:, part])
        hits += (heads.classify(heads.transform(x, training=False)).argmax(-1) == y).sum(-1)
    return [float(h) / rows.shape[1] for h in hits.double().cpu()]


@torch.no_grad()
def held_out_numbers(heads: LinearHeads, feed: Feed) -> Array:
    """Real numbers float32 [K, h] that each head gives of the rows that its search holds out."""
    rows = feed.held
    parts = []
    for part in blocks(rows.shape[1], 4 * heads.heads * (heads.row_width + 1), rows.device):
        x, _ = feed.batch(rows[:, part])
        parts.append(heads.classify(heads.transform(x, training=False))[..., 0])
    found: Array = torch.cat(parts, dim=1).cpu().numpy()
    return found


def held_out_score(metric: str, predicted: Array, values: Float) -> tuple[float | None, float | None]:
    """What a search goes by where labels are real numbers: the measure that counts, and the mean squared error.

    Args:
        metric: ``pearson`` or ``spearman``.
        predicted: [h] of one head on the rows held out.
        values: float64 [h] their labels.

    Returns:
        The measure is None where the labels leave it undefined (one row, or all alike), and 0 where the predictions are
        all alike; both are None where a prediction is not finite.
    """
    if not np.isfinite(predicted).all():
        return None, None
    error = float(np.mean((predicted.astype(np.float64) - values) ** 2))
    told = len(values) > 1 and values.min() < values.max()
    return (_CORRELATIONS[metric](predicted, values) if told else None), error


def scores_of(
    predicted: Array, confidence: Array, y: Int, *, target: int, trained: Int, spectrum: tuple[float, float] | None
) -> Scores:
    """Scores of one head on one split, without a best epoch.

    Args:
        predicted, confidence: [n].
        y: int64 [n] labels, all of known classes.
        target: the split's number.
        trained: the classes present in training.
        spectrum: SVE and LSVR, or None.
    """
    classes = int(max(trained.max(), y.max(), predicted.max())) + 1
    missing = np.setdiff1d(trained, predicted)
    return Scores(
        target=target,
        n=len(y),
        accuracy=metrics.accuracy(predicted, y),
        macro_f1=metrics.macro_f1(predicted, y, classes),
        mean_per_class=metrics.mean_per_class(predicted, y),
        matthews=metrics.matthews_correlation(predicted, y),
        # a softmax in float32 may end a rounding above 1
        calibration_error=metrics.expected_calibration_error(np.minimum(confidence, 1.0), predicted == y),
        never_predicted=len(missing) / len(trained),
        best_accuracy=None,
        best_epoch=None,
        sve=None if spectrum is None else spectrum[0],
        lsvr=None if spectrum is None else spectrum[1],
        predicted=predicted.astype(np.int32),
        confidence=confidence.astype(np.float32),
    )


def correlations(heads: LinearHeads, feed: Feed, X: Tensor, values: Float) -> list[float | None]:
    """Pearson correlation of each head's one output: the quick look after every epoch, for real numbers."""
    with torch.no_grad():
        parts = [
            heads.classify(heads.transform(feed.scaled(X[rows]), training=False))[..., 0]
            for rows in blocks(len(X), 4 * heads.heads * (heads.row_width + 1), X.device)
        ]
    found = torch.cat(parts, dim=1).cpu().numpy()
    return [_correlation(metrics.pearson_correlation, one, values) for one in found]


def numbers(head: LinearHeads, scaling: Scaling, X: Tensor) -> Array:
    """The real numbers float32 [n] that one head predicts."""
    return np.concatenate([block[:, 0].cpu().numpy() for block in logits(head, scaling, X)])


def scores_of_numbers(predicted: Array, values: Float, *, target: int, spectrum: tuple[float, float] | None) -> Scores:
    """Scores of one head on one split whose labels are real numbers; arguments as of ``scores_of``."""
    return Scores(
        target=target,
        n=len(values),
        **dict.fromkeys(_OF_CLASSES),
        pearson=_correlation(metrics.pearson_correlation, predicted, values),
        spearman=_correlation(metrics.spearman_correlation, predicted, values),
        sve=None if spectrum is None else spectrum[0],
        lsvr=None if spectrum is None else spectrum[1],
        predicted=predicted.astype(np.float32),
        confidence=np.zeros(0, dtype=np.float32),
    )


def _correlation(of: Callable[[Array, Float], float], predicted: Array, values: Float) -> float | None:
    """None for one row; and for numbers that are not finite, which whoever trains will tell."""
    return of(predicted, values) if len(values) > 1 and np.isfinite(predicted).all() else None


def with_best(scores: Scores, accuracy: float | None, epoch: int) -> Scores:
    """The same scores with those of the epoch best on this very split: an oracle."""
    return replace(scores, best_accuracy=accuracy, best_epoch=epoch)


def spectrum_of(Z: Array) -> tuple[float, float] | None:
    """SVE and LSVR (NMTune Eq. 1, 2) of Z [n, D], raw; None where Z is all zero."""
    if not np.any(Z):
        return None
    if Z.size <= _DIRECT_BELOW:
        sigma = singular_values(Z)
    else:
        tall = Z if Z.shape[0] >= Z.shape[1] else Z.T  # the same singular values, the smaller Gram matrix
        sums = GramAccumulator()
        for start in range(0, len(tall), _GRAM_ROWS):
            sums.update(tall[start : start + _GRAM_ROWS])
        sigma = sums.singular_values()
    return singular_value_entropy(sigma), largest_singular_value_ratio(sigma)


def spectrum_on_device(Z: Tensor) -> tuple[float, float] | None:
    """As ``spectrum_of``, without the way to the host: the smaller Gram matrix and its eigenvalues in float64, there.

    Small ones, and those that ``spectrum_of`` has something to say about, go to the host all the same.
    """
    if Z.numel() <= _DIRECT_BELOW or not Z.isfinite().all() or not Z.any():
        return spectrum_of(Z.cpu().numpy())
    tall = Z if Z.shape[0] >= Z.shape[1] else Z.T
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=Z.device)
    for start in range(0, len(tall), _GRAM_ROWS):
        rows = tall[start : start + _GRAM_ROWS].double()
        gram.addmm_(rows.T, rows)
    squares = torch.linalg.eigvalsh(gram).flip(0)
    noise = squares[0] * torch.finfo(torch.float64).eps * len(squares)  # as of ``GramAccumulator``
    sigma = torch.where(squares > noise, squares, 0.0).sqrt().cpu().numpy()
    return singular_value_entropy(sigma), largest_singular_value_ratio(sigma)


class Spaces(Protocol):
    """K transformed spaces; a stack of heads is one.

    Attributes:
        heads: K.
        transforms: whether Z is anything but the scaled features.
        row_width: numbers that one row takes on its way.
    """

    @property
    def heads(self) -> int:
        """See above."""

    @property
    def transforms(self) -> bool:
        """See above."""

    @property
    def row_width(self) -> int:
        """See above."""

    def one(self, k: int) -> Spaces:
        """Space k alone."""

    def transform(self, x: Tensor, *, training: bool) -> Tensor:
        """Z [K, B, D] of features."""


@torch.no_grad()
def spectra(
    heads: Spaces, feed: Feed, targets: Sequence[Target], bench: Bench
) -> list[list[tuple[float, float] | None]]:
    """SVE and LSVR of what enters each head's classifier, [split][head]; shared spaces are decomposed once."""
    with bench.spectrum_lock:
        return _spectra(heads, feed, targets, bench)


def _spectra(
    heads: Spaces, feed: Feed, targets: Sequence[Target], bench: Bench
) -> list[list[tuple[float, float] | None]]:
    found: list[list[tuple[float, float] | None]] = []
    here: dict[tuple[object, ...], tuple[float, float] | None] = {}
    for number, target in enumerate(targets):
        row = []
        for k in range(heads.heads):
            scaling = feed.scalings[feed.view[k]]
            # Features that are not learned on are the same for all stacks of a call, standardised ones for a view.
            shared = not heads.transforms and scaling.mean is None
            cache = bench.spectrum_cache if shared else here
            key = (number, scaling.kind, *(() if shared else (k if heads.transforms else feed.view[k],)))
            if key not in cache:
                one = heads.one(k)
                parts = (
                    one.transform(scaling(target.X[rows])[None], training=False)[0]
                    for rows in blocks(len(target.X), 4 * one.row_width, target.X.device)
                )
                if target.X.device.type == "cuda":
                    cache[key] = spectrum_on_device(torch.cat(list(parts)))
                else:
                    cache[key] = spectrum_of(np.concatenate([part.numpy() for part in parts]))
            row.append(cache[key])
        found.append(row)
    return found
