"""Metrics against sklearn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from nmtool.errors import DataError
from nmtool.numerics.metrics import accuracy, confusion, expected_calibration_error, macro_f1, mean_per_class

SMALL = settings(derandomize=True, max_examples=60, deadline=None)
PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)


def test_by_hand():
    predicted, y = [0, 0, 1, 1, 2], [0, 1, 1, 1, 0]
    assert accuracy(predicted, y) == 0.6
    assert confusion(predicted, y, 4).tolist() == [[1, 0, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    # F1: class 0 2/4, class 1 4/5, class 2 0, class 3 occurs nowhere
    assert macro_f1(predicted, y, 4) == pytest.approx((0.5 + 0.8 + 0) / 3)
    assert mean_per_class(predicted, y) == pytest.approx((1 / 2 + 2 / 3) / 2)


@SMALL
@given(PAIRS)
def test_agree_with_sklearn(pairs):
    predicted, y = (np.array(column) for column in zip(*pairs, strict=True))
    assert accuracy(predicted, y) == pytest.approx(reference.accuracy_score(y, predicted))
    assert macro_f1(predicted, y, 6) == pytest.approx(
        reference.f1_score(y, predicted, average="macro", zero_division=0)
    )
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
