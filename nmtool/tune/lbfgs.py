"""Logistic regression solved to its optimum by L-BFGS: scikit-learn's own, in float64, from a start at zero.

It minimises C * sum of cross-entropies + the squared norm of the weights / 2 (intercepts are not penalised; with two
classes the penalty is on the one vector of their difference), as ``LogisticRegression(C=C)`` does: the accuracy is that
of scikit-learn. The solution depends on the rows alone, so seeds that see the same rows share one solve.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nmtool.numerics import losses
from nmtool.records import Int
from nmtool.tune import evaluate
from nmtool.tune.feed import Feed
from nmtool.tune.fit import Trained
from nmtool.tune.heads import LinearHeads
from nmtool.tune.material import Bench, Material
from nmtool.tune.plan import Run

# The intercept of a class without training rows: its optimum is minus infinity; exp of this is 0, and it is finite.
_NEVER = -1e30
# Weights [D, C], intercepts [C], iterations, converged.
Solved = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], int, bool]


def fit(runs: tuple[Run, ...], material: Material, bench: Bench) -> Trained:
    """Solve every run; tells of those that did not converge within their iterations."""
    feed = Feed(runs, material, bench)
    classes = len(material.classes)
    known: dict[tuple[Any, ...], Solved] = {}
    heads = LinearHeads(runs, material.X.shape[1], classes, bench.device)
    epochs: list[list[dict[str, Any]]] = []
    for k, run in enumerate(runs):
        rows, y = feed.rows_of(k), material.overlays[run.labels].y
        key = (rows.tobytes(), run.labels, run.logistic)
        if key not in known:
            index = bench.tensor(rows)
            X = feed.scalings[feed.view[k]](material.X[index]).double().cpu().numpy()
            known[key] = solve(X, y[rows], classes, run)
        weight, bias, iterations, converged = known[key]
        with torch.no_grad():
            heads.parameters["classifier.weight"][k] = bench.tensor(weight).T
            heads.parameters["classifier.bias"][k, 0] = bench.tensor(bias)
        ended = {"iterations": iterations, "converged": converged}
        epochs.append([{"epoch": 1, **_training(heads, feed, material, bench, k, y), **ended}])
        bench.advance(1)
    _tell(runs, epochs, bench)
    return Trained(heads=heads, feed=feed, epochs=epochs)


def solve(X: npt.NDArray[np.float64], y: Int, classes: int, run: Run) -> Solved:
    """Weights float32 [D, C], intercepts float32 [C], the iterations it took, and whether it converged.

    Args:
        X: float64 [n, D] scaled features.
        y: int64 [n] labels, at least two different ones.
        classes: C.
        run: says C and how many iterations at most.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    assert run.logistic is not None
    model = LogisticRegression(C=run.logistic.C, max_iter=run.logistic.max_iter)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(X, y)
    coef, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one vector, for the second class against the first
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weight = np.zeros((X.shape[1], classes), dtype=np.float32)
    bias = np.full(classes, _NEVER, dtype=np.float32)
    weight[:, model.classes_], bias[model.classes_] = coef.T, intercept
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in told)
    return weight, bias, int(np.max(model.n_iter_)), converged


@torch.no_grad()
def _training(heads: LinearHeads, feed: Feed, material: Material, bench: Bench, k: int, y: Int) -> dict[str, float]:
    """Cross-entropy and accuracy on a head's own training rows, by the labels trained on."""
    rows = feed.rows_of(k)
    labels = bench.tensor(y[rows])
    X = material.X[bench.tensor(rows)]
    hits, total, start = 0, 0.0, 0
    for block in evaluate.logits(heads.one(k), feed.scalings[feed.view[k]], X):
        truth = labels[start : start + len(block)]
        hits += int((block.argmax(-1) == truth).sum())
        total += float(losses.cross_entropy_each(block.double(), truth).sum())
        start += len(block)
    return {"train_accuracy": hits / len(rows), "ce": total / len(rows)}


def _tell(runs: tuple[Run, ...], epochs: list[list[dict[str, Any]]], bench: Bench) -> None:
    short = [run for run, history in zip(runs, epochs, strict=True) if not history[-1]["converged"]]
    if short and not runs[0].holdout:
        assert short[0].logistic is not None
        bench.report.warning(
            f"{len(short)} of {len(runs)} runs did not converge in {short[0].logistic.max_iter} iterations "
            f"({short[0].words()}); raise --max-iter, lower --C, or try --scale standardize"
        )
