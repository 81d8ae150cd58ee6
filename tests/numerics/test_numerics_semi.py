"""DivideMix's and UNICON's formulas beside plain loops over their definitions, in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import distance

from nmtool.errors import DataError, UsageError
from nmtool.numerics import semi

SMALL = settings(derandomize=True, max_examples=40, deadline=None)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape) * 2


def close(ours, reference):
    np.testing.assert_allclose(np.asarray(ours), reference, rtol=0, atol=1e-10)


def sharpened(p, temperature):
    powers = [value ** (1 / temperature) for value in p]
    return [value / sum(powers) for value in powers]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 0.1, 2.0])
def test_guessing_and_refining_are_their_definitions(temperature):
    mine, peer = softmax(drawn(2, 5, 4)), softmax(drawn(2, 5, 4, seed=1))
    y, w = np.random.default_rng(2).integers(0, 4, (2, 5)), np.random.default_rng(3).random((2, 5))
    refined, guessed = np.empty_like(mine), np.empty_like(mine)
    for k in range(2):
        for i in range(5):
            given_label = [w[k, i] * (c == y[k, i]) + (1 - w[k, i]) * mine[k, i, c] for c in range(4)]
            refined[k, i] = sharpened(given_label, temperature)
            guessed[k, i] = sharpened([(mine[k, i, c] + peer[k, i, c]) / 2 for c in range(4)], temperature)
    t = torch.from_numpy
    close(semi.co_refine(t(y), t(mine), t(w), temperature), refined)
    close(semi.co_guess(t(mine), t(peer), temperature), guessed)


def test_sharpening_by_hand():
    close(semi.sharpen(torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), 0.5), [36 / 46, 9 / 46, 1 / 46])
    close(semi.sharpen(torch.tensor([1.0, 0.0], dtype=torch.float64), 0.5), [1, 0])
    tiny = semi.sharpen(torch.full((1000,), 1e-3), 0.01)  # 1e-300 in float32 is 0: not 0 / 0
    assert torch.allclose(tiny, torch.full((1000,), 1e-3))
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="temperature"):
            semi.sharpen(torch.ones(2), wrong)


def test_mixup_of_logits_is_that_of_features():
    """What the loop rests on: a linear layer of mixed rows gives the mixed logits."""
    x, weight, bias = (
        torch.from_numpy(drawn(2, 6, 3)),
        torch.from_numpy(drawn(2, 3, 4)),
        torch.from_numpy(drawn(2, 1, 4)),
    )
    partner = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(s)) for s in (0, 1)])
    lam = torch.tensor([0.7, 0.5], dtype=torch.float64)
    by_hand = np.empty((2, 6, 3))
    for k in range(2):
        for i in range(6):
            by_hand[k, i] = float(lam[k]) * x[k, i].numpy() + (1 - float(lam[k])) * x[k, int(partner[k, i])].numpy()
    close(semi.mixed(x, partner, lam), by_hand)
    close(semi.mixed(x @ weight + bias, partner, lam), by_hand @ weight.numpy() + bias.numpy())


def test_losses_are_their_definitions():
    logits, target = drawn(3, 5, 4), softmax(drawn(3, 5, 4, seed=1))
    mask = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=np.float64)
    p = softmax(logits)
    soft, squared = np.zeros((3, 5)), np.zeros((3, 5))
    for k in range(3):
        for i in range(5):
            soft[k, i] = -sum(target[k, i, c] * math.log(p[k, i, c]) for c in range(4))
            squared[k, i] = sum((p[k, i, c] - target[k, i, c]) ** 2 for c in range(4)) / 4
    t = torch.from_numpy
    close(semi.soft_cross_entropy_each(t(logits), t(target)), soft)
    close(semi.squared_error_each(t(logits), t(target)), squared)
    close(semi.masked_mean(t(soft), t(mask)), [soft[0, [0, 1, 3]].mean(), soft[1].mean(), 0])
    mean = p[0, [0, 1, 3]].mean(0)
    close(semi.prior_penalty(t(logits), t(mask))[0], sum(0.25 * math.log(0.25 / m) for m in mean))
    close(semi.negative_entropy(t(logits)), (p * np.log(p)).sum(-1).mean(-1))


def test_the_prior_penalty_at_its_ends():
    even = torch.zeros(2, 5, dtype=torch.float64)
    assert float(semi.prior_penalty(even, torch.ones(2, dtype=torch.float64))) == pytest.approx(0, abs=1e-12)
    lone = torch.zeros(3, 4)
    lone[:, 0] = 1e4  # all other classes underflow
    lone.requires_grad_()
    penalty = semi.prior_penalty(lone, torch.ones(3))
    penalty.backward()
    assert math.isfinite(float(penalty.detach()))
    assert float(penalty.detach()) > 10
    assert torch.isfinite(lone.grad).all()


@SMALL
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_divergence_is_scipys(seed, classes):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.3))
    y = int(rng.integers(classes))
    expected = distance.jensenshannon(p, np.eye(classes)[y]) ** 2
    assert float(semi.jensen_shannon(torch.tensor(p[y], dtype=torch.float64))) == pytest.approx(expected, abs=1e-10)


def test_divergence_at_its_ends():
    found = semi.jensen_shannon(torch.tensor([0.0, 1.0, 1.0 + 1e-7], dtype=torch.float64))
    close(found, [math.log(2), 0, 0])
    close(semi.label_confidence([0.0, 0.499, 0.5, 0.6]), [1, 1, 0.5, 0.4])


def selected_plainly(d, y):
    share = sum(v < d.mean() for v in d) / len(d)
    present = sorted(set(y.tolist()))
    each = max(1, int(share * len(d) / len(present)))
    out = set()
    for c in present:
        mine = sorted((v, i) for i, v in enumerate(d) if y[i] == c)
        out |= {i for _, i in mine[:each]}
    return out


@SMALL
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 9))
def test_uniform_selection_is_its_definition(seed, n, classes):
    rng = np.random.default_rng(seed)
    d, y = np.round(rng.random(n) * 0.69, 2), rng.integers(0, classes, n)  # rounded: with ties
    chosen = semi.uniform_selection(d, y)
    assert set(np.flatnonzero(chosen)) == selected_plainly(d, y)
    assert set(y[chosen]) == set(y)


def test_uniform_selection_at_its_ends():
    y = np.array([0, 0, 0, 1, 1, 2])
    assert semi.uniform_selection(np.full(6, 0.3), y).tolist() == [True, False, False, True, False, True]
    assert semi.uniform_selection([0.1], [4]).tolist() == [True]
    for d, labels in (([0.1, 0.2], [0]), ([], [])):
        with pytest.raises(DataError):
            semi.uniform_selection(d, labels)


def test_no_side_of_a_division_is_empty():
    p = np.array([0.2, 0.4, 0.4, 0.1])
    assert semi.divide(p, 0.3).tolist() == [False, True, True, False]
    assert semi.divide(p, 0.4).tolist() == [False, True, True, False]  # nothing above: the highest
    assert semi.divide(p, 0.05).tolist() == [True, True, True, False]  # all above: not the lowest
    assert semi.divide(np.full(3, 0.7), 0.5).all()  # nothing tells them apart
    assert semi.divide(np.full(3, 0.1), 0.5).all()
    with pytest.raises(DataError):
        semi.divide([], 0.5)


def test_the_ramp():
    assert [semi.ramp(d, 4) for d in (-1, 0, 1, 4, 9)] == [0, 0, 0.25, 1, 1]
    assert semi.ramp(0, 0) == 1
