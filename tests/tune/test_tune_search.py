"""``--search``: held-out training rows decide, test labels do not; ties, edges and divergence are settled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Given
from tune_samples import Notes, digit_splits, flip, results, table, tune, write_features, write_labels

from nmtool.errors import DataError, DivergedError, UsageError
from nmtool.tune import axes, plan, search, subset
from nmtool.tune.config import Config

GRID: dict[str, Any] = {"lr": (1e-4, 1e-3, 1e-2), "weight_decay": (0.0, 0.1)}
FEW: dict[str, Any] = {"epochs": 4, "batch_size": 50, "width": 1}


def trials(ref: Any) -> list[dict[str, Any]]:
    columns = table(ref, "search.parquet")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("method", ["lp", "mlp", "nmtune"])
def test_the_best_on_held_out_rows_is_trained_on_all(pixels: Given, tmp_path: Path, method: str) -> None:
    ref = tune(tmp_path / "a", pixels.features, method=method, search=True, seeds=(0, 1), **GRID, **FEW)
    rows, tried = results(ref), trials(ref)
    held = sum(int(n * 0.2) for n in np.bincount(digit_splits()["train"][1]))
    assert len(rows) == 2
    assert len(tried) == 12
    for row in rows:
        mine = [t for t in tried if t["run"] == row["run"]]
        best = max(mine, key=lambda t: (t["accuracy"], -t["lr"], -t["weight_decay"]))
        assert [t for t in mine if t["chosen"]] == [best]
        assert (row["found_lr"], row["found_weight_decay"]) == (best["lr"], best["weight_decay"])
        assert (row["lr"], row["search_holdout"], row["search_accuracy"]) == (None, 0.2, best["accuracy"])
        assert (best["n_fit"], best["n_holdout"], row["n_train"]) == (500 - held, held, 500)
        given = {"lr": best["lr"], "weight_decay": best["weight_decay"]}
        alone = results(tune(tmp_path / "b", pixels.features, method=method, seeds=(row["seed"],), **given, **FEW))[0]
        assert abs(alone["accuracy"] - row["accuracy"]) <= 1 / row["n"] + 1e-9


def test_held_out_accuracy_is_that_of_a_head_trained_on_the_rest(pixels: Given, tmp_path: Path) -> None:
    """The rest as the training split and the rows held out as the test split of an artifact of their own."""
    x, y = digit_splits()["train"]
    noisy = flip(y, 0.4, 10)
    fit, held = subset.hold_out(noisy, np.arange(500), 0, 0.2)
    assert sorted([*fit, *held]) == list(range(500))
    ref = tune(
        tmp_path,
        pixels.features,
        method="lp",
        solver="lbfgs",
        search=True,
        C=(0.1, 1.0),
        labels=str(pixels.labels.path),
    )
    own = write_features(tmp_path, {"train": (x[fit], noisy[fit]), "test": (x[held], noisy[held])})
    for trial in trials(ref):
        alone = results(tune(tmp_path, own, method="lp", solver="lbfgs", C=trial["C"]))[0]
        assert trial["accuracy"] == pytest.approx(alone["accuracy"], abs=1e-12)


def test_test_labels_change_nothing(tmp_path: Path) -> None:
    """The same training rows with other test labels: the same trials, bit for bit."""
    splits = digit_splits()
    x, y = splits["test"]
    found = []
    for store, truth in ((tmp_path / "a", y), (tmp_path / "b", (y + 3) % 10)):
        ref = tune(store, write_features(store, {**splits, "test": (x, truth)}), search=True, **GRID, **FEW)
        found.append((trials(ref), results(ref)[0]["accuracy"]))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_each_seed_fraction_and_labels_searches_for_itself(pixels: Given, tmp_path: Path) -> None:
    clean = digit_splits()["train"][1]
    worse = write_labels(tmp_path, "train", clean, flip(clean, 0.6, 10, seed=3))
    labels = (str(pixels.labels.path), str(worse.path))
    ref = tune(tmp_path, pixels.features, search=True, seeds=(0, 1), fraction=(0.5, 1.0), labels=labels, **GRID, **FEW)
    tried = trials(ref)
    assert len(results(ref)) == 8
    assert len(tried) == 8 * 6
    sizes = {t["run"]: (t["n_fit"], t["n_holdout"]) for t in tried}
    assert all(sum(size) == r["n_train"] for r, size in zip(results(ref), sizes.values(), strict=True))
    summary = ref.summary["search"]
    assert isinstance(summary, dict)
    assert (summary["candidates"], summary["runs"], summary["holdout"]) == (48, 8, 0.2)


def test_the_stack_of_candidates_is_what_they_are_alone(pixels: Given, tmp_path: Path) -> None:
    whole = {
        (t["lr"], t["weight_decay"]): t["accuracy"]
        for t in trials(tune(tmp_path / "a", pixels.features, search=True, **GRID, **FEW))
    }
    for lr in GRID["lr"]:
        one = trials(tune(tmp_path / lr.hex(), pixels.features, search=True, lr=lr, weight_decay=0.1, **FEW))
        assert len(one) == 1
        assert abs(one[0]["accuracy"] - whole[lr, 0.1]) <= 1 / one[0]["n_holdout"] + 1e-9


def test_a_candidate_that_diverges_loses_and_the_others_are_untouched(pixels: Given, tmp_path: Path) -> None:
    few: dict[str, Any] = {**FEW, "epochs": 40, "weight_decay": 1.0}
    ref = tune(tmp_path / "a", pixels.features, search=True, lr=(0.01, 100.0), **few)
    first, second = trials(ref)
    assert second["accuracy"] is None
    assert first["chosen"]
    alone = trials(tune(tmp_path / "b", pixels.features, search=True, lr=0.01, **few))[0]
    assert abs(alone["accuracy"] - first["accuracy"]) <= 1 / first["n_holdout"] + 1e-9
    with pytest.raises(DivergedError, match="all 1 settings of the search diverged"):
        tune(tmp_path / "c", pixels.features, search=True, lr=100.0, **few)


def candidates(values: dict[str, Any], **more: Any) -> tuple[tuple[plan.Run, ...], dict[int, tuple[plan.Run, ...]]]:
    config = Config(features="-", search=True, **values, **more)
    runs = plan.expand(config, 0, 64)
    return runs, plan.candidates(config, runs, 64)


@pytest.mark.parametrize(
    ("scores", "lr", "decay", "edge"),
    [
        ([0.5, 0.5, 0.9, 0.9, 0.9, 0.9], 1e-3, 0.0, ""),
        ([0.9, 0.5, 0.9, 0.9, 0.9, 0.9], 1e-4, 0.0, "lr"),
        ([0.5, 0.5, 0.8, 0.9, 0.5, 0.9], 1e-3, 0.1, "weight_decay"),
        ([None, None, None, None, None, 0.0], 1e-2, 0.1, "lr,weight_decay"),
    ],
)
def test_ties_and_edges(scores: list[float | None], lr: float, decay: float, edge: str) -> None:
    runs, tried = candidates(GRID)
    mine = tried[0]
    assert [c.index for c in mine] == list(range(1, 7))
    notes = Notes()
    facts = [{"index": c.index, "n_fit": 8, "n_holdout": 2, "accuracy": s} for c, s in zip(mine, scores, strict=True)]
    settled, rows = search.settle(runs, tried, facts, notes)
    assert (settled[0].probe.lr, settled[0].probe.weight_decay) == (lr, decay)
    assert [r["at_edge"] for r in rows if r["chosen"]] == [edge]
    assert bool(notes.warnings) == bool(edge)
    if edge:
        assert "at the edge of its grid" in notes.warnings[0]


def test_grids_left_unset_hold_the_defaults() -> None:
    for method in ("lp", "mlp", "nmtune"):
        for preset in ("paper", "released"):
            given = axes.axes(Config(features="-", method=(method,), preset=preset), 64)[f"{method}/ce"]
            tried = axes.axes(Config(features="-", method=(method,), preset=preset, search=True), 64)[f"{method}/ce"]
            for name in ("lr", "weight_decay"):
                assert set(given[name]) <= set(tried[name])
    runs, tried_runs = candidates({}, method=("lp",), solver=("adamw", "lbfgs"))
    assert [len(tried_runs[r.index]) for r in runs] == [52, 9]
    everything = [c.index for r in runs for c in tried_runs[r.index]]
    assert everything == list(range(2, 2 + 61))  # no number twice: they name checkpoints


def test_rows_held_out_are_stratified() -> None:
    y = np.repeat([0, 1, 2, 3, -1], [50, 11, 2, 1, 9])
    rows = np.flatnonzero(y >= 0)
    for seed in (0, 1):
        fit, held = subset.hold_out(y, rows, seed, 0.2)
        assert np.bincount(y[held], minlength=4).tolist() == [10, 2, 1, 0]
        assert np.bincount(y[fit], minlength=4).tolist() == [40, 9, 1, 1]
        assert not set(fit) & set(held)
    assert subset.hold_out(y, rows, 0, 0.2)[1].tolist() != subset.hold_out(y, rows, 1, 0.2)[1].tolist()


def test_searched_runs_are_rebuilt_from_their_json() -> None:
    runs, tried = candidates(GRID, method=("lp", "knn")[:1], solver=("adamw", "lbfgs"), C=(0.5, 2.0))
    for run in (*runs, *(c for group in tried.values() for c in group)):
        assert plan.from_json(run.to_json()) == run
    plain = replace(runs[0], searched=0.0)
    assert {"searched", "holdout", "logistic", "neighbours"}.isdisjoint(plain.to_json())


def test_refusals(pixels: Given, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--search-holdout has 1; expected above 0 and below 1"):
        tune(tmp_path, pixels.features, search=True, search_holdout=1.0)
    with pytest.raises(UsageError, match="--search with --method turn"):
        axes.axes(Config(features="-", search=True, method=("lp", "turn")), 64)
    with pytest.raises(UsageError, match=r"200 runs and 10400 candidates of their searches in one call"):
        tune(tmp_path, pixels.features, search=True, seeds=tuple(range(200)))
    tiny = write_features(tmp_path, {"train": digit_splits(10)["train"], "test": digit_splits()["test"]})
    with pytest.raises(DataError, match="--search with one training row a class"):
        tune(tmp_path, tiny, search=True)
