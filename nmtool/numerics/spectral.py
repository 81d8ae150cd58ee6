"""The dominant share of a spectrum and its gradient (NMTune Eq. 5) from the smaller Gram matrix, by two roads.

With Z = U diag(s) V' of n = min(B, D) singular values, S = sum(s) and T the mean of the k largest, the loss is -T / S,
dL/ds_j = -([j <= k]/k - T/S) / S, and dL/dZ = sum_j dL/ds_j u_j v_j' = M Z, where M = U diag(dL/ds_j / s_j) U' (for
B > D: Z M, with V): the larger side's vectors are never formed. M comes from

- ``eigen``: one Hermitian eigendecomposition. The road on CPU;
- ``products``: matrix products alone, batched over heads: an iteration of quintic polynomials (as Newton-Schulz of
  order 5, with better coefficients) for the inverse square root of the Gram matrix, and repeated squaring of it (a
  power iteration of 2^14 steps) for the largest value. The road on CUDA, where an eigendecomposition costs more than a
  training step.

A Gram matrix in float32 knows singular values down to some 1/200 of the largest, in float64 to 1e-6 and below: where
rounding may have cost more than is tolerable, the matrix is done again in float64, and those that the products do not
solve are decomposed. Products are made
in the tensor's own precision: neither bf16 nor TF32 keeps the small values, which weigh as much as the large ones here.
This module refuses to handle values that are not finite: its caller scales and masks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Road = Literal["auto", "eigen", "products"]

EXACT_BELOW = 64
"""Up to this many singular values float64 is the quicker way; beyond, float32 is tried first: of 256 rows and 768
dimensions the terms take 8.8 ms so, 14.1 ms in float64, of 64 rows 2.3 and 1.5 (two cores).
"""

# Whether a precision was enough is judged by what rounding of the Gram matrix may have done: to the loss, and to the
# directions of the gradient (a share of 2e-3 of their squared length leaves a cosine of 0.999).
_LOSS_ERROR, _DIRECTION_ERROR = 5e-6, 2e-3
_HOPELESS = 300.0  # largest over smallest pivot of a Cholesky factor beyond which float32 is not even tried
_LOWEST = 3e-7  # share of the largest singular value, below what float64 is trusted with
# In float32 the best polynomials are too steep: what they lift most is rounding. These (Jordan et al. 2024, Muon; then
# Newton-Schulz) lift values 3.44 times a step and keep large ones in [0.68, 1.13], and 3.44^6 is 1,670.
_GENTLE = (*[(3.4445, -4.7750, 2.0315)] * 6, *[(1.875, -1.25, 0.375)] * 4)
_WITHIN = 1e-6  # how far from 1 the iteration leaves the values above
_LEFT_OVER, _OFF = 1e-3, 1e-5  # what an iteration that has converged leaves
_POWERS, _APART, _TINY = 12, 2e-6, 1e-30  # steps to a value that stands out; how exact its vector has to be
_SQUARINGS = 14
_NARROW, _EXCHANGES = 1e-3, 40  # of a polynomial's interval; Remez' steps, which converge in ten
_NORMALISED = 4  # squarings from one scaling to the next: 512^-16 is far from float64's range, float32 needs each
_STANDS_OUT = 16.0  # times the mean of the other eigenvalues: below, float32 loses two bits at most to the largest


EFFORTS = ((5e-4, 10, 0.0), (_LOWEST, 18, 0.0), (1e-5, 18, 1e-5))
"""For ``unlooked``: the least singular value in reach, as a share of the largest; squarings; and the lift.

The last is for lack of rank: each eigenvalue has the lift's square added, so that nothing is out of reach. What is 0
then gets no more than rounding, which is one of the valid subgradients, and values from 6e-5 on keep their weight; what
lies between is doubted.
"""
_BETWEEN = 1e-3


@dataclass(frozen=True, slots=True)
class Centred:
    """K matrices as their mean row and what is left of it, where their Gram matrices were made from that.

    Attributes:
        rows: [K, B, D], of mean 0.
        mean: [K, 1, D].
        gram: [K, n, n] of the rows.
    """

    rows: Tensor
    mean: Tensor
    gram: Tensor

    def raw(self) -> Tensor:
        """The Gram matrices of the rows with their mean: a rank-two correction, which adds and so loses nothing."""
        left, right = self.correction()
        return self.gram + left @ right.mT + right @ left.mT

    def correction(self) -> tuple[Tensor, Tensor]:
        """Columns l and r [K, n, 1]: l r' + r l' is what the mean adds to the Gram matrix."""
        if self.by_rows:
            along = self.rows @ self.mean.mT + self.mean.square().sum(-1, keepdim=True) / 2
            return along, torch.ones_like(along)
        return self.rows.shape[-2] / 2 * self.mean.mT, self.mean.mT

    @property
    def by_rows(self) -> bool:
        """Whether the smaller side is that of the rows."""
        return self.rows.shape[-2] <= self.rows.shape[-1]

    def image(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Of columns [K, n, 1] the image on the larger side, and that one's image in turn, in float64, [K, n, 1]."""
        if self.by_rows:
            there = vector.mT @ self.rows + vector.sum(-2, keepdim=True) * self.mean
            back = self.rows @ there.mT
            return there, back.double() + (self.mean.double() * there.double()).sum(-1, keepdim=True)
        there = self.rows @ vector + self.mean @ vector
        back = self.rows.mT @ there
        return there, back.double() + self.mean.mT.double() * there.double().sum(-2, keepdim=True)


def share(
    Z: Tensor, gram: Tensor, topk: int, road: Road = "auto", centred: Centred | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Loss, and gradient in two parts, of K matrices.

    Args:
        Z: [K, B, D] finite, its largest element about 1.
        gram: [K, n, n] Z Z' (B <= D) or Z' Z, in float64, or in float32 to try that first.
        topk: k, 1 or more; capped at n.
        road: ``auto`` is by the device's type.
        centred: the same matrices and Gram matrices in parts, where they are at hand.

    Returns:
        Loss [K] float64; M [K, n, n] in gram's dtype, with the gradient M Z (B <= D) or Z M; and, where there were
        matrices for which M Z takes float64, their gradients [K, B, D] (zero for the others, whose M is not zero).
    """
    if road == "auto":
        road = "products" if Z.device.type == "cuda" else "eigen"
    solve = _by_products if road == "products" else _by_eigen
    if gram.dtype == torch.float64:
        loss, left, bad = solve(gram, topk)
        return *_mended(gram, topk, loss, left, bad), None
    peak = off = None
    if solve is _by_eigen:
        gram, peak, off = _lowered(Z, gram, centred)
    bad = _ill(gram)
    if not bad.any():
        loss, left, bad = solve(gram, topk, peak, off)
        if not bad.any():
            return loss, left, None
    else:
        loss, left = gram.new_zeros(len(gram), dtype=torch.float64), torch.zeros_like(gram)
        if not bad.all():
            good = ~bad
            parts = (None, None) if peak is None or off is None else (peak[good], off[good])
            loss[good], left[good], again = solve(gram[good], topk, *parts)
            bad[good] = again
    worse = Z[bad].double()
    wide = worse.shape[-2] <= worse.shape[-1]
    exact = worse @ worse.mT if wide else worse.mT @ worse
    loss[bad], slopes = _mended(exact, topk, *solve(exact, topk))
    if _narrow(slopes, exact, loss[bad]):
        left[bad] = slopes.to(left.dtype)
        return loss, left, None
    left[bad] = 0.0
    dense = torch.zeros_like(Z)
    dense[bad] = (slopes @ worse if wide else worse @ slopes).to(Z.dtype)
    return loss, left, dense


def unlooked(gram: Tensor, effort: int) -> tuple[Tensor, Tensor, Tensor]:
    """By products, for whoever may not wait for a device to look at a value, as a recorded CUDA graph may not.

    Args:
        gram: [K, n, n] float64.
        effort: which of ``EFFORTS``.

    Returns:
        Loss [K] float64 and M [K, n, n] as of ``share`` for k = 1; and [K] which of them are not to be relied on.
    """
    return _solved(gram, 1, *EFFORTS[effort])


def _narrow(left: Tensor, gram: Tensor, loss: Tensor) -> bool:
    """Whether the products M Z keep their directions in float32, too, for all of these float64 matrices.

    Rounding is about eps |M| |Z|; the gradient is at least sqrt(n - 1) T / S^2 long, thus sqrt(n - 1) loss^2 / s_1.
    """
    eps, n = torch.finfo(torch.float32).eps / 2, gram.shape[-1]
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1)  # |Z|^2, at least s_1^2
    lost = (eps * size).square() * left.square().sum((-2, -1))
    return bool((lost < _DIRECTION_ERROR / 20 * (n - 1) * loss**4).all())


def _ill(gram: Tensor) -> Tensor:
    """[K] whether float32 is surely not enough: a tenth of what an eigendecomposition costs, and tells before it."""
    factor, info = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    bad: Tensor = (info != 0) | ~(pivots.amin(-1) * _HOPELESS > pivots.amax(-1))
    return bad


def _lowered(Z: Tensor, gram: Tensor, centred: Centred | None) -> tuple[Tensor, Tensor, Tensor]:
    """The Gram matrix with its largest value brought near the next ones: what float32 loses is a share of the largest.

    Outputs of a network mostly point one way (their mean), so that s_1 is ten to a hundred times s_2; without that
    direction, taken from Z itself, float32 is enough for most of them.

    Returns:
        Gram [K, n, n], whose largest eigenvalue stands for s_1^2; the true s_1^2 [K], and how far off its vector is,
        relative; zeros for matrices left as they are, where no value stands out.
    """
    vector = gram.sum(-1, keepdim=True)
    for _ in range(_POWERS):
        vector = gram @ (vector / vector.norm(dim=-2, keepdim=True).clamp_min(_TINY))
    length = vector.norm(dim=-2, keepdim=True)
    vector = vector / length.clamp_min(_TINY)
    others = gram.diagonal(dim1=-2, dim2=-1).sum(-1) - length[:, 0, 0]
    if not (length[:, 0, 0] * (gram.shape[-1] - 1) > _STANDS_OUT * others).any():
        nothing = torch.zeros_like(others)
        return gram, nothing, nothing
    lower, top, off = _without(Z, vector) if centred is None else _without_in_parts(centred, vector)
    size = 2 * lower.square().sum((-2, -1)).sqrt()  # at least 2 s_2^2: the direction stays the first, and apart
    fit = (off < _APART) & (size < top)
    lower = torch.baddbmm(lower, vector * size[:, None, None], vector.mT)
    if not fit.all():
        lower = torch.where(fit[:, None, None], lower, gram)
    return lower, torch.where(fit, top, 0.0), torch.where(fit, off, 0.0)


def _without(Z: Tensor, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gram [K, n, n] of Z without the direction of ``vector`` [K, n, 1]; its s^2 [K], and how far off the vector is."""
    by_rows = Z.shape[-2] <= Z.shape[-1]
    along = vector.mT @ Z if by_rows else Z @ vector  # s_1 times the vector of the other side
    rest = Z - vector @ along if by_rows else Z - along @ vector.mT
    top = along.square().sum((-2, -1))
    cross = rest @ along.mT if by_rows else along.mT @ rest  # nothing, were the vector exact
    off = cross.flatten(1).norm(dim=-1) / top.clamp_min(_TINY)
    # once more: what rounding of s_1 has left of the direction is much beside the small values
    rest = rest - vector @ (vector.mT @ rest) if by_rows else rest - (rest @ vector) @ vector.mT
    return (rest @ rest.mT if by_rows else rest.mT @ rest), top, off


def _without_in_parts(centred: Centred, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_without``, from the centred rows' Gram matrix G: no second product of Z with itself.

    With P = 1 - v v', and l r' + r l' for the mean, it is P G P + (P l)(P r)' + (P r)(P l)'. G knows nothing of the
    mean; l and r do, and so the projections of these columns are made in float64. Rounding is about that of G.
    """
    v = vector.double()
    v = v / v.norm(dim=-2, keepdim=True).clamp_min(_TINY)
    there, back = centred.image(vector)
    top = there.double().square().sum((-2, -1))
    cross = back - v @ (v.mT @ back)
    off = cross.flatten(1).norm(dim=-1) / top.clamp_min(_TINY)
    left, right = (column.double() for column in centred.correction())
    left, right = left - v @ (v.mT @ left), right - v @ (v.mT @ right)
    along = (centred.gram @ vector).double()
    along = (v.mT @ along) / 2 * v - along
    columns = torch.cat([v, along, left, right], -1).to(vector.dtype)
    rows = torch.cat([along, v, right, left], -1).to(vector.dtype)
    return torch.baddbmm(centred.gram, columns, rows.mT), top.to(vector.dtype), off.to(vector.dtype)


def _sure(inverses: Tensor, squares: Tensor, part: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """[K] whether the precision was enough.

    With t the Gram matrix's norm, its rounding moves s_j^2 by about eps t, thus s_j by eps t / (2 s_j) and the
    direction u_j v_j' by eps t / s_j^2. Given, [K]: the sums of t^(1/2) / s_j and of its squares, and
    |loss| t^(1/2) / S.
    """
    eps = torch.finfo(dtype).eps / 2  # what rounding loses
    return (eps / 2 * inverses * part < _LOSS_ERROR) & (eps * squares / n < _DIRECTION_ERROR)


def _mended(gram: Tensor, topk: int, loss: Tensor, left: Tensor, bad: Tensor) -> tuple[Tensor, Tensor]:
    """In float64 nothing is left but to decompose, and to cut off what rounding has made."""
    if bad.any():
        loss[bad], left[bad], _ = _by_eigen(gram[bad], topk)
    return loss, left


def _by_eigen(
    gram: Tensor, topk: int, peak: Tensor | None = None, off: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [K], M [K, n, n], and which of them the precision is not enough for (in float64: none).

    ``peak`` and ``off`` are those of ``_lowered``.
    """
    squares, vectors = torch.linalg.eigh(gram)
    squares, vectors = squares.double().flip(-1), vectors.flip(-1)
    n, norm = squares.shape[-1], squares[..., :1].clone()
    # what is below the rounding of the Gram matrix is taken for 0; such directions get no gradient, which is one of
    # the valid subgradients
    real = squares > norm * ((n if gram.dtype == torch.float64 else 1) * torch.finfo(gram.dtype).eps)
    if peak is not None:
        squares[..., 0] = torch.where(peak > 0, peak.double(), squares[..., 0])
    values = torch.where(real, squares, 0.0).clamp_min(0.0).sqrt()
    total = values.sum(-1, keepdim=True)
    alive = total > 0
    total = torch.where(alive, total, 1.0)
    k = min(topk, n)
    top = values[..., :k].mean(-1, keepdim=True)
    first = torch.zeros(n, dtype=values.dtype, device=values.device)
    first[:k] = 1.0 / k
    slope = -(first - top / total) / total
    factor = torch.where(real & alive, slope / torch.where(real, values, 1.0), 0.0)
    left = (vectors * factor.to(gram.dtype).unsqueeze(-2)) @ vectors.mT
    if gram.dtype == torch.float64:
        bad = torch.zeros(len(gram), dtype=torch.bool, device=gram.device)
    else:
        norm = norm.clamp_min(0.0).sqrt()
        ratios = norm / values  # infinite where a value is lost: not sure
        part = (norm * values[..., :1] / total.square())[..., 0]
        bad = ~_sure(ratios.sum(-1), ratios.square().sum(-1), part, n, gram.dtype)
        if off is not None:  # what the lowered direction has of the others
            mixed = (off.double() + _APART).square() * (values[..., :1] / values).square().mean(-1)
            # and what the product M Z rounds, of the gradient's length
            eps = torch.finfo(gram.dtype).eps / 2
            rounded = (eps * values[..., :1] * factor).square().sum(-1) / slope.square().sum(-1)
            bad |= ~((off == 0) | ((mixed < _DIRECTION_ERROR) & (rounded < _DIRECTION_ERROR / 20)))
    return (-top / total)[..., 0], left, bad


def _by_products(
    gram: Tensor, topk: int, peak: Tensor | None = None, off: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_by_eigen``; which of them did not converge, lack rank or are out of the precision's reach.

    The Gram matrix is taken as it is: there is no ``peak``. More than one largest value (topk above 1) is not separated
    by squaring: all of them are given back as bad.
    """
    del peak, off
    return _solved(gram, topk, _LOWEST, _SQUARINGS)


def _solved(gram: Tensor, topk: int, lowest: float, squarings: int, lift: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_by_products``; see ``EFFORTS``. In float32 neither ``lowest`` nor a lift means anything."""
    n = gram.shape[-1]
    top, vector, off = _largest(gram, squarings)
    alive = top > 0
    top = torch.where(alive, top, 1.0)
    # a hundredth above 1 does no harm to the iteration, but below is where it converges
    scaled = gram / (1.01 * top)[:, None, None]
    lifted = scaled + lift**2 * torch.eye(n, dtype=gram.dtype, device=gram.device) if lift else scaled
    root, left_over = _inverse_root(lifted, 0.9 * lowest)
    values = (scaled * root).sum((-2, -1)).double()  # the trace of the product: sum of the singular values, scaled
    total = values * (1.01 * top.double()).sqrt()
    sigma = top.double().sqrt()
    # dL/dZ = T/S^2 U V' - 1/S u_1 v_1'; U V' = (Z Z')^(-1/2) Z and v_1' = u_1' Z / s_1
    polar = root * (sigma / total.square() / (1.01 * top.double()).sqrt()).to(gram.dtype)[:, None, None]
    first = vector @ vector.mT * (1 / (total * sigma)).to(gram.dtype)[:, None, None]
    trace = root.diagonal(dim1=-2, dim2=-1).sum(-1)
    good = (left_over < _LEFT_OVER) & (off < _OFF)  # not a number is not good
    if lift:  # zeros have loss 0 and no gradient
        lost = lift**2 * (root @ root)  # a projection, were all values 0 or far above the lift
        twice = lost @ lost
        good &= (twice.diagonal(dim1=-2, dim2=-1).sum(-1) - (twice * lost).sum((-2, -1))).abs() < _BETWEEN
        total = torch.where(alive, total, torch.inf)
        polar, first = (torch.where(alive[:, None, None], part, 0.0) for part in (polar, first))
        return -sigma / total, polar - first, ~(good | ~alive)
    good &= alive & _sure(trace.double(), root.square().sum((-2, -1)).double(), values**-2, n, gram.dtype)
    if topk > 1 and n > 1:
        good = torch.zeros_like(good)
    return -sigma / total, polar - first, ~good


def _largest(gram: Tensor, squarings: int) -> tuple[Tensor, Tensor, Tensor]:
    """Largest eigenvalue [K], its vector [K, n, 1], and how far off the two are, relative to the value."""
    power = gram
    for i in range(squarings):
        if i % _NORMALISED == 0 or gram.dtype == torch.float32:
            power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-30)[:, None, None]  # the trace
        power = power @ power
    # every column tends to the vector; the longest has most of it
    where = power.square().sum(-2).argmax(-1)
    vector = power.gather(-1, where[:, None, None].expand(-1, gram.shape[-1], 1))
    vector = vector / vector.norm(dim=-2, keepdim=True).clamp_min(1e-30)
    image = gram @ vector
    value = (vector * image).sum((-2, -1))
    return value, vector, (image - value[:, None, None] * vector).norm(dim=(-2, -1)) / value


@functools.cache
def quintics(lowest: float, within: float = _WITHIN) -> tuple[tuple[float, float, float], ...]:
    """Odd polynomials a s + b s^3 + c s^5 that one after the other take [lowest, 1] to 1 within ``within``.

    Each is the one that is nearest to 1 everywhere on the interval that the one before it left, found by Remez'
    exchange: no other choice of so many quintics gets closer (Amsel et al. 2025, "The Polar Express"). Of
    lowest = 6e-4 they are 7, where Newton-Schulz of order 5 takes 15.
    """
    low, high = lowest, 1.0
    found = []
    while True:
        coefficients, off = _nearest_to_one(low, high)
        found.append(coefficients)
        low, high = 1 - off, 1 + off
        if off <= within:
            return tuple(found)


def _nearest_to_one(low: float, high: float) -> tuple[tuple[float, float, float], float]:
    """The odd quintic with the least largest distance from 1 on [low, high], and that distance.

    On a narrow interval all but coincides with Newton-Schulz' own, which is taken there: Remez' equations are singular.
    """
    middle, half = (low + high) / 2, (high - low) / 2
    if half < _NARROW:
        a, b, c = 1.875 / middle, -1.25 / middle**3, 0.375 / middle**5
        ends = [a * s + b * s**3 + c * s**5 for s in (low, high)]
        return (a, b, c), max(abs(end - 1) for end in ends)
    inner = (low + half / 2, high - half / 2)
    for _ in range(_EXCHANGES):
        points = np.array([low, *inner, high])
        signs = np.array([1.0, -1.0, 1.0, -1.0])
        a, b, c, off = np.linalg.solve(np.stack([points, points**3, points**5, signs], 1), np.ones(4))
        squares = np.sort(np.roots([5 * c, 3 * b, a]).real)  # where the slope is 0
        inner = tuple(np.sqrt(squares))
    return (float(a), float(b), float(c)), abs(float(off))


def _inverse_root(gram: Tensor, lowest: float) -> tuple[Tensor, Tensor]:
    """X close to the inverse square root of K matrices of norm 1 or less, and the root mean square of X gram X - 1.

    Coupled: with Y = X gram X, X <- X p(Y) and Y <- p(Y) Y p(Y), all of them polynomials of gram, which commute.
    """
    n = gram.shape[-1]
    one = torch.eye(n, dtype=gram.dtype, device=gram.device)
    near, twofold = gram, 1.0  # Y times a power of two: its two halves are added, not averaged
    root = None
    for a, b, c in quintics(lowest) if gram.dtype == torch.float64 else _GENTLE:
        factor = torch.baddbmm(near, near, near, beta=b / twofold, alpha=c / twofold**2)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        root = factor if root is None else root @ factor
        near = factor @ near @ factor
        near = near + near.mT  # rounding that is not symmetric grows from step to step
        twofold *= 2
    assert root is not None
    return root, (near / twofold - one).square().mean((-2, -1)).mul(n).sqrt()
