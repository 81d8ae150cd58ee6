"""``nmtool predict``: what is on record, bit for bit; of new data extracted alike; refused for another encoder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

RUN = ("--epochs", "3", "--seeds", "0,1", "--width", "1", "--k", "1,20", "--device", "cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pixels of digits as ready-made features, with names, and one unlabelled row."""
    folder = tmp_path_factory.mktemp("digits")
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    names = np.array([f"digit {c}" for c in range(10)])
    unlabelled = y[300:500].copy()
    unlabelled[7] = -1
    np.savez(folder / "d.npz", X_train=X[:300], y_train=y[:300], X_test=X[300:500], y_test=y[300:500], classes=names)
    np.savez(folder / "new.npz", X_new=X[300:500], y_new=unlabelled, classes=names)
    np.savez(folder / "narrow.npz", X_test=X[300:500, :9], y_test=y[300:500], classes=names)
    return folder


def table(path: Path) -> dict[str, Any]:
    return {name: column.to_numpy() for name, column in zip(*_columns(path), strict=True)}


def _columns(path: Path) -> tuple[list[str], list[Any]]:
    found = pq.read_table(path, use_threads=False)
    return found.column_names, found.columns


def test_predictions_are_those_on_record(ok: Callable, digits: Path, tmp_path: Path) -> None:
    """Every method on features and every scaling, run by run, bit for bit."""
    features = ok("extract", "none", f"arrays:{digits / 'd.npz'}").path
    every = ("--method", "lp,mlp,nmtune,knn", "--scale", "none,l2,standardize", "--preset", "released")
    heads = ok("tune", features, *every, *RUN).path
    solved = ok("tune", features, "--method", "lp", "--solver", "lbfgs", "--device", "cpu").path
    for made in (heads, solved):
        ran = ok("predict", made, f"{features}:test", "-o", "p.parquet", "--device", "cpu")
        assert ran.out == "p.parquet\n"
        ours, theirs = table(tmp_path / "p.parquet"), table(tmp_path / made / "data" / "predictions.parquet")
        for name in ("run", "sample", "split", "label", "predicted", "confidence"):
            assert np.array_equal(ours[name], theirs[name]), name
        assert list(ours["predicted_class"][:3]) == [f"digit {c}" for c in ours["predicted"][:3]]


def test_predictions_of_methods_under_label_noise_are_those_on_record(
    ok: Callable, nmtool: Callable, digits: Path, tmp_path: Path
) -> None:
    """Pairs of heads, remembered targets, heads on what a cleansing left; and a refusal where a backbone was tuned."""
    features = ok("extract", "none", f"arrays:{digits / 'd.npz'}").path
    noisy = ok("inject-noise", f"arrays:{digits / 'd.npz'}", "--type", "symmetric", "--ratio", "0.4").path
    every = ("--method", "elr,dividemix,unicon,lp,nmtune", "--cleanse", "once,each", "--probe-epochs", "5")
    heads = ok("tune", features, "--labels", noisy, *every, *RUN[:4], "--device", "cpu").path
    ok("predict", heads, f"{features}:test", "-o", "p.parquet", "--device", "cpu")
    ours, theirs = table(tmp_path / "p.parquet"), table(tmp_path / heads / "data" / "predictions.parquet")
    assert set(ours["run"]) == set(range(14))
    for name in ("run", "sample", "split", "label", "predicted", "confidence"):
        assert np.array_equal(ours[name], theirs[name]), name


def test_probabilities_and_json(ok: Callable, digits: Path, tmp_path: Path) -> None:
    features = ok("extract", "none", f"arrays:{digits / 'd.npz'}").path
    heads = ok("tune", features, "--method", "lp,knn", *RUN).path
    body = ok(
        "predict", heads, features, "-o", "p.parquet", "--run", "1,3", "--split", "test", "--probabilities", "--json"
    ).json
    assert (body["runs"], body["rows"], body["file"]) == ([1, 3], 400, "p.parquet")
    found = table(tmp_path / "p.parquet")
    shares = np.stack(found["probabilities"])
    assert shares.shape == (400, 10)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(shares.max(1), found["confidence"], atol=1e-6)
    for score in body["results"]:
        mine = found["run"] == score["run"]
        assert score["accuracy"] == pytest.approx(np.mean(found["predicted"][mine] == found["label"][mine]))


def test_data_are_extracted_as_the_heads_own_were(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    """Images through an encoder with settings of its own; a second time it is a hit."""
    X, y = load_digits(return_X_y=True)
    pixels = (X.reshape(-1, 8, 8) * 15.9).astype(np.uint8)
    parts = {"X_train": pixels[:60], "y_train": y[:60], "X_test": pixels[60:90], "y_test": y[60:90]}
    np.savez(tmp_path / "first.npz", **parts)
    np.savez(tmp_path / "second.npz", X_new=pixels[60:90], y_new=y[60:90])
    model = ("timm:test_resnet", "--untrained", "--seed", "3", "--image-size", "48", "--device", "cpu")
    features = ok("extract", *model[:1], "arrays:first.npz", *model[1:]).path
    heads = ok("tune", features, "--method", "lp,knn", *RUN).path
    body = ok("predict", heads, "arrays:second.npz", "-o", "new.parquet", "--device", "cpu", "--json").json
    assert body["rows"] == 30 * 2 * 3
    ok("predict", heads, f"{features}:test", "-o", "old.parquet", "--device", "cpu")
    new, old = table(tmp_path / "new.parquet"), table(tmp_path / "old.parquet")
    assert set(new["split"]) == {"new"}
    assert np.mean(new["predicted"] == old["predicted"]) > 0.98  # other batches in the encoder: rounding
    np.testing.assert_allclose(new["confidence"], old["confidence"], atol=1e-3)
    again = ok("predict", heads, "arrays:second.npz", "-o", "new.parquet", "--device", "cpu")
    assert "encoded" not in again.err
    same = ("timm:test_resnet", "arrays:second.npz", "--untrained", "--image-size", "48", "--device", "cpu")
    other = ok("extract", *same, "--seed", "4").path
    refused = nmtool("predict", heads, other, "-o", "other.parquet")
    assert refused.code == 65
    assert "another encoder" in refused.err


def test_lists_may_be_given_in_parts(ok: Callable, digits: Path, tmp_path: Path) -> None:
    features = ok("extract", "none", f"arrays:{digits / 'd.npz'}").path
    heads = ok("tune", features, "--method", "lp", "--epochs", "1", "--seeds", "0,1,2", "--device", "cpu").path
    parts = ("--run", "0", "--run", "2", "--split", "train", "--split", "test")
    told = ok("predict", heads, features, *parts, "-o", "p.parquet", "--device", "cpu", "--json").json
    assert told["runs"] == [0, 2]
    assert {row["split"] for row in told["results"]} == {"train", "test"}


def test_a_name_that_would_lie_is_refused(nmtool: Callable, tmp_path: Path) -> None:
    ran = nmtool("predict", "heads", "digits", "-o", "p.csv")
    assert (ran.code, ran.out) == (2, "")
    assert ".parquet" in ran.err
    assert not (tmp_path / "p.csv").exists()


def test_refusals(ok: Callable, nmtool: Callable, digits: Path, tmp_path: Path) -> None:
    features = ok("extract", "none", f"arrays:{digits / 'd.npz'}").path
    narrow = ok("extract", "none", f"arrays:{digits / 'narrow.npz'}").path
    images = ok("extract", "timm:test_resnet", "digits", "--untrained", "--split", "test", "--device", "cpu").path
    heads = ok("tune", features, "--method", "lp,knn", *RUN).path
    (tmp_path / "folder").mkdir()
    for argv, code, words in (
        ((heads, images), 65, "was extracted by another encoder or preprocessing (test_resnet"),
        ((heads, narrow), 65, "has 9 dimensions; expected 64"),
        ((heads, "nowhere"), 66, "nowhere does not exist"),
        ((heads, features, "--run", "9"), 66, "has no run 9; expected 0 to 5"),
        ((heads, features, "--run", "best"), 2, "--run is 'best'"),
        ((heads, features, "--split", "nope"), 66, "has no split nope; expected one of test, train"),
        ((heads, f"{features}:test", "--split", "train"), 2, "names a split"),
        ((features, features), 65, "is a features artifact"),
        ((heads, features, "-o", "folder"), 73, "folder is a folder"),
        ((heads, features, "-o", "no/such/p.parquet"), 73, "no/such is no folder"),
        ((heads, features, "--trained-on", narrow), 65, "holds other features"),
        ((heads, "digits"), 2, "MODEL none with images in digits"),
    ):
        given = argv if "-o" in argv else (*argv, "-o", "p.parquet")
        ran = nmtool("predict", *given)
        assert (ran.code, ran.out) == (code, ""), ran.err
        assert words in ran.err, ran.err
        assert "Traceback" not in ran.err
    assert not (tmp_path / "p.parquet").exists()


def test_knn_finds_its_features_where_they_are_now(
    ok: Callable, nmtool: Callable, digits: Path, tmp_path: Path
) -> None:
    features = ok("extract", "none", f"arrays:{digits / 'd.npz'}", "-o", "f").path
    asked = ok("extract", "none", f"arrays:{digits / 'new.npz'}", "-o", "asked").path
    heads = ok("tune", features, "--method", "knn", "--device", "cpu").path
    shutil.move(tmp_path / features, tmp_path / "moved")
    ran = nmtool("predict", heads, asked, "-o", "p.parquet")
    assert ran.code == 66
    assert "--trained-on" in ran.err
    ok("predict", heads, asked, "-o", "p.parquet", "--trained-on", "moved", "--device", "cpu")
    found, stored = table(tmp_path / "p.parquet"), table(tmp_path / heads / "data" / "predictions.parquet")
    assert np.array_equal(found["predicted"], stored["predicted"])
    assert found["label"][7] == -1


def test_rows_without_features_are_left_out_and_told(ok: Callable, digits: Path, tmp_path: Path) -> None:
    with np.load(digits / "new.npz") as whole:
        X = whole["X_new"].copy()
        X[4, 2] = np.nan
        np.savez(tmp_path / "bad.npz", X_new=X, y_new=whole["y_new"], classes=whole["classes"])
    features = ok("extract", "none", f"arrays:{digits / 'd.npz'}").path
    heads = ok("tune", features, "--method", "lp", *RUN).path
    bad = ok("extract", "none", "arrays:bad.npz", "--on-error", "skip").path
    ran = ok("predict", heads, bad, "-o", "p.parquet", "--run", "0")
    assert "1 rows of" in ran.err
    found = table(tmp_path / "p.parquet")
    assert len(found["run"]) == 199
    assert "new/000004" not in set(found["sample"])
