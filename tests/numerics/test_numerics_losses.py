"""Losses against float64 references, alone and as stacks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nmtool.errors import DataError, UsageError
from nmtool.numerics.losses import (
    EarlyLearning,
    consistency,
    covariance,
    cross_entropy,
    cross_entropy_each,
    dominant_singular_value,
    generalized_cross_entropy,
    generalized_cross_entropy_each,
    loss_and_slope,
)

SMALL = settings(derandomize=True, max_examples=40, deadline=None)
SHAPES = [(6, 4), (4, 6), (5, 5), (1, 7), (7, 1), (64, 96)]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def randn(*shape, seed=0, dtype=torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradient(function, x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    function(x).sum().backward()
    assert x.grad is not None
    return x.grad


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize(
    "loss",
    [lambda z: consistency(randn(5, 7, seed=9), z), covariance, dominant_singular_value],
    ids=["mse", "cov", "svd"],
)
@pytest.mark.parametrize("leading", [(3,), (2, 3)])
def test_a_stack_is_its_members(loss, leading):
    z = randn(*leading, 5, 7)
    stacked = loss(z)
    assert stacked.shape == leading
    flat = z.reshape(-1, 5, 7)
    assert torch.allclose(stacked.flatten(), torch.stack([loss(member) for member in flat]), atol=1e-6)
    alone = torch.stack([gradient(loss, member) for member in flat])
    assert torch.allclose(gradient(loss, z).reshape(-1, 5, 7), alone, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [lambda z: consistency(torch.ones_like(z), z), covariance, dominant_singular_value],
    ids=["mse", "cov", "svd"],
)
def test_half_precision_and_autocast_compute_in_float32(loss):
    z = (100 * randn(8, 12)).bfloat16()
    exact = loss(z.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, single = loss(z), loss(z.float())
    assert half.dtype == single.dtype == torch.float32
    assert float(half) == pytest.approx(float(exact), rel=1e-5)
    assert float(single) == pytest.approx(float(exact), rel=1e-5)
    assert gradient(loss, z).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "loss",
    [lambda z: consistency(torch.ones_like(z), z), covariance, dominant_singular_value],
    ids=["mse", "cov", "svd"],
)
def test_divergence_shows_in_its_own_head_only(loss):
    z = randn(3, 4, 6)
    expected = loss(z)
    z[1, 2, 3] = torch.nan
    values = loss(z)
    assert values.isnan().tolist() == [False, True, False]
    assert torch.equal(values[[0, 2]], expected[[0, 2]])
    assert gradient(loss, z).isfinite().all((-2, -1)).tolist() == [True, False, True]
    with pytest.raises(DataError, match="neither of them 0"):
        loss(torch.zeros(0, 4))


# ---------------------------------------------------------------------------------------------------------- consistency


def test_consistency_by_hand():
    F = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    Z = torch.tensor([[-6.0, -8.0], [0.0, 5.0]])
    # opposite rows are 2 apart (squared 4), orthogonal ones sqrt 2 (squared 2)
    assert float(consistency(F, Z)) == pytest.approx(3.0)
    assert float(consistency(F, Z, reduce="elem")) == pytest.approx(1.5)
    assert float(consistency(F, 7 * F)) == pytest.approx(0.0, abs=1e-12)


def test_elem_is_the_mean_of_torchs_own_functions():
    F, Z = randn(6, 9, seed=1), randn(6, 9, seed=2)
    normalise = torch.nn.functional.normalize
    expected = torch.nn.functional.mse_loss(normalise(Z), normalise(F))
    assert float(consistency(F, Z, reduce="elem")) == pytest.approx(float(expected), rel=1e-5)


def test_consistency_gradient():
    F = randn(4, 5, seed=1, dtype=torch.float64).requires_grad_()
    Z = randn(3, 4, 5, seed=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: consistency(F, z), (Z,))
    consistency(F, Z).sum().backward()
    assert F.grad is None  # the target stays where it is


def test_consistency_of_zero_tiny_and_huge_rows():
    F = torch.ones(3, 4)
    Z = torch.stack([torch.zeros(4), torch.full((4,), 1e-30), torch.full((4,), 1e30)])
    assert float(consistency(F, Z)) == pytest.approx(1 / 3)  # only the row of zeros is off, by the length of F's
    g = gradient(lambda z: consistency(F, z), Z)
    assert g.isfinite().all()
    assert (g[0] == 0).all()


def test_consistency_refuses():
    with pytest.raises(UsageError, match="'mean'"):
        consistency(torch.ones(2, 2), torch.ones(2, 2), reduce="mean")
    with pytest.raises(DataError, match="same rows"):
        consistency(torch.ones(1, 2), torch.ones(2, 2))


# ----------------------------------------------------------------------------------------------------------- covariance


def test_covariance_by_hand():
    # columns (1, -1) and (2, -2): covariance 4 off the diagonal, twice: 2 * 16 / D = 16
    assert float(covariance(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))) == pytest.approx(16.0)
    assert float(covariance(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]))) == 0


@pytest.mark.parametrize("shape", SHAPES[:3] + SHAPES[4:])
def test_covariance_agrees_with_numpy(shape):
    z = randn(*shape, seed=3) + 2
    c = np.atleast_2d(np.cov(z.double().numpy(), rowvar=False))
    expected = ((c**2).sum() - (np.diag(c) ** 2).sum()) / shape[1]
    assert float(covariance(z)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_covariance_never_builds_the_larger_square():
    # 100,000 x 100,000 floats would be 40 GB. Two rows a distance d apart have covariance d d' / 2
    z = randn(2, 100_000)
    d = (z[0] - z[1]).double()
    expected = float((d @ d) ** 2 - (d**4).sum()) / 4 / 100_000
    assert float(covariance(z)) == pytest.approx(expected, rel=1e-4)
    assert float(covariance(randn(100_000, 2))) < 1e-3  # independent columns: variance of the covariance is 1/B


@SMALL
@given(st.integers(2, 6), st.integers(1, 6), st.integers(0, 99), st.floats(0.5, 4))
def test_covariance_is_quartic_and_blind_to_shifts(b, d, seed, factor):
    z = randn(b, d, seed=seed, dtype=torch.float64)
    value = float(covariance(z))
    assert value >= 0
    assert float(covariance(factor * z + 3)) == pytest.approx(factor**4 * value, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (2, 3)])
def test_covariance_gradient(shape):
    z = randn(*shape, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(covariance, (z,))


def test_covariance_of_one_row_is_zero_with_zero_gradient():
    z = randn(3, 1, 5)
    assert covariance(z).tolist() == [0, 0, 0]
    assert (gradient(covariance, z) == 0).all()


# ------------------------------------------------------------------------------------------------------- singular value


def spectrum(n: int, d: int, values: list[float], seed=0, dtype=torch.float32) -> Tensor:
    """A matrix with the given singular values."""
    u = torch.linalg.qr(randn(n, n, seed=seed, dtype=torch.float64))[0][:, : len(values)]
    v = torch.linalg.qr(randn(d, d, seed=seed + 1, dtype=torch.float64))[0][:, : len(values)]
    return (u * torch.tensor(values, dtype=torch.float64) @ v.T).to(dtype)


def reference_value(z: Tensor, topk=1) -> float:
    s = torch.linalg.svdvals(z.double())
    return float(-s[:topk].mean() / s.sum())


def reference_gradient(z: Tensor, topk=1) -> Tensor:
    """By the SVD itself, from NMTune Eq. 5: sum over j of dL/ds_j u_j v_j'."""
    u, s, vh = torch.linalg.svd(z.double(), full_matrices=False)
    slopes = s[:topk].mean() / s.sum() ** 2 * torch.ones_like(s)
    slopes[:topk] -= 1 / (min(topk, len(s)) * s.sum())
    return (u * slopes) @ vh


def test_dominance_by_hand():
    z = torch.diag(torch.tensor([6.0, 3.0, 1.0]))
    assert float(dominant_singular_value(z)) == pytest.approx(-0.6)
    assert float(dominant_singular_value(z, topk=2)) == pytest.approx(-0.45)
    assert float(dominant_singular_value(z, topk=50)) == pytest.approx(-1 / 3)
    # dL/ds = -(1/10 - 6/100), 6/100, 6/100
    assert torch.allclose(gradient(dominant_singular_value, z), torch.diag(torch.tensor([-0.04, 0.06, 0.06])))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("topk", [1, 3])
def test_dominance_agrees_with_svd(shape, topk):
    for seed in range(5):
        z = randn(*shape, seed=seed)
        assert float(dominant_singular_value(z, topk=topk)) == pytest.approx(reference_value(z, topk), abs=1e-6)
        ours, theirs = gradient(lambda m: dominant_singular_value(m, topk=topk), z), reference_gradient(z, topk)
        assert torch.allclose(ours.double(), theirs, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_dominance_of_ill_conditioned_matrices(shape, condition):
    for seed in range(5):
        z = spectrum(*shape, np.geomspace(1, 1 / condition, 16).tolist(), seed=seed)
        assert float(dominant_singular_value(z)) == pytest.approx(reference_value(z), abs=1e-5)
        assert cosine(gradient(dominant_singular_value, z), reference_gradient(z)) > 0.999


@pytest.mark.parametrize("topk", [1, 2])
def test_dominance_gradient_is_that_of_finite_differences(topk):
    for shape in [(3, 5), (5, 3), (2, 4, 4)]:
        z = randn(*shape, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda m: dominant_singular_value(m, topk=topk), (z,))


@pytest.mark.parametrize(
    "values",
    [[2, 1, 1, 1], [2, 2, 1], [1, 1, 1, 1, 1], [3], [3, 0, 0], [5, 2, 0], [1e-30, 1e-31], [1e30, 1e29], [1, 1e-12]],
)
@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_repeated_zero_and_extreme_values_are_safe(shape, values):
    z = spectrum(*shape, [float(v) for v in values], seed=len(values))
    assert float(dominant_singular_value(z)) == pytest.approx(-max(values) / math.fsum(values), abs=1e-5)
    g = gradient(dominant_singular_value, z)
    assert g.isfinite().all()
    # the loss is blind to the scale of Z, so every subgradient is orthogonal to Z
    assert abs(float((g.double() * z.double()).sum())) < 1e-5


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_lost_directions_get_no_gradient(shape):
    z = spectrum(*shape, [5.0, 2.0], dtype=torch.float64)
    u, _, vh = torch.linalg.svd(z, full_matrices=False)
    # dL/ds_1 = -(1/7 - 5/49) = -2/49, dL/ds_2 = 5/49, and nothing for the four zeros
    expected = (u[:, :2] * torch.tensor([-2 / 49, 5 / 49], dtype=torch.float64)) @ vh[:2]
    assert torch.allclose(gradient(dominant_singular_value, z), expected, atol=1e-7)
    # rounding noise of 63 lost values would add up to some 1e-6
    assert float(dominant_singular_value(spectrum(64, 96, [3.0], dtype=torch.float64))) == pytest.approx(-1, abs=1e-9)


def test_exact_repeats_step_downhill():
    # sigma_1 = sigma_2 is a kink, where either direction will do; a step along it must lower the loss
    z = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    g = gradient(dominant_singular_value, z)
    assert float(dominant_singular_value(z - 1e-3 * g)) < float(dominant_singular_value(z))


def test_zeros_have_loss_zero_and_gradient_zero():
    z = torch.zeros(2, 3, 4)
    z[1] = randn(3, 4)
    assert float(dominant_singular_value(z)[0]) == 0
    g = gradient(dominant_singular_value, z)
    assert (g[0] == 0).all()
    assert g[1].abs().sum() > 0


@SMALL
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99), st.floats(1e-6, 1e6), st.integers(1, 4))
def test_dominance_bounds_and_scale(b, d, seed, factor, topk):
    z = randn(b, d, seed=seed, dtype=torch.float64)
    value = float(dominant_singular_value(z, topk=topk))
    assert -1 / min(topk, b, d) - 1e-9 <= value <= -1 / min(b, d) + 1e-9
    assert float(dominant_singular_value(factor * z, topk=topk)) == pytest.approx(value, abs=1e-9)
    assert float(dominant_singular_value(z.T, topk=topk)) == pytest.approx(value, abs=1e-7)


def test_dominance_refuses():
    with pytest.raises(UsageError, match="topk 0"):
        dominant_singular_value(torch.ones(2, 2), topk=0)


# ------------------------------------------------------------------------------------------------------- classification


def softmax64(logits: Tensor) -> np.ndarray:
    z = logits.detach().double().numpy()
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_cross_entropy_by_hand_and_by_torch():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    y = torch.tensor([1, 0])
    assert cross_entropy_each(logits, y).tolist() == pytest.approx([math.log(4 / 3), math.log(2)])
    stack, labels = 5 * randn(3, 8, 4), torch.arange(8) % 4
    values = cross_entropy(stack, labels)
    for k in range(3):
        assert float(values[k]) == pytest.approx(float(torch.nn.functional.cross_entropy(stack[k], labels)), rel=1e-6)
    own = torch.stack([labels, labels.flip(0), labels])
    assert float(cross_entropy(stack, own)[1]) == pytest.approx(float(cross_entropy(stack[1], labels.flip(0))))


@pytest.mark.parametrize("q", [None, 0.1, 0.7, 1.0])
def test_loss_and_slope_are_those_of_autograd(q):
    logits, y = 5 * randn(3, 6, 4, dtype=torch.float64), torch.randint(4, (3, 6), generator=torch.Generator())

    def plain(z: Tensor) -> Tensor:
        p = z.softmax(-1).gather(-1, y.unsqueeze(-1))[..., 0]
        return (-p.log() if q is None else (1 - p**q) / q).mean(-1)

    loss, slope = loss_and_slope(logits, y, q)
    torch.testing.assert_close(loss, plain(logits), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slope, gradient(plain, logits), rtol=1e-10, atol=1e-12)
    assert not slope.requires_grad
    one, its = loss_and_slope(logits[1], y[1], q)  # the same of one head alone
    torch.testing.assert_close((one, its), (loss[1], slope[1]))
    # labels of probability 0 in float32: GCE is flat there, the cross-entropy has slope 1
    far = torch.tensor([[200.0, 0.0]])
    loss, slope = loss_and_slope(far, torch.tensor([1]), q)
    want = (200.0, [[1.0, -1.0]]) if q is None else (1 / q, [[math.exp(-200 * q), -math.exp(-200 * q)]])
    assert float(loss) == pytest.approx(want[0])
    torch.testing.assert_close(slope, torch.tensor(want[1]))


def test_loss_and_slope_of_half_precision_is_computed_in_float32():
    logits, y = randn(6, 4, dtype=torch.float16), torch.tensor([0, 1, 2, 3, 0, 1])
    loss, slope = loss_and_slope(logits, y)
    wide, its = loss_and_slope(logits.float(), y)
    assert loss == wide
    assert torch.equal(slope, its.half())


@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
def test_gce_agrees_with_its_formula_and_scales_the_ce_gradient(q):
    logits, y = 4 * randn(3, 16, 5, dtype=torch.float64), torch.arange(16) % 5
    p = softmax64(logits)[:, np.arange(16), y.numpy()]
    assert np.allclose(generalized_cross_entropy_each(logits, y, q).numpy(), (1 - p**q) / q, atol=1e-12)
    assert np.allclose(generalized_cross_entropy(logits, y, q).numpy(), ((1 - p**q) / q).mean(-1), atol=1e-12)
    ours = gradient(lambda z: generalized_cross_entropy(z, y, q), logits)
    ce = gradient(lambda z: cross_entropy(z, y), logits)
    assert torch.allclose(ours, torch.from_numpy(p**q)[..., None] * ce, atol=1e-14)


def test_gce_by_hand_and_at_its_ends():
    even = torch.zeros(1, 4)
    assert float(generalized_cross_entropy(even, torch.tensor([0]), 0.5)) == pytest.approx(1.0)  # (1 - 1/2) / 0.5
    assert float(generalized_cross_entropy(even, torch.tensor([0]), 1.0)) == pytest.approx(0.75)  # mean absolute error
    assert float(generalized_cross_entropy(even, torch.tensor([0]), 1e-9)) == pytest.approx(math.log(4), rel=1e-6)
    lost = torch.tensor([[-200.0, 0.0], [-torch.inf, 0.0]])
    assert generalized_cross_entropy_each(lost, torch.tensor([0, 0])).tolist() == pytest.approx([1 / 0.7, 1 / 0.7])
    assert gradient(lambda z: generalized_cross_entropy(z, torch.tensor([0])), lost[:1]).isfinite().all()
    for q in (0.0, -1.0, 1.1, math.nan):
        with pytest.raises(UsageError, match="q "):
            generalized_cross_entropy(even, torch.tensor([0]), q)


@SMALL
@given(st.floats(0.05, 1), st.floats(0.05, 1), st.integers(0, 99))
def test_gce_falls_with_q_and_stays_below_ce(q, other, seed):
    logits, y = 3 * randn(4, 3, seed=seed, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    low, high = sorted((q, other))
    values = [generalized_cross_entropy_each(logits, y, v) for v in (low, high)]
    assert (values[1] <= values[0] + 1e-12).all()
    assert (values[0] <= cross_entropy_each(logits, y) + 1e-12).all()
    assert (values[1] <= 1 / high).all()


def test_half_precision_logits_are_computed_in_float32():
    logits, y = (5 * randn(6, 4)).bfloat16(), torch.arange(6) % 4
    for loss in (cross_entropy, generalized_cross_entropy):
        assert loss(logits, y).dtype == torch.float32
        assert float(loss(logits, y)) == pytest.approx(float(loss(logits.double(), y)), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------------ ELR


class PlainElr:
    """ELR once more, a sample at a time, from the paper's text and the order of the published loop."""

    def __init__(self, n: int, classes: int, beta: float, lam: float) -> None:
        self.t, self.beta, self.lam = np.zeros((n, classes)), beta, lam

    def __call__(self, logits: Tensor, y: Tensor, rows: Tensor) -> float:
        total = 0.0
        for probabilities, label, row in zip(softmax64(logits), y.tolist(), rows.tolist(), strict=True):
            p = np.minimum(np.maximum(probabilities, 1e-4), 1 - 1e-4)
            self.t[row] = self.beta * self.t[row] + (1 - self.beta) * p / p.sum()
            total += -np.log(probabilities[label]) + self.lam * np.log(1 - self.t[row] @ p)
        return total / len(rows)


def test_elr_follows_the_plain_version_over_updates():
    n, classes, heads = 12, 4, 3
    stack = EarlyLearning(n, classes, beta=0.7, lam=3.0, heads=heads)
    single = EarlyLearning(n, classes, beta=0.7, lam=3.0)
    plain = [PlainElr(n, classes, 0.7, 3.0) for _ in range(heads)]
    for step in range(6):
        logits = 6 * randn(heads, 5, classes, seed=step, dtype=torch.float64)
        rows = torch.randperm(n, generator=torch.Generator().manual_seed(step))[:5]
        y = torch.arange(5) % classes
        expected = [elr(logits[k], y, rows) for k, elr in enumerate(plain)]
        assert stack(logits, y, rows).tolist() == pytest.approx(expected, rel=1e-9)
        assert float(single(logits[1], y, rows)) == pytest.approx(expected[1], rel=1e-9)
    assert np.allclose(stack.target.numpy(), np.stack([elr.t for elr in plain]), atol=1e-9)


def test_elr_takes_rows_for_each_head():
    stack = EarlyLearning(6, 3, heads=2)
    alone = [EarlyLearning(6, 3), EarlyLearning(6, 3)]
    logits, y, rows = randn(2, 2, 3), torch.tensor([[0, 1], [2, 2]]), torch.tensor([[0, 5], [3, 1]])
    values = stack(logits, y, rows)
    for k in range(2):
        assert float(values[k]) == pytest.approx(float(alone[k](logits[k], y[k], rows[k])), rel=1e-6)
        assert torch.allclose(stack.target[k], alone[k].target)


def test_elr_first_visit_by_hand():
    elr = EarlyLearning(1, 2, beta=0.9, lam=7.0)
    value = elr(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0]))
    # t = 0.1 * (0.5, 0.5), <t, p> = 0.05
    assert float(value) == pytest.approx(math.log(2) + 7 * math.log(0.95), rel=1e-6)
    assert elr.target.tolist() == [[pytest.approx(0.05), pytest.approx(0.05)]]


def test_elr_gradient_leaves_the_target_out():
    logits, y, rows = randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2]), torch.arange(3)
    elr = EarlyLearning(3, 4)
    ours = gradient(lambda z: elr(z, y, rows), logits)
    target = elr.target.clone()
    free = logits.clone().requires_grad_()
    p = free.softmax(-1)
    loss = torch.nn.functional.cross_entropy(free, y) + 7 * (1 - (target * p).sum(-1)).log().mean()
    loss.backward()
    assert torch.allclose(ours, free.grad, atol=1e-12)


def test_elr_stays_finite_on_certain_predictions_and_refuses_misfits():
    elr = EarlyLearning(2, 3)
    certain = torch.tensor([[500.0, 0.0, 0.0], [0.0, 500.0, 0.0]])
    for _ in range(200):
        value = elr(certain, torch.tensor([0, 1]), torch.arange(2))
    assert value.isfinite()
    assert float(value) < 0
    with pytest.raises(DataError, match="logits of shape"):
        elr(torch.zeros(2, 4), torch.tensor([0, 1]), torch.arange(2))
    with pytest.raises(DataError, match="logits of shape"):
        elr(torch.zeros(5, 2, 3), torch.tensor([0, 1]), torch.arange(2))
    with pytest.raises(UsageError, match="beta"):
        EarlyLearning(2, 3, beta=1.0)
    with pytest.raises(UsageError, match="0 heads"):
        EarlyLearning(2, 3, heads=0)
