"""Instance-dependent label noise: whither a label flips depends on the sample's own pixels or features.

Needs numpy alone, reads its inputs in blocks of flipped rows, and draws from the generator given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmtool.errors import DataError
from nmtool.numerics.checks import Labels, as_labels, as_ratio, check_classes

# numbers held at once while instance noise is drawn; 2**22 float64 are 32 MiB
_BLOCK_ELEMENTS = 2**22


class Inputs(Protocol):
    """[N, L] numbers, such as raw pixels or features, given out by rows: an array, a memory map, or what decodes."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: Labels, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDraw:
    """Noisy labels, and how stochastic they were.

    Attributes:
        noisy: [N] int64.
        perplexity: exp of the mean entropy, over the flipped rows, of the softmax over the other classes: 1 where it
            always leaves one class only (raw pixels), classes - 1 where all are as likely; 1 without flips.
    """

    noisy: Labels
    perplexity: float


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


def expected_rate(ratio: float, std: float) -> float:
    """The mean of normal(ratio, std) truncated to [0, 1], which is the share of labels that flip; 0 for ratio 0."""
    if ratio == 0 or std == 0:
        return float(ratio)
    if std > 1e3:
        return 0.5  # uniform to one part in a million, where the formula below loses its digits
    low, high = -ratio / std, (1 - ratio) / std
    mass = 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
    edges = (math.exp(-0.5 * low * low) - math.exp(-0.5 * high * high)) / math.sqrt(2 * math.pi)
    return ratio + std * edges / mass


def _draw_other_class(
    scores: NDArray[np.float64], own: Labels, uniform: NDArray[np.float64]
) -> tuple[Labels, NDArray[np.float64]]:
    """One draw a row from softmax(scores) with the own class taken out, and its entropy; stable for any scores."""
    rows = np.arange(own.size)
    scores[rows, own] = -np.inf
    likeliest = scores.argmax(axis=1)
    scores -= scores[rows, likeliest][:, None]
    weights = np.exp(scores)
    cumulative = np.cumsum(weights, axis=1)
    total = cumulative[:, -1]
    # "<=" steps over cells of probability 0, the own class among them
    drawn = (cumulative <= (uniform * total)[:, None]).sum(axis=1)
    result: Labels = np.where(drawn < scores.shape[1], drawn, likeliest).astype(np.int64)
    scores[rows, own] = 0.0  # its weight is 0: the product below is 0 and no nan
    return result, np.log(total) - (weights * scores).sum(axis=1) / total


def _inputs_of(inputs: Inputs, rows: Labels) -> NDArray[np.float64]:
    block = np.asarray(inputs[rows], dtype=np.float64)
    bad = int((~np.isfinite(block)).any(axis=1).sum())
    if bad:
        raise DataError(f"{bad} rows of the inputs with a value that is not finite", "finite numbers")
    return block


def draw_instance(
    labels: ArrayLike,
    ratio: float | Fraction,
    inputs: Inputs,
    classes: int,
    *,
    rng: np.random.Generator,
    std: float = 0.1,
    per_class_weights: bool = False,
    weights: NDArray[np.float64] | None = None,
    nested: bool = False,
) -> InstanceDraw:
    """As :func:`instance`, and the perplexity of what was drawn from.

    Args:
        weights: [L, classes], W as drawn already, so that several ratios or draws share it.
        nested: one uniform number a sample is compared with the mean of q, which has the same distribution since q
            depends on nothing: with the same generator and W, a higher ratio flips the same samples to the same
            classes, and more.
    """
    noisy, share = as_labels(labels, classes), as_ratio(ratio)
    check_classes(classes, share)
    if len(inputs.shape) != 2 or inputs.shape[0] != noisy.size or inputs.shape[1] == 0:
        raise DataError(f"inputs of shape {inputs.shape}", f"({noisy.size}, L): one non-empty row a label")
    length = inputs.shape[1]
    if weights is not None and (weights.shape != (length, classes) or per_class_weights):
        raise DataError(f"weights of shape {weights.shape}", f"({length}, {classes}), one matrix for all classes")
    if not 0.0 <= std < math.inf:
        raise DataError(f"standard deviation {std}", "a finite number of 0 or more")
    if share == 0:
        return InstanceDraw(noisy=noisy, perplexity=1.0)
    q: Any = expected_rate(float(share), std) if nested else _truncated_normal(float(share), std, noisy.size, rng)
    flips = (rng.random(noisy.size) < q) & (noisy >= 0)
    uniform = rng.random(noisy.size)
    result, entropy = noisy.copy(), 0.0
    step = max(1, _BLOCK_ELEMENTS // max(length, classes))
    groups = [np.flatnonzero(flips & (noisy == c)) for c in range(classes)] if per_class_weights else []
    for group in groups or [np.flatnonzero(flips)]:
        shared = rng.standard_normal((length, classes)) if weights is None else weights
        for start in range(0, group.size, step):
            rows = group[start : start + step]
            result[rows], information = _draw_other_class(_inputs_of(inputs, rows) @ shared, noisy[rows], uniform[rows])
            entropy += float(information.sum())
    return InstanceDraw(noisy=result, perplexity=math.exp(entropy / max(int(flips.sum()), 1)))


def instance(
    labels: ArrayLike,
    ratio: float | Fraction,
    inputs: Inputs,
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
    scale of the inputs decides how concentrated the flips are: see :func:`nmtool.numerics.flips.concentration`.

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
    drawn = draw_instance(labels, ratio, inputs, classes, rng=rng, std=std, per_class_weights=per_class_weights)
    return drawn.noisy
