"""The spectral term's roads against float64's SVD over 1,000 matrices, and the fused terms against the single ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from nmtool.numerics import losses, spectral
from nmtool.numerics.terms import Name, powers_of_two, regularisers

COUNT, N, D = 125, 24, 40  # of each of eight kinds
NAMES: tuple[Name, ...] = ("mse", "cov", "svd")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def thousand() -> Tensor:
    """[1000, N, D] float32: conditions 1 to 1e6, repeated values, lacking rank."""
    rng = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    condition = 10 ** (6 * torch.linspace(0, 1, COUNT, dtype=torch.float64)[:, None])
    steps = torch.linspace(0, 1, N, dtype=torch.float64)
    pairs = torch.div(torch.arange(N), 2, rounding_mode="floor") / (N // 2)
    spectra = [
        condition**-steps,  # even in the logarithm
        1 - steps * (1 - 1 / condition),  # even
        condition ** -uniform(COUNT, N),  # by chance
        torch.where(steps == 0, 1.0, 1 / condition),  # one large, the others equal
        condition ** -pairs.expand(COUNT, -1),  # all of them twice, the largest too
        torch.where(steps < 0.5, 1.0, 1 / condition),  # the largest twelve times
    ]
    u = torch.linalg.qr(normal(len(spectra), COUNT, N, N))[0]
    v = torch.linalg.qr(normal(len(spectra), COUNT, D, N))[0]
    size = 10 ** (6 * uniform(len(spectra), COUNT, 1, 1) - 3)
    made = (u * torch.stack(spectra).unsqueeze(-2)) @ v.mT * size
    twice = normal(COUNT, N, D)
    twice[:, N // 2 :] = twice[:, : N - N // 2]  # rows drawn twice
    low = normal(COUNT, N, 3).mul(3).round() @ normal(COUNT, 3, D).mul(3).round()  # of rank 3, without rounding
    return torch.cat([made.flatten(0, 1), twice, low]).float()


def expected(z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Loss [K] and gradient by float64's SVD; where sigma_1 is repeated, the subgradient that ``g`` has chosen."""
    u, s, vh = torch.linalg.svd(z.double(), full_matrices=False)
    total = s.sum(-1, keepdim=True)
    real = s > s[:, :1] * 1e-9
    common = (u * (torch.where(real, s[:, :1] / total.square(), 0.0)).unsqueeze(-2)) @ vh
    top = (s > s[:, :1] * (1 - 1e-5)).double()
    left, right = (u * top.unsqueeze(-2)) @ u.mT, (vh.mT * top.unsqueeze(-2)) @ vh
    chosen = left @ (g.double() - common) @ right
    chosen = chosen / chosen.norm(dim=(-2, -1), keepdim=True)
    assert bool(((chosen * (left @ u @ vh)).sum((-2, -1)) < -0.999).all())  # - u v', with v the one that belongs to u
    return -s[:, 0] / total[:, 0], common + chosen / total.unsqueeze(-1)


def judge(z: Tensor, loss: Tensor, g: Tensor) -> None:
    assert bool(loss.isfinite().all())
    assert bool(g.isfinite().all())
    value, gradient = expected(z, g)
    assert float((loss - value).abs().max()) <= 1e-5
    norms = g.double().norm(dim=(-2, -1)) * gradient.norm(dim=(-2, -1))
    # one value and no others: nothing to gain, and a gradient of zero
    cosine = (g.double() * gradient).sum((-2, -1)) / norms
    assert float(cosine.min()) >= 0.999


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("road", ["eigen", "products"])
def test_a_thousand_matrices_by_each_road(road: spectral.Road, dtype: torch.dtype, tall: bool) -> None:
    z = thousand()
    unit = (z / powers_of_two(z)[0]).to(dtype)
    gram = unit @ unit.mT
    loss, left, dense = spectral.share(unit.mT if tall else unit, gram, 1, road)
    g = left @ unit if dense is None else left @ unit + (dense.mT if tall else dense)
    judge(unit, loss, g)


def test_a_thousand_matrices_without_a_look() -> None:
    """What is not in doubt is right; and there is an effort for nearly all of them."""
    z = thousand()
    unit = (z / powers_of_two(z)[0]).double()
    gram = unit @ unit.mT
    doubts = []
    for effort in range(len(spectral.EFFORTS)):
        loss, left, doubt = spectral.unlooked(gram, effort)
        good = ~doubt
        judge(unit[good], loss[good], (left @ unit)[good])
        doubts.append(doubt)
    whole = slice(6 * COUNT)  # the last two kinds lack rank
    assert [bool(d[whole].any()) for d in doubts] == [True, False, True]
    assert [bool(d[6 * COUNT :].all()) for d in doubts] == [True, True, False]
    assert float(doubts[2][6 * COUNT :].float().mean()) < 0.02


def test_zeros_without_a_look() -> None:
    loss, left, doubt = spectral.unlooked(torch.zeros(2, 5, 5, dtype=torch.float64), len(spectral.EFFORTS) - 1)
    assert not doubt.any()
    assert not loss.any()
    assert not left.any()


def test_a_thousand_matrices_as_they_are() -> None:
    z = thousand().requires_grad_()
    loss = losses.dominant_singular_value(z)
    loss.sum().backward()
    assert z.grad is not None
    judge(z.detach(), loss.detach().double(), z.grad)


def one_by_one(F: Tensor, Z: Tensor, reduce: str) -> Tensor:
    """[3, K] by the functions that the contract names, in float64."""
    u, s, vh = torch.linalg.svd(Z.double())
    del u, vh
    return torch.stack(
        [
            losses.consistency(F.double(), Z.double(), reduce=reduce),  # type: ignore[arg-type]
            losses.covariance(Z.double()),
            -s[..., 0] / s.sum(-1),
        ]
    )


@pytest.mark.parametrize(
    "shape", [(3, 9, 14), (3, 14, 9), (2, 1, 5), (2, 5, 1), (1, 1, 1), (2, 90, 130), (1, 300, 330), (2, 290, 260)]
)
@pytest.mark.parametrize("reduce", ["row", "elem"])
def test_the_three_terms_at_once_are_the_single_ones(shape: tuple[int, ...], reduce: str) -> None:
    rng = torch.Generator().manual_seed(3)
    F, Z = torch.randn(shape[1:], generator=rng), torch.randn(shape, generator=rng) * 2 + 1
    weights = torch.rand(3, shape[0], generator=rng)
    mine, theirs = Z.clone().requires_grad_(), Z.double().requires_grad_()
    values = torch.stack(list(regularisers(F, mine, NAMES, reduce=reduce).values()))  # type: ignore[arg-type]
    expected_values = one_by_one(F, theirs, reduce)
    torch.testing.assert_close(values.double(), expected_values, rtol=2e-5, atol=1e-6)
    (values * weights).sum().backward()
    (expected_values * weights).sum().backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    size = float(theirs.grad.abs().max())
    assert float((mine.grad - theirs.grad).abs().max()) <= 2e-5 * size + 1e-7


@pytest.mark.parametrize("names", [("mse",), ("cov",), ("svd",), ("mse", "svd"), NAMES])
@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 6, 4)])
def test_the_gradient_is_that_of_finite_differences(names: tuple[Name, ...], shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(4)
    F = torch.randn(1, *shape[1:], generator=rng, dtype=torch.float64)
    Z = torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: tuple(regularisers(F, z, names, topk=2).values()), (Z,))


def test_one_head_that_diverges_or_is_zero_leaves_the_others_alone() -> None:
    rng = torch.Generator().manual_seed(5)
    F, Z = torch.randn(300, 310, generator=rng), torch.randn(4, 300, 310, generator=rng)
    alone = Z[3:].clone().requires_grad_()
    sum(v.sum() for v in regularisers(F, alone, NAMES).values()).backward()  # type: ignore[union-attr]
    Z[0, 2, 3], Z[1], Z[2, 7] = torch.inf, 0.0, Z[2, 8]  # not finite, zero, and worse than float32 can tell
    Z.requires_grad_()
    values = regularisers(F, Z, NAMES)
    sum(v.sum() for v in values.values()).backward()  # type: ignore[union-attr]
    assert [name for name, v in values.items() if not v[1:].isfinite().all()] == []
    assert all(not bool(v[0].isfinite()) for v in values.values())
    assert Z.grad is not None
    assert alone.grad is not None
    assert Z.grad[0].isnan().any()
    assert bool((Z.grad[1] == 0).all())
    assert bool(Z.grad[2].isfinite().all())
    torch.testing.assert_close(Z.grad[3:], alone.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(3, 20, 31), (3, 31, 20)], ids=["wide", "tall"])
@pytest.mark.parametrize("far", [0.5, 30.0])
def test_the_gram_matrix_without_its_first_direction(shape: tuple[int, ...], far: float) -> None:
    """By both ways, against float64's SVD without the first value; to the rounding of the *second* value."""
    rng = torch.Generator().manual_seed(5)
    Z = torch.randn(shape, generator=rng) + far * torch.randn(1, 1, shape[-1], generator=rng)
    Z = Z / Z.abs().amax((-2, -1), keepdim=True)
    u, s, vh = torch.linalg.svd(Z.double(), full_matrices=False)
    side = u if shape[-2] <= shape[-1] else vh.mT
    wanted = (side[..., 1:] * s[:, None, 1:].square()) @ side[..., 1:].mT
    mean = Z.mean(-2, keepdim=True)
    rows = Z - mean
    parts = spectral.Centred(rows, mean, rows @ rows.mT if shape[-2] <= shape[-1] else rows.mT @ rows)
    raw = Z.double() @ Z.mT.double() if shape[-2] <= shape[-1] else Z.mT.double() @ Z.double()
    torch.testing.assert_close(parts.raw().double(), raw, rtol=0, atol=1e-6 * float(s.max()) ** 2)
    vector = side[..., :1].float()
    for lower, top, off in (spectral._without(Z, vector), spectral._without_in_parts(parts, vector)):
        assert float((lower.double() - wanted).abs().amax()) <= 4e-7 * float(s[:, 1].max()) ** 2
        torch.testing.assert_close(top.double().sqrt(), s[:, 0], rtol=1e-6, atol=0)
        assert float(off.max()) < 1e-6
    # a vector that is a little beside: both say how far
    beside = vector + 1e-3 * side[..., 1:2].float()
    beside = beside / beside.norm(dim=-2, keepdim=True)
    known = 1e-3 * (s[:, 0].square() - s[:, 1].square()) / s[:, 0].square()
    for _, _, off in (spectral._without(Z, beside), spectral._without_in_parts(parts, beside)):
        torch.testing.assert_close(off.double(), known, rtol=1e-2, atol=0)


def by_definition(F: Tensor, Z: Tensor) -> dict[Name, Tensor]:
    """Eq. 3, 4 and 5 as they are printed: norms, the D x D covariance, svdvals."""
    f, z = (x / x.norm(dim=-1, keepdim=True) for x in (F, Z))
    centred = Z - Z.mean(-2, keepdim=True)
    spread = centred.mT @ centred / (Z.shape[-2] - 1)
    apart = spread - torch.diag_embed(spread.diagonal(dim1=-2, dim2=-1))
    sigma = torch.linalg.svdvals(Z)
    return {
        "mse": (f - z).square().sum(-1).mean(-1),
        "cov": apart.square().sum((-2, -1)) / Z.shape[-1],
        "svd": -sigma[..., 0] / sigma.sum(-1),
    }


@pytest.mark.parametrize("road", ["eigen", "products"])
@pytest.mark.parametrize(
    "shape", [(2, 16, 40), (2, 40, 16), (2, 24, 24), (1, 80, 70), (1, 90, 200), (1, 280, 270), (1, 260, 300)]
)
@pytest.mark.parametrize("kind", ["plain", "far mean", "tiny", "huge", "sparse", "rows twice", "rank 4"])
def test_the_terms_by_their_definitions(kind: str, shape: tuple[int, int, int], road: spectral.Road) -> None:
    """Values everywhere; gradients by autograd through svdvals where all singular values differ from 0."""
    rng = torch.Generator().manual_seed(11)
    F, Z = torch.randn(shape[1:], generator=rng), torch.randn(shape, generator=rng)
    rows = shape[1]
    Z = {
        "plain": lambda: Z,
        "far mean": lambda: Z + 100,
        "tiny": lambda: Z * 1e-9,
        "huge": lambda: Z * 1e9,
        "sparse": lambda: torch.relu(Z - 0.5),
        "rows twice": lambda: torch.cat([Z[:, : rows // 2]] * 2, 1),
        "rank 4": lambda: Z[:, :, :4] @ torch.randn(4, shape[2], generator=rng),
    }[kind]()
    mine, theirs = Z.clone().requires_grad_(), Z.double().requires_grad_()
    values, wanted = regularisers(F, mine, NAMES, road=road), by_definition(F.double(), theirs)
    for name in NAMES:
        torch.testing.assert_close(values[name].double(), wanted[name], rtol=3e-5, atol=0.0)
        if name == "svd" and kind in ("rows twice", "rank 4"):
            continue
        (got,) = torch.autograd.grad(values[name].sum(), mine, retain_graph=True)
        (true,) = torch.autograd.grad(wanted[name].sum(), theirs, retain_graph=True)
        torch.testing.assert_close(got.double(), true, rtol=0.0, atol=float(true.abs().max()) * 2e-3)
