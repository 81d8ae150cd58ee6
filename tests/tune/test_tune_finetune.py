"""``fft`` and ``lora`` on images of digits: a plain loop's numbers, parts of a step, kills, processes, refusals."""

from __future__ import annotations

import importlib.util
import json
import math
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
from torch.nn import functional as F
from tune_samples import Notes, results, table, tune

import nmtool.extract.config as extract_config
import nmtool.extract.run as extract
import nmtool.inject_noise.config as noise_config
import nmtool.inject_noise.run as noise
from nmtool.artifact.memo import Memo
from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session
from nmtool.data.sources import open_dataset
from nmtool.errors import DivergedError, UnavailableError, UsageError
from nmtool.records import ArtifactRef
from nmtool.tune.backbones import TABLE_8, column_of
from nmtool.tune.config import Config
from nmtool.tune.crew import check_shared
from nmtool.tune.heads import uniform
from nmtool.tune.plan import expand
from nmtool.tune.subset import order

SHORT: dict[str, Any] = {"fft_epochs": 1, "fft_batch_size": 64, "spectra": False, "predictions": False}


@pytest.fixture(scope="session")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Features of digit images by an untrained transformer, which has no BatchNorm."""
    torch.set_num_threads(1)
    session = Session(store=tmp_path_factory.mktemp("vit"))
    features = extract.run(
        extract_config.Config(
            model="timm:test_vit",
            data="digits",
            split=("train", "test"),
            untrained=True,
            image_size=32,
            model_kwargs=("img_size=32", "patch_size=8"),
            device="cpu",
            workers=1,
        ),
        session,
    )
    labels = noise.run(noise_config.Config(data="digits", type="symmetric", ratio=(0.4,), split="train"), session)[0]
    return Given(features, labels)


def tensors(path: Path, run: int = 0) -> dict[str, torch.Tensor]:
    """The head and the kept backbone of a run."""
    head = load_file(path / "data" / "heads.safetensors")
    return {k.removeprefix(f"run_{run:04d}."): v for k, v in head.items() if k.startswith(f"run_{run:04d}")} | {
        f"backbone.{k}": v for k, v in load_file(path / "data" / "backbones" / f"run_{run:04d}.safetensors").items()
    }


def pictures(features: ArtifactRef, split: str) -> torch.Tensor:
    """The split's images, prepared by timm itself."""
    from PIL import Image

    pre = open_artifact(features.path).manifest.recipe["config"]["encoder"]["preprocessing"]
    transform = timm.data.create_transform(
        input_size=(3, *pre["size"]),
        **{k: pre[k] for k in ("interpolation", "crop_pct", "crop_mode", "mean", "std")},
    )
    data = open_dataset("digits", memo=Memo(None))
    return torch.stack([transform(Image.fromarray(data.image(split, i))) for i in range(len(data.splits[split]))])


def plain(seen: Given, loss: str, lr: float, size: int, weights: tuple[float, float] = (0.0, 0.0)) -> Any:
    """One epoch of SGD, written down in plain PyTorch; only the order of rows and the first head are nmtool's."""
    model = timm.create_model("test_vit", num_classes=0, img_size=32, patch_size=8)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        fresh = timm.create_model("test_vit", img_size=32, patch_size=8)
    fresh.reset_classifier(0)
    model.load_state_dict(fresh.state_dict())
    head = torch.nn.Linear(model.num_features, 10)
    with torch.no_grad():
        head.weight.copy_(uniform(0, ("classifier",), (10, model.num_features), math.sqrt(6 / model.num_features)))
        head.bias.zero_()
    images = pictures(seen.features, "train")
    y = torch.from_numpy(table(seen.labels, "labels.parquet")["noisy"].copy())
    sgd = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=lr, momentum=0.9, weight_decay=0.0)
    targets = torch.zeros(len(y), 10)
    rows = torch.from_numpy(order(np.arange(len(y)), 0, 1, "finetune"))
    model.train()
    for now in rows.split(size):
        z = model(images[now])
        logits = head(z)
        p = logits.softmax(1)
        right = p.gather(1, y[now, None])[:, 0]
        if loss == "ce":
            value = F.cross_entropy(logits, y[now])
        elif loss == "gce":
            value = ((1 - right**0.7) / 0.7).mean()
        else:  # ELR, Eq. 6
            kept = p.clamp(1e-4, 1 - 1e-4)
            with torch.no_grad():
                targets[now] = 0.9 * targets[now] + 0.1 * kept / kept.sum(1, keepdim=True)
            value = F.cross_entropy(logits, y[now]) + 7 * (1 - (targets[now] * kept).sum(1)).log().mean()
        if any(weights):
            c = torch.cov(z.T)
            value = value + weights[0] * (c.square().sum() - c.diagonal().square().sum()) / z.shape[1]
            sigma = torch.linalg.svdvals(z)
            value = value - weights[1] * sigma[0] / sigma.sum()
        sgd.zero_grad()
        value.backward()
        sgd.step()
    return model, head


@pytest.mark.parametrize(
    ("loss", "weights"), [("ce", (0.0, 0.0)), ("gce", (0.0, 0.0)), ("elr", (0.0, 0.0)), ("ce", (0.1, 0.5))]
)
def test_an_epoch_is_that_of_a_plain_loop(seen: Given, store: Path, loss: str, weights: tuple[float, float]) -> None:
    ref = tune(
        store,
        seen.features,
        method="fft",
        loss=loss,
        labels=str(seen.labels.path),
        fft_lr=3e-3,
        fft_optimizer="sgd",
        fft_weight_decay=0.0,
        weight_cov=weights[0],
        weight_svd=weights[1],
        keep_backbone=True,
        **SHORT,
    )
    model, head = plain(seen, loss, 3e-3, 64, weights)
    found = tensors(ref.path)
    torch.testing.assert_close(found["classifier.weight"], head.weight.detach(), rtol=1e-3, atol=2e-5)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[f"backbone.{name}"], tensor, rtol=1e-3, atol=2e-5)


def test_parts_of_a_step_are_the_step(seen: Given, store: Path) -> None:
    """Gradients of parts add up, ELR's memory and the augmentation's draws with them."""
    runs = [
        tune(
            store,
            seen.features,
            method="fft",
            loss="elr",
            labels=str(seen.labels.path),
            fft_lr=3e-3,
            fft_optimizer="sgd",
            augment="weak",
            accumulate=parts,
            keep_backbone=True,
            **SHORT,
        )
        for parts in (1, 3)
    ]
    whole, parts = (tensors(ref.path) for ref in runs)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=2e-5)
    logs = [json.loads((r.path / "data" / "log.jsonl").read_text().splitlines()[0]) for r in runs]
    assert logs[1]["elr"] == pytest.approx(logs[0]["elr"], rel=1e-4)
    assert logs[1]["train_accuracy"] == logs[0]["train_accuracy"]


def test_mixed_precision_is_near_full_precision(seen: Given, store: Path) -> None:
    common = {"method": "fft", "fft_lr": 3e-3, "fft_optimizer": "sgd", "keep_backbone": True, **SHORT}
    full, half = (tensors(tune(store, seen.features, amp=amp, **common).path) for amp in ("none", "bf16"))
    start = {k: v for k, v in full.items() if k == "classifier.weight"}["classifier.weight"]
    assert not torch.equal(half["classifier.weight"], start)
    assert half["classifier.weight"].dtype == torch.float32
    torch.testing.assert_close(half["classifier.weight"], start, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(("targets", "layers"), [("auto", "mlp"), ("attention", "attn"), ("all", "")])
def test_adapters_merged_are_a_plain_backbone(seen: Given, store: Path, targets: str, layers: str) -> None:
    """What is kept loads into timm, gives the predictions on record, and differs from the first in the layers asked."""
    ref = tune(
        store,
        seen.features,
        method="lora",
        fft_epochs=2,
        fft_batch_size=64,
        fft_lr=1e-2,
        lora_targets=targets,
        keep_backbone=True,
        spectra=False,
    )
    found = tensors(ref.path)
    model = timm.create_model("test_vit", num_classes=0, img_size=32, patch_size=8).eval()
    model.load_state_dict({k.removeprefix("backbone."): v for k, v in found.items() if k.startswith("backbone.")})
    with torch.no_grad():
        z = model(pictures(seen.features, "test"))
        logits = F.linear(z, found["classifier.weight"], found["classifier.bias"])
    predicted = table(ref, "predictions.parquet")["predicted"]
    assert np.mean(predicted == logits.argmax(1).numpy()) > 0.995  # ties of float32 aside
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        fresh = timm.create_model("test_vit", img_size=32, patch_size=8).state_dict()
    changed = [k for k in model.state_dict() if not torch.equal(model.state_dict()[k], fresh[k])]
    assert changed
    assert all(layers in name for name in changed)
    assert all(name.endswith("weight") for name in changed)
    (row,) = results(ref)
    head = 10 * (model.num_features + 1)
    adapted = [m for n, m in model.named_modules() if f"{n}.weight" in changed]
    assert row["parameters"] == sum(8 * (m.in_features + m.out_features) for m in adapted) + head


def test_a_network_of_convolutions_gets_adapters_there(encoded: Given, store: Path) -> None:
    ref = tune(store, encoded.features, method="lora", keep_backbone=True, **SHORT)
    model = timm.create_model("test_resnet", num_classes=0)
    model.load_state_dict(load_file(ref.path / "data" / "backbones" / "run_0000.safetensors"))
    with pytest.raises(UsageError, match=r"--lora-targets attention of .*conv \(\d+\)"):
        tune(store, encoded.features, method="lora", lora_targets="attention", **SHORT)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": ["fft"], "loss": ["elr"], "fft_optimizer": ["adamw"], "augment": ["weak"]},
        {
            "method": ["turn"],
            "tune_backbone": ["lora"],
            "lora_dropout": [0.2],
            "fft_schedule": ["cosine"],
            "probe_epochs": [2],
            "amp": "bf16",
        },
    ],
)
def test_killed_within_an_epoch_it_ends_with_the_same_content(
    seen: Given, tmp_path: Path, settings: dict[str, Any]
) -> None:
    asked = json.dumps({**settings, "fft_epochs": [2], "fft_batch_size": [48], "labels": [str(seen.labels.path)]})
    contents = []
    for store, kill, code in (("whole", 0, 0), ("killed", 6, -9), ("killed", 0, 0)):
        argv = [str(tmp_path / store), str(seen.features.path), str(kill), asked]
        done = subprocess.run([sys.executable, "-c", _KILL, *argv], capture_output=True, text=True, timeout=240)
        assert done.returncode == code, done.stderr
        contents.append(done.stdout)
    assert contents[0]
    assert contents[0] == contents[-1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "lp", "loss": "elr"}, "--loss elr with --method lp"),
        ({"method": "fft", "accumulate": 2, "weight_cov": 0.1}, "--accumulate 2 with NMTune's terms"),
        ({"method": "fft", "accumulate": 65, "fft_batch_size": 64}, "at least one image a part"),
        ({"method": "fft", "amp": "fp16", "device": "cpu"}, "--amp fp16 on cpu"),
        ({"method": "fft", "search": True}, "--search with --method fft"),
        ({"method": "lora", "lora_rank": 0}, "--lora-rank has 0"),
        ({"method": "fft", "loss": "elr", "elr_beta": 1.0}, "--elr-beta has 1"),
    ],
)
def test_refused(seen: Given, store: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tune(store, seen.features, **settings)
    assert not list(store.rglob("manifest.json"))


def test_without_peft_the_message_says_how_to_get_it(seen: Given, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "peft" else find(name, *a))
    with pytest.raises(UnavailableError, match=r"pip install 'nmtool\[lora\]'") as caught:
        tune(store, seen.features, method="lora", **SHORT)
    assert caught.value.exit_code == 69


def test_divergence_names_the_step(seen: Given, store: Path) -> None:
    with pytest.raises(
        DivergedError, match=r"the ce loss is nan in epoch 1 of fine-tuning, step \d+ \(fft, ce, seed 0"
    ):
        tune(store, seen.features, method="fft", fft_lr=1e30, fft_optimizer="sgd", **SHORT)
    assert not list(store.rglob("manifest.json"))


@pytest.mark.parametrize(
    ("family", "arch", "column"),
    [
        ("timm", "vit_base_patch16_224.augreg_in1k", "ViT"),
        ("timm", "deit_small_patch16_224", "ViT"),
        ("timm", "convnext_base.fb_in22k", "ConvNeXt"),
        ("timm", "vit_base_patch16_224.mae", "MAE"),
        ("transformers", "ViTMAEModel-L12-H768", "MAE"),
        ("transformers", "facebook/vit-msn-base", "MSN"),
        ("timm", "vit_base_patch16_clip_224.openai", "CLIP"),
        ("open_clip", "RN50", "CLIP"),
        ("timm", "resnet50.a1_in1k", "ResNet-50"),
        ("timm", "mobilenetv2_100", ""),
    ],
)
def test_a_backbone_has_its_column_of_table_8(family: str, arch: str, column: str) -> None:
    assert column_of({"family": family, "arch": arch}) == column
    (run,) = expand(Config(features="", method=("fft",)), 0, 768, column)
    assert run.finetune is not None
    assert run.finetune.lr == TABLE_8[column]["fft_lr"]
    assert run.finetune.optimizer == TABLE_8[column]["fft_optimizer"]
    (given,) = expand(Config(features="", method=("turn",), fft_lr=(0.5,)), 0, 768, column)
    assert given.finetune is not None
    assert given.finetune.lr == 0.5
    assert given.finetune.weight_decay == TABLE_8[column]["fft_weight_decay"]


def test_resolved_numbers_are_told_and_on_record(seen: Given, store: Path) -> None:
    notes = Notes()
    (row,) = results(tune(store, seen.features, notes, method="fft", preset="released", **SHORT))
    assert (row["lr"], row["optimizer"], row["weight_decay"]) == (1e-2, "sgd", 1e-5)  # ViT's column
    assert (row["weight_cov"], row["weight_svd"], row["svd_topk"]) == (0.04, 0.001, 5)  # the journal's code
    assert any("fft: sgd, learning rate 0.01, decay 1e-05" in line for line in notes.infos)
    assert row["tau"] is None
    assert row["probe_lr"] is None


def test_settings_that_older_recipes_lack_leave_turns_key_alone(seen: Given) -> None:
    from nmtool.tune.axes import axes

    late = {"fft_schedule", "amp", "accumulate", "lora_rank", "tune_backbone"}
    assert not late & set(axes(Config(features="", method=("turn",)), 64)["turn"])
    changed = axes(Config(features="", method=("turn",), amp="bf16"), 64)["turn"]
    assert changed["amp"] == ["bf16"]


def test_what_several_processes_can_not_share_is_refused() -> None:
    for settings, words in (
        ({"method": ("lp",)}, "heads on features in 2 processes"),
        ({"method": ("fft",), "weight_cov": (0.1,)}, "NMTune's terms in 2 processes"),
        ({"method": ("fft",), "fft_batch_norm": ("train",)}, "--fft-batch-norm train in 2 processes"),
    ):
        with pytest.raises(UsageError, match=words):
            check_shared(expand(Config(features="", **settings), 0, 64), 2)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
def test_two_processes_train_what_one_does(seen: Given, tmp_path: Path) -> None:
    """One artifact, from rank 0; gradients of both ranks' images are those of the whole batch, to rounding."""
    flags = [
        *("tune", str(seen.features.path), "--labels", str(seen.labels.path)),
        *("--method", "turn,fft", "--loss", "elr", "--probe-epochs", "2", "--augment", "weak"),
        *("--fft-epochs", "1", "--fft-batch-size", "33", "--fft-optimizer", "sgd", "--fft-lr", "3e-3"),
        *("--keep-backbone", "--device", "cpu", "--workers", "1"),
    ]
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    found = []
    for number, start in enumerate(((sys.executable,), torchrun)):
        argv = [*start, "-m", "nmtool", *flags, "--store", str(tmp_path / str(number))]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=240, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1, "rank 0 alone speaks"
        found.append(Path(done.stdout.strip()))
    heads = [open_artifact(path) for path in found]
    assert heads[0].manifest.key == heads[1].manifest.key
    for run in range(2):
        one, two = (tensors(path, run) for path in found)
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-5)
