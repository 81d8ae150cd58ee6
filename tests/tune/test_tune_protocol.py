"""The protocol that features ask for, the measure that counts, scores by class: in key, tables and report."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Given
from sklearn.metrics import precision_recall_fscore_support
from tune_samples import results, table, tune

from nmtool.artifact.open import open_artifact
from nmtool.data.suites.metric import metric_of_suite
from nmtool.errors import UsageError
from nmtool.tune import task
from nmtool.tune.axes import axes
from nmtool.tune.config import Config
from nmtool.tune.inputs import Inputs, Source, resolve


@pytest.mark.parametrize(
    ("suite", "metric"),
    [
        ("glue/cola", "matthews"),
        ("glue/stsb", "pearson"),
        ("glue/sst2", "accuracy"),
        ("flowers102", "mean per class"),
        ("pets", "mean per class"),
        ("aircraft", "mean per class"),
        ("caltech101", "mean per class"),
        ("cifar10", "accuracy"),
        ("domainnet/real", "accuracy"),
    ],
)
def test_the_papers_measure_of_a_suite(suite: str, metric: str) -> None:
    assert metric_of_suite(suite) == metric


def of(given: Given, **changes: Any) -> tuple[Config, Inputs]:
    """A call's settings and inputs, the manifest of its features changed."""
    config = Config(features=str(given.features.path), method=("lp", "mlp"))
    found = resolve(config)
    manifest = dataclasses.replace(found.train.artifact.manifest, **changes)
    artifact = dataclasses.replace(found.train.artifact, manifest=manifest)
    return config, dataclasses.replace(found, train=dataclasses.replace(found.train, artifact=artifact))


def test_the_suite_of_the_features_says_what_counts(encoded: Given) -> None:
    config, found = of(encoded, origin={"data": "suite:glue/cola"})
    assert task.metric_of(config, found) == "matthews"
    assert task.metric_of(dataclasses.replace(config, metric="macro_f1"), found) == "macro_f1"
    # a measure of numbers does not fit classes
    assert task.metric_of(*of(encoded, origin={"data": "suite:glue/stsb"})) == "accuracy"
    assert task.metric_of(*of(encoded, origin={"data": "folder:somewhere"})) == "accuracy"


def test_texts_have_a_protocol_of_their_own(encoded: Given, pixels: Given) -> None:
    """NMTune A.2, B.2: 10 epochs, a linear schedule; what is spelled out wins, and has the same key."""
    config, found = of(encoded)
    recipe = found.train.artifact.manifest.recipe
    text = {**recipe, "config": {**recipe["config"], "encoder": {**found.train.encoder, "tower": "text"}}}
    config, found = of(encoded, recipe=text)
    lists = axes(task.settled(config, found), found.dim)
    assert {(tuple(v["epochs"]), tuple(v["schedule"])) for v in lists.values()} == {((10,), ("linear",))}
    spelled = dataclasses.replace(config, epochs=(10,), schedule=("linear",), loss=("ce",))
    assert axes(task.settled(spelled, found), found.dim) == lists
    own = axes(task.settled(dataclasses.replace(config, epochs=(3,)), found), found.dim)["lp/ce"]
    assert (own["epochs"], own["schedule"]) == ([3], ["linear"])
    released = axes(task.settled(dataclasses.replace(config, preset="released"), found), found.dim)["lp/ce"]
    assert (released["epochs"], released["schedule"]) == ([30], ["cosine"])
    for given in (encoded, pixels):
        plain = axes(task.settled(*of(given)), 8)["lp/ce"]
        assert (plain["epochs"], plain["schedule"]) == ([30], ["cosine"])


def test_the_measure_is_a_column_and_in_the_key(pixels: Given, store: Path) -> None:
    plain = tune(store, pixels.features, epochs=1)
    same = tune(store, pixels.features, epochs=1, metric="accuracy")
    other = tune(store, pixels.features, epochs=1, metric="matthews")
    assert plain.key == same.key
    assert plain.key != other.key
    for ref, name in ((plain, "accuracy"), (other, "matthews")):
        row = results(ref)[0]
        assert (row["metric"], row["metric_value"]) == (name, row[name])
    with pytest.raises(UsageError, match="--metric pearson on"):
        tune(store, pixels.features, epochs=1, metric="pearson")


def test_scores_by_class_are_scikit_learns(pixels: Given, store: Path) -> None:
    ref = tune(store, pixels.features, method=("lp", "knn"), epochs=2, ood=(f"{pixels.features.path}:test",))
    predictions, found = table(ref, "predictions.parquet"), table(ref, "per_class.parquet")
    assert len(found["run"]) == 2 * 2 * 10
    for run in (0, 1):
        for role in ("id", "ood"):
            mine = (predictions["run"] == run) & (np.array(predictions["role"]) == role)
            there = (np.array(found["run"]) == run) & (np.array(found["role"]) == role)
            precision, recall, f1, n = precision_recall_fscore_support(
                predictions["label"][mine], predictions["predicted"][mine], labels=range(10), zero_division=np.nan
            )
            for name, theirs in (("precision", precision), ("recall", recall), ("f1", f1), ("n", n)):
                values = np.array([np.nan if v is None else v for v in found[name]], dtype=float)
                np.testing.assert_allclose(values[there], theirs, err_msg=name)
    assert not open_artifact(tune(store, pixels.features, epochs=2, predictions=False).path).has("per_class.parquet")


def test_the_report_is_of_the_measure_that_counts(pixels: Given, ok: Callable[..., Any], tmp_path: Path) -> None:
    features = tmp_path / "features"
    shutil.copytree(pixels.features.path, features)
    ok("tune", features, "--method", "lp,knn", "--epochs", "2", "--metric", "matthews", "-o", "heads")
    ok("report", "heads", "--format", "markdown", "-o", "report")
    page = (tmp_path / "report" / "data" / "report.md").read_text()
    assert "**Matthews, trained on" in page
    assert "| ID accuracy |" in page
    assert "**By class, trained on" in page
    assert "lp, ce: recall" in page


def test_a_source_without_a_record_is_no_text(pixels: Given) -> None:
    source = Source(artifact=open_artifact(pixels.features.path), split="train", shown="x", classes=())
    assert source.encoder == {}
    assert not source.real
