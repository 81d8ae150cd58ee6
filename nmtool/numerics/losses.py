"""The losses of NMTune, GCE and ELR, on single batches and on stacks of heads alike.

Every function takes leading dimensions: features [..., B, D] or logits [..., B, C] give losses [...], so that K heads
are one call. Half precision is computed in float32 and autocast is off inside. The functions refuse to weigh, log or
reduce over heads: that is the training loop's work.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmtool.errors import DataError, UsageError
from nmtool.numerics.terms import regularisers


def _wide(x: Tensor) -> Tensor:
    """float32 instead of half precision: sums of squares leave the range or the digits of the latter."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _no_autocast(x: Tensor) -> torch.autocast:
    return torch.autocast(device_type=x.device.type, enabled=False)


def _check_matrix(x: Tensor, name: str) -> None:
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise DataError(f"{name} of shape {tuple(x.shape)}", "[..., rows, dimensions], neither of them 0")


# -------------------------------------------------------------------------------------------------------------- NMTune


def _unit_rows(x: Tensor) -> Tensor:
    """Rows of length 1; rows of zeros stay zero and get gradient zero, where a division by eps would explode."""
    scale = x.detach().abs().amax(-1, keepdim=True)
    alive = scale != 0  # nan is alive: a diverged row must show
    x = x / torch.where(alive, scale, 1.0)  # so that squares of tiny or huge rows stay in range
    squares = x.square().sum(-1, keepdim=True)
    return torch.where(alive, x * torch.where(alive, squares, 1.0).rsqrt(), 0.0)


def consistency(F: Tensor, Z: Tensor, *, reduce: Literal["row", "elem"] = "row") -> Tensor:
    """L_MSE (NMTune Eq. 3): squared distance of the row-normalised F and Z.

    F is detached in here: the pre-trained features are the target, only Z gets gradient.

    Args:
        F: [..., B, D] pre-trained features; may lack Z's leading dimensions.
        Z: [..., B, D] transformed features.
        reduce: ``row`` sums over D and averages over B, in [0, 4]; ``elem`` is that divided by D, as the authors' code
            (``nn.MSELoss``) has it, under which the paper's weight of 0.01 does nothing.

    Returns:
        [...].

    Raises:
        DataError: shapes that don't fit. UsageError: an unknown reduction.
    """
    if reduce not in ("row", "elem"):
        raise UsageError(f"reduction {reduce!r}", "row or elem")
    _check_matrix(Z, "Z")
    if F.shape[-2:] != Z.shape[-2:]:
        raise DataError(f"F of shape {tuple(F.shape)} and Z of shape {tuple(Z.shape)}", "the same rows and dimensions")
    with _no_autocast(Z):
        distance = (_unit_rows(_wide(F.detach())) - _unit_rows(_wide(Z))).square().sum(-1).mean(-1)
    return distance if reduce == "row" else distance / Z.shape[-1]


def covariance(Z: Tensor) -> Tensor:
    """L_COV (NMTune Eq. 4, VICReg): sum of squared off-diagonal covariances (divisor B - 1), divided by D.

    Args:
        Z: [..., B, D].

    Returns:
        [...], 0 or more; 0, with gradient 0, for a single row.

    Raises:
        DataError: no rows or no dimensions.
    """
    _check_matrix(Z, "Z")
    rows, dims = Z.shape[-2:]
    with _no_autocast(Z):
        Z = _wide(Z)
        if rows == 1:
            return (Z * 0.0).sum((-2, -1))
        centred = Z - Z.mean(-2, keepdim=True)
        # ||A'A||_F = ||AA'||_F: the smaller of the two products will do, and D x D is never built for B < D
        gram = centred @ centred.mT if rows < dims else centred.mT @ centred
        total = gram.square().sum((-2, -1))
        diagonal = centred.square().sum(-2).square().sum(-1)
        # the difference of nearly equal numbers may round below 0
        return (total - diagonal).clamp_min(0.0) / ((rows - 1) ** 2 * dims)


def dominant_singular_value(Z: Tensor, *, topk: int = 1) -> Tensor:
    """L_SVD (NMTune Eq. 5): -sigma_1 / sum_j sigma_j of the batch, neither centred nor normalised.

    The gradient is exact where sigma_1 is simple and all values are above 0, and a valid subgradient elsewhere: no
    nan from repeated values or lacking rank. A matrix of zeros has loss 0 and gradient 0. A matrix with values that
    are not finite has loss and gradient nan, and leaves the other matrices of a stack alone. Can't be differentiated
    twice. Computed from the smaller Gram matrix, in float64 but for large and well-conditioned float32 matrices (see
    :mod:`spectral`): singular values below about 1e-8 * sqrt(min(B, D)) of the largest count as 0.

    Args:
        Z: [..., B, D].
        topk: minus the *mean* of the shares of this many largest values; 1 is the paper, 5 the authors' code. Capped
            at min(B, D).

    Returns:
        [...] in [-1, -1/min(B, D)], or 0 for zeros; float32 for half precision, otherwise of Z's dtype.

    Raises:
        DataError: no rows or no dimensions. UsageError: topk below 1.
    """
    _check_matrix(Z, "Z")
    if topk < 1:
        raise UsageError(f"topk {topk}", "1 or more")
    return regularisers(None, Z, ("svd",), topk=topk)["svd"]


# ------------------------------------------------------------------------------------------------------ classification


class _LogLikelihood(torch.autograd.Function):
    """ln p_y with its gradient, onehot(y) - p, in closed form: autograd's own way takes three times as many passes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, y: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(log_p, y)
        return log_p.gather(-1, y).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        log_p, y = ctx.saved_tensors
        upstream = upstream.unsqueeze(-1)
        return log_p.exp().mul_(-upstream).scatter_add_(-1, y, upstream), None


def _log_likelihood(logits: Tensor, y: Tensor) -> Tensor:
    """ln p_y, [..., B]; y [B] serves all heads of a stack."""
    _check_matrix(logits, "logits")
    with _no_autocast(logits):
        value: Tensor = _LogLikelihood.apply(_wide(logits), y.expand(logits.shape[:-1]).unsqueeze(-1))
    return value


def cross_entropy_each(logits: Tensor, y: Tensor) -> Tensor:
    """-ln p_y of each sample, in nats.

    Args:
        logits: [..., B, C].
        y: [..., B] or [B] int64 in [0, C); unlabelled rows (-1) must have been left out.

    Returns:
        [..., B], 0 or more.
    """
    return -_log_likelihood(logits, y)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean of :func:`cross_entropy_each` over the batch, [...]."""
    return cross_entropy_each(logits, y).mean(-1)


def squared_error(predicted: Tensor, values: Tensor) -> Tensor:
    """Mean squared difference over the batch, [...] of two [..., B]: the loss of labels that are real numbers."""
    return (predicted - values).square().mean(-1)


def generalized_cross_entropy_each(logits: Tensor, y: Tensor, q: float = 0.7) -> Tensor:
    """(1 - p_y^q) / q of each sample (Zhang & Sabuncu 2018, Eq. 6; TURN §4.1.1), untruncated.

    Computed as -expm1(q ln p_y) / q, with no clamp: the gradient is p_y^q times that of the cross-entropy however small
    p_y is, and q → 0 tends to the cross-entropy without cancellation. With C classes and an untrained head the gradient
    is (1/C)^q times that of the cross-entropy (0.04 for 100 classes): learning rates don't carry over.

    Args:
        logits: [..., B, C].
        y: [..., B] or [B] int64 in [0, C).
        q: in (0, 1].

    Returns:
        [..., B] in [0, 1/q].

    Raises:
        UsageError: q out of range.
    """
    if not 0.0 < q <= 1.0:
        raise UsageError(f"q {q}", "above 0 and at most 1", "the paper's value is 0.7")
    return -torch.expm1(q * _log_likelihood(logits, y)) / q


def generalized_cross_entropy(logits: Tensor, y: Tensor, q: float = 0.7) -> Tensor:
    """Mean of :func:`generalized_cross_entropy_each` over the batch, [...]."""
    return generalized_cross_entropy_each(logits, y, q).mean(-1)


@torch.no_grad()
def loss_and_slope(logits: Tensor, y: Tensor, q: float | None = None) -> tuple[Tensor, Tensor]:
    """:func:`cross_entropy`, or with ``q`` :func:`generalized_cross_entropy`, and its gradient by the logits.

    With w = 1, or p_y^q, the gradient is w (p - onehot(y)) / B. For whoever goes on without autograd.

    Args:
        logits: [..., B, C].
        y: [..., B] or [B] int64 in [0, C).
        q: in (0, 1]; None for the cross-entropy.

    Returns:
        Losses [...] and gradients [..., B, C] of their sum.
    """
    _check_matrix(logits, "logits")
    with _no_autocast(logits):
        log_p = _wide(logits).log_softmax(-1)
        index = y.expand(logits.shape[:-1]).unsqueeze(-1)
        likelihood = log_p.gather(-1, index)
        weight = torch.full_like(likelihood, 1 / logits.shape[-2])
        if q is None:
            loss = -likelihood
        else:
            loss = -torch.expm1(q * likelihood) / q
            weight *= (q * likelihood).exp_()
        slope = log_p.exp_().mul_(weight).scatter_add_(-1, index, -weight)
    return loss.squeeze(-1).mean(-1), slope.to(logits.dtype)


class EarlyLearning:
    """ELR (Liu et al. 2020, Eq. 6; TURN §4.1): cross-entropy + lam * mean ln(1 - <t, p>).

    Keeps for each training row a running target t, at first zeros: t ← beta t + (1 - beta) p / sum(p), taken *before*
    the loss uses it and without gradient. p is the softmax clamped to [1e-4, 1 - 1e-4], the cross-entropy takes the
    logits as they are (order and clamp as in the authors' ``ELR/model/loss.py``). The loss may be negative.

    Args:
        n: number of training rows.
        classes: C.
        beta: memory of the target, in [0, 1); 0.9 for CIFAR-100, 0.7 for CIFAR-10.
        lam: weight, 7 for CIFAR-100, 3 for CIFAR-10.
        heads: K for a stack of heads, with logits [K, B, C]; None for a single one, with logits [B, C].

    Attributes:
        target: [n, C] or [K, n, C], the state; moves to the logits' device and dtype on use.
            To resume a run, assign it.

    Raises:
        UsageError: beta, n, classes or heads out of range.
    """

    def __init__(self, n: int, classes: int, *, beta: float = 0.9, lam: float = 7.0, heads: int | None = None) -> None:
        if not 0.0 <= beta < 1.0:
            raise UsageError(f"beta {beta}", "from 0 to below 1", "ELR's value for CIFAR-100 is 0.9")
        if n < 1 or classes < 1 or (heads is not None and heads < 1):
            raise UsageError(f"{n} rows, {classes} classes and {heads} heads", "1 or more of each")
        self.beta, self.lam = beta, lam
        self.target = torch.zeros((n, classes) if heads is None else (heads, n, classes))

    def __call__(self, logits: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """Update the targets of ``rows``, then the loss.

        Args:
            logits: [B, C], or [K, B, C] for K heads.
            y: [B] or [K, B] int64 labels in [0, C).
            rows: [B] or [K, B] int64: which training row each sample is. No row twice in one batch.

        Returns:
            [] or [K].

        Raises:
            DataError: logits that don't fit the heads and classes given at construction.
        """
        expected = (*self.target.shape[:-2], *logits.shape[-2:-1], self.target.shape[-1])
        if tuple(logits.shape) != expected:
            raise DataError(f"logits of shape {tuple(logits.shape)}", f"{expected}")
        with _no_autocast(logits):
            logits = _wide(logits)
            p = logits.softmax(-1).clamp(1e-4, 1.0 - 1e-4)
            self.target = self.target.to(device=logits.device, dtype=logits.dtype)
            fresh = p.detach() / p.detach().sum(-1, keepdim=True)
            index = rows.expand(logits.shape[:-1]).unsqueeze(-1).expand(logits.shape)
            t = self.beta * self.target.gather(-2, index) + (1.0 - self.beta) * fresh
            self.target.scatter_(-2, index, t)
            return cross_entropy(logits, y) + self.lam * torch.log1p(-(t * p).sum(-1)).mean(-1)
