"""Scores by class and rank correlation: by hand, against scikit-learn and scipy, and where nothing is to divide by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support

from nmtool.errors import DataError
from nmtool.numerics.losses import squared_error
from nmtool.numerics.metrics import by_class, macro_f1, mean_per_class, spearman_correlation


def test_by_hand() -> None:
    found = by_class([0, 0, 1, 3], [0, 1, 1, 0], 5)
    np.testing.assert_array_equal(found["n"], [2, 2, 0, 0, 0])
    np.testing.assert_array_equal(found["recall"], [0.5, 0.5, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(found["precision"], [0.5, 1.0, np.nan, 0.0, np.nan])
    np.testing.assert_allclose(found["f1"], [0.5, 2 / 3, np.nan, 0.0, np.nan])


def test_it_is_scikit_learns_and_its_means_are_the_scores() -> None:
    rng = np.random.default_rng(0)
    y, guess = rng.integers(0, 7, 500), rng.integers(0, 7, 500)
    found = by_class(guess, y, 7)
    precision, recall, f1, n = precision_recall_fscore_support(y, guess)
    for name, theirs in (("precision", precision), ("recall", recall), ("f1", f1), ("n", n)):
        np.testing.assert_allclose(found[name], theirs)
    assert np.nanmean(found["f1"]) == pytest.approx(macro_f1(guess, y, 7))
    assert np.nanmean(found["recall"]) == pytest.approx(mean_per_class(guess, y))


def test_a_class_out_of_range_is_refused() -> None:
    with pytest.raises(DataError, match="class 3"):
        by_class([3], [0], 3)


def test_ranks_are_scipys_with_ties_and_monotone_maps_change_nothing() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 9, 200).astype(float)
    y = x + rng.normal(0, 3, 200)
    found = spearman_correlation(x, y)
    assert found == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
    assert spearman_correlation(np.exp(x), y**3) == pytest.approx(found, abs=1e-12)
    assert spearman_correlation([1.0, 2.0, 4.0], [9.0, 3.0, 1.0]) == -1.0
    assert spearman_correlation([1.0, 1.0, 1.0], [9.0, 3.0, 1.0]) == 0.0
    with pytest.raises(DataError, match="not finite"):
        spearman_correlation([1.0, np.nan], [1.0, 2.0])


def test_squared_error_of_a_stack() -> None:
    predicted = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert squared_error(predicted, torch.tensor([[1.0, 4.0], [3.0, 1.0]])).tolist() == [2.0, 5.0]
