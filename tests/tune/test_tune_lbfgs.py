"""Logistic regression by L-BFGS: scikit-learn's accuracy, a gradient of zero, and told where it did not converge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Given
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from tune_samples import Notes, digit_splits, results, table, tune, write_features

from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session
from nmtool.artifact.typed import read_features
from nmtool.errors import UsageError
from nmtool.tune import lbfgs


def real_features(folder: Path, weights: Path, store: Path, name: str) -> tuple[Path, str, str]:
    """Features of real images by a real MobileNetV2, and the splits to train and test on."""
    import nmtool.extract.config as extract_config
    import nmtool.extract.run as extract

    data, train, test = f"folder:{folder / name}", "train", "test"
    if name == "pacs":
        train, test = "photo/train", "photo/test"
    if name == "cifar10":
        with np.load(folder / "cifar10.npz") as whole:
            few = {"X_train": 1500, "y_train": 1500, "X_test": 500, "y_test": 500}
            np.savez(store / "few.npz", classes=whole["classes"], **{k: whole[k][:n] for k, n in few.items()})
        data = f"arrays:{store / 'few.npz'}"
    config = extract_config.Config(
        model=str(weights / "mobilenetv2_100.in1k_tf_ptq.fp16.safetensors"),
        data=data,
        arch="mobilenetv2_100",
        model_kwargs=("pad_type=same",),
        image_size=96,
        split=(train, test),
        device="cpu",
        workers=1,
    )
    return extract.run(config, Session(store=store)).path, train, test


def head_of(ref: Any, run: int = 0) -> tuple[Any, Any]:
    tensors = load_file(ref.path / "data" / "heads.safetensors")
    return tensors[f"run_{run:04d}.classifier.weight"], tensors[f"run_{run:04d}.classifier.bias"]


def gradient(x: Any, y: Any, weight: Any, bias: Any, C: float) -> Any:
    """Of C * sum of cross-entropies + |W|² / 2 with respect to W, in float64."""
    logits = x.astype(np.float64) @ weight.astype(np.float64).T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return C * p.T @ x.astype(np.float64) + weight


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_it_is_the_optimum(pixels: Given, store: Path, C: float) -> None:
    x, y = digit_splits()["train"]
    ref = tune(store, pixels.features, method="lp", solver="lbfgs", C=C)
    weight, bias = head_of(ref)
    # scikit-learn stops where no component of the mean loss's gradient is above 1e-4
    steepness = [
        np.abs(gradient(x, y, w, b, C)).max() / (C * len(y)) for w, b in ((weight, bias), (0 * weight, 0 * bias))
    ]
    assert steepness[0] < 1.01e-4
    assert steepness[1] > 1e-2
    row = results(ref)[0]
    assert (row["optimizer"], row["C"], row["lr"], row["loss"]) == ("lbfgs", C, None, "ce")
    assert row["converged"]
    assert 0 < row["iterations"] < 1000


def test_two_classes_are_scikit_learns_one_vector(store: Path) -> None:
    splits = {k: (x[y < 2], y[y < 2]) for k, (x, y) in digit_splits().items()}
    splits["train"][1][::5] = 1 - splits["train"][1][::5]  # so that probabilities are not all 0 and 1
    reference = LogisticRegression(C=0.1).fit(*splits["train"])
    ref = tune(store, write_features(store, splits, ["a", "b"]), method="lp", solver="lbfgs", C=0.1)
    expected = reference.predict_proba(splits["test"][0]).max(1)
    np.testing.assert_allclose(table(ref, "predictions.parquet")["confidence"], expected, atol=1e-4)


def test_a_class_without_training_rows_is_never_predicted(store: Path) -> None:
    splits = digit_splits()
    x, y = splits["train"]
    ref = tune(store, write_features(store, {**splits, "train": (x[y != 4], y[y != 4])}), method="lp", solver="lbfgs")
    found = table(ref, "predictions.parquet")
    assert 4 not in found["predicted"]
    assert np.isfinite(found["confidence"]).all()
    assert np.isfinite(head_of(ref)[1]).all()


def test_too_few_iterations_are_told(pixels: Given, store: Path) -> None:
    notes = Notes()
    row = results(tune(store, pixels.features, notes, method="lp", solver="lbfgs", C=(1e3,), max_iter=3))[0]
    assert not row["converged"]
    assert any("1 of 1 runs did not converge in 3 iterations (lp, lbfgs, seed 0, C 1000)" in w for w in notes.warnings)


def test_seeds_that_see_the_same_rows_are_solved_once(
    pixels: Given, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve, calls = lbfgs.solve, []
    monkeypatch.setattr(lbfgs, "solve", lambda *a: calls.append(a[3].words()) or solve(*a))
    ref = tune(store, pixels.features, method="lp", solver="lbfgs", seeds=(0, 1, 2), fraction=(0.5, 1.0), C=(0.1, 1.0))
    rows = results(ref)
    assert len(rows) == 12
    assert len(calls) == 3 * 2 + 2
    whole = {(r["C"], r["accuracy"]) for r in rows if r["fraction"] == 1.0}
    assert len(whole) == 2


@pytest.mark.parametrize(("rows", "dim"), [(60, 1), (11, 64), (3, 64)])
def test_one_dimension_and_fewer_rows_than_dimensions(store: Path, rows: int, dim: int) -> None:
    splits = {k: (x[:, 20 : 20 + dim], y) for k, (x, y) in digit_splits(rows, 40).items()}
    row = results(tune(store, write_features(store, splits), method="lp", solver="lbfgs"))[0]
    assert row["n_train"] == rows
    assert np.isfinite(row["accuracy"])


def test_both_solvers_in_one_call(pixels: Given, store: Path) -> None:
    rows = results(tune(store, pixels.features, method="lp", solver=("adamw", "lbfgs"), epochs=2))
    assert [r["optimizer"] for r in rows] == ["adamw", "lbfgs"]
    assert [r["C"] for r in rows] == [None, 1.0]


def test_refusals(pixels: Given, store: Path) -> None:
    with pytest.raises(UsageError, match="--solver lbfgs with --loss gce"):
        tune(store, pixels.features, method="lp", solver="lbfgs", loss=("ce", "gce"))
    with pytest.raises(UsageError, match="--C has 0; expected above 0"):
        tune(store, pixels.features, method="lp", solver="lbfgs", C=0.0)
    with pytest.raises(UsageError, match="--max-iter has 0"):
        tune(store, pixels.features, method="lp", solver="lbfgs", max_iter=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sign_digits", "pacs", "cifar10"])
def test_accuracy_is_scikit_learns_on_real_features(
    real_data: Callable[[str], Path], real_weights: Path, tmp_path: Path, name: str
) -> None:
    """MobileNetV2 at 96 pixels: within 0.2 points of LogisticRegression called by itself on the same features."""
    features, train, test = real_features(real_data(name), real_weights, tmp_path, name)
    artifact = open_artifact(features, "features")
    tables = [read_features(artifact, split) for split in (train, test)]
    (x, y), (asked, truth) = ((t.features.astype(np.float64), t.labels.values) for t in tables)
    reference = LogisticRegression(C=0.1, max_iter=1000).fit(x, y)
    ref = tune(tmp_path, features, method="lp", solver="lbfgs", C=0.1, train=train, test=test)
    row = results(ref)[0]
    assert row["converged"]
    assert abs(row["accuracy"] - reference.score(asked, truth)) <= 0.002
    assert row["accuracy"] > 0.6
