"""Nested draws: what flips at a ratio flips at every higher one to the same label, and the counts stay exact."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtool.errors import DataError
from nmtool.numerics import noise
from nmtool.numerics.instances import draw_instance, expected_rate
from nmtool.numerics.nested import interleaved

MANY = settings(derandomize=True, max_examples=60, deadline=None)
# gaps (no label 2 or 5), classes of one sample, rare ones, the unlabelled
LABELS = st.lists(st.sampled_from([-1, 0, 0, 0, 1, 3, 3, 4, 6, 7]), max_size=70)
CLASSES = 8
RATIOS = [Fraction(n, 40) for n in range(41)] + [Fraction(n, 1000) for n in (1, 13, 333, 501, 999)]


def half_up(value):
    return math.floor(value + Fraction(1, 2))


def pairs(draw):
    """The draws at all ratios, checked two by two; returned by ratio."""
    ratios = sorted(RATIOS)
    drawn = [draw(r) for r in ratios]
    for low, high in itertools.combinations(drawn, 2):
        flipped = low[0] != low[1]
        assert (high[1][flipped] == low[1][flipped]).all()
    return dict(zip(ratios, drawn, strict=True))


def exact(clean, drawn, eligible):
    """Totals and classes of every ratio: half up, and floor or ceil."""
    for ratio, (_, noisy) in drawn.items():
        wrong = noisy != clean
        assert wrong.sum() == half_up(ratio * int(eligible.sum())), ratio
        for c in range(CLASSES):
            n = int((eligible & (clean == c)).sum())
            assert math.floor(ratio * n) <= wrong[clean == c].sum() <= math.ceil(ratio * n), (ratio, c)


@MANY
@given(LABELS, st.integers(0, 9))
def test_symmetric_and_pairflip(labels, seed):
    y = np.array(labels, dtype=np.int64)
    for model in (noise.symmetric, noise.pairflip):
        drawn = pairs(lambda r, f=model: (y, f(y, r, CLASSES, rng=np.random.default_rng(seed), nested=True)))
        exact(y, drawn, y >= 0)
        assert all((noisy[y < 0] == -1).all() and (noisy[y >= 0] >= 0).all() for _, noisy in drawn.values())


@MANY
@given(LABELS, st.integers(0, 9), st.lists(st.integers(0, CLASSES - 1), min_size=CLASSES, max_size=CLASSES))
def test_asymmetric(labels, seed, mapping):
    y = np.array(labels, dtype=np.int64)
    table = np.array(mapping)
    drawn = pairs(lambda r: (y, noise.asymmetric(y, r, table, rng=np.random.default_rng(seed), nested=True)))
    exact(y, drawn, (y >= 0) & (table[y] != y))


@MANY
@given(LABELS, st.integers(0, 9), st.booleans(), st.booleans())
def test_chance_and_own_class_nest_as_well(labels, seed, bernoulli, include_self):
    y = np.array(labels, dtype=np.int64)
    pairs(
        lambda r: (
            y,
            noise.symmetric(
                y,
                r,
                CLASSES,
                rng=np.random.default_rng(seed),
                nested=True,
                bernoulli=bernoulli,
                include_self=include_self,
            ),
        )
    )


@MANY
@given(st.integers(0, 60), st.integers(0, 9))
def test_captions(n, seed):
    drawn = pairs(lambda r: (np.arange(n), noise.swap_captions(n, r, rng=np.random.default_rng(seed))))
    for ratio, (rows, noisy) in drawn.items():
        assert (noisy != rows).sum() == 2 * math.floor(ratio * n / 2)


@pytest.mark.parametrize("std", [0.0, 0.1, 2.0])
def test_instance(std):
    n, length = 3_000, 5
    y = np.random.default_rng(1).integers(-1, 6, n)
    x = np.random.default_rng(2).standard_normal((n, length))
    w = np.random.default_rng(3).standard_normal((length, 6))
    drawn = pairs(
        lambda r: (
            y,
            draw_instance(y, r, x, 6, rng=np.random.default_rng(4), std=std, weights=w, nested=True).noisy,
        )
    )
    labelled = y >= 0
    for ratio, (_, noisy) in drawn.items():
        mean = expected_rate(float(ratio), std)
        assert abs((noisy != y)[labelled].mean() - mean) < 4.5 * math.sqrt(mean * (1 - mean) / labelled.sum()) + 1e-12


@MANY
@given(st.lists(st.integers(0, 40), max_size=9), st.integers(0, 5))
def test_every_beginning_has_its_share_of_every_class(counts, seed):
    """For all ratios at once: the count of a class changes only at places, and its bounds only at multiples of 1/n."""
    counts = np.array(counts, dtype=np.int64)
    owner = interleaved(counts, np.random.default_rng(seed))
    total = owner.size
    assert np.bincount(owner, minlength=counts.size).tolist() == counts.tolist()
    sums = np.zeros((total + 1, counts.size), dtype=np.int64)
    np.add.at(sums, (np.arange(1, total + 1), owner), 1)
    sums = sums.cumsum(axis=0)
    tiny = Fraction(1, 10**9)
    edges = {Fraction(2 * k - 1, 2 * total) for k in range(1, total + 1)}
    edges |= {Fraction(i, int(n)) for n in counts if n for i in range(int(n) + 1)}
    for ratio in {min(max(e + d, Fraction(0)), Fraction(1)) for e in edges for d in (-tiny, Fraction(0), tiny)}:
        reached = sums[half_up(ratio * total)]
        for c, n in enumerate(counts.tolist()):
            assert math.floor(ratio * n) <= reached[c] <= math.ceil(ratio * n)


def test_rows_and_classes_of_one_size_are_taken_without_favour():
    y = np.repeat(np.arange(4), 3)
    taken = np.zeros(12)
    for seed in range(600):
        taken += noise.symmetric(y, 0.25, 4, rng=np.random.default_rng(seed), nested=True) != y
    # three of twelve each time: 150 +- 4 deviations of a binomial
    assert abs(taken - 150).max() < 4.2 * math.sqrt(600 * 0.25 * 0.75)


def test_weights_that_do_not_fit_are_refused():
    y = np.zeros(4, int)
    with pytest.raises(DataError, match="weights of shape"):
        draw_instance(y, 0.5, np.ones((4, 2)), 3, rng=np.random.default_rng(0), weights=np.ones((3, 2)))


@pytest.mark.parametrize(("ratio", "std"), [(0.1, 0.1), (0.4, 0.1), (0.05, 0.4), (0.9, 0.3), (0.3, 50.0), (0.3, 1e5)])
def test_expected_rate_is_the_truncated_normals_mean(ratio, std):
    q = (np.arange(200_000) + 0.5) / 200_000  # by the rectangle rule
    density = np.exp(-0.5 * ((q - ratio) / std) ** 2)
    assert expected_rate(ratio, std) == pytest.approx((q * density).sum() / density.sum(), abs=1e-8)


def test_perplexity_is_that_of_the_softmax():
    y, x = np.zeros(5_000, dtype=np.int64), np.full((5_000, 1), 2.0)
    w = np.array([[9.0, 0.3, -0.2, 0.6]])  # the own class does not count
    p = np.exp(2 * w[0, 1:]) / np.exp(2 * w[0, 1:]).sum()
    drawn = draw_instance(y, 0.5, x, 4, rng=np.random.default_rng(0), std=0.0, weights=w)
    assert drawn.perplexity == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-9)
    flat = draw_instance(y, 0.5, x, 4, rng=np.random.default_rng(0), weights=np.zeros((1, 4)))
    assert flat.perplexity == pytest.approx(3.0)
    assert draw_instance(y, 0.0, x, 4, rng=np.random.default_rng(0)).perplexity == 1.0
