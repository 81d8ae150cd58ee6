"""Noise models: exact counts, right targets, right statistics."""

import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nmtool.errors import DataError, UsageError
from nmtool.numerics import instances, noise

SMALL = settings(derandomize=True, max_examples=60, deadline=None)
LABELS = st.lists(st.integers(-1, 6), max_size=60)
RATIO = st.integers(0, 100).map(lambda n: n / 100)


def rng(seed=0):
    return np.random.default_rng(seed)


def half_up(numerator, denominator):
    return (2 * numerator + denominator) // (2 * denominator)


def test_module_loads_numpy_alone():
    code = (
        "import sys, nmtool.numerics.noise, nmtool.numerics.singular, nmtool.numerics.metrics, nmtool.numerics.seeds\n"
        "import nmtool.numerics.selection\n"
        "assert not {'torch', 'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------------------ symmetric


@SMALL
@given(LABELS, st.integers(0, 100), st.integers(0, 5))
def test_symmetric_counts_are_exact(labels, percent, seed):
    y = np.array(labels, dtype=np.int64)
    noisy = noise.symmetric(y, percent / 100, 8, rng=rng(seed))
    assert y.tolist() == labels
    assert noisy.dtype == np.int64
    assert noisy.min(initial=0) >= -1
    assert noisy.max(initial=0) < 8
    assert ((noisy == -1) == (y == -1)).all()
    assert (noisy != y).sum() == half_up(percent * int((y >= 0).sum()), 100)
    for c in range(7):
        exact = percent * int((y == c).sum())
        assert exact // 100 <= (noisy != y)[y == c].sum() <= -(-exact // 100)


def test_symmetric_by_hand():
    # two classes of five at 0.3: quotas 1.5 and 1.5, so three flips, each to the one other class
    y = np.array([0] * 5 + [1] * 5)
    noisy = noise.symmetric(y, 0.3, 2, rng=rng())
    assert sorted([(noisy[:5] == 1).sum(), (noisy[5:] == 0).sum()]) == [1, 2]
    assert noise.symmetric(y, 1.0, 2, rng=rng()).tolist() == [1] * 5 + [0] * 5
    assert noise.symmetric(y, 0.0, 2, rng=rng()).tolist() == y.tolist()


def test_decimal_ratio_is_taken_as_written():
    # 0.145 * 100 is 14.499999999999998 in floats
    assert (noise.symmetric(np.zeros(100, int), 0.145, 3, rng=rng()) != 0).sum() == 15
    assert (noise.symmetric(np.zeros(100, int), 0.29, 3, rng=rng()) != 0).sum() == 29


def test_ties_between_equal_classes_are_broken_at_random():
    y = np.arange(4)  # a quota of half a sample each: two of the four flip
    flipped = Counter()
    for seed in range(200):
        flipped.update(np.flatnonzero(noise.symmetric(y, 0.5, 4, rng=rng(seed)) != y).tolist())
    assert sum(flipped.values()) == 400
    assert stats.chisquare([flipped[c] for c in range(4)]).pvalue > 1e-4


def test_symmetric_targets_and_rows_are_uniform():
    y = np.full(40_000, 2)
    noisy = noise.symmetric(y, 0.5, 5, rng=rng())
    counts = np.bincount(noisy, minlength=5)
    assert counts[2] == 20_000
    assert stats.chisquare(counts[[0, 1, 3, 4]]).pvalue > 1e-4
    assert stats.kstest(np.flatnonzero(noisy != y) / y.size, "uniform").pvalue > 1e-4


def test_include_self_lowers_the_realised_rate():
    y = np.repeat(np.arange(10), 4000)
    noisy = noise.symmetric(y, 0.5, 10, rng=rng(), include_self=True)
    # 20,000 draws, a tenth of which keeps its class: 18,000 +- 4 * sqrt(20,000 * 0.1 * 0.9)
    assert abs((noisy != y).sum() - 18_000) < 4 * np.sqrt(1800)


def test_bernoulli_is_right_on_average_and_skips_the_unlabelled():
    y = np.repeat(np.arange(-1, 4), 10_000)
    noisy = noise.symmetric(y, 0.3, 4, rng=rng(), bernoulli=True)
    flips = (noisy != y)[y >= 0].sum()
    assert (noisy[y == -1] == -1).all()
    assert flips != 12_000
    assert abs(flips - 12_000) < 4 * np.sqrt(40_000 * 0.21)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf")])
def test_ratios_out_of_range_are_named(bad):
    y = np.arange(4)
    calls = [
        lambda: noise.symmetric(y, bad, 4, rng=rng()),
        lambda: noise.asymmetric(y, bad, {0: 1}, rng=rng()),
        lambda: noise.pairflip(y, bad, 4, rng=rng()),
        lambda: noise.instance(y, bad, np.ones((4, 2)), 4, rng=rng()),
        lambda: noise.swap_captions(4, bad, rng=rng()),
    ]
    for call in calls:
        with pytest.raises(DataError, match=rf"ratio {bad}"):
            call()


@pytest.mark.parametrize(
    ("labels", "word"), [([0, 5], "label 5"), ([-2, 0], "label -2"), ([0.0, 1.0], "float"), ([[0], [1]], "shape")]
)
def test_labels_out_of_range_are_named(labels, word):
    with pytest.raises(DataError, match=word):
        noise.symmetric(labels, 0.5, 5, rng=rng())


def test_one_class_has_nowhere_to_flip():
    for function in (noise.symmetric, noise.pairflip):
        assert function([0, 0], 0.0, 1, rng=rng()).tolist() == [0, 0]
        with pytest.raises(DataError, match="1 class"):
            function([0, 0], 0.5, 1, rng=rng())
        assert function([], 0.5, 3, rng=rng()).tolist() == []


# ----------------------------------------------------------------------------------------------------------- asymmetric


@SMALL
@given(LABELS, st.integers(0, 100), st.dictionaries(st.integers(0, 6), st.integers(0, 6)), st.integers(0, 5))
def test_asymmetric_counts_are_exact(labels, percent, mapping, seed):
    y = np.array(labels, dtype=np.int64)
    noisy = noise.asymmetric(y, percent / 100, mapping, rng=rng(seed))
    flipped = noisy != y
    mapped = np.isin(y, [c for c, d in mapping.items() if c != d])
    assert not flipped[~mapped].any()
    assert all(noisy[i] == mapping[y[i]] for i in np.flatnonzero(flipped))
    assert flipped.sum() == half_up(percent * int(mapped.sum()), 100)
    table = [mapping.get(c, c) for c in range(7)]
    assert noise.asymmetric(y, percent / 100, table, rng=rng(seed)).tolist() == noisy.tolist()


def test_cat_and_dog_change_places_without_double_flips():
    y = np.repeat(np.arange(10), 100)
    noisy = noise.asymmetric(y, 0.4, {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}, rng=rng())
    counts = noise.flip_counts(y, noisy, 10)
    expected = np.diag([100] * 10)
    for source, target in {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}.items():
        expected[source, source], expected[source, target] = 60, 40
    assert counts.tolist() == expected.tolist()


def test_asymmetric_refuses_what_the_mapping_does_not_cover():
    with pytest.raises(DataError, match="label 3"):
        noise.asymmetric([0, 3], 0.5, [1, 0], rng=rng())
    with pytest.raises(DataError, match="class 0 to -1"):
        noise.asymmetric([0, 3], 0.5, {0: -1}, rng=rng())
    with pytest.raises(DataError, match="mapping"):
        noise.asymmetric([0, 1], 0.5, [1, -1], rng=rng())
    assert noise.asymmetric([0, 3], 1.0, {3: 9}, rng=rng()).tolist() == [0, 9]


def test_pairflip_goes_round():
    y = np.repeat(np.arange(4), 10)
    counts = noise.flip_counts(y, noise.pairflip(y, 0.2, 4, rng=rng()), 4)
    assert counts.tolist() == [[8, 2, 0, 0], [0, 8, 2, 0], [0, 0, 8, 2], [2, 0, 0, 8]]


def test_group_successors_by_hand():
    assert noise.group_successors([1, 0, 1, 0, 1, 7]).tolist() == [2, 3, 4, 1, 0, 5]
    consecutive = noise.group_successors(np.arange(100) // 5)
    assert consecutive.tolist() == [5 * (c // 5) + (c + 1) % 5 for c in range(100)]


@SMALL
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_group_successors_is_one_cycle_a_group(groups):
    successors = noise.group_successors(groups)
    for start in range(len(groups)):
        walk = [start]
        while successors[walk[-1]] != start:
            walk.append(int(successors[walk[-1]]))
        assert sorted(walk) == [c for c, g in enumerate(groups) if g == groups[start]]


# --------------------------------------------------------------------------------------------------------------- matrix


@SMALL
@given(LABELS, st.integers(0, 1000))
def test_matrix_counts_are_floor_or_ceil(labels, seed):
    table = rng(seed).dirichlet(np.full(7, 0.3), size=7)
    y = np.array(labels, dtype=np.int64)
    noisy = noise.matrix(y, table, rng=rng(seed))
    assert ((noisy == -1) == (y == -1)).all()
    counts = noise.flip_counts(y, noisy, 7)
    quotas = np.bincount(y[y >= 0], minlength=7)[:, None] * table
    assert (counts >= np.floor(quotas)).all()
    assert (counts <= np.ceil(quotas)).all()


def test_matrix_by_hand_and_not_always_the_same_rows():
    y = np.repeat([0, 1], 10)
    table = [[0.7, 0.3], [0.0, 1.0]]
    draws = [noise.matrix(y, table, rng=rng(s)) for s in range(20)]
    assert all(noise.flip_counts(y, d, 2).tolist() == [[7, 3], [0, 10]] for d in draws)
    assert len({tuple(d.tolist()) for d in draws}) > 10


def test_uniform_noise_on_many_classes_survives():
    # 13 * 0.3 / 99 of a sample in each cell: truncation would leave no noise at all
    y = np.repeat(np.arange(100), 130)
    table = np.full((100, 100), 0.3 / 99)
    np.fill_diagonal(table, 0.7)
    assert (noise.matrix(y, table, rng=rng()) != y).sum() == 39 * 100


@pytest.mark.parametrize("row", [[0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0]])
def test_matrix_names_the_row_that_is_no_distribution(row):
    with pytest.raises(DataError, match="row 1 "):
        noise.matrix([0, 1], [[1.0, 0.0], row], rng=rng())
    with pytest.raises(DataError, match="shape"):
        noise.matrix([0, 1], [[1.0, 0.0]], rng=rng())


# ------------------------------------------------------------------------------------------------------------- instance


@pytest.mark.parametrize(("ratio", "std"), [(0.05, 0.1), (0.4, 0.1), (0.9, 0.3), (0.2, 3.0), (1.0, 0.1)])
def test_instance_rate_is_the_truncated_normals_mean(ratio, std):
    n = 40_000
    y = rng(1).integers(0, 5, n)
    noisy = noise.instance(y, ratio, rng(2).standard_normal((n, 3)), 5, rng=rng(3), std=std)
    q = stats.truncnorm((0 - ratio) / std, (1 - ratio) / std, loc=ratio, scale=std)
    # whatever q is spread over, each sample flips with probability mean(q)
    expected = q.mean()
    assert abs((noisy != y).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / n) + 1e-12


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.1), (0.3, 0.2), (0.7, 5.0)])
def test_flip_probabilities_follow_the_truncated_normal(mean, std):
    q = instances._truncated_normal(mean, std, 20_000, rng())
    reference = stats.truncnorm((0 - mean) / std, (1 - mean) / std, loc=mean, scale=std)
    assert stats.kstest(q, reference.cdf).pvalue > 1e-4


def test_instance_targets_follow_the_masked_softmax():
    # one input for all samples, so that all share one softmax; W is the generator's third draw: repeat the draws
    n, classes, length = 60_000, 4, 3
    y, x = np.full(n, 1), np.tile([[0.5, -0.3, 0.8]], (n, 1))
    noisy = noise.instance(y, 0.6, x, classes, rng=rng(5), std=0.0)
    twin = rng(5)
    twin.random(n)
    twin.random(n)
    scores = x[0] @ twin.standard_normal((length, classes))
    weights = np.exp(scores) * (np.arange(classes) != 1)
    counts = np.bincount(noisy[noisy != 1], minlength=classes)[[0, 2, 3]]
    assert stats.chisquare(counts, counts.sum() * (weights / weights.sum())[[0, 2, 3]]).pvalue > 1e-4


@pytest.mark.parametrize("per_class", [False, True])
def test_instance_is_stable_for_raw_pixels_and_keeps_the_rest(per_class):
    y = np.repeat(np.arange(-1, 5), 50)
    x = rng(1).integers(0, 256, (300, 64), dtype=np.uint8)
    noisy = noise.instance(y, 0.5, x, 5, rng=rng(2), std=0.0, per_class_weights=per_class)
    assert (noisy[:50] == -1).all()
    assert ((noisy >= 0) & (noisy < 5))[50:].all()
    assert 75 < (noisy != y).sum() < 175  # 125 +- 6 deviations
    assert noise.instance(y, 1.0, x, 5, rng=rng(2), std=0.0)[50:].tolist() != y[50:].tolist()
    assert (noise.instance(y, 1.0, x, 5, rng=rng(2), std=0.0) != y)[50:].all()
    assert noise.instance(y, 0.0, x, 5, rng=rng(2)).tolist() == y.tolist()


def test_instance_in_small_blocks_gives_the_same(monkeypatch):
    y, x = rng(1).integers(0, 5, 200), rng(2).standard_normal((200, 6))
    whole = noise.instance(y, 0.5, x, 5, rng=rng(3))
    monkeypatch.setattr(instances, "_BLOCK_ELEMENTS", 40)
    assert noise.instance(y, 0.5, x, 5, rng=rng(3)).tolist() == whole.tolist()


def test_instance_refuses_bad_inputs():
    y = np.zeros(3, int)
    with pytest.raises(DataError, match="shape"):
        noise.instance(y, 0.5, np.ones((2, 2)), 2, rng=rng())
    with pytest.raises(DataError, match="3 rows of the inputs"):
        noise.instance(y, 1.0, np.full((3, 2), np.nan), 2, rng=rng(), std=0.0)
    with pytest.raises(DataError, match="deviation"):
        noise.instance(y, 0.5, np.ones((3, 2)), 2, rng=rng(), std=-1.0)


# ------------------------------------------------------------------------------------------------------------- captions


@SMALL
@given(st.integers(0, 80), st.integers(0, 100), st.integers(0, 5))
def test_exact_swaps_come_in_pairs(n, percent, seed):
    out = noise.swap_captions(n, percent / 100, rng=rng(seed))
    moved = out != np.arange(n)
    assert moved.sum() == 2 * (percent * n // 200)
    assert (out[out] == np.arange(n)).all()  # each pair got the other's caption


def test_swaps_of_given_captions_leave_the_unlabelled_alone():
    captions = np.array([10, -1, 11, 12, -1, 13])
    out = noise.swap_captions(captions, 1.0, rng=rng())
    assert (out[[1, 4]] == -1).all()
    assert sorted(out.tolist()) == sorted(captions.tolist())
    assert (out != captions).sum() == 4


def test_partners_are_uniform():
    pairs = Counter()
    for seed in range(300):
        out = noise.swap_captions(4, 1.0, rng=rng(seed))
        pairs[int(out[0])] += 1
    assert set(pairs) == {1, 2, 3}
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-4


def test_random_swaps_mismatch_as_the_published_script_does():
    out = noise.swap_captions(20_000, 0.3, rng=rng(), mode="random-swaps")
    assert sorted(out.tolist()) == list(range(20_000))
    assert abs((out != np.arange(20_000)).mean() - (1 - np.exp(-0.6))) < 0.015
    # one swap of two moves two, never a position with itself
    for seed in range(20):
        assert noise.swap_captions(2, 0.5, rng=rng(seed), mode="random-swaps").tolist() == [1, 0]
    assert (noise.swap_captions(10, 0.1, rng=rng(), mode="random-swaps") != np.arange(10)).sum() == 2


@SMALL
@given(st.integers(2, 40), RATIO, st.integers(0, 5))
def test_until_stops_at_the_ratio(n, ratio, seed):
    out = noise.swap_captions(n, ratio, rng=rng(seed), mode="until")
    moved = (out != np.arange(n)).sum()
    assert sorted(out.tolist()) == list(range(n))
    assert ratio * n - 1e-9 <= moved < ratio * n + 2


def test_swaps_refuse_what_they_cannot_do():
    with pytest.raises(UsageError, match="shuffle"):
        noise.swap_captions(4, 0.5, rng=rng(), mode="shuffle")
    for mode in ("until", "random-swaps"):
        with pytest.raises(DataError, match="1 caption"):
            noise.swap_captions(1, 1.0, rng=rng(), mode=mode)
        assert noise.swap_captions(0, 1.0, rng=rng(), mode=mode).tolist() == []
    with pytest.raises(DataError, match="-1 captions"):
        noise.swap_captions(-1, 0.5, rng=rng())
    assert noise.swap_captions(1, 1.0, rng=rng()).tolist() == [0]


# ---------------------------------------------------------------------------------------------------- what came of it


def test_counts_matrix_and_concentration_by_hand():
    clean = [0, 0, 0, 0, 1, 1, -1, 3]
    noisy = [0, 1, 1, 3, 1, 3, 2, -1]
    assert noise.flip_counts(clean, noisy, 4).tolist() == [[1, 2, 0, 1], [0, 1, 0, 1], [0] * 4, [0] * 4]
    assert noise.transition_matrix(clean, noisy, 4).tolist() == [
        [0.25, 0.5, 0, 0.25], [0, 0.5, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1],
    ]  # fmt: skip
    report = noise.concentration(clean, noisy, 4)
    assert (report.flips, report.classes_hit) == (4, 2)
    assert report.top_share == 0.5
    assert report.biggest_class_share == 0.5
    nothing = noise.concentration([0, 1], [0, 1], 2)
    assert (nothing.flips, nothing.top_share, nothing.classes_hit, nothing.biggest_class_share) == (0, 0.0, 0, 0.5)
    with pytest.raises(DataError, match="2 clean and 1 noisy"):
        noise.flip_counts([0, 1], [0], 2)


@SMALL
@given(LABELS, st.integers(0, 99))
def test_counts_agree_with_a_plain_count(labels, seed):
    noisy = rng(seed).integers(-1, 7, len(labels))
    counts = noise.flip_counts(labels, noisy, 7)
    plain = Counter(zip(labels, noisy.tolist(), strict=True))
    assert all(counts[c, d] == plain[(c, d)] for c, d in itertools.product(range(7), range(7)))
    assert np.allclose(noise.transition_matrix(labels, noisy, 7).sum(axis=1), 1)
