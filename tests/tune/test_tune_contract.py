"""What every method of the table must do, by being listed there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Given
from safetensors.torch import load_file
from tune_samples import digit_splits, results, table, tune, write_features, write_labels

from nmtool.artifact.open import open_artifact
from nmtool.errors import DataError, UsageError
from nmtool.tune.method import METHODS, method_named

every_method = pytest.mark.parametrize("method", METHODS)
# What features alone can show; the others go through these with images in their own tests.
on_features = pytest.mark.parametrize("method", [m for m, r in METHODS.items() if r.needs <= {"features"}])
# What is fitted to features alone, and searched: a classifier that plain PyTorch can load.
fitted = pytest.mark.parametrize("method", [m for m, r in METHODS.items() if r.fit])
FEW: dict[str, Any] = {"epochs": 3, "probe_epochs": 6, "fft_epochs": 2, "batch_size": 50, "fft_batch_size": 32}


@every_method
def test_shapes_scores_and_predictions(method: str, given: Given, store: Path) -> None:
    ref = tune(store, given.features, method=method, seeds=(0, 1), labels=str(given.labels.path), **FEW)
    rows = results(ref)
    each = range(2 if method_named(method).drawn else 1)
    assert [(r["run"], r["seed"], r["role"], r["split"]) for r in rows] == [(k, k, "id", "test") for k in each]
    predictions = table(ref, "predictions.parquet")
    for row in rows:
        mine = predictions["run"] == row["run"]
        assert mine.sum() == row["n"]
        right = predictions["label"][mine] == predictions["predicted"][mine]
        assert row["accuracy"] == pytest.approx(right.mean())
        assert row["best_accuracy"] >= row["accuracy"] - 1e-12
        assert 0 <= row["lsvr"] <= row["sve"]
        assert row["noise_ratio"] == pytest.approx(0.4, abs=0.01)
    assert np.all((predictions["confidence"] > 0) & (predictions["confidence"] <= 1))
    shown = ref.summary["results"]
    assert isinstance(shown, list)
    assert [r["accuracy"] for r in shown] == [r["accuracy"] for r in rows]
    assert {r["source"] for r in shown} == {str(given.features.path)}


@every_method
def test_no_path_in_the_payload(method: str, given: Given, store: Path) -> None:
    ref = tune(store, given.features, method=method, **FEW)
    for file in (ref.path / "data").rglob("*"):
        if file.is_file():
            assert str(store.parent).encode() not in file.read_bytes()


@every_method
def test_the_same_seed_gives_the_same_content_and_another_does_not(method: str, given: Given, tmp_path: Path) -> None:
    contents = [
        tune(tmp_path / name, given.features, method=method, seed=seed, **FEW).content
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@fitted
def test_the_head_loads_in_plain_torch(method: str, given: Given, store: Path) -> None:
    """Ten lines of PyTorch, no nmtool, give the predictions that are on record."""
    ref = tune(store, given.features, method=method, scale=("standardize",), batch_norm=True, residual=True, **FEW)
    tensors = load_file(ref.path / "data" / "heads.safetensors")
    head = {k.removeprefix("run_0000."): v for k, v in tensors.items()}
    x = torch.from_numpy(digit_splits()["test"][0])
    x = (x - head["scale.mean"]) / head["scale.std"]
    z = x
    if "mlp.0.weight" in head:
        h = torch.nn.functional.linear(x, head["mlp.0.weight"], head["mlp.0.bias"])
        h = torch.nn.functional.batch_norm(
            h, head["norm.0.mean"], head["norm.0.var"], head["norm.0.scale"], head["norm.0.bias"]
        )
        z = head["residual.scale"] * torch.nn.functional.linear(h.relu(), head["mlp.1.weight"], head["mlp.1.bias"]) + x
    logits = torch.nn.functional.linear(z, head["classifier.weight"], head["classifier.bias"])
    found = table(ref, "predictions.parquet")
    assert np.mean(found["predicted"] == logits.argmax(1).numpy()) > 0.995  # ties of float32 aside
    np.testing.assert_allclose(found["confidence"], logits.softmax(1).max(1).values.numpy(), atol=1e-4)


@every_method
def test_the_header_of_the_heads_says_what_a_reader_needs(method: str, given: Given, store: Path) -> None:
    ref = tune(store, given.features, method=method, **FEW)
    data = (ref.path / "data" / "heads.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    meta = json.loads(header["__metadata__"]["nmtool"])
    assert len(header["__metadata__"]) == 1  # several keys would be written in any order
    assert len(meta["classes"]) == 10
    assert meta["runs"]["run_0000"]["method"] == method
    if method == "knn":  # which rows vote, and for what
        assert header["run_0000.neighbours.rows"]["shape"] == header["run_0000.neighbours.labels"]["shape"] == [500]
    else:
        assert header["run_0000.classifier.weight"]["shape"] == [10, meta["dim"]]


@on_features
def test_one_class_is_refused(method: str, given: Given, store: Path) -> None:
    splits = digit_splits()
    features = write_features(store, {k: (x[y == 3], y[y == 3]) for k, (x, y) in splits.items()})
    with pytest.raises(DataError, match=r"trains on 1 class \(three\).*at least two"):
        tune(store, features, method=method, **FEW)


@on_features
def test_marked_rows_take_no_part(method: str, given: Given, store: Path) -> None:
    features = write_features(store, digit_splits(), bad={"train": [0, 7, 8], "test": [5]})
    ref = tune(store, features, method=method, **FEW)
    row = results(ref)[0]
    assert (row["n_train"], row["n"]) == (497, 399)
    assert "test/00005" not in table(ref, "predictions.parquet")["sample"]
    train = ref.summary["train"]
    assert isinstance(train, dict)
    assert train["excluded"] == 3


@on_features
def test_unmarked_nan_is_refused(method: str, given: Given, store: Path) -> None:
    splits = digit_splits()
    splits["train"][0][4, 2] = np.nan
    with pytest.raises(DataError, match=r"1 rows of split train .* not finite .*train/00004"):
        tune(store, write_features(store, splits), method=method, **FEW)


@on_features
def test_a_class_absent_from_test(method: str, given: Given, store: Path) -> None:
    splits = digit_splits()
    x, y = splits["test"]
    features = write_features(store, {**splits, "test": (x[y != 6], y[y != 6])})
    row = results(tune(store, features, method=method, **FEW))[0]
    assert row["n"] == int((y != 6).sum())
    assert 0 <= row["mean_per_class"] <= 1


@on_features
@pytest.mark.parametrize(("rows", "dim"), [(60, 1), (11, 64), (3, 64)])
def test_one_dimension_and_fewer_rows_than_dimensions(
    method: str, given: Given, store: Path, rows: int, dim: int
) -> None:
    splits = {k: (x[:, 20 : 20 + dim], y) for k, (x, y) in digit_splits(rows, 40).items()}
    row = results(tune(store, write_features(store, splits), method=method, **FEW))[0]
    assert row["n_train"] == rows
    assert np.isfinite(row["accuracy"])


@on_features
def test_a_last_batch_of_one_row(method: str, given: Given, store: Path) -> None:
    features = write_features(store, digit_splits(51, 40))
    ref = tune(store, features, method=method, batch_norm=True, **FEW)
    assert results(ref)[0]["n_train"] == 51


@on_features
def test_unlabelled_rows_take_no_part(method: str, given: Given, store: Path) -> None:
    splits = digit_splits()
    splits["train"][1][:100] = -1
    assert results(tune(store, write_features(store, splits), method=method, **FEW))[0]["n_train"] == 400


@on_features
def test_labels_of_another_dataset_are_refused(method: str, given: Given, store: Path) -> None:
    clean = digit_splits()["train"][1]
    shifted = (clean + 1) % 10
    wrong = write_labels(store, "train", shifted, shifted)
    with pytest.raises(DataError, match="another clean label"):
        tune(store, given.features, method=method, labels=str(wrong.path), **FEW)
    short = write_labels(store, "train", clean[:50], clean[:50])
    with pytest.raises(DataError, match=r"450 of 500 samples .* have no label"):
        tune(store, given.features, method=method, labels=str(short.path), **FEW)
    other = write_labels(store, "train", clean, clean, classes=[f"c{i}" for i in range(10)])
    with pytest.raises(DataError, match=r"the labels are for 10 classes"):
        tune(store, given.features, method=method, labels=str(other.path), **FEW)


@every_method
def test_the_table_is_whole(method: str) -> None:
    record = method_named(method)
    assert record.needs <= {"features", "images", "backbone", "towers"}
    assert callable(record.resolve())
    assert not record.fit or callable(record.resolve_fit())
    with pytest.raises(UsageError, match=f"did you mean {method}"):
        method_named(method + "e")


@every_method
def test_content_is_sealed(method: str, given: Given, store: Path) -> None:
    ref = tune(store, given.features, method=method, predictions=False, spectra=False, **FEW)
    artifact = open_artifact(ref.path, "heads")
    assert not artifact.has("predictions.parquet")
    assert results(ref)[0]["sve"] is None
