"""Real numbers in an npz file, from the file to a report: features that came ready made, and images.

The data are scikit-learn's: diabetes (ten measurements of 442 patients, and how their disease went), and how much ink
there is in handwritten digits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn.datasets import load_diabetes, load_digits

Ok = Callable[..., Any]


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """300 patients to train on, two of them without an outcome and one with an infinite one, and 142 to test on."""
    x, y = load_diabetes(return_X_y=True)
    x, y = x.astype(np.float32), y / 100
    y[[3, 4, 5]] = np.nan, np.nan, np.inf
    y[310] = np.nan
    np.savez(tmp_path / "patients.npz", X_train=x[:300], y_train=y[:300], X_test=x[300:], y_test=y[300:])
    return tmp_path / "patients.npz"


def test_from_a_file_of_features_to_a_report(patients: Path, ok: Ok, tmp_path: Path) -> None:
    ok("extract", "none", "arrays:patients.npz", "-o", "features")
    argv = ("--method", "lp,mlp", "--loss", "mse", "--search", "--lr", "0.01,0.1", "--weight-decay", "0,0.01")
    argv = ("tune", "features", *argv, "--scale", "standardize", "--seeds", "0,1", "--epochs", "10", "-o", "heads")
    ran = ok(*argv, "--json")
    rows = ran.json["results"]
    assert [(r["method"], r["n"], r["n_train"]) for r in rows] == [(m, 141, 297) for m in ("lp", "lp", "mlp", "mlp")]
    assert "0 rows without features and 3 without a label of 300 are left out" in ran.err
    told = pq.read_table(tmp_path / "heads" / "data" / "predictions.parquet").to_pandas()
    wanted = load_diabetes().target[300:] / 100
    for row in rows:
        mine = told[told.run == row["run"]]
        truth = np.delete(wanted, 10)
        np.testing.assert_array_equal(mine.label, truth)
        assert row["pearson"] == pytest.approx(stats.pearsonr(truth, mine.predicted)[0], abs=1e-6)
        assert row["pearson"] > 0.5  # least squares, scikit-learn's: 0.71
    by_run = {r["run"]: r["pearson"] for r in rows}
    for data in ("features:test", "arrays:patients.npz"):  # a file is taken in as extract does
        split = () if data.startswith("features") else ("--split", "test")
        found = ok("predict", "heads", data, *split, "-o", "p.parquet", "--json").json["results"]
        assert {r["run"]: r["pearson"] for r in found} == {run: pytest.approx(p) for run, p in by_run.items()}
        assert {(r["n"], r["labelled"]) for r in found} == {(142, 141)}
        (tmp_path / "p.parquet").unlink()
    ok("report", "features", "heads", "--format", "markdown", "-o", "report")
    page = (tmp_path / "report" / "data" / "report.md").read_text()
    assert "**Pearson, trained on" in page
    assert ok(*argv, "--json").json["cached"] is True


def test_other_scores_are_other_features(patients: Path, ok: Ok, tmp_path: Path) -> None:
    """The key knows the labels; a score that is whole everywhere is a score, and that is told."""
    first = ok("extract", "none", "arrays:patients.npz", "-o", "a", "--json").json
    with np.load(patients) as arrays:
        found = dict(arrays)
    found["y_train"][7] += 0.5
    np.savez(tmp_path / "other.npz", **found)
    assert ok("extract", "none", "arrays:other.npz", "-o", "b", "--json").json["key"] != first["key"]
    whole = {name: np.nan_to_num(v, posinf=9).round() if name.startswith("y") else v for name, v in found.items()}
    np.savez(tmp_path / "whole.npz", **whole)
    ran = ok("extract", "none", "arrays:whole.npz", "-o", "whole")
    assert "taken as real numbers; if they are classes, save them as integers" in ran.err
    assert (
        ok("tune", "whole", "--method", "lp", "--epochs", "1", "-o", "h", "--json").json["results"][0]["loss"] == "mse"
    )


def test_how_much_ink_from_images(ok: Ok, nmtool: Callable[..., Any], tmp_path: Path) -> None:
    """Images with real numbers go through an encoder as others do; what is for classes is refused."""
    images = np.repeat(np.repeat(load_digits().images[:500], 4, axis=1), 4, axis=2)
    x, ink = (images * 15.9375).astype(np.uint8), images.mean(axis=(1, 2))
    np.savez(tmp_path / "ink.npz", X_train=x[:350], y_train=ink[:350], X_test=x[350:], y_test=ink[350:])
    argv = ("extract", "timm:test_resnet", "arrays:ink.npz", "--untrained", "--image-size", "32", "--workers", "1")
    ok(*argv, "-o", "features")
    (row,) = ok(
        "tune", "features", "--method", "lp", "--scale", "standardize", "--lr", "0.1", "-o", "heads", "--json"
    ).json["results"]
    # even an untrained network tells dark from bright
    assert row["pearson"] > 0.8
    for refused in (
        ("inject-noise", "arrays:ink.npz", "--type", "symmetric", "--ratio", "0.2"),
        ("pretrain", "arrays:ink.npz", "--arch", "test_resnet", "--epochs", "1"),
    ):
        ran = nmtool(*refused, "-o", "no")
        assert (ran.code, "has real numbers as labels" in ran.err) == (65, True), ran.err
    ran = nmtool("tune", "features", "--method", "knn", "-o", "no")
    assert (ran.code, "real numbers" in ran.err) == (2, True), ran.err


def test_a_file_without_one_number_is_told(patients: Path, ok: Ok, nmtool: Callable[..., Any], tmp_path: Path) -> None:
    with np.load(patients) as arrays:
        found = {name: np.full_like(v, np.nan) if name == "y_train" else v for name, v in arrays.items()}
    np.savez(tmp_path / "none.npz", **found)
    ok("extract", "none", "arrays:none.npz", "-o", "none")
    ran = nmtool("tune", "none", "--method", "lp", "-o", "no")
    assert (ran.code, "no row with features and a label" in ran.err) == (65, True), ran.err
