"""Singular values and what is read off them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from nmtool.errors import DataError, UsageError
from nmtool.numerics import singular
from nmtool.numerics.singular import (
    GramAccumulator,
    largest_singular_value_ratio,
    rank,
    singular_value_entropy,
    singular_values,
    singular_values_streaming,
)

SMALL = settings(derandomize=True, max_examples=60, deadline=None)
PREPROCESS = ["raw", "center", "l2", "l2_rowcenter"]
SIGMA = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=12).filter(lambda s: max(s) > 1e-3)


def features(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)) + 3.0


def prepared(x, preprocess):
    """The four preprocessings once more, row by row and column by column."""
    x = x.copy()
    if preprocess == "center":
        for j in range(x.shape[1]):
            x[:, j] -= sum(x[:, j]) / len(x)
    elif preprocess != "raw":
        for i in range(x.shape[0]):
            x[i] /= math.sqrt(math.fsum(x[i] ** 2)) or 1.0
            if preprocess == "l2_rowcenter":
                x[i] -= math.fsum(x[i]) / x.shape[1]
    return x


@pytest.mark.parametrize("preprocess", PREPROCESS)
@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (1, 5), (5, 1)])
def test_values_agree_with_the_eigenvalues_of_the_square(shape, preprocess):
    x = features(*shape)
    y = prepared(x, preprocess)
    small = y @ y.T if shape[0] < shape[1] else y.T @ y
    expected = np.sqrt(np.clip(linalg.eigh(small, eigvals_only=True)[::-1], 0, None))
    values = singular_values(x, preprocess=preprocess)
    assert values.dtype == np.float64
    assert values.shape == (min(shape),)
    assert np.allclose(values, expected, atol=1e-6)


def test_values_by_hand():
    assert np.allclose(singular_values([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]]), [4, 3])
    assert np.allclose(singular_values([[3.0, 4.0], [0.0, 0.0]], preprocess="l2"), [1, 0])
    assert np.allclose(singular_values([[1.0, 1.0], [1.0, 1.0]], preprocess="center"), [0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tensors_are_read(dtype):
    x = torch.tensor([[3.0, 0.0], [0.0, -4.0]], dtype=dtype, requires_grad=True)
    assert np.allclose(singular_values(x), [4, 3])


@SMALL
@given(st.lists(st.integers(0, 25), min_size=1, max_size=5), st.integers(0, 99), st.sampled_from(PREPROCESS))
def test_streams_equal_the_whole(sizes, seed, preprocess):
    x = features(sum(sizes), 6, seed)
    if len(x) == 0:
        return
    bounds = np.cumsum([0, *sizes])
    blocks = [x[a:b] for a, b in itertools.pairwise(bounds)]
    whole = singular_values(x, preprocess=preprocess)
    exact = singular_values_streaming(blocks, preprocess=preprocess)
    gram = singular_values_streaming(blocks, preprocess=preprocess, exact_below=0)
    assert (exact.method, exact.shape) == ("svd", x.shape)
    assert np.allclose(exact.values, whole, atol=1e-12)
    assert (gram.method, gram.shape) == ("gram", x.shape)
    assert gram.values.shape == whole.shape
    assert np.allclose(gram.values, whole, atol=2e-7 * whole[0])
    left, right = GramAccumulator(preprocess), GramAccumulator(preprocess)
    for i, block in enumerate(blocks):
        (left if i % 2 else right).update(block)
    left.merge(right)
    assert np.allclose(left.singular_values(), whole, atol=2e-7 * whole[0])


def test_a_reused_buffer_is_copied():
    x = features(12, 4)
    buffer = np.empty((3, 4))

    def blocks():
        for start in range(0, 12, 3):
            buffer[:] = x[start : start + 3]
            yield buffer

    assert np.allclose(singular_values_streaming(blocks()).values, singular_values(x))


def test_centring_survives_a_huge_mean():
    x = features(400, 5) + 1e7
    values = singular_values_streaming([x[:150], x[150:]], preprocess="center", exact_below=0).values
    assert np.allclose(values, linalg.svdvals(x - x.mean(axis=0)), rtol=1e-6)


def test_large_matrices_take_the_gram_way_to_the_same_values(monkeypatch):
    x = features(60, 5)
    expected = linalg.svdvals(x)
    monkeypatch.setattr(singular, "EXACT_BELOW", 20)
    assert np.allclose(singular_values(x), expected, rtol=1e-9)
    assert np.allclose(singular_values(x.T), expected, rtol=1e-9)


def test_noise_below_the_gram_matrix_is_zero():
    x = np.outer(np.arange(1.0, 60.0), [1.0, 2.0, 3.0])
    values = singular_values_streaming([x], exact_below=0).values
    assert values[1:].tolist() == [0, 0]
    assert np.isclose(values[0], np.linalg.norm(x))


def test_bad_features_are_counted_and_named():
    x = features(10, 3)
    x[4, 1], x[7, 2] = np.nan, np.inf
    with pytest.raises(DataError, match=r"2 of 10 rows .* row 4"):
        singular_values(x)
    with pytest.raises(DataError, match=r"1 of 5 rows .* row 7"):
        singular_values_streaming([features(5, 3), x[5:]])
    for empty in (np.empty((0, 3)), np.empty((3, 0))):
        with pytest.raises(DataError, match="at least one row"):
            singular_values(empty)
        with pytest.raises(DataError, match="at least one row"):
            singular_values_streaming([empty])
    with pytest.raises(DataError, match="at least one row"):
        GramAccumulator().singular_values()
    with pytest.raises(DataError, match="shape"):
        singular_values(np.ones(3))
    with pytest.raises(DataError, match="rows of 4"):
        singular_values_streaming([np.ones((2, 3)), np.ones((2, 4))])
    with pytest.raises(UsageError, match="whiten"):
        singular_values(np.ones((2, 2)), preprocess="whiten")
    with pytest.raises(UsageError, match="l2"):
        GramAccumulator("raw").merge(GramAccumulator("l2"))


@pytest.mark.parametrize(("shape", "true_rank"), [((20, 6), 3), ((6, 20), 6), ((20, 6), 1), ((4, 4), 0)])
def test_rank_agrees_with_numpy(shape, true_rank):
    r = np.random.default_rng(1)
    x = r.standard_normal((shape[0], true_rank)) @ r.standard_normal((true_rank, shape[1]))
    assert rank(singular_values(x), shape) == true_rank == np.linalg.matrix_rank(x)
    assert rank([], (0, 0)) == 0


def test_entropy_and_ratio_by_hand():
    # shares 1/2, 1/4, 1/4: entropy 1.5 ln 2, ratio ln 2
    assert singular_value_entropy([1.0, 2.0, 1.0]) == pytest.approx(1.5 * math.log(2), abs=1e-15)
    assert largest_singular_value_ratio([1.0, 2.0, 1.0]) == pytest.approx(math.log(2), abs=1e-15)
    for f in (singular_value_entropy, largest_singular_value_ratio):
        assert f([5.0, 0.0]) == 0.0
        assert f([3.0] * 7) == pytest.approx(math.log(7))
        assert math.copysign(1, f([5.0])) == 1
    assert singular_value_entropy(torch.tensor([1.0, 1.0])) == pytest.approx(math.log(2))
    assert singular_value_entropy([1e308, 1e308]) == pytest.approx(math.log(2))
    assert largest_singular_value_ratio([1e-308, 1e-308]) == pytest.approx(math.log(2))


@SMALL
@given(SIGMA, st.floats(1e-3, 1e3))
def test_entropy_and_ratio_properties(sigma, factor):
    entropy, ratio = singular_value_entropy(sigma), largest_singular_value_ratio(sigma)
    assert 0 <= ratio <= entropy + 1e-12
    assert entropy <= math.log(len(sigma)) + 1e-12
    assert entropy == pytest.approx(stats.entropy(sigma), abs=1e-9)
    assert ratio == pytest.approx(-math.log(max(sigma) / math.fsum(sigma)), abs=1e-12)
    scaled = [factor * s for s in sigma]
    assert singular_value_entropy(scaled[::-1]) == pytest.approx(entropy, abs=1e-9)
    assert largest_singular_value_ratio(scaled[::-1]) == pytest.approx(ratio, abs=1e-9)


@pytest.mark.parametrize("sigma", [[], [0.0, 0.0], [1.0, -1e-9], [1.0, float("nan")], [float("inf")]])
def test_spectra_that_are_none_are_refused(sigma):
    for f in (singular_value_entropy, largest_singular_value_ratio):
        with pytest.raises(DataError, match="singular values"):
            f(sigma)
