"""``spectrum`` through the real command line, against numpy's own SVD of the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def features(ok: Callable, tmp_path: Path) -> np.ndarray:
    X = np.random.default_rng(0).normal(size=(500, 20)).astype(np.float32) * np.linspace(5, 0.1, 20, dtype=np.float32)
    X[:, 19] = X[:, 18]  # one dimension less than it looks
    np.savez(tmp_path / "x.npz", X_train=X, y_train=np.arange(500) % 3, X_test=X[:30], y_test=np.arange(30) % 3)
    ok("extract", "none", "arrays:x.npz", "-o", "features")
    return X


@pytest.mark.parametrize("preprocess", ["raw", "center", "l2", "l2_rowcenter"])
def test_against_numpy(ok: Callable, features: np.ndarray, tmp_path: Path, preprocess: str) -> None:
    body = ok("spectrum", "features:train", "--preprocess", preprocess, "-o", "s", "--json").json
    X = features.astype(np.float64)
    if preprocess == "center":
        X = X - X.mean(0)
    if preprocess.startswith("l2"):
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
    if preprocess == "l2_rowcenter":
        X = X - X.mean(1, keepdims=True)
    sigma = np.linalg.svd(X, compute_uv=False)
    p = sigma / sigma.sum()
    p = p[p > 0]
    (result,) = body["results"]
    assert result["sve"] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-9)
    assert result["lsvr"] == pytest.approx(-np.log(p.max()), abs=1e-9)
    assert (result["n"], result["dim"], result["split"], result["source"]) == (500, 20, "train", "features")
    # float32 features: the doubled column leaves a value that is rounding alone
    assert result["rank"] == {"raw": 19, "center": 19, "l2": 19, "l2_rowcenter": 18}[preprocess]
    np.testing.assert_allclose(np.load(tmp_path / "s/data/sigma.npy"), sigma, atol=1e-6)


def test_all_splits_and_several_preprocessings(ok: Callable, features: np.ndarray, tmp_path: Path) -> None:
    body = ok("spectrum", "features", "--preprocess", "raw,l2", "-o", "s", "--json").json
    assert [(r["split"], r["preprocess"]) for r in body["results"]] == [
        ("test", "raw"), ("test", "l2"), ("train", "raw"), ("train", "l2"),
    ]  # fmt: skip
    payload = json.loads((tmp_path / "s/data/spectrum.json").read_text())["results"]
    assert [r["sigma"] for r in payload] == [f"sigma-{i}.npy" for i in range(4)]
    assert str(tmp_path) not in (tmp_path / "s/data/spectrum.json").read_text()


def test_zero_features_and_missing_splits(nmtool: Callable, ok: Callable, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X_train=np.zeros((10, 3), np.float32), y_train=np.arange(10) % 2)
    ok("extract", "none", "arrays:x.npz", "-o", "features")
    ran = nmtool("spectrum", "features")
    assert ran.code == 65, ran.err
    assert "zero" in ran.err
    ran = nmtool("spectrum", "features:nope")
    assert ran.code == 66, ran.err
    assert "train" in ran.err


def test_a_weights_file_gives_no_path_to_the_name(ok: Callable, tmp_path: Path, real_weights: Path) -> None:
    weights = next(real_weights.glob("mobilenetv1*.safetensors"))
    model = ("--arch", "mobilenetv1_100", "--model-kwargs", "channel_multiplier=0.25", "--image-size", "32")
    ok("extract", str(weights), "digits", "--split", "test", *model, "-o", "features")
    assert Path(ok("spectrum", "features").path).name.startswith("mobilenetv1_100-")
