"""A backbone of every family of vision encoders, small and random, fine-tuned on real photographs by every method."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from tune_samples import Notes, results, table, tune

import nmtool.extract.config as extract_config
import nmtool.extract.run as extract
from nmtool.artifact.memo import Memo
from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session
from nmtool.data.sources import open_dataset
from nmtool.records import ArtifactRef
from nmtool.tune import tuned
from nmtool.tune.restored import choose_runs, read_heads

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def photos(real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some photographs of four classes: 18 each to train on, 6 each to judge."""
    source = real_data("pacs") / "pacs" / "photo"
    out = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 18), ("test", 6)):
        for folder in sorted(p for p in (source / split).iterdir() if p.is_dir())[:4]:
            (out / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                shutil.copy(file, out / split / folder.name)
    return out


def _of_timm(arch: str, **kwargs: object) -> Callable[[Path], dict[str, Any]]:
    words = tuple(f"{k}={v}" for k, v in kwargs.items())
    return lambda folder: {
        "model": f"timm:{arch}",
        "untrained": True,
        "image_size": 32,
        "model_kwargs": words,
    }


def _weights_file(folder: Path) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        save_file(timm.create_model("test_resnet").state_dict(), folder / "w.safetensors")
    return {"model": str(folder / "w.safetensors"), "arch": "test_resnet", "image_size": 32}


def _open_clip(folder: Path) -> dict[str, Any]:
    pytest.importorskip("open_clip")
    words = tuple(f"{k}={json.dumps(v)}" for k, v in CLIP.items())
    return {"model": "open_clip:ViT-B-32", "untrained": True, "model_kwargs": words}


def _transformers(kind: str) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        place = folder / kind
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(1)
            if kind == "vit":
                config: Any = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)
                transformers.ViTModel(config).save_pretrained(place)
                transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(place)
            else:
                text = {**SMALL, "vocab_size": 320, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
                vision = {**SMALL, "image_size": 32, "patch_size": 8}
                config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
                transformers.CLIPModel(config).save_pretrained(place)
                size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
                transformers.CLIPImageProcessor(**size).save_pretrained(place)
        return {"model": f"transformers:{place}"}

    return make


# Each with the column of Table 8 that it belongs to, by its rate of full fine-tuning.
FAMILIES: dict[str, tuple[Callable[[Path], dict[str, Any]], float]] = {
    "timm-vit": (_of_timm("test_vit", img_size=32, patch_size=8), 1e-2),
    "timm-convnext": (_of_timm("test_convnext"), 1e-4),
    "timm-mobilenet": (_of_timm("mobilenetv3_small_050"), 1e-4),
    "timm-layer": (lambda folder: {**_of_timm("test_resnet")(folder), "feature": "layer3"}, 1e-3),
    "weights-file": (_weights_file, 1e-3),
    "open_clip": (_open_clip, 1e-5),
    "transformers-vit": (_transformers("vit"), 1e-2),
    "transformers-clip": (_transformers("clip"), 1e-5),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_fine_tuned(family: str, photos: Path, tmp_path: Path) -> None:
    make, rate = FAMILIES[family]
    asked = {"data": f"folder:{photos}", "device": "cpu", "workers": 1, **make(tmp_path)}
    features = extract.run(extract_config.Config(**asked), Session(store=tmp_path / "store"))
    ref = tune(
        tmp_path / "store",
        features,
        method=("turn", "fft", "lora"),
        probe_epochs=2,
        fft_epochs=1,
        fft_batch_size=32,
        augment="weak",
        keep_backbone=True,
    )
    rows = results(ref)
    assert [r["method"] for r in rows] == ["turn", "fft", "lora"]
    assert [r["lr"] for r in rows] == [rate, rate, 1e-3]
    assert all(r["n"] == 24 and 0 <= r["accuracy"] <= 1 for r in rows)
    assert len(table(ref, "predictions.parquet")["run"]) == 72
    kept = [load_file(ref.path / "data" / "backbones" / f"run_{i:04d}.safetensors") for i in range(3)]
    assert kept[0].keys() == kept[1].keys() == kept[2].keys(), "adapters are merged into the weights' own names"
    first = {k: v for k, v in kept[1].items() if v.is_floating_point()}
    assert any(not torch.equal(v, kept[2][k]) for k, v in first.items())
    assert open_artifact(ref.path).manifest.summary["train"]["n"] == 72  # type: ignore[index]
    _check_predictions(ref, features, f"folder:{photos}")


def _check_predictions(ref: ArtifactRef, features: ArtifactRef, data: str) -> None:
    """The networks that are made again say what is on record, bit for bit."""
    heads, cpu, memo = read_heads(str(ref.path)), torch.device("cpu"), Memo(None)

    def base() -> Any:
        return tuned.original(open_artifact(features.path), heads, "", memo, cpu)

    backbones, runs = tuned.Backbones(heads, cpu, base, Notes()), choose_runs(heads, "all")
    dataset = open_dataset(data, memo=memo)
    said = tuned.predict(backbones, runs, dataset, ("test",), threads=1, probabilities=False, skip=False)
    stored = table(ref, "predictions.parquet")
    for name in ("predicted", "confidence"):
        assert np.array_equal(np.concatenate([t[name] for t in said.tables]), stored[name]), name
