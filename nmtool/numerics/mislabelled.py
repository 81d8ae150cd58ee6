"""How likely each given label is wrong, from what is predicted for its sample: estimates that see no true label.

The model behind them: the true class has the predicted distribution, and the given label was drawn from the row of a
transition matrix T that belongs to it, P(given | true). T is estimated from the predictions and the given labels by
expectation maximisation; then the given label is right with the posterior probability that Bayes' rule says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nmtool.errors import DataError
from nmtool.records import Float, Int

Predicted = NDArray[np.float32] | NDArray[np.float64]

_ROWS = 1 << 14
_FLOOR = 1e-12
# Share of the labels that are right in the matrix that the estimate starts from.
_START = 0.7


def check_predicted(predicted: Predicted, given: Int) -> None:
    """Raise ``DataError`` where there is not a distribution over all classes for each given label."""
    if predicted.ndim != 2 or len(predicted) != len(given) or not len(given) or predicted.shape[1] < 2:
        raise DataError(f"predictions of shape {predicted.shape} for {len(given)} labels", "[N, C], N of 1, C of 2 up")
    if given.min() < 0 or given.max() >= predicted.shape[1]:
        raise DataError(f"labels from {given.min()} to {given.max()}", f"0 to {predicted.shape[1] - 1}")
    if not np.isfinite(predicted).all():
        raise DataError("predictions that are not finite", "probabilities", "did the probe diverge?")


def pooled(first: Predicted, second: Predicted, weight: float) -> NDArray[np.float32]:
    """Geometric mean of two predictions [N, C], of weights 1 and ``weight``; rows sum to 1. No probability is 0."""
    out = np.empty(first.shape, dtype=np.float32)
    for at in range(0, len(first), _ROWS):
        here = slice(at, at + _ROWS)
        logs = np.log(first[here].astype(np.float64) + _FLOOR) + weight * np.log(
            second[here].astype(np.float64) + _FLOOR
        )
        logs /= 1.0 + weight
        mixed = np.exp(logs - logs.max(1, keepdims=True))
        out[here] = mixed / mixed.sum(1, keepdims=True)
    return out


def smoothed(shares: Predicted, votes: int) -> NDArray[np.float32]:
    """Shares of ``votes`` votes [N, C] with one more vote spread over all classes: none is 0."""
    classes = shares.shape[1]
    return ((shares * np.float32(votes) + np.float32(1.0 / classes)) / np.float32(votes + 1)).astype(np.float32)


def transition_estimate(predicted: Predicted, given: Int, rounds: int = 10) -> Float:
    """T [C, C] float64, T[k, j] = P(given j | true k), by expectation maximisation from a symmetric start.

    A round gives each sample to the true classes by their posterior under the T of the last, and T is what these
    assignments say; a class that nothing is given to keeps its row.

    Args:
        predicted: [N, C] P(true class | sample), from a model that did not see the sample's label.
        given: int64 [N].
        rounds: of the estimate; it hardly moves after ten.

    Raises:
        DataError: as ``check_predicted``.
    """
    check_predicted(predicted, given)
    classes = predicted.shape[1]
    T = _symmetric(_START, classes)
    for _ in range(rounds):
        joint = np.zeros((classes, classes))  # given by row
        for at in range(0, len(given), _ROWS):
            mine = given[at : at + _ROWS]
            np.add.at(joint, mine, _posterior(predicted[at : at + _ROWS], mine, T))
        total = joint.sum(0)
        T = np.where(total[:, None] > 0, joint.T / np.where(total > 0, total, 1.0)[:, None], T)
    return T


def _symmetric(stay: float, classes: int) -> Float:
    T = np.full((classes, classes), (1.0 - stay) / (classes - 1))
    np.fill_diagonal(T, stay)
    return T


def shrunk(T: Float, share: float) -> Float:
    """``share`` of T and the rest of the symmetric matrix with the same mean diagonal: C² cells from few samples."""
    return share * T + (1.0 - share) * _symmetric(float(np.diag(T).mean()), len(T))


def _posterior(predicted: Predicted, given: Int, T: Float) -> Float:
    """P(true | sample, given) [n, C]; where T says that the given label can't be, the prediction alone."""
    plain = predicted.astype(np.float64) + _FLOOR
    both = plain * T[:, given].T
    total = both.sum(1, keepdims=True)
    both = np.where(total > 0, both, plain)
    out: Float = both / both.sum(1, keepdims=True)
    return out


def wrong_probability(predicted: Predicted, given: Int, T: Float) -> Float:
    """P(true class is not the given one | sample, given), float64 [N], by Bayes' rule.

    Args:
        predicted: [N, C] P(true class | sample).
        given: int64 [N].
        T: [C, C] P(given | true).

    Raises:
        DataError: as ``check_predicted``.
    """
    check_predicted(predicted, given)
    out = np.empty(len(given))
    for at in range(0, len(given), _ROWS):
        mine = given[at : at + _ROWS]
        right = _posterior(predicted[at : at + _ROWS], mine, T)[np.arange(len(mine)), mine]
        out[at : at + _ROWS] = 1.0 - right
    return np.clip(out, 0.0, 1.0)


def own_probability(predicted: Predicted, given: Int) -> Float:
    """The prediction for the given label, float64 [N]: confident learning's self-confidence."""
    check_predicted(predicted, given)
    return predicted[np.arange(len(given)), given].astype(np.float64)


def cross_entropy(predicted: Predicted, given: Int) -> Float:
    """-log of ``own_probability``, finite: a probability below 1e-12 counts as that."""
    return -np.log(np.maximum(own_probability(predicted, given), _FLOOR))
