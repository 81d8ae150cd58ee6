"""``--search`` on labels that are real numbers: correlation on held-out rows decides, or squared error where it cannot.

The data are scikit-learn's diabetes (Efron et al. 2004): ten measurements of 442 patients, and how their disease went.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn.datasets import load_diabetes
from tune_samples import Notes, results, table, tune, write_features

from nmtool.errors import DataError, DivergedError
from nmtool.tune import evaluate, plan, search, subset
from nmtool.tune.config import Config

FEW: dict[str, Any] = {"epochs": 8, "batch_size": 50, "width": 1, "scale": "standardize"}
GRID: dict[str, Any] = {"lr": (1e-3, 1e-2, 1e-1), "weight_decay": (0.0, 0.1)}


def patients() -> dict[str, tuple[Any, Any]]:
    """Measurements, and the disease's progress in hundreds."""
    x, y = load_diabetes(return_X_y=True)
    x, y = x.astype(np.float32), y / 100
    return {"train": (x[:300], y[:300]), "test": (x[300:], y[300:])}


def written(store: Path, splits: Any) -> Any:
    return write_features(store, splits, classes=(), real=True)


def trials(ref: Any) -> list[dict[str, Any]]:
    return list(pq.read_table(ref.path / "data" / "search.parquet").to_pylist())


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
@pytest.mark.parametrize("method", ["lp", "mlp", "nmtune"])
def test_the_measure_that_counts_decides(tmp_path: Path, method: str, metric: str) -> None:
    ref = tune(
        tmp_path, written(tmp_path, patients()), method=method, metric=metric, search=True, seeds=(0, 1), **GRID, **FEW
    )
    tried, rows = trials(ref), results(ref)
    assert len(tried) == 12
    assert {"accuracy", "pearson", "spearman"} & set(tried[0]) == {metric}
    for row in rows:
        mine = [t for t in tried if t["run"] == row["run"]]
        best = max(mine, key=lambda t: (t[metric], -t["squared_error"], -t["lr"], -t["weight_decay"]))
        assert [t for t in mine if t["chosen"]] == [best]
        assert (row["found_lr"], row["found_weight_decay"]) == (best["lr"], best["weight_decay"])
        assert (row[f"search_{metric}"], row["search_squared_error"]) == (best[metric], best["squared_error"])
        assert (best["n_fit"], best["n_holdout"], row["n_train"]) == (240, 60, 300)
    assert len({t[metric] for t in tried}) > 6
    summary = ref.summary["search"]
    assert isinstance(summary, dict)
    assert (summary["candidates"], summary["diverged"], summary["runs"]) == (12, 0, 2)
    assert summary[f"{metric}_is"].startswith("on held-out training rows")


def test_held_out_scores_are_those_of_a_head_trained_on_the_rest(tmp_path: Path) -> None:
    """The rest as the training split and the rows held out as the test split of an artifact of their own."""
    x, y = patients()["train"]
    fit, held = subset.hold_out(np.zeros(300, dtype=np.int64), np.arange(300), 0, 0.2)
    ref = tune(tmp_path, written(tmp_path, patients()), method="lp", search=True, **GRID, **FEW)
    own = written(tmp_path, {"train": (x[fit], y[fit]), "test": (x[held], y[held])})
    for trial in trials(ref):
        given = {"lr": trial["lr"], "weight_decay": trial["weight_decay"]}
        alone = table(tune(tmp_path, own, method="lp", **given, **FEW), "predictions.parquet")
        assert trial["pearson"] == pytest.approx(stats.pearsonr(alone["label"], alone["predicted"])[0], abs=1e-5)
        assert trial["squared_error"] == pytest.approx(np.mean((alone["label"] - alone["predicted"]) ** 2), rel=1e-4)


def test_test_labels_change_nothing(tmp_path: Path) -> None:
    splits = patients()
    x, y = splits["test"]
    found = []
    for store, truth in ((tmp_path / "a", y), (tmp_path / "b", -y)):
        ref = tune(store, written(store, {**splits, "test": (x, truth)}), search=True, **GRID, **FEW)
        found.append((trials(ref), results(ref)[0]["pearson"]))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(-found[1][1])


def test_where_the_correlation_is_undefined_the_squared_error_decides(tmp_path: Path) -> None:
    """Rows held out that have one label among them, and a single one: no candidate has a correlation."""
    x, y = patients()["train"]
    _, held = subset.hold_out(np.zeros(300, dtype=np.int64), np.arange(300), 0, 0.2)
    alike = y.copy()
    alike[held] = 1.5
    few = {"train": (x[:4], y[:4]), "test": (x, y)}
    for store, splits, count in ((tmp_path / "a", {"train": (x, alike), "test": (x, y)}, 60), (tmp_path / "b", few, 1)):
        ref = tune(store, written(store, splits), search=True, **GRID, **FEW)
        tried = trials(ref)
        assert {(t["pearson"], t["n_holdout"]) for t in tried} == {(None, count)}
        best = min(tried, key=lambda t: (t["squared_error"], t["lr"], t["weight_decay"]))
        assert [t for t in tried if t["chosen"]] == [best]
        assert (results(ref)[0].get("search_pearson"), results(ref)[0]["search_squared_error"]) == (
            None,
            best["squared_error"],
        )


def test_predictions_that_are_all_alike_count_as_no_correlation(tmp_path: Path) -> None:
    """Features that say nothing: every candidate predicts one number, and the nearest number wins."""
    _, y = patients()["train"]
    nothing = np.zeros((300, 4), dtype=np.float32)
    ref = tune(
        tmp_path, written(tmp_path, {"train": (nothing, y), "test": (nothing, y)}), method="lp", search=True, **GRID
    )
    tried = trials(ref)
    assert {t["pearson"] for t in tried} == {0.0}
    best = min(tried, key=lambda t: (t["squared_error"], t["lr"], t["weight_decay"]))
    assert [t for t in tried if t["chosen"]] == [best]
    assert len({t["squared_error"] for t in tried}) >= 3


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_the_score_by_hand(metric: str) -> None:
    score = evaluate.held_out_score
    predicted = np.array([1.0, 3.0, 2.0], dtype=np.float32)
    # by hand: deviations (-1, 1, 0) and (-1, 0, 1), of ranks as of numbers: 1 / 2; squares 0, 1, 1
    assert score(metric, predicted, np.array([1.0, 2.0, 3.0])) == pytest.approx((0.5, 2 / 3))
    assert score(metric, predicted, np.array([2.0, 2.0, 2.0])) == pytest.approx((None, 2 / 3))
    assert score(metric, predicted[:1], np.array([4.0])) == (None, 9.0)
    assert score(metric, np.full(3, 2, np.float32), np.array([1.0, 2.0, 3.0])) == pytest.approx((0.0, 2 / 3))
    assert score(metric, np.array([1.0, np.inf], np.float32), np.array([1.0, 2.0])) == (None, None)


@pytest.mark.parametrize(
    ("pearson", "errors", "lr", "decay"),
    [
        ([0.5, 0.9, 0.9, 0.1, 0.9, 0.2], [1, 3, 2, 0, 2, 0], 1e-2, 0.0),  # of equal ones the smaller error
        ([0.9] * 6, [1.0] * 6, 1e-3, 0.0),  # then the smaller rate, then the smaller decay
        ([None] * 6, [5, 4, 4, 9, 9, 9], 1e-3, 0.1),
        ([-0.5, None, None, None, None, None], [1.0, *[None] * 5], 1e-3, 0.0),  # worse than nothing, and all there is
    ],
)
def test_ties(pearson: list[Any], errors: list[Any], lr: float, decay: float) -> None:
    config = Config(features="-", search=True, loss=("mse",), **GRID)
    runs = plan.expand(config, 0, 10)
    tried = plan.candidates(config, runs, 10)
    facts = [
        {"index": c.index, "pearson": p, "squared_error": e} for c, p, e in zip(tried[0], pearson, errors, strict=True)
    ]
    settled, rows = search.settle(runs, tried, facts, Notes())
    assert (settled[0].probe.lr, settled[0].probe.weight_decay) == (lr, decay)
    assert search.summary_of(rows, 0.2)["diverged"] == errors.count(None)


def test_divergence_and_too_few_rows(tmp_path: Path) -> None:
    features = written(tmp_path, patients())
    few: dict[str, Any] = {**FEW, "epochs": 60, "weight_decay": 1.0}
    ref = tune(tmp_path, features, search=True, lr=(0.01, 100.0), **few)
    first, second = trials(ref)
    assert (second["pearson"], second["squared_error"], first["chosen"]) == (None, None, True)
    with pytest.raises(DivergedError, match="all 1 settings of the search diverged"):
        tune(tmp_path, features, search=True, lr=100.0, **few)
    x, y = patients()["train"]
    two = written(tmp_path, {"train": (x[:2], y[:2]), "test": (x, y)})
    with pytest.raises(DataError, match=r"--search with one training row \(lp.*expected two rows or more, to hold"):
        tune(tmp_path, two, method="lp", search=True, fraction=0.5, **FEW)


def test_through_the_command_line(ok: Callable[..., Any], tmp_path: Path) -> None:
    """Seeds whose searches ended differently are one line of a report; a hit is a hit."""
    features = written(tmp_path / "s", patients())
    argv = ("tune", features.path, "--method", "lp,mlp", "--search", "--seeds", "0,1,2", "--scale", "standardize")
    argv += ("--lr", "0.001,0.01,0.1", "--epochs", "10", "--width", "1", "-o", "heads", "--json")
    told = ok(*argv).json
    assert len(told["results"]) == 6
    # least squares, scikit-learn's, reach 0.71 on these rows; chance would be 0 +- 0.08
    assert min(r["pearson"] for r in told["results"]) > 0.5
    assert ok(*argv).json["cached"] is True
    ok("report", "heads", "--format", "markdown", "-o", "report")
    page = (tmp_path / "report" / "data" / "report.md").read_text()
    assert [line.split("|")[3].strip() for line in page.splitlines() if line.startswith(("| lp", "| mlp"))][:2] == [
        "3",
        "3",
    ]
