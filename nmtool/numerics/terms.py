"""NMTune's three regularisers in one pass, with closed-form gradients: what ``losses`` has one by one, for training.

The covariance and the spectral term share one Gram matrix of the smaller side (that of the centred rows; the raw one is
a rank-two correction of it, which adds and so loses nothing), and the gradients of both are one matrix product. Nothing
is recorded by autograd inside, and nothing can be differentiated twice. The functions refuse to weigh the terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmtool.numerics import spectral

Name = Literal["mse", "cov", "svd"]


# Between these lengths the squares of a row that count stay in float32's range.
_SMALL, _LARGE = 1e-15, 1e15


def wide(x: Tensor) -> Tensor:
    """float32 instead of half precision: sums of squares leave the range or the digits of the latter."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1, and the inverse lengths; rows of zeros stay zero and have 0 for it."""
    if x.device.type == "cpu":  # half as many passes; elsewhere looking at a value would wait for the device
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        low, high = torch.aminmax(length)
        if low > _SMALL and high < _LARGE:  # not so where there is a nan
            inverse = 1.0 / length
            return x * inverse, inverse
    scale = x.abs().amax(-1, keepdim=True)
    alive = scale != 0  # nan is alive: a diverged row must show
    x = x / torch.where(alive, scale, 1.0)  # so that squares of tiny or huge rows stay in range
    inverse = torch.where(alive, x.square().sum(-1, keepdim=True).rsqrt(), 0.0)
    return x * inverse, inverse / torch.where(alive, scale, 1.0)


def powers_of_two(z: Tensor) -> tuple[Tensor, Tensor]:
    """What to divide matrices by so that squares stay in range and no digit is lost, [..., 1, 1]; and which are finite.

    1 for a matrix of zeros, and for one with values that are not finite.
    """
    scale = torch.maximum(z.amax((-2, -1), keepdim=True), -z.amin((-2, -1), keepdim=True))
    finite = scale.isfinite()
    exponent = torch.frexp(torch.where(finite & (scale > 0), scale, 1.0)).exponent - 1
    return torch.ldexp(torch.ones_like(scale), exponent), finite


@dataclass(slots=True)
class Blind:
    """That no value may be looked at meanwhile: the steps are recorded as a CUDA graph.

    Attributes:
        doubt: bool [K]: becomes true, and stays it, where a matrix was not to be relied on.
        effort: which of ``spectral.EFFORTS``.
    """

    doubt: Tensor
    effort: int = 0


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        Z: Tensor,
        F: Tensor | None,
        names: tuple[Name, ...],
        topk: int,
        elem: bool,
        road: spectral.Road,
        blind: Blind | None,
    ) -> tuple[Tensor, ...]:
        # MPS has no float64
        home = wide(Z.cpu() if Z.device.type == "mps" else Z)
        z = home.reshape(-1, *Z.shape[-2:])
        values: dict[str, Tensor] = {}
        ctx.pull, ctx.names, ctx.shape, ctx.dtype, ctx.device = [], names, Z.shape, Z.dtype, Z.device
        if "mse" in names:
            assert F is not None
            f = wide(F.to(z.device, z.dtype))
            f = f if f.ndim == 2 else f.expand(*Z.shape).reshape(z.shape) if Z.ndim > 3 else f
            values["mse"], pull = _consistency(f, z, elem)
            ctx.pull.append(pull)
        if "cov" in names or "svd" in names:
            spread, pull = _spread(z, names, topk, road, blind)
            values |= spread
            ctx.pull.append(pull)
        return tuple(values[n].to(home.dtype).to(Z.device).reshape(Z.shape[:-2]) for n in names)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        home = "cpu" if ctx.device.type == "mps" else ctx.device
        weights = {n: wide(u).to(home).reshape(-1)[:, None, None] for n, u in zip(ctx.names, upstream, strict=True)}
        gradient = sum(pull(weights) for pull in ctx.pull)
        assert isinstance(gradient, Tensor)
        return gradient.reshape(ctx.shape).to(ctx.dtype).to(ctx.device), None, None, None, None, None, None


def _consistency(f: Tensor, z: Tensor, elem: bool) -> tuple[Tensor, Any]:
    """Eq. 3 and its pull-back: of |f - z|^2 over unit rows, by z = r Z: 2 r (<f, z> z - f)."""
    f, _ = unit_rows(f)
    z, inverse = unit_rows(z)
    share = z.shape[-1] if elem else 1
    value = (f - z).square_().sum(-1).mean(-1) / share

    def pull(weights: dict[str, Tensor]) -> Tensor:
        along = (f * z).sum(-1, keepdim=True)
        return (along * z).sub_(f).mul_(weights["mse"] * (2 / (z.shape[-2] * share)) * inverse)

    return value, pull


def _spread(
    z: Tensor, names: Sequence[Name], topk: int, road: spectral.Road, blind: Blind | None
) -> tuple[dict[str, Tensor], Any]:
    """Eq. 4 and 5, and the pull-back of both: one product of the smaller side's matrix with the centred rows."""
    rows, dims = z.shape[-2:]
    by_rows = rows <= dims
    unit, finite = powers_of_two(z)
    whole = blind is None and bool(finite.all())
    work = (z if whole else torch.where(finite, z, 0.0)) / unit
    if "svd" in names and (min(rows, dims) <= spectral.EXACT_BELOW or blind is not None):
        work = work.double()
    centre = "cov" in names
    mean = work.mean(-2, keepdim=True)
    centred = work - mean if centre else work
    gram = centred @ centred.mT if by_rows else centred.mT @ centred
    values: dict[str, Tensor] = {}
    divisor = max(rows - 1, 1) ** 2 * dims
    squares = centred.square().sum(-2, keepdim=True) if centre else None
    if squares is not None:
        total = (gram.square().sum((-2, -1)) - squares.square().sum((-2, -1))).clamp_min(0.0)
        # in float64: the fourth power of the unit may leave float32's range where the value does not
        values["cov"] = torch.where(finite, unit.double() ** 4, torch.nan)[:, 0, 0] * (total / divisor).double()
    left = dense = None
    if "svd" in names:
        parts = spectral.Centred(centred, mean, gram) if centre else None
        raw = gram if parts is None else parts.raw()
        if blind is None:
            loss, left, dense = spectral.share(work, raw, topk, road, parts)
        else:
            loss, left, bad = spectral.unlooked(raw, blind.effort)
            blind.doubt |= bad & finite[:, 0, 0]
        values["svd"] = torch.where(finite[:, 0, 0], loss, torch.nan)

    def pull(weights: dict[str, Tensor]) -> Tensor:
        matrix = None
        if left is not None:
            matrix = left * (weights["svd"] / unit)
        if squares is not None:
            factor = weights["cov"] * unit**3 * (4 / divisor)
            matrix = factor * gram if matrix is None else torch.addcmul(matrix, factor.to(gram.dtype), gram)
        assert matrix is not None
        gradient = matrix @ centred if by_rows else centred @ matrix
        if squares is not None:
            gradient = torch.addcmul(gradient, centred, -factor * squares)
            if left is not None:  # what the spectral term has of the mean
                slope = left * (weights["svd"] / unit)
                gradient = gradient + (slope.sum(-1, keepdim=True) * mean if by_rows else mean @ slope)
        if dense is not None:
            gradient = gradient + dense * (weights["svd"] / unit)
        gradient = gradient.to(z.dtype)
        return gradient if whole else torch.where(finite, gradient, torch.nan)

    return values, pull


def regularisers(
    F: Tensor | None,
    Z: Tensor,
    names: tuple[Name, ...],
    *,
    topk: int = 1,
    reduce: Literal["row", "elem"] = "row",
    road: spectral.Road = "auto",
    blind: Blind | None = None,
) -> dict[Name, Tensor]:
    """NMTune Eq. 3 (``mse``), 4 (``cov``) and 5 (``svd``) of a stack: the values of :mod:`losses`' functions.

    Args:
        F: [K or 1, B, D] pre-trained features; needed for ``mse`` alone. Gets no gradient.
        Z: [..., B, D] transformed features.
        names: which terms; the rest is not computed.
        topk, reduce: see :func:`losses.dominant_singular_value` and :func:`losses.consistency`.
        road: how the spectral term is found; see :mod:`spectral`.
        blind: for [K, B, D] and topk 1: no value on the device is looked at.

    Returns:
        [...] by name.
    """
    with torch.autocast(device_type=Z.device.type, enabled=False):
        values = _Terms.apply(Z, None if F is None else F.detach(), names, topk, reduce == "elem", road, blind)
    return dict(zip(names, values, strict=True))
