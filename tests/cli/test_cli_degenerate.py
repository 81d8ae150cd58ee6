"""Degenerate inputs of ``tune`` through the command line: a defined result, or one clear message and its exit code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

Ok = Callable[..., Any]
Make = Callable[..., Path]
QUICK = ("--method", "lp,mlp,nmtune,knn", "--epochs", "2", "--k", "3")


@pytest.fixture
def features(ok: Ok, tmp_path: Path) -> Make:
    """Ready-made features of a train and a test split, taken in by ``extract``."""

    def make(train: tuple[Any, Any], test: tuple[Any, Any], classes: list[str] | None = None, *argv: str) -> Path:
        names = {"classes": np.array(classes)} if classes else {}
        splits = {"X_train": train[0], "y_train": train[1], "X_test": test[0], "y_test": test[1]}
        np.savez(tmp_path / "given.npz", **{k: np.asarray(v) for k, v in splits.items()}, **names)
        return ok("extract", "none", "arrays:given.npz", "-o", "features", *argv).path

    return make


def blobs(n: int, dim: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    """Points around one centre a class."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    y = np.arange(n) % classes
    return (3 * centres[y] + rng.normal(size=(n, dim))).astype(np.float32), y


def results(ok: Ok, tmp_path: Path, *argv: object) -> list[dict[str, Any]]:
    """Result rows of a tune that must succeed; every number in them is finite or null."""
    told = ok("tune", "features", *(argv or QUICK), "-o", "heads", "--json").json
    rows = pq.read_table(tmp_path / "heads" / "data" / "results.parquet").to_pylist()
    assert len(told["results"]) == len(rows)
    for row in rows:
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float)), row
    return rows


def test_a_diverging_rate_is_70_and_leaves_nothing(features: Make, nmtool: Callable[..., Any], tmp_path: Path) -> None:
    features(blobs(60, 8, 3), blobs(30, 8, 3, 1))
    ran = nmtool("tune", "features", "--method", "nmtune", "--lr", "1e20", "--weight-cov", "1", "-o", "heads")
    assert ran.code == 70, ran.err
    assert "Traceback" not in ran.err
    assert "loss is" in ran.err
    assert "lower --lr" in ran.err
    assert not (tmp_path / "heads").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_that_are_not_finite_are_65_and_where_they_are_marked_left_out(
    features: Make, ok: Ok, nmtool: Callable[..., Any], tmp_path: Path, split: str
) -> None:
    train, test = blobs(60, 4, 3), blobs(30, 4, 3, 1)
    (train if split == "train" else test)[0][[2, 5]] = np.nan
    np.savez(tmp_path / "given.npz", X_train=train[0], y_train=train[1], X_test=test[0], y_test=test[1])
    ran = nmtool("extract", "none", "arrays:given.npz", "-o", "no")
    assert ran.code == 65, ran.err
    assert "Traceback" not in ran.err
    ok("extract", "none", "arrays:given.npz", "--on-error", "skip", "-o", "features")
    row = results(ok, tmp_path, "--method", "lp", "--epochs", "2")[0]
    assert (row["n_train"], row["n"]) == ((58, 30) if split == "train" else (60, 28))


def test_a_class_absent_from_test(features: Make, ok: Ok, tmp_path: Path) -> None:
    x, y = blobs(60, 8, 3, 1)
    features(blobs(90, 8, 3), (x[y != 2], y[y != 2]), ["a", "b", "c"])
    rows = results(ok, tmp_path)
    assert all(0 <= r["mean_per_class"] <= 1 for r in rows)
    per_class = pq.read_table(tmp_path / "heads" / "data" / "per_class.parquet").to_pylist()
    absent = [r for r in per_class if r["class"] == "c"]
    assert [(r["n"], r["recall"]) for r in absent] == [(0, None)] * 4


def test_a_class_absent_from_training_is_never_predicted_by_neighbours(features: Make, ok: Ok, tmp_path: Path) -> None:
    x, y = blobs(90, 8, 3)
    features((x[y != 1], y[y != 1]), blobs(30, 8, 3, 1), ["a", "b", "c"])
    rows = results(ok, tmp_path)
    assert max(r["accuracy"] for r in rows) <= 1.0
    predictions = pq.read_table(tmp_path / "heads" / "data" / "predictions.parquet").to_pandas()
    assert 1 not in set(predictions[predictions.run == 3].predicted)


def test_one_dimension(features: Make, ok: Ok, tmp_path: Path) -> None:
    features(blobs(60, 1, 2), blobs(30, 1, 2, 1))
    for row in results(ok, tmp_path):
        assert row["sve"] == pytest.approx(0, abs=1e-9)  # one singular value has no entropy
        assert row["lsvr"] == pytest.approx(0, abs=1e-9)


def test_fewer_rows_than_dimensions(features: Make, ok: Ok, tmp_path: Path) -> None:
    features(blobs(6, 40, 2), blobs(4, 40, 2, 1))
    for row in results(ok, tmp_path):
        assert row["sve"] <= math.log(4) + 1e-6


def test_one_test_row(features: Make, ok: Ok, tmp_path: Path) -> None:
    x, y = blobs(30, 5, 3, 1)
    features(blobs(60, 5, 3), (x[:1], y[:1]))
    for row in results(ok, tmp_path):
        assert row["n"] == 1
        assert row["accuracy"] in (0.0, 1.0)
        assert row["matthews"] == 0.0
    ok("report", "heads", "--format", "json", "-o", "report")
    json.loads((tmp_path / "report" / "data" / "report.json").read_text())


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_features(features: Make, ok: Ok, nmtool: Callable[..., Any], tmp_path: Path, value: float) -> None:
    """Nothing can be learned: chance, said so, under every scaling; and the spectrum of zeros is none."""
    y = np.arange(40) % 2
    x = np.full((40, 6), value, dtype=np.float32)
    features((x, y), (x[:20], y[:20]))
    rows = results(
        ok, tmp_path, "--method", "lp,nmtune,knn", "--epochs", "2", "--scale", "none,l2,standardize", "--k", "3"
    )
    assert {r["accuracy"] for r in rows} == {0.5}
    lp = {r["scale"]: r["sve"] for r in rows if r["method"] == "lp"}
    assert lp["standardize"] is None or lp["standardize"] == pytest.approx(0, abs=1e-6)
    assert (lp["none"] is None) == (value == 0)


def test_ten_thousand_classes(features: Make, ok: Ok, tmp_path: Path) -> None:
    """A row a class to train on, and one to test on: beside its own row it is found."""
    classes = 10_000
    rng = np.random.default_rng(0)
    x = rng.normal(size=(classes, 16)).astype(np.float32)
    y = np.arange(classes)
    features((x, y), (x[:200] + 0.01, y[:200]), [f"class {c}" for c in range(classes)])
    rows = results(
        ok, tmp_path, "--method", "lp,knn", "--epochs", "1", "--batch-size", "1000", "--k", "1", "--no-predictions"
    )
    assert [r["method"] for r in rows] == ["lp", "knn"]
    assert rows[1]["accuracy"] > 0.95
    assert not (tmp_path / "heads" / "data" / "per_class.parquet").exists()


def _given(ok: Callable, tmp_path: Path, y_train: np.ndarray, y_test: np.ndarray) -> None:
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", X_train=X, y_train=y_train, X_test=X[:12] + 1, y_test=y_test)
    ok("extract", "none", "arrays:x.npz", "-o", "f")


def test_a_class_without_training_rows_is_told(ok: Callable, tmp_path: Path) -> None:
    _given(ok, tmp_path, np.arange(30) % 2 * 2, np.arange(12) % 3)
    ran = ok("tune", "f", "--epochs", "1", "--json")
    assert "4 of 12 rows of split test of f are of classes that no training row has (1): they count as wrong" in ran.err
    assert ran.json["results"][0]["accuracy"] <= 8 / 12


def test_training_rows_as_another_domain_are_told(ok: Callable, tmp_path: Path) -> None:
    _given(ok, tmp_path, np.arange(30) % 3, np.arange(12) % 3)
    said = ok("tune", "f", "--epochs", "1", "--ood", "f:train", "--ood", "f:test").err
    assert "--ood f:train has the very samples that are trained on" in said
    assert "--ood f:test has the very samples that are judged in-domain" in said
    assert "that no training row has" not in said


def test_features_without_labels_are_told_so(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", X_train=X, X_test=X)
    ok("extract", "none", "arrays:x.npz", "-o", "f")
    ran = nmtool("tune", "f")
    assert (ran.code, ran.out) == (65, "")
    assert "f has no class labels" in ran.err
