"""Which labels are wrong: by hand, against loops, on labels drawn from a known matrix, and on what can't be."""

from __future__ import annotations

import numpy as np
import pytest

from nmtool.errors import DataError
from nmtool.numerics.mislabelled import (
    cross_entropy,
    own_probability,
    pooled,
    shrunk,
    smoothed,
    transition_estimate,
    wrong_probability,
)


def drawn(n: int, T: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, true labels drawn from them, and given labels drawn from T's rows."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, len(T))) * 4
    predicted = np.exp(logits - logits.max(1, keepdims=True))
    predicted /= predicted.sum(1, keepdims=True)
    true = np.array([rng.choice(len(T), p=p) for p in predicted])
    given = np.array([rng.choice(len(T), p=T[k]) for k in true])
    return predicted, true, given


def test_bayes_by_hand() -> None:
    predicted = np.array([[0.2, 0.8], [0.9, 0.1]])
    T = np.array([[0.75, 0.25], [0.5, 0.5]])
    # first, given 0: right .2 * .75 = .15, wrong .8 * .5 = .4; second, given 1: right .1 * .5, wrong .9 * .25
    found = wrong_probability(predicted, np.array([0, 1]), T)
    assert found == pytest.approx([0.4 / 0.55, 0.225 / 0.275], abs=1e-9)
    assert own_probability(predicted, np.array([0, 1])) == pytest.approx([0.2, 0.1])
    assert cross_entropy(np.array([[0.0, 1.0]]), np.array([0])) == pytest.approx([-np.log(1e-12)])


def test_pool_by_hand() -> None:
    found = pooled(np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]]), 1.0)
    root = np.sqrt([0.45, 0.05])
    assert found[0] == pytest.approx(root / root.sum(), rel=1e-6)
    assert smoothed(np.array([[1.0, 0.0]], dtype=np.float32), 3)[0] == pytest.approx([3.5 / 4, 0.5 / 4])


def test_a_matrix_that_says_nothing_leaves_the_order_to_the_prediction() -> None:
    predicted, _, given = drawn(200, np.full((4, 4), 0.25), 0)
    symmetric = shrunk(np.eye(4) * 0.6 + 0.1, 0.0)
    assert np.diag(symmetric) == pytest.approx(0.7)
    by_rule = np.argsort(wrong_probability(predicted, given, symmetric))
    assert by_rule.tolist() == np.argsort(-own_probability(predicted, given)).tolist()


def test_expectation_maximisation_against_loops() -> None:
    predicted, _, given = drawn(60, np.array([[0.8, 0.2, 0.0], [0.1, 0.7, 0.2], [0.0, 0.3, 0.7]]), 1)
    T = np.full((3, 3), 0.15) + np.eye(3) * 0.55
    for _ in range(10):
        joint = np.zeros((3, 3))
        for p, j in zip(predicted, given, strict=True):
            post = [p[k] * T[k, j] for k in range(3)]
            for k in range(3):
                joint[k, j] += post[k] / sum(post)
        T = joint / joint.sum(1, keepdims=True)
    assert transition_estimate(predicted, given) == pytest.approx(T, abs=1e-8)


def test_the_matrix_is_found_again() -> None:
    T = np.array([[0.9, 0.1, 0.0, 0.0], [0.0, 0.6, 0.4, 0.0], [0.0, 0.0, 1.0, 0.0], [0.2, 0.2, 0.2, 0.4]])
    predicted, true, given = drawn(8000, T, 2)
    found = transition_estimate(predicted, given, rounds=50)
    assert found.sum(1) == pytest.approx(np.ones(4))
    assert np.abs(found - T).max() < 0.06
    wrong = wrong_probability(predicted, given, found)
    # calibrated: of the samples at about that probability, that share is wrong
    for low in (0.0, 0.25, 0.5, 0.75):
        here = (wrong >= low) & (wrong < low + 0.25)
        assert wrong[here].mean() == pytest.approx((true != given)[here].mean(), abs=0.06)


def test_certainty_and_its_opposite_are_finite() -> None:
    predicted = np.array([[1.0, 0.0], [1.0, 0.0]])
    given = np.array([1, 1])  # all wrong
    T = transition_estimate(predicted, given)
    assert np.isfinite(T).all()
    assert T[0, 1] == pytest.approx(1.0, abs=1e-6)
    assert wrong_probability(predicted, given, np.eye(2)) == pytest.approx([0.0, 0.0], abs=1e-6)  # T allows no other
    assert wrong_probability(predicted, given, T) == pytest.approx([1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize(
    ("predicted", "given"),
    [
        (np.ones((2, 1)), [0, 0]),
        (np.full((2, 2), 0.5), [0, 2]),
        (np.full((2, 2), 0.5), [-1, 0]),
        (np.full((2, 2), np.nan), [0, 1]),
        (np.full((3, 2), 0.5), [0, 1]),
    ],
)
def test_what_makes_no_sense_is_refused(predicted: np.ndarray, given: list[int]) -> None:
    with pytest.raises(DataError):
        wrong_probability(predicted, np.array(given), np.eye(2))
