"""Pre-training through ``run()``: it learns, repeats itself, keeps order and start apart from labels, and refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pretrain_samples import pretrain
from safetensors.torch import load

from nmtool.artifact.memo import Memo
from nmtool.artifact.open import open_artifact, verify
from nmtool.artifact.stage import Session
from nmtool.data.sources import open_dataset
from nmtool.encoders.resolve import resolve
from nmtool.encoders.timm import load as load_encoder
from nmtool.errors import DataError, DivergedError, InputMissingError, NmtoolError, UnavailableError, UsageError
from nmtool.numerics.seeds import torch_seed


def test_it_learns_and_says_what_it_did(session: Session) -> None:
    ref = pretrain(session, epochs=5)
    artifact = open_artifact(ref.path, "backbone")
    verify(artifact, (1, 1))
    metrics: Any = ref.summary["metrics"]
    assert metrics["validation_accuracy"] > 0.5  # ten classes
    assert {"arch", "objective", "epochs", "samples_per_s", "metrics", "n", "classes"} <= ref.summary.keys()
    log = [json.loads(line) for line in artifact.read("log.jsonl").splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3, 4, 5]
    assert log[-1]["loss"] < log[0]["loss"]
    assert set(log[0]) == {"epoch", "loss", "train_accuracy", "train_accuracy_clean", "validation_accuracy"}
    assert len(session.report.lines) == 5  # type: ignore[attr-defined]


def test_the_backbone_can_be_encoded_with(session: Session) -> None:
    """The validation accuracy of the log, again, from the artifact, by timm alone; and its features."""
    ref = pretrain(session, epochs=3)
    artifact = open_artifact(ref.path)
    config: Any = artifact.json("config.json")
    model = timm.create_model(config["arch"], num_classes=config["num_classes"]).eval()
    model.load_state_dict(load(artifact.read("weights.safetensors")))
    data = open_dataset("digits", memo=Memo(None))
    images = np.stack([data.image("test", row) for row in range(len(data.splits["test"]))])
    pre = config["preprocessing"]
    assert pre["size"] == [32, 32]
    assert images.shape[1:] == (32, 32, 3)
    mean, std = (torch.tensor(pre[name]).view(3, 1, 1) for name in ("mean", "std"))
    batch = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        guess = model(batch).argmax(dim=1).numpy()
    accuracy = float(np.mean(guess == data.splits["test"].labels.values))
    assert accuracy == pytest.approx(ref.summary["metrics"]["validation_accuracy"], abs=1 / 300)  # type: ignore[index]

    ask: dict[str, Any] = {"arch": None, "kwargs": {}, "untrained": False, "seed": 0, "overrides": {}}
    encoder = load_encoder(resolve(str(ref.path), **ask, memo=session.memo))
    assert torch.equal(encoder.prepare(images[0]), batch[0])
    with torch.no_grad():
        theirs = model.forward_head(model.forward_features(batch[:8]), pre_logits=True)
        torch.testing.assert_close(encoder.features(batch[:8]), theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="its own"):
        resolve(str(ref.path), **(ask | {"arch": "resnet18"}), memo=session.memo)


def test_the_same_recipe_gives_the_same_bytes(session: Session, tmp_path: Path) -> None:
    other = dataclasses.replace(session, store=tmp_path / "other")
    torch.manual_seed(1)
    one = pretrain(session, model_kwargs=("drop_rate=0.2",))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = pretrain(other, model_kwargs=("drop_rate=0.2",), checkpoint_every=5, checkpoint_steps=3, workers=2)
    assert torch.equal(torch.get_rng_state(), state), "global random state is left alone"
    assert (one.key, one.content) == (two.key, two.content)
    assert pretrain(session, model_kwargs=("drop_rate=0.2",)).cached


def test_labels_change_neither_start_nor_order(session: Session, make_labels: Callable[..., Path]) -> None:
    """With a learning rate that moves nothing, weights are the start, and batch norms' means tell the images seen."""
    still: dict[str, Any] = {"lr": 1e-30, "weight_decay": 0.0, "augment": "weak", "epochs": 1}
    noisy = make_labels(lambda clean: np.where(np.arange(len(clean)) % 3 == 0, (clean + 1) % 10, clean))
    start, same, other = (
        load(open_artifact(pretrain(session, **still, **change).path).read("weights.safetensors"))
        for change in ({}, {"labels": str(noisy)}, {"seed": 1})
    )
    for name, tensor in start.items():  # zeros move by 1e-30
        torch.testing.assert_close(same[name], tensor, rtol=0, atol=0 if "running" in name else 1e-25)
    assert not torch.equal(other["bn1.running_mean"], start["bn1.running_mean"])
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(0, "pretrain", "init"))
        fresh = timm.create_model("test_resnet", num_classes=10).state_dict()
    assert torch.equal(start["conv1.0.weight"], fresh["conv1.0.weight"])
    assert not torch.equal(start["bn1.running_mean"], fresh["bn1.running_mean"])


def test_noisy_labels_are_trained_on_and_validation_stays_clean(
    session: Session, make_labels: Callable[..., Path]
) -> None:
    wrong = make_labels(lambda clean: (clean + 1) % 10)
    ref = pretrain(session, labels=str(wrong), epochs=5)
    metrics: Any = ref.summary["metrics"]
    assert ref.summary["noise"] == 1.0
    assert metrics["train_accuracy"] > 0.4
    assert metrics["validation_accuracy"] < 0.1
    assert metrics["train_accuracy_clean"] < 0.2
    assert ref.key != pretrain(dataclasses.replace(session, dry_run=True), epochs=5).key


def test_unlabelled_rows_are_left_out(session: Session, make_labels: Callable[..., Path]) -> None:
    some = make_labels(lambda clean: np.where(np.arange(len(clean)) < 100, clean, -1))
    assert pretrain(session, labels=str(some), epochs=1).summary["n"] == 100


def test_validation_can_be_chosen(session: Session) -> None:
    tenth = pretrain(session, epochs=1, validation="0.1")
    assert tenth.summary["n"] == 797 - 80
    assert tenth.summary["validation"] == "pretrain"
    none = pretrain(session, epochs=1, validation="none")
    assert "validation_accuracy" not in none.summary["metrics"]  # type: ignore[operator]
    named = pretrain(session, epochs=1, validation="test")
    assert named.key == pretrain(session, epochs=1).key
    assert len({tenth.key, none.key, named.key}) == 3


def test_a_diverging_run_names_the_step_and_leaves_no_artifact(session: Session) -> None:
    with pytest.raises(DivergedError, match=r"cross-entropy is \w+ in epoch \d+ at step \d+") as caught:
        pretrain(session, lr=1e25, warmup_epochs=0, optimizer="sgd")
    assert caught.value.exit_code == 70
    assert not list(session.store.glob("backbone/*/manifest.json"))


def test_a_broken_image_is_named(session: Session, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(8):
        folder = tmp_path / "set" / "train" / f"c{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "set" / "train" / "c1" / "3.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"c1/3\.png") as caught:
        pretrain(session, data=f"folder:{tmp_path / 'set'}", split="train")
    assert caught.value.exit_code == 65


def test_precision_and_optimiser_are_part_of_the_recipe(session: Session) -> None:
    runs = [pretrain(session, epochs=1, **change) for change in ({}, {"amp": "bf16"}, {"optimizer": "sgd"})]
    assert len({run.key for run in runs}) == 3
    assert len({run.content for run in runs}) == 3
    for run in runs:
        assert run.summary["metrics"]["loss"] < 3.5  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"arch": "test_resnt"}, UsageError, "test_resnet"),
        ({"split": "nope"}, InputMissingError, "pretrain"),
        ({"validation": "nope"}, InputMissingError, "fraction"),
        ({"validation": "1.5"}, UsageError, "between 0 and 1"),
        ({"validation": "pretrain"}, UsageError, "training split"),
        ({"epochs": 0}, UsageError, "--epochs"),
        ({"batch_size": 1}, UsageError, "--batch-size"),
        ({"lr": 0.0}, UsageError, "--lr"),
        ({"warmup_epochs": 3.0}, UsageError, "--warmup-epochs"),
        ({"label_smoothing": 1.0}, UsageError, "--label-smoothing"),
        ({"amp": "fp16"}, UsageError, "bf16"),
        ({"device": "cuda:99"}, UnavailableError, "--device"),
        ({"labels": "/nowhere"}, InputMissingError, "nowhere"),
        ({"model_kwargs": ("checkpoint_path=x.pth",)}, UsageError, "checkpoint_path"),
        ({"arch": "vit_tiny_patch16_224", "image_size": 32}, UsageError, "img_size=32"),
    ],
)
def test_refusals(session: Session, change: dict[str, Any], error: type[NmtoolError], says: str) -> None:
    with pytest.raises(error, match=says):
        pretrain(session, **change)
    assert not list(session.store.glob("backbone/*"))


def test_labels_of_something_else_are_refused(session: Session, make_labels: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="split test"):
        pretrain(session, labels=str(make_labels(lambda clean: clean, split="test")))
    with pytest.raises(DataError, match="two classes"):
        pretrain(session, labels=str(make_labels(lambda clean: np.zeros_like(clean))))
