"""``--cleanse`` of heads on features: the probe's losses, the mixtures, and what the head is then trained on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Given
from safetensors.numpy import load_file
from sklearn.mixture import GaussianMixture
from tune_samples import Notes, digit_splits, results, table, tune, write_features, write_labels

from nmtool.artifact.open import open_artifact
from nmtool.artifact.typed import read_labels
from nmtool.numerics.seeds import torch_seed
from nmtool.tune import axes, plan
from nmtool.tune.config import Config

FEW: dict[str, Any] = {"epochs": 3, "probe_epochs": 8, "batch_size": 50, "spectra": False, "width": 1}
on_rows = pytest.mark.parametrize("method", ["lp", "mlp", "nmtune"])


def noisy_of(given: Given) -> Any:
    return read_labels(open_artifact(given.labels.path, "labels")).noisy


def test_the_table_is_that_of_a_probe_and_of_mixtures(pixels: Given, store: Path) -> None:
    """An ordinary GCE probe of the same settings, PyTorch's cross-entropy, scikit-learn's mixture a class."""
    labels = str(pixels.labels.path)
    found = table(
        tune(store, pixels.features, method="nmtune", cleanse="once", labels=labels, **FEW), "cleansing.parquet"
    )
    probe = tune(store, pixels.features, method="lp", loss="gce", labels=labels, **{**FEW, "epochs": 8})
    head = {k: torch.from_numpy(v) for k, v in load_file(probe.path / "data" / "heads.safetensors").items()}
    x = torch.nn.functional.normalize(torch.from_numpy(digit_splits()["train"][0]))
    y = torch.from_numpy(np.array(noisy_of(pixels)))
    logits = torch.nn.functional.linear(x, head["run_0000.classifier.weight"], head["run_0000.classifier.bias"])
    expected = torch.nn.functional.cross_entropy(logits, y, reduction="none").numpy()
    np.testing.assert_allclose(found["loss"], expected, atol=1e-4)
    assert np.array_equal(found["row"], np.arange(500))
    for c in range(10):
        mine = found["noisy"] == c
        values = found["loss"][mine]
        values = ((values - values.min()) / (values.max() - values.min())).reshape(-1, 1)
        seed = torch_seed(0, "tune", "cleanse", 1) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = GaussianMixture(2, max_iter=20, tol=1e-2, reg_covar=5e-4, random_state=seed).fit(values)
        posterior = model.predict_proba(values)[:, model.means_.ravel().argmin()]
        np.testing.assert_allclose(found["posterior"][mine], posterior, atol=1e-10)
    assert np.array_equal(found["selected"], found["posterior"] > 0.6)
    assert np.array_equal(found["drawn"], found["selected"])  # no class was empty


@on_rows
def test_the_head_is_that_of_the_clean_rows_alone(pixels: Given, store: Path, method: str) -> None:
    """As trained on an artifact that has only those rows, with the noisy labels as its own."""
    labels = str(pixels.labels.path)
    common: dict[str, Any] = {"method": method, "scale": "l2", "lr": 1e-2, **FEW}
    cleansed = tune(store, pixels.features, cleanse="once", labels=labels, **common)
    kept = table(cleansed, "cleansing.parquet")["drawn"]
    splits = digit_splits()
    own = write_features(store, {**splits, "train": (splits["train"][0][kept], noisy_of(pixels)[kept])})
    alone = tune(store, own, **common)
    mine, theirs = (load_file(ref.path / "data" / "heads.safetensors") for ref in (cleansed, alone))
    for name, tensor in theirs.items():
        np.testing.assert_allclose(mine[name], tensor, atol=2e-4 * np.abs(tensor).max())
    row = results(cleansed)[0]
    assert (row["cleanse"], row["tau"], row["probe_loss"], row["probe_epochs"]) == ("once", 0.6, "gce", 8)
    assert (row["n_train"], row["selected_last"], row["drawn_last"]) == (500, int(kept.sum()), int(kept.sum()))
    clean = splits["train"][1]
    right = noisy_of(pixels) == clean
    assert row["purity_last"] == pytest.approx(right[kept].mean())
    assert row["recall_last"] == pytest.approx((kept & right).sum() / right.sum())


@on_rows
def test_each_epoch_has_its_round(pixels: Given, store: Path, method: str) -> None:
    labels = str(pixels.labels.path)
    ref = tune(store, pixels.features, method=method, cleanse="each", labels=labels, seeds=(0, 1), **FEW)
    found = table(ref, "cleansing.parquet")
    assert sorted({*zip(found["run"].tolist(), found["round"].tolist(), strict=True)}) == [
        (run, number) for run in (0, 1) for number in (1, 2, 3)
    ]
    losses = [found["loss"][(found["run"] == 0) & (found["round"] == n)] for n in (1, 2, 3)]
    assert not np.allclose(losses[0], losses[1])
    assert not np.allclose(losses[1], losses[2])


def test_runs_with_one_probe_share_it_and_are_what_they_are_alone(pixels: Given, tmp_path: Path) -> None:
    labels = str(pixels.labels.path)
    common: dict[str, Any] = {"method": "lp", "cleanse": "once", "labels": labels, "fraction": (0.5,), **FEW}
    both = tune(tmp_path / "a", pixels.features, lr=(1e-3, 1e-2), seeds=(0, 1), **common)
    alone = tune(tmp_path / "b", pixels.features, lr=(1e-2,), seeds=(1,), **common)
    assert results(both)[3]["accuracy"] == pytest.approx(results(alone)[0]["accuracy"], abs=1 / 400 + 1e-9)
    assert results(both)[3]["n_train"] == results(alone)[0]["n_train"] < 260


def test_classes_that_can_not_be_mixed_are_kept_and_told(store: Path) -> None:
    x, y = digit_splits(120, 60)["train"]
    single = np.where(np.arange(120) == 5, 9, y % 9)
    features = write_features(store, {"train": (x, single), "test": digit_splits(120, 60)["test"]})
    labels = write_labels(store, "train", single, single)
    notes = Notes()
    ref = tune(store, features, notes, method="lp", cleanse="once", labels=str(labels.path), tau=1.0, **FEW)
    assert any("1 class too small for a mixture" in text for text in notes.warnings)
    assert any("nothing was called clean in" in text for text in notes.warnings)
    found = table(ref, "cleansing.parquet")
    assert set(found["noisy"][found["drawn"]]) == set(range(10))


def test_what_is_not_cleansed_has_no_threshold_of_its_own() -> None:
    config = Config(features="-", method=("nmtune",), cleanse=("none", "once", "each"), tau=(0.5, 0.7))
    runs = plan.expand(config, 1, 64)
    assert [(r.cleansing.cleanse, r.cleansing.tau) if r.cleansing else None for r in runs] == [
        None,
        ("once", 0.5),
        ("once", 0.7),
        ("each", 0.5),
        ("each", 0.7),
    ]
    assert axes.axes(Config(features="-", method=("lp", "turn")), 64)["turn"]["cleanse"] == ["each"]
    for run in runs:
        assert plan.from_json(run.to_json()) == run
