"""Extraction through ``run()``: agreement with timm's own pipeline, row identity, keys, policies, ready-made ones."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from extract_samples import CONFIG, extract
from PIL import Image
from safetensors.torch import load_file, save_file

from nmtool.artifact.open import open_artifact, verify
from nmtool.artifact.stage import Session
from nmtool.artifact.typed import feature_splits, read_features, read_parquet
from nmtool.encoders.timm import create
from nmtool.errors import DataError, InputMissingError, NmtoolError, UnavailableError, UsageError
from nmtool.extract.batches import shares
from nmtool.extract.images import AT_ONCE


def test_real_weights_on_real_photographs_agree_with_timm(
    real_data: Any, real_weights: Path, tmp_path: Path, session: Session
) -> None:
    """64 photographs at 128 px through an independent timm evaluation pipeline, one image at a time."""
    folder, weights = tmp_path / "some", real_weights / "mobilenetv2_100.in1k_tf_ptq.fp16.safetensors"
    every = sorted((real_data("pacs") / "pacs" / "photo" / "train").glob("*/*.jpg"))[::14][:64]
    assert len(every) == 64
    for path in every:
        (folder / "train" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "train" / path.parent.name / path.name)
    asked = {"model_kwargs": ("pad_type=same",), "image_size": 128, "mean": (0.5,), "std": (0.5,)}
    ref = extract(session, folder, model=str(weights), arch="mobilenetv2_100", untrained=False, **asked)
    table = read_features(open_artifact(ref.path), "train")

    model = timm.create_model("mobilenetv2_100", pad_type="same").eval()
    missing, _ = model.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    transform = timm.data.create_transform(
        input_size=128, interpolation="bicubic", crop_pct=0.875, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    for sample, feature in zip(table.ids, table.features, strict=True):
        (path,) = [p for p in every if sample.endswith(f"{p.parent.name}/{p.name}")]
        with torch.no_grad():
            image = transform(Image.open(path).convert("RGB"))[None]
            theirs = model.forward_head(model.forward_features(image), pre_logits=True)[0].numpy()
        np.testing.assert_allclose(feature, theirs, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(theirs).max())))
    assert table.features.std(axis=0).max() > 0.1


def test_payload_and_summary(photos: Path, session: Session) -> None:
    ref = extract(session, photos)
    artifact = open_artifact(ref.path, "features")
    verify(artifact, (1, 1))
    assert feature_splits(artifact) == ["test", "train"]
    samples = read_parquet(artifact, "samples.parquet")
    assert list(samples) == ["row", "sample", "split", "label", "ok", "error"]
    assert list(samples["row"]) == [*range(6), *range(24)]
    assert all(samples["ok"])
    summary = ref.summary
    assert summary["dim"] == 96
    assert summary["dtype"] == "float32"
    assert summary["untrained"] is True
    assert {name: (s["n"], s["classes"], s["skipped"]) for name, s in summary["splits"].items()} == {  # type: ignore[attr-defined]
        "test": (6, 2, 0),
        "train": (24, 2, 0),
    }
    assert summary["samples_per_s"] > 0  # type: ignore[operator]
    assert summary["bottleneck"] in ("decoding", "encoding", "writing")
    spent = summary["spent_s"]
    assert set(spent) == {"decode", "encode", "write", "wait"}  # type: ignore[arg-type]
    assert min(spent.values()) >= 0 < spent["decode"]  # type: ignore[attr-defined,index]
    # The parts are the whole: 30 samples at the rate it tells, as far as the rounding of both lets one see it. The
    # parts are told to the millisecond, the rate to a tenth of a sample.
    rate: float = summary["samples_per_s"]  # type: ignore[assignment]
    assert 30 / (rate + 0.05) - 0.002 <= sum(spent.values()) <= 30 / (rate - 0.05) + 0.002
    for split in ("train", "test"):
        table = read_features(artifact, split)
        assert np.isfinite(table.features).all()
        assert list(table.ids) == sorted(table.ids)
        assert list(table.labels.values) == ["cat" not in sample for sample in table.ids]


def test_the_bottleneck_is_what_takes_the_time(session: Session, tmp_path: Path) -> None:
    """Large photographs for a network of 32 x 32 pixels, and small ones for one that reads 512 x 512."""
    rng = np.random.default_rng(0)
    for name, side in (("large", 1500), ("small", 16)):
        for number in range(4):
            (tmp_path / name / "train" / "a").mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / "train" / "a" / f"{number}.jpg")
    assert extract(session, tmp_path / "large").summary["bottleneck"] == "decoding"
    assert extract(session, tmp_path / "small", image_size=512).summary["bottleneck"] == "encoding"


def test_the_shares_of_a_run_add_up() -> None:
    # by hand: of 10 s the disk kept the main thread waiting for 4, but for 9 of the 10 somebody worked
    assert shares(10.0, 3.0, 6.0, 4.0) == {"decode": 3.0, "encode": 6.0, "write": 1.0, "wait": 0.0}
    assert shares(10.0, 3.0, 5.0, 0.5) == {"decode": 3.0, "encode": 5.0, "write": 0.5, "wait": 1.5}
    assert shares(1.0, 0.7, 0.7, 0.7) == pytest.approx({"decode": 0.7, "encode": 0.3, "write": 0.0, "wait": 0.0})


def test_what_goes_through_the_encoder_at_once_changes_no_bit(photos: Path, session: Session) -> None:
    """24 rows as a batch of their own, which is split, and in batches of 16 and 8, which are not."""
    one = extract(session, photos, batch_size=24)
    other = extract(dataclasses.replace(session, store=session.store / "b"), photos, batch_size=AT_ONCE)
    assert one.content == other.content


def test_a_hit_does_no_work(photos: Path, session: Session) -> None:
    first = extract(session, photos)
    session.report.advanced = 0  # type: ignore[attr-defined]
    again = extract(session, photos)
    assert again.cached
    assert (again.key, again.content) == (first.key, first.content)
    assert session.report.advanced == 0  # type: ignore[attr-defined]


def test_workers_change_nothing(photos: Path, session: Session, tmp_path: Path) -> None:
    other = dataclasses.replace(session, store=tmp_path / "other")
    one, three = extract(session, photos, workers=1), extract(other, photos, workers=3)
    assert (one.key, one.content) == (three.key, three.content)


def test_what_changes_the_numbers_changes_the_key(photos: Path, session: Session) -> None:
    plan = dataclasses.replace(session, dry_run=True)
    base = extract(plan, photos).key
    changes: list[dict[str, Any]] = [
        {"interpolation": "nearest"},
        {"image_size": 48},
        {"crop_pct": 0.5},
        {"mean": (0.1, 0.2, 0.3)},
        {"std": (0.9,)},
        {"dtype": "float16"},
        {"dtype": "bfloat16"},
        {"amp": "fp16"},
        {"amp": "fp16", "dtype": "float16"},
        {"amp": "bf16", "dtype": "float16"},
        {"compile": True},
        {"model_kwargs": ("zero_init_last=false",)},
        {"seed": 1},
        {"on_error": "skip"},
        {"split": ("train",)},
        {"feature": "mean"},
        {"feature": "layer1"},
        {"normalize": True},
        {"views": 1},
        {"views": 1, "view_seed": 1},
        {"views": 1, "augment": "strong"},
    ]
    keys = [extract(plan, photos, **change).key for change in changes]
    assert len({base, *keys}) == len(changes) + 1
    for same in ({"workers": 2}, {"batch_size": 7}, {"split": ("test", "train")}, {"device": "auto"}):
        assert extract(plan, photos, **same).key == base
    assert extract(plan, photos, amp="bf16").key == extract(plan, photos, dtype="bfloat16").key


def test_weights_that_differ_in_one_bit_never_share_features(photos: Path, session: Session, tmp_path: Path) -> None:
    state = dict(create("test_resnet", {}, num_classes=None, seed=3).state_dict())
    save_file(state, tmp_path / "one.safetensors")
    body = bytearray((tmp_path / "one.safetensors").read_bytes())
    body[-1] ^= 1
    (tmp_path / "other.safetensors").write_bytes(body)
    shutil.copy(tmp_path / "one.safetensors", tmp_path / "copy.safetensors")
    asked: dict[str, Any] = {"arch": "test_resnet", "untrained": False}
    one, other, copy = (
        extract(session, photos, model=str(tmp_path / f"{name}.safetensors"), **asked)
        for name in ("one", "other", "copy")
    )
    assert one.key != other.key
    assert (copy.key, copy.content, copy.cached) == (one.key, one.content, True)
    assert not other.cached


def test_where_things_lie_does_not_change_the_key(photos: Path, session: Session, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(create("test_resnet", {}, num_classes=None, seed=3).state_dict(), weights)
    asked: dict[str, Any] = {"untrained": False, "arch": "test_resnet"}
    here = extract(session, photos, model=str(weights), **asked)
    moved = tmp_path / "moved"
    moved.mkdir()
    photos.rename(moved / "pictures")
    weights.rename(moved / "v.safetensors")
    other = dataclasses.replace(session, store=moved / "store")
    there = extract(other, moved / "pictures", model=str(moved / "v.safetensors"), **asked)
    assert (there.key, there.content) == (here.key, here.content)
    data = bytearray((moved / "v.safetensors").read_bytes())
    data[-1] ^= 1
    (moved / "v.safetensors").write_bytes(data)
    assert extract(other, moved / "pictures", model=str(moved / "v.safetensors"), **asked).key != here.key


@pytest.mark.parametrize("rows", [[0], [23], [4, 5, 6], [0, 11, 23], [0, 2, 3, 5, 8, 11, 12, 17, 20, 23]])
def test_broken_images_keep_their_row_and_leave_the_others_alone(
    photos: Path, session: Session, rows: list[int]
) -> None:
    clean = read_features(open_artifact(extract(session, photos).path), "train")
    files = sorted((photos / "train").glob("*/*.jpg"))
    for row in rows:
        files[row].write_bytes(files[row].read_bytes()[:150])
    with pytest.raises(DataError, match="--on-error skip") as caught:
        extract(session, photos)
    assert caught.value.exit_code == 65
    assert f"{files[rows[0]].parent.name}/{files[rows[0]].name}" in str(caught.value)
    ref = extract(session, photos, on_error="skip")
    artifact = open_artifact(ref.path)
    table = read_features(artifact, "train")
    others = np.setdiff1d(np.arange(24), rows)
    assert table.ids == clean.ids
    assert np.array_equal(table.labels.values, clean.labels.values)
    assert np.array_equal(np.flatnonzero(~table.ok), rows)
    assert np.isnan(table.features[rows]).all()
    assert np.array_equal(table.features[others], clean.features[others])
    assert ref.summary["splits"]["train"]["skipped"] == len(rows)  # type: ignore[index]
    errors = [e for e in read_parquet(artifact, "samples.parquet")["error"] if e]
    assert len(errors) == len(rows)
    assert any(line.startswith("warning") for line in session.report.lines)  # type: ignore[attr-defined]


def test_nothing_but_broken_images_is_bad_data(photos: Path, session: Session) -> None:
    for path in (photos / "test").glob("*/*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the 6 samples of split test"):
        extract(session, photos, on_error="skip")


def test_features_that_are_not_finite_are_marked(photos: Path, session: Session, tmp_path: Path) -> None:
    state = create("test_resnet", {}, num_classes=None, seed=3).state_dict()
    state["layer4.0.bn2.bias"] = torch.full_like(state["layer4.0.bn2.bias"], float("inf"))
    weights = tmp_path / "w.safetensors"
    save_file(state, weights)
    with pytest.raises(DataError, match="not finite"):
        extract(session, photos, model=str(weights), arch="test_resnet", untrained=False)


def test_float16_is_stored_so_and_overflow_is_refused(photos: Path, session: Session, tmp_path: Path) -> None:
    full = read_features(open_artifact(extract(session, photos).path), "train").features
    half = read_features(open_artifact(extract(session, photos, dtype="float16").path), "train").features
    assert half.dtype == np.float16
    assert np.array_equal(half, full.astype(np.float16))
    state = create("test_resnet", {}, num_classes=None, seed=3).state_dict()
    state["layer4.0.bn2.bias"] = torch.full_like(state["layer4.0.bn2.bias"], 1e6)
    weights = tmp_path / "w.safetensors"
    save_file(state, weights)
    asked: dict[str, Any] = {"model": str(weights), "arch": "test_resnet", "untrained": False}
    with pytest.raises(DataError, match="--dtype float32"):
        extract(session, photos, dtype="float16", **asked)
    assert np.isfinite(read_features(open_artifact(extract(session, photos, **asked).path), "train").features).all()


def test_bfloat16_is_near(photos: Path, session: Session) -> None:
    full = read_features(open_artifact(extract(session, photos).path), "train").features
    brain = read_features(open_artifact(extract(session, photos, dtype="bfloat16").path), "train").features
    assert brain.dtype == np.float32
    assert not np.array_equal(brain, full)
    assert np.linalg.norm(brain - full) < 0.05 * np.linalg.norm(full)


def test_ready_made_features(session: Session, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 5)).astype(np.float32), np.arange(10) % 2
    file = tmp_path / "features.npz"
    np.savez(file, X_train=x, y_train=y, X_test=x[:4], y_test=y[:4])
    uri, asked = f"arrays:{file}", {"model": "none", "untrained": False, "image_size": None}
    ref = extract(session, uri, **asked)
    assert np.array_equal(read_features(open_artifact(ref.path), "train").features, x)
    assert ref.summary["dim"] == 5
    for wrong, error in (
        ({"model": "timm:test_resnet"}, UsageError),
        ({"untrained": True}, UsageError),
        ({"dtype": "bfloat16"}, UsageError),
        ({"amp": "fp16"}, UsageError),
        ({"compile": True}, UsageError),
    ):
        with pytest.raises(error):
            extract(session, uri, **(asked | wrong))
    x[3, 2] = np.nan
    np.savez(file, X_train=x, y_train=y, X_test=x[:2], y_test=y[:2])
    with pytest.raises(DataError, match="not finite"):
        extract(session, uri, **asked)
    table = read_features(open_artifact(extract(session, uri, **asked, on_error="skip").path), "train")
    assert list(np.flatnonzero(~table.ok)) == [3]
    assert np.isnan(table.features[3]).all()
    assert np.array_equal(table.features[4:], x[4:])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"split": ("dev",)}, InputMissingError, "test, train"),
        ({"batch_size": 0}, UsageError, "--batch-size"),
        ({"model": "none", "untrained": False}, UsageError, "ready-made"),
        ({"device": "cuda:99"}, UnavailableError, "--device cpu"),
        ({"model_kwargs": ("pretrained=true",)}, UsageError, "pretrained"),
    ],
)
def test_refusals(photos: Path, session: Session, change: dict[str, Any], error: type[NmtoolError], says: str) -> None:
    with pytest.raises(error, match=says):
        extract(session, photos, **change)
    assert not list(session.store.glob("features/*"))


def test_origin_tells_where_it_was_read_from(photos: Path, session: Session) -> None:
    origin = open_artifact(extract(session, photos).path).manifest.origin
    assert origin["data"] == f"folder:{photos}"
    assert origin["model"] == CONFIG.model
    assert origin["overrides"] == {"size": 32}
