"""Metrics against sklearn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn import metrics as reference

from nmtool.errors import DataError
from nmtool.numerics.metrics import (
    accuracy,
    area_under_roc,
    average_precision,
    confusion,
    expected_calibration_error,
    macro_f1,
    matthews_correlation,
    mean_per_class,
    pearson_correlation,
    precision_recall,
)

SMALL = settings(derandomize=True, max_examples=60, deadline=None)
PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)


def test_by_hand():
    predicted, y = [0, 0, 1, 1, 2], [0, 1, 1, 1, 0]
    assert accuracy(predicted, y) == 0.6
    assert confusion(predicted, y, 4).tolist() == [[1, 0, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    # F1: class 0 2/4, class 1 4/5, class 2 0, class 3 occurs nowhere
    assert macro_f1(predicted, y, 4) == pytest.approx((0.5 + 0.8 + 0) / 3)
    assert mean_per_class(predicted, y) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_correlations_by_hand():
    # TP 1, TN 2, FP 1, FN 1: (1 * 2 - 1 * 1) / sqrt(2 * 2 * 3 * 3)
    assert matthews_correlation([1, 1, 0, 0, 0], [1, 0, 1, 0, 0]) == pytest.approx(1 / 6)
    assert matthews_correlation([0, 0], [0, 1]) == 0  # constant predictions
    assert matthews_correlation([0, 1, 2], [0, 1, 2]) == 1
    # deviations -1 0 1 and -1 2 -1 have no covariance; -1 0 1 and -3 1 2 have 5 / sqrt(2 * 14)
    assert pearson_correlation([0, 1, 2], [1, 4, 1]) == pytest.approx(0, abs=1e-15)
    assert pearson_correlation([0, 1, 2], [0, 4, 5]) == pytest.approx(5 / np.sqrt(28))
    assert pearson_correlation([3, 3], [0, 1]) == 0
    for bad in (([1], [1]), ([1, 2], [1, 2, 3]), ([1, np.nan], [1, 2]), ([], [])):
        with pytest.raises(DataError):
            pearson_correlation(*bad)


@SMALL
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=30), st.integers(-150, 150))
def test_pearson_agrees_with_scipy_at_any_scale(pairs, power):
    x, y = (np.array(column) for column in zip(*pairs, strict=True))
    value = pearson_correlation(x * 10.0**power, y)
    assert -1 <= value <= 1
    if np.ptp(x) > 1e-3 and np.ptp(y) > 1e-3:
        assert value == pytest.approx(pearsonr(x, y).statistic, abs=1e-6)


@pytest.mark.filterwarnings("ignore:A single label")  # sklearn's; the scores are defined there, too
@SMALL
@given(PAIRS)
def test_agree_with_sklearn(pairs):
    predicted, y = (np.array(column) for column in zip(*pairs, strict=True))
    assert accuracy(predicted, y) == pytest.approx(reference.accuracy_score(y, predicted))
    assert macro_f1(predicted, y, 6) == pytest.approx(
        reference.f1_score(y, predicted, average="macro", zero_division=0)
    )
    assert matthews_correlation(predicted, y) == pytest.approx(reference.matthews_corrcoef(y, predicted), abs=1e-12)
    assert mean_per_class(predicted, y) == pytest.approx(
        reference.recall_score(y, predicted, labels=np.unique(y), average="macro")
    )
    assert confusion(predicted, y, 6).tolist() == reference.confusion_matrix(y, predicted, labels=range(6)).tolist()


def test_calibration_by_hand():
    # two bins: (0, 0.5] holds 0.5 (wrong) and 0 (wrong), gap 0.25; (0.5, 1] holds 0.8 and 1.0 (one right), gap 0.4
    assert expected_calibration_error([0.5, 0.0, 0.8, 1.0], [0, 0, 1, 0], bins=2) == pytest.approx(
        0.5 * 0.25 + 0.5 * 0.4
    )
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0
    assert expected_calibration_error([1.0], [False]) == 1


@SMALL
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_calibration_agrees_with_a_loop_over_bins(samples, bins):
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for b in range(bins):
        inside = [(c, r) for c, r in samples if edges[b] < c <= edges[b + 1] or (b == 0 and c == 0)]
        if inside:
            c, r = np.array(inside, dtype=float).T
            total += len(inside) / len(samples) * abs(c.mean() - r.mean())
    confidence, right = zip(*samples, strict=True)
    assert expected_calibration_error(confidence, right, bins) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(
    ("predicted", "y"), [([], []), ([0], [0, 1]), ([0.5], [0]), ([-1], [0]), ([0], [-1]), ([[0]], [[0]])]
)
def test_bad_predictions_are_refused(predicted, y):
    for call in (
        lambda: accuracy(predicted, y),
        lambda: mean_per_class(predicted, y),
        lambda: matthews_correlation(predicted, y),
        lambda: macro_f1(predicted, y, 3),
        lambda: confusion(predicted, y, 3),
    ):
        with pytest.raises(DataError):
            call()


def test_bad_classes_and_confidences_are_refused():
    with pytest.raises(DataError, match="class 3"):
        confusion([3], [0], 3)
    for confidence, right, bins in [
        ([1.1], [1], 5),
        ([float("nan")], [1], 5),
        ([], [], 5),
        ([0.5], [2], 5),
        ([0.5], [1, 0], 5),
        ([0.5], [1], 0),
    ]:
        with pytest.raises(DataError):
            expected_calibration_error(confidence, right, bins)


@SMALL
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5001, 1.0]), st.booleans()), min_size=2, max_size=40))
def test_detection_against_sklearn(pairs):
    scores, wanted = np.array([s for s, _ in pairs]), np.array([w for _, w in pairs])
    if 0 < wanted.sum() < len(wanted):
        assert area_under_roc(scores, wanted) == pytest.approx(reference.roc_auc_score(wanted, scores))
        assert average_precision(scores, wanted) == pytest.approx(reference.average_precision_score(wanted, scores))
    else:
        assert area_under_roc(scores, wanted) is None


def test_detection_by_hand():
    # pairs (wanted, not): .9 > .8, .9 > .1, .3 < .8, .3 > .1
    assert area_under_roc([0.9, 0.8, 0.3, 0.1], np.array([True, False, True, False])) == 0.75
    assert average_precision([0.9, 0.8, 0.3, 0.1], np.array([True, False, True, False])) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    assert area_under_roc([1, 1, 1], np.array([True, False, True])) == 0.5
    assert average_precision([1.0], np.array([False])) is None
    assert precision_recall([True, True, False], [True, False, False]) == (0.5, 1.0)
    assert precision_recall([False], [False]) == (None, None)
    with pytest.raises(DataError):
        area_under_roc([np.nan, 1.0], np.array([True, False]))
    with pytest.raises(DataError):
        average_precision([1.0], [1])
