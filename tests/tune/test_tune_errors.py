"""What is refused, in which words, with which exit code, and that nothing is left behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Given
from tune_samples import NAMES, Notes, digit_splits, results, table, tune, write_features

from nmtool.errors import DataError, DivergedError, InputMissingError, NmtoolError, UsageError
from nmtool.tune.axes import axes
from nmtool.tune.config import Config
from nmtool.tune.unread import unread


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"method": "nmtun"}, UsageError, "did you mean nmtune"),
        ({"fraction": (0.0,)}, UsageError, "--fraction has 0"),
        ({"fraction": (1.2,)}, UsageError, "--fraction has 1.2"),
        ({"seeds": (1, 1)}, UsageError, "--seeds has 1 twice"),
        ({"seeds": (-1,)}, UsageError, "--seeds has -1"),
        ({"lr": (0.0,)}, UsageError, "--lr has 0; expected above 0"),
        ({"weight_decay": (-1.0,)}, UsageError, "--weight-decay has -1; expected at least 0"),
        ({"epochs": (0,)}, UsageError, "--epochs has 0"),
        ({"loss": "gce", "q": (1.5,)}, UsageError, "--q has 1.5; expected above 0 and at most 1"),
        ({"method": "turn"}, UsageError, "features came ready made"),
        ({"train": "nowhere"}, InputMissingError, "has no split nowhere"),
        ({"test": "nowhere"}, InputMissingError, "has no split nowhere"),
        ({"labels": "/nowhere/labels"}, InputMissingError, "/nowhere/labels does not exist"),
        ({"seeds": tuple(range(10_001))}, UsageError, "10001 runs"),
    ],
)
def test_refused_before_work(
    pixels: Given, store: Path, settings: dict[str, Any], error: type[NmtoolError], words: str
) -> None:
    with pytest.raises(error, match=words):
        tune(store, pixels.features, **settings)
    assert not store.exists()


@pytest.mark.parametrize(
    ("settings", "term"),
    [
        ({"lr": 100.0, "weight_decay": 1.0, "epochs": 40}, "ce"),
        ({"method": "nmtune", "lr": 3e7, "weight_cov": 1.0}, "(ce|cov)"),
    ],
)
def test_divergence_names_term_epoch_step_and_head(
    pixels: Given, store: Path, settings: dict[str, Any], term: str
) -> None:
    with pytest.raises(
        DivergedError, match=rf"the {term} loss is (nan|inf) in epoch \d+, step \d+ \(.*seed 0"
    ) as caught:
        tune(store, pixels.features, **settings)
    assert caught.value.exit_code == 70
    assert "--lr" in str(caught.value)
    assert not list(store.rglob("manifest.json"))
    assert not list(store.glob("heads/.nmtool-staging/*/data/*"))


def test_a_head_that_learns_nothing_is_told(pixels: Given, store: Path) -> None:
    notes = Notes()
    tune(store, pixels.features, notes, lr=1e-9, epochs=1)
    assert any("1 of 1 runs are no better than chance" in w for w in notes.warnings), notes.warnings
    quiet = Notes()
    tune(store, pixels.features, quiet, lr=0.01, epochs=5)
    assert quiet.warnings == []


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"method": "dividemix", "cleanse": "once", "tau": 0.7}, "--cleanse, --tau"),
        ({"method": "unicon", "loss": "gce"}, "--loss"),
        ({"method": "elr", "use_views": True, "keep_backbone": True}, "--keep-backbone, --use-views"),
        (
            {"method": "knn", "probe_lr": 0.1, "fft_epochs": 2, "amp": "bf16"},
            "--amp, --epochs, --fft-epochs, --probe-lr",
        ),
        ({"method": "lp", "probe_lr": 0.1, "fft_epochs": 2, "amp": "bf16"}, "--fft-epochs, --probe-lr"),
        ({"method": "lp", "solver": ("lbfgs",), "amp": "bf16"}, "--amp, --epochs"),
        ({"method": "lp", "loss": "elr", "q": 0.5}, "--q"),
        ({"method": "elr,knn", "k": 3, "elr_beta": 0.8, "width": 2}, "--width"),
    ],
)
def test_what_no_method_reads_is_told(pixels: Given, store: Path, settings: dict[str, Any], flags: str) -> None:
    notes = Notes()
    methods = tuple(settings.pop("method").split(","))
    quiet: dict[str, Any] = {"epochs": 5, "spectra": False}
    tune(store, pixels.features, notes, method=methods, **settings, **quiet)
    assert [w for w in notes.warnings if "read by no method" in w] == [
        f"{flags}: read by no method of this call ({', '.join(methods)})"
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"method": ("lp",), "loss": ("ce",)},
        {"method": ("nmtune",), "cleanse": "once", "tau": 0.7, "probe_lr": 0.1, "q": 0.5, "loss": "elr"},
        {"method": ("lp", "mlp"), "width": 2, "loss": "gce", "q": 0.6},
        {"method": ("turn",), "fft_schedule": "constant", "tune_backbone": "lora", "lora_rank": 4, "amp": "bf16"},
        {"method": ("fft",), "fft_schedule": "cosine", "keep_backbone": True, "accumulate": 2, "loss": "elr"},
        {"method": ("lp",), "solver": "lbfgs", "C": 2.0, "max_iter": 10},
    ],
)
def test_what_a_method_reads_is_not_told(settings: dict[str, Any]) -> None:
    given = {
        name: value if isinstance(value, (tuple, bool)) or name in ("amp", "accumulate", "max_iter") else (value,)
        for name, value in settings.items()
    }
    config = Config(features="", **given)
    assert unread(config, axes(config, 8)) == ()


def test_ood_classes_are_joined_by_name(pixels: Given, store: Path) -> None:
    """The same images under a permuted list of classes score as they do under the first."""
    x, y = digit_splits()["test"]
    other = write_features(store, {"test": (x, 9 - y)}, NAMES[::-1])
    ref = tune(store, pixels.features, ood=(str(other.path),), lr=0.01, epochs=5)
    inside, outside = results(ref)
    assert (outside["role"], outside["best_accuracy"]) == ("ood", None)
    for name in ("n", "accuracy", "macro_f1", "mean_per_class", "sve", "lsvr"):
        assert inside[name] == outside[name]
    found = table(ref, "predictions.parquet")
    half = len(y)
    assert np.array_equal(found["label"][:half], found["label"][half:])
    assert inside["source"] != outside["source"]


def test_ood_rows_of_unknown_classes_are_left_out_and_told(pixels: Given, store: Path) -> None:
    x, y = digit_splits()["test"]
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "letter"]
    other = write_features(store, {"test": (x, y)}, names)
    notes = Notes()
    ref = tune(store, pixels.features, notes, ood=(f"{other.path}:test",), epochs=1)
    assert results(ref)[1]["n"] == int((y != 9).sum())
    assert any("letter" in w and "left out" in w for w in notes.warnings)


def test_ood_with_nothing_in_common_is_refused(pixels: Given, store: Path) -> None:
    x, y = digit_splits()["test"]
    other = write_features(store, {"test": (x, y)}, [f"letter {c}" for c in range(10)])
    with pytest.raises(DataError, match="has no class of the training split"):
        tune(store, pixels.features, ood=(str(other.path),))
    narrow = write_features(store, {"test": (x[:, :9], y)})
    with pytest.raises(DataError, match="has 9 dimensions; expected 64"):
        tune(store, pixels.features, ood=(str(narrow.path),))
    with pytest.raises(InputMissingError, match="has no test split for --ood"):
        tune(store, pixels.features, ood=(str(pixels.features.path),))
    with pytest.raises(UsageError, match="twice"):
        tune(store, pixels.features, ood=(f"{pixels.features.path}:train",) * 2)


def test_ood_of_many_domains_takes_each_domains_test_split(store: Path) -> None:
    x, y = digit_splits(200, 100)["train"]
    names = ("photo/train", "photo/test", "photo/val", "art/train", "art/test", "toy/val")
    features = write_features(store, {name: (x + i / 100, y) for i, name in enumerate(names)})
    ref = tune(store, features, train="photo/train", test="photo/test", ood=(str(features.path),), epochs=1)
    assert [(r["role"], r["split"]) for r in results(ref)] == [
        ("id", "photo/test"),
        ("ood", "art/test"),
        ("ood", "toy/val"),
    ]


def test_every_setting_says_what_it_is_for() -> None:
    from nmtool.tune.config import Config

    for field in dataclasses.fields(Config):
        assert field.metadata["doc"], field.name


def test_a_test_split_that_is_missing_or_the_training_split_is_refused(tmp_path: Path) -> None:
    """Features of one split are never judged on the rows that they were trained on."""
    rng = np.random.default_rng(0)
    only = write_features(tmp_path, {"train": (rng.normal(size=(40, 4)).astype(np.float32), np.arange(40) % 2)})
    with pytest.raises(InputMissingError, match="test"):
        tune(tmp_path / "store", only, method="lp", epochs=1)
    with pytest.raises(UsageError, match="both to train and to test"):
        tune(tmp_path / "store", only, method="lp", epochs=1, test="train")


def test_a_list_of_paths_repeats_the_flag(pixels: Given, store: Path) -> None:
    path = pixels.features.path
    for flag in ("ood", "labels"):
        with pytest.raises(UsageError, match=f"repeat it: --{flag} A --{flag} B"):
            tune(store, pixels.features, **{flag: (f"{path}:test,{path}:train",)})
