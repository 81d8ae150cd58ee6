"""TURN on images of digits with 40 % wrong labels, through a small real backbone: cleansing, fine-tuning, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import Given
from safetensors.torch import load_file
from test_tune_cache import _KILL
from tune_samples import Notes, results, table, tune, write_labels

from nmtool.artifact.memo import Memo
from nmtool.artifact.open import open_artifact
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, DivergedError, InputMissingError
from nmtool.numerics.seeds import generator
from nmtool.records import ArtifactRef
from nmtool.tune.cleanse import cleanse

SHORT: dict[str, Any] = {"method": "turn", "fft_epochs": 2, "fft_batch_size": 64}


@pytest.fixture(scope="module")
def tuned(encoded: Given, tmp_path_factory: pytest.TempPathFactory) -> tuple[ArtifactRef, Notes]:
    torch.set_num_threads(1)
    notes = Notes()
    ref = tune(
        tmp_path_factory.mktemp("turn"),
        encoded.features,
        notes,
        method=("lp", "turn"),
        seeds=(0, 1),
        labels=str(encoded.labels.path),
        ood=(str(encoded.features.path),),
        fft_lr=5e-4,
        keep_backbone=True,
    )
    return ref, notes


def test_the_clean_set_is_cleaner_than_the_data(tuned: tuple[ArtifactRef, Notes]) -> None:
    ref, notes = tuned
    found = table(ref, "cleansing.parquet")
    assert sorted(set(found["round"])) == [1, 2, 3, 4]
    base = np.mean(found["clean"] == found["noisy"])
    assert base == pytest.approx(0.6)
    for run in set(found["run"]):
        for number in (1, 4):
            here = (found["run"] == run) & (found["round"] == number)
            assert here.sum() == 400
            purity = np.mean((found["clean"] == found["noisy"])[here & found["selected"]])
            assert purity > 0.85
            drawn = found["noisy"][here & found["drawn"]]
            assert len(set(np.bincount(drawn, minlength=10))) == 1, "as many of each class"
            row = next(r for r in results(ref) if r["run"] == run)
            assert row[f"purity_{'first' if number == 1 else 'last'}"] == pytest.approx(purity)
    assert sum("round 4" in line for line in notes.infos) == 2
    assert np.all((found["posterior"] > 0.6) == found["selected"])
    assert np.all(found["loss"] >= 0)


def test_turn_beats_the_plain_probe(tuned: tuple[ArtifactRef, Notes]) -> None:
    rows = [r for r in results(tuned[0]) if r["role"] == "id"]
    mean = {m: np.mean([r["accuracy"] for r in rows if r["method"] == m]) for m in ("lp", "turn")}
    assert mean["turn"] > mean["lp"]
    assert mean["turn"] > 0.9
    assert {r["split"] for r in results(tuned[0]) if r["role"] == "ood"} == {"rotated/test"}


def test_log_tells_both_phases(tuned: tuple[ArtifactRef, Notes]) -> None:
    lines = [json.loads(line) for line in (tuned[0].path / "data" / "log.jsonl").read_text().splitlines()]
    mine = [line for line in lines if line["method"] == "turn" and line["seed"] == 1]
    assert [line["phase"] for line in mine] == ["probe"] * 20 + ["finetune"] * 4
    assert [line["epoch"] for line in mine] == list(range(1, 25))


def test_the_kept_backbone_and_head_give_the_predictions_in_plain_timm(
    tuned: tuple[ArtifactRef, Notes], encoded: Given
) -> None:
    ref = tuned[0]
    run = next(r["run"] for r in results(ref) if r["method"] == "turn")
    heads = load_file(ref.path / "data" / "heads.safetensors")
    encoder = open_artifact(encoded.features.path).manifest.recipe["config"]["encoder"]
    model = timm.create_model(encoder["arch"], num_classes=0)
    model.load_state_dict(load_file(ref.path / "data" / "backbones" / f"run_{run:04d}.safetensors"))
    model.eval()
    data = open_dataset("digits", memo=Memo(None))
    pre = encoder["preprocessing"]
    transform = timm.data.create_transform(
        input_size=(3, *pre["size"]),
        interpolation=pre["interpolation"],
        crop_pct=pre["crop_pct"],
        crop_mode=pre["crop_mode"],
        mean=pre["mean"],
        std=pre["std"],
    )
    from PIL import Image

    images = torch.stack([transform(Image.fromarray(data.image("test", row))) for row in range(100)])
    with torch.no_grad():
        z = torch.nn.functional.normalize(model(images), dim=1)  # the probe's scale is l2
        logits = z @ heads[f"run_{run:04d}.classifier.weight"].T + heads[f"run_{run:04d}.classifier.bias"]
    found = table(ref, "predictions.parquet")
    mine = (found["run"] == run) & (np.array(found["split"]) == "test")
    assert np.array_equal(found["predicted"][mine][:100], logits.argmax(1).numpy())


@pytest.mark.parametrize(
    "settings", [{"cleanse": "none"}, {"cleanse": "once", "augment": "weak", "fft_optimizer": "sgd"}]
)
def test_variants(encoded: Given, store: Path, settings: dict[str, Any]) -> None:
    ref = tune(store, encoded.features, labels=str(encoded.labels.path), **SHORT, **settings)
    has = open_artifact(ref.path).has("cleansing.parquet")
    assert has is (settings["cleanse"] == "once")
    if has:
        assert set(table(ref, "cleansing.parquet")["round"]) == {1}


def test_a_killed_turn_ends_with_the_same_content(encoded: Given, tmp_path: Path) -> None:
    settings = json.dumps(
        {
            "method": ["turn"],
            "fft_epochs": [3],
            "probe_epochs": [3],
            "seeds": [0, 1],
            "labels": [str(encoded.labels.path)],
        }
    )
    contents = []
    # Checkpoints: two of the probe, its last, then one a step and one an epoch: the seventh is within fine-tuning.
    for store, kill, code in (("whole", 0, 0), ("killed", 7, -9), ("killed", 0, 0)):
        argv = [str(tmp_path / store), str(encoded.features.path), str(kill), settings]
        done = subprocess.run([sys.executable, "-c", _KILL, *argv], capture_output=True, text=True, timeout=240)
        assert done.returncode == code, done.stderr
        contents.append(done.stdout)
    assert contents[0]
    assert contents[0] == contents[-1]


def test_other_images_and_weights_are_refused(encoded: Given, store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"the images that extract read; give it with --data"):
        tune(store, encoded.features, data=f"folder:{tmp_path / 'gone'}", **SHORT)
    np.savez(
        tmp_path / "other.npz",
        **{f"X_{s}": np.zeros((4, 8, 8, 3), np.uint8) for s in ("train", "test")},
        **{f"y_{s}": np.arange(4) for s in ("train", "test")},
    )
    with pytest.raises(DataError, match="has other samples than the features"):
        tune(store, encoded.features, data=f"arrays:{tmp_path / 'other.npz'}", **SHORT)
    with pytest.raises(InputMissingError, match=r"give its path with --model"):
        tune(store, encoded.features, model=str(tmp_path / "gone.safetensors"), arch="test_resnet", **SHORT)
    weights = tmp_path / "fresh.safetensors"
    from safetensors.torch import save_file

    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    with pytest.raises(DataError, match=r"as the features .* were made with"):
        tune(store, encoded.features, model=str(weights), arch="test_resnet", **SHORT)
    assert not list(store.rglob("manifest.json"))


def test_cleansing_on_synthetic_losses_finds_the_clean_half() -> None:
    """Two well-parted groups of losses a class: all of the low one is selected, balanced over classes."""
    rng = generator(0, "test")
    noisy = np.repeat(np.arange(3), [40, 60, 80])
    right = rng.random(len(noisy)) < 0.5
    losses = np.where(right, 0.2, 3.0) + 0.05 * rng.random(len(noisy))
    found = cleanse(losses, np.arange(len(noisy)), noisy, classes=3, tau=0.6, seed=0, number=1)
    assert np.array_equal(found.selected, right)
    counts = np.bincount(noisy[found.chosen])
    assert counts.tolist() == [np.bincount(noisy[right]).min()] * 3
    quality = found.quality(np.where(right, noisy, (noisy + 1) % 3), noisy)
    assert quality == {"purity": 1.0, "recall": 1.0, "drawn_purity": 1.0}


def _rows(classes: int = 3, each: int = 20) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    noisy = np.repeat(np.arange(classes), each)
    return noisy, np.arange(len(noisy))


def test_cleansing_where_a_class_has_nothing_clean() -> None:
    """Its sample of lowest loss stands for it, so that each class gives one; the class is named."""
    noisy, rows = _rows()
    losses = np.tile(np.linspace(0.1, 3.0, 20), 3)
    # a posterior of 1 is not above 1: nothing is selected anywhere
    found = cleanse(losses, rows, noisy, classes=3, tau=1.0, seed=0, number=1)
    assert found.empty_classes == (0, 1, 2)
    assert found.chosen.tolist() == [0, 20, 40]
    assert found.per_class == 1


def test_cleansing_a_class_of_one_sample_and_a_class_of_one_loss() -> None:
    """Neither has a mixture: all of it counts as clean, and is named; the smallest bounds the draw."""
    noisy = np.array([0] * 20 + [1] + [2] * 10)
    losses = np.concatenate([np.linspace(0, 3, 20), [9.0], np.full(10, 2.0)])
    found = cleanse(losses, np.arange(31), noisy, classes=3, tau=0.6, seed=0, number=1)
    assert found.small_classes == (1, 2)
    assert found.selected[20:].all()
    assert np.bincount(noisy[found.chosen]).tolist() == [1, 1, 1]


@pytest.mark.parametrize("classes", [2, 3])
def test_cleansing_where_all_losses_are_equal(classes: int) -> None:
    noisy, rows = _rows(classes)
    found = cleanse(np.full(len(rows), 0.7), rows, noisy, classes=classes, tau=0.6, seed=0, number=1)
    assert found.small_classes == tuple(range(classes))
    assert found.chosen.tolist() == rows.tolist()


def test_cleansing_where_nothing_and_everything_is_wrong() -> None:
    """Purity 0 without recall (nothing to find), and purity 1: numbers, never NaN."""
    noisy, rows = _rows()
    losses = generator(0, "test").random(len(rows))
    found = cleanse(losses, rows, noisy, classes=3, tau=0.6, seed=0, number=1)
    assert len(found.chosen) >= 3
    assert found.quality((noisy + 1) % 3, noisy) == {"purity": 0.0, "drawn_purity": 0.0}
    assert found.quality(noisy, noisy)["purity"] == 1.0


def _labelled(encoded: Given, store: Path, noisy: Any) -> str:
    """Labels of the digits that ``encoded`` was made of."""
    given = table(encoded.labels, "labels.parquet")
    assert len(noisy) == len(given["clean"])
    names = json.loads((encoded.labels.path / "data" / "classes.json").read_text())
    ref = write_labels(store, "train", given["clean"], noisy, names, samples=list(given["sample"]))
    return str(ref.path)


@pytest.mark.parametrize("case", ["no noise", "all wrong", "two classes, one of a single sample"])
def test_turn_where_labels_are_at_an_extreme(encoded: Given, store: Path, case: str) -> None:
    """Defined and told: a round, a training set of at least one image a class, finite scores."""
    clean = np.array(table(encoded.labels, "labels.parquet")["clean"])
    two = np.zeros_like(clean)
    two[int(np.flatnonzero(clean == 1)[0])] = 1
    noisy = {"no noise": clean, "all wrong": (clean + 1) % 10}.get(case, two)
    notes = Notes()
    ref = tune(store, encoded.features, notes, labels=_labelled(encoded, store, noisy), probe_epochs=5, **SHORT)
    (row,) = results(ref)
    assert 0 <= row["accuracy"] <= 1
    found = table(ref, "cleansing.parquet")
    for number in (1, 2):
        drawn = found["noisy"][(found["round"] == number) & found["drawn"]]
        assert set(drawn) == set(noisy)
    if case == "no noise":
        assert row["purity_first"] == row["purity_last"] == 1.0
    elif case == "all wrong":
        assert row["purity_first"] == 0.0
        assert row["accuracy"] < 0.2
    else:
        assert any("1 classes are too small for a mixture" in w for w in notes.warnings)
        assert (found["drawn"] & (found["round"] == 1)).sum() == 2


def test_a_failure_of_the_features_half_comes_before_any_image(
    encoded: Given, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe and the first cleansing are over before the backbone is loaded or a picture decoded."""
    from nmtool.tune import pictures

    opened: list[str] = []
    load, decode = pictures.load_image, pictures.Shots.batch

    def watched(*args: Any, **more: Any) -> Any:
        opened.append("backbone")
        return load(*args, **more)

    def watched_too(*args: Any, **more: Any) -> Any:
        opened.append("image")
        return decode(*args, **more)

    monkeypatch.setattr(pictures, "load_image", watched)
    monkeypatch.setattr(pictures.Shots, "batch", watched_too)
    with pytest.raises(DivergedError, match="gce"):
        tune(store, encoded.features, probe_lr=1e38, probe_epochs=2, **SHORT)
    assert opened == []
    notes = Notes()
    tune(store, encoded.features, notes, probe_epochs=2, **SHORT)
    assert opened[0] == "backbone"
    assert "image" in opened
