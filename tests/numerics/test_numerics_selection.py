"""Selection: mixtures against sklearn, balanced draws against their definition."""

import math
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.mixture import GaussianMixture

from nmtool.errors import DataError
from nmtool.numerics.selection import (
    balanced_sample,
    clean_posterior,
    clean_posterior_with_notes,
    purity_and_recall,
)

SMALL = settings(derandomize=True, max_examples=60, deadline=None)


def two_humps(n=300, seed=0):
    """Losses of three classes, some 60 % low; the scale differs from class to class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    clean = rng.random(n) < 0.6
    losses = np.where(clean, rng.exponential(0.2, n), rng.normal(3, 0.5, n)) * (1 + 4 * labels)
    return losses, labels, clean


def by_sklearn(values, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GaussianMixture(2, **settings).fit(values.reshape(-1, 1))
    return model.predict_proba(values.reshape(-1, 1))[:, model.means_.ravel().argmin()]


@pytest.mark.parametrize("normalise", [True, False])
def test_per_class_posterior_is_that_of_sklearn(normalise):
    losses, labels, _ = two_humps()
    ours = clean_posterior(losses, labels, normalise=normalise, seed=3)
    for c in range(3):
        x = losses[labels == c]
        if normalise:
            x = (x - x.min()) / (x.max() - x.min())
        expected = by_sklearn(x, max_iter=20, tol=1e-2, reg_covar=5e-4, random_state=3)
        assert np.allclose(ours[labels == c], expected, atol=1e-12)


def test_global_posterior_is_that_of_sklearn():
    losses, labels, _ = two_humps()
    ours = clean_posterior(losses, labels, per_class=False, max_iter=3, tol=1e-9, n_init=2)
    x = (losses - losses.min()) / (losses.max() - losses.min())
    assert np.allclose(ours, by_sklearn(x, max_iter=3, tol=1e-9, reg_covar=5e-4, n_init=2, random_state=0))


def test_posterior_by_hand():
    # two points each at 0 and 1: variances are the floor, so the posterior is that of the nearer spike
    assert np.allclose(clean_posterior([5.0, 1.0, 5.0, 1.0], [0, 0, 0, 0]), [0, 1, 0, 1])


def test_posterior_finds_the_clean_samples():
    losses, labels, clean = two_humps(3000)
    picked = clean_posterior(losses, labels, classes=3) > 0.6
    assert (picked == clean).mean() > 0.97


@SMALL
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(-1, 2)), max_size=25))
def test_posterior_is_a_probability_and_blind_to_units(samples):
    losses = np.array([loss for loss, _ in samples], dtype=float)
    labels = np.array([label for _, label in samples], dtype=int)
    mixture = clean_posterior_with_notes(losses, labels)
    assert ((mixture.posterior >= 0) & (mixture.posterior <= 1)).all()
    assert (mixture.posterior[labels == -1] == 0).all()
    poor = tuple(c for c in range(3) if (labels == c).any() and np.ptp(losses[labels == c]) == 0)
    assert mixture.fallback_classes == poor
    assert (mixture.posterior[np.isin(labels, poor)] == 1).all()
    moved = clean_posterior(losses * 2 + 64, labels)
    assert np.allclose(moved, mixture.posterior, atol=1e-9)


def test_degenerate_losses():
    assert clean_posterior([], []).tolist() == []
    assert clean_posterior([2.0], [4]).tolist() == [1.0]
    flat = clean_posterior_with_notes([2.0, 2.0, 2.0], [0, 1, -1], per_class=False)
    assert flat.posterior.tolist() == [1, 1, 0]
    assert flat.fallback_classes == (0, 1)
    with pytest.raises(DataError, match="2 of 3 losses"):
        clean_posterior([1.0, math.nan, math.inf], [0, 0, 0])
    with pytest.raises(DataError, match="labels"):
        clean_posterior([1.0, 2.0], [0])
    with pytest.raises(DataError, match="labels from 0 to 3"):
        clean_posterior([1.0, 2.0], [0, 3], classes=3)
    with pytest.raises(DataError, match="shape"):
        clean_posterior([[1.0]], [0])


# -------------------------------------------------------------------------------------------------------- balanced draw


def test_balanced_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, -1])
    selected = np.array([1, 1, 1, 1, 1, 0, 0, 1], dtype=bool)
    losses = np.array([0, 0, 0, 0, 0, 0.9, 0.2, 0])
    draw = balanced_sample(selected, labels, losses=losses, classes=5, rng=np.random.default_rng(0))
    # class 2 is empty and gives row 6; so one of each class, and classes 3 and 4 don't exist
    assert draw.per_class == 1
    assert draw.empty_classes == (2,)
    assert labels[draw.rows].tolist() == [0, 1, 2]
    assert 6 in draw.rows
    assert selected.tolist() == [1, 1, 1, 1, 1, 0, 0, 1]


@SMALL
@given(
    st.lists(st.tuples(st.booleans(), st.integers(-1, 4)), min_size=1, max_size=50).filter(
        lambda s: any(label >= 0 for _, label in s)
    ),
    st.integers(0, 9),
)
def test_balanced_follows_its_definition(samples, seed):
    selected = np.array([s for s, _ in samples])
    labels = np.array([label for _, label in samples])
    losses = np.random.default_rng(seed).random(len(samples))
    draw = balanced_sample(selected, labels, losses=losses, classes=5, rng=np.random.default_rng(seed))
    present = sorted(set(labels.tolist()) - {-1})
    sizes = {c: int(selected[labels == c].sum()) for c in present}
    assert draw.empty_classes == tuple(c for c in present if sizes[c] == 0)
    assert draw.per_class == max(1, min(sizes.values()))
    assert draw.rows.dtype == np.int64
    assert (np.diff(draw.rows) > 0).all()
    assert Counter(labels[draw.rows].tolist()) == dict.fromkeys(present, draw.per_class)
    for row in draw.rows:
        lowest = losses[labels == labels[row]].min()
        assert selected[row] or (labels[row] in draw.empty_classes and losses[row] == lowest)


def test_balanced_draw_is_uniform():
    labels = np.array([0] * 6 + [1] * 2)
    seen = Counter()
    for seed in range(600):
        rng = np.random.default_rng(seed)
        draw = balanced_sample(np.ones(8, dtype=bool), labels, losses=np.zeros(8), classes=2, rng=rng)
        seen.update(draw.rows[:2].tolist())
    assert stats.chisquare([seen[i] for i in range(6)]).pvalue > 1e-4


def test_balanced_refuses():
    rng = np.random.default_rng(0)
    for selected, labels, losses in [
        ([True], [-1], [0.0]),
        ([], [], []),
        ([1.0], [0], [0.0]),
        ([True, True], [0], [0.0]),
        ([True], [5], [0.0]),
        ([True], [0], [math.nan]),
    ]:
        with pytest.raises(DataError):
            balanced_sample(selected, labels, losses=losses, classes=3, rng=rng)


# ------------------------------------------------------------------------------------------------------ judging it


def test_purity_and_recall_by_hand():
    clean, noisy = [0, 1, 2, 0, 1], [0, 1, 0, 0, 2]  # rows 0, 1, 3 are right
    assert purity_and_recall([0, 1, 2, 4], clean, noisy) == (0.5, pytest.approx(2 / 3))
    assert purity_and_recall([True, False, False, True, False], clean, noisy) == (1.0, pytest.approx(2 / 3))
    purity, recall = purity_and_recall([], clean, noisy)
    assert math.isnan(purity)
    assert recall == 0
    assert math.isnan(purity_and_recall([0], [0], [1])[1])
    with pytest.raises(DataError, match="rows from 0 to 5"):
        purity_and_recall([0, 5], clean, noisy)
    with pytest.raises(DataError, match="shapes"):
        purity_and_recall([0], [0, 1], [0])


@SMALL
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_purity_and_recall_agree_with_sets(samples):
    mask = np.array([s for s, _ in samples])
    noisy = np.array([0 if right else 1 for _, right in samples])
    chosen = set(np.flatnonzero(mask).tolist())
    right = set(np.flatnonzero(noisy == 0).tolist())
    purity, recall = purity_and_recall(sorted(chosen), np.zeros_like(noisy), noisy)
    assert math.isnan(purity) if not chosen else purity == len(chosen & right) / len(chosen)
    assert math.isnan(recall) if not right else recall == len(chosen & right) / len(right)
