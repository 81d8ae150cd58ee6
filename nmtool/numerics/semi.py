"""The parts of DivideMix and UNICON that are formulas: who counts as labelled, what is guessed, what is lost.

Tensors have leading dimensions as in ``losses``: probabilities and logits [..., B, C]. Selections are numpy, one group
of rows at a time. Nothing in here draws: permutations and weights come from the caller. Every selection has a row.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nmtool.errors import DataError, UsageError

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]


# ------------------------------------------------------------------------------------------------- labels and guesses


def sharpen(p: Tensor, temperature: float = 0.5) -> Tensor:
    """p^(1/T) / sum p^(1/T) (DivideMix Eq. 4), computed from p / max p: no temperature makes it 0 / 0.

    Args:
        p: [..., C] probabilities.
        temperature: above 0; 1 changes nothing, below 1 sharpens.

    Raises:
        UsageError: a temperature of 0 or less.
    """
    if not temperature > 0:
        raise UsageError(f"temperature {temperature}", "above 0", "the papers' value is 0.5")
    powered = (p / p.amax(-1, keepdim=True)) ** (1.0 / temperature)
    return powered / powered.sum(-1, keepdim=True)


def co_refine(y: Tensor, p: Tensor, weight: Tensor, temperature: float = 0.5) -> Tensor:
    """Labels of labelled rows: sharpened w y + (1 - w) p (DivideMix Eq. 3 and 4).

    Args:
        y: [..., B] int64 labels.
        p: [..., B, C] the head's own probabilities, averaged over views.
        weight: [..., B] in [0, 1]: how sure the label is clean.
        temperature: see :func:`sharpen`.
    """
    given = torch.nn.functional.one_hot(y, p.shape[-1]).to(p.dtype)
    w = weight.unsqueeze(-1).to(p.dtype)
    return sharpen(w * given + (1.0 - w) * p, temperature)


def co_guess(mine: Tensor, peer: Tensor, temperature: float = 0.5) -> Tensor:
    """Labels of unlabelled rows: the sharpened mean of both heads' probabilities [..., B, C] (DivideMix Eq. 5)."""
    return sharpen((mine + peer) / 2, temperature)


def mixed(values: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """l a_i + (1 - l) a_partner(i) (DivideMix Eq. 7 and 8).

    Of features, of labels, or of a linear head's logits: those of mixed features are the mixed logits.

    Args:
        values: [..., M, C].
        partner: [..., M] int64.
        weight: [...] l, at least 1/2, so that a row stays nearer to itself (DivideMix Eq. 6).
    """
    l = weight[..., None, None].to(values.dtype)  # noqa: E741
    index = partner.unsqueeze(-1).expand(*partner.shape, values.shape[-1])
    return l * values + (1.0 - l) * values.gather(-2, index)


# ------------------------------------------------------------------------------------------------------------- losses


def soft_cross_entropy_each(logits: Tensor, target: Tensor) -> Tensor:
    """-sum_c t_c ln p_c of each row (DivideMix Eq. 9), [..., B]."""
    return -(target * logits.log_softmax(-1)).sum(-1)


def squared_error_each(logits: Tensor, target: Tensor) -> Tensor:
    """(p - t)², the mean over the classes, of each row (DivideMix Eq. 10 as its code averages), [..., B]."""
    return (logits.softmax(-1) - target).square().mean(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last dimension of what the mask (of 0 and 1) has; 0 where it has nothing."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp_min(1.0)


def prior_penalty(logits: Tensor, mask: Tensor) -> Tensor:
    """sum_c 1/C ln((1/C) / mean p_c) over the batch (DivideMix Eq. 11), 0 or more; [...].

    Args:
        logits: [..., M, C].
        mask: [..., M] 1 for rows that are there, else 0.
    """
    p = logits.softmax(-1) * mask.unsqueeze(-1)
    mean = p.sum(-2) / mask.sum(-1, keepdim=True).clamp_min(1.0)
    classes = logits.shape[-1]
    # softmax may underflow to 0 for a class that no row is given: the penalty is large, and must stay finite
    return -(mean.clamp_min(torch.finfo(mean.dtype).tiny).log().mean(-1) + math.log(classes))


def negative_entropy(logits: Tensor) -> Tensor:
    """Mean over the rows of sum_c p_c ln p_c: the warm-up's penalty under asymmetric noise (DivideMix 3.4), [...]."""
    log_p = logits.log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1).mean(-1)


def ramp(done: float, length: float) -> float:
    """The share of the unlabelled loss's weight after ``done`` epochs: linear over ``length`` of them, then 1."""
    return 1.0 if length <= 0 else min(max(done / length, 0.0), 1.0)


# ---------------------------------------------------------------------------------------------------------- selection


def jensen_shannon(p_y: Tensor) -> Tensor:
    """Jensen-Shannon divergence of a prediction and its one-hot label (UNICON Eq. 1), in nats: [0, ln 2].

    With m = (p + y) / 2 every class but the label adds p_c ln 2 / 2, so the label's probability is all it needs.

    Args:
        p_y: [...] probability of the label.
    """
    p = p_y.clamp(0.0, 1.0)
    own: Tensor = torch.special.xlogy(p, 2 * p / (1 + p)) + torch.log(2 / (1 + p))
    return (((1 - p) * math.log(2.0) + own) / 2).clamp_min(0.0)


def label_confidence(divergence: ArrayLike) -> Float:
    """UNICON's weight of a label: 1 - JSD, where a JSD below 0.5 counts as 0 (its released code)."""
    d = np.asarray(divergence, dtype=np.float64)
    result: Float = 1.0 - np.where(d < 0.5, 0.0, d)
    return result


def divide(posterior: ArrayLike, threshold: float) -> Bool:
    """Who is labelled: posterior > threshold, neither side empty (DivideMix 3.2; C2D clips the threshold so).

    Where no posterior is above the threshold, the highest are labelled; where all are, the lowest are not. Where all
    are equal nothing tells them apart, and all are labelled.

    Args:
        posterior: [n], n at least 1.
        threshold: in [0, 1].
    """
    p = np.asarray(posterior, dtype=np.float64)
    if p.ndim != 1 or not p.size:
        raise DataError(f"posteriors of shape {p.shape}", "one dimension, one or more")
    low, high = p.min(), p.max()
    if low == high:
        return np.ones(p.size, dtype=np.bool_)
    if high <= threshold:
        return np.asarray(p == high)
    return np.asarray(p > (low if low > threshold else threshold))


def uniform_selection(divergence: ArrayLike, labels: ArrayLike) -> Bool:
    """UNICON's selection: of each class present the int(R n / C) rows of lowest divergence (UNICON 3.2).

    R is the share of all rows below the mean divergence: the cut-off that its released code ends with. A class with
    fewer rows gives all it has (the code pads with row 0, which is a slip); each gives at least one. Equal divergences
    go by row.

    Args:
        divergence: [n].
        labels: [n] whole numbers.
    """
    d, y = np.asarray(divergence, dtype=np.float64), np.asarray(labels)
    if d.ndim != 1 or d.shape != y.shape or not d.size:
        raise DataError(f"divergences of shape {d.shape} and labels of shape {y.shape}", "as many of each, one or more")
    share = float(np.mean(d < d.mean()))
    order = np.lexsort((d, y))
    grouped = y[order]
    each = max(1, int(share * d.size / np.unique(y).size))
    place = np.arange(d.size) - np.searchsorted(grouped, grouped)
    selected = np.zeros(d.size, dtype=np.bool_)
    selected[order[place < each]] = True
    return selected
