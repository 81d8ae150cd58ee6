"""The loop's parts against plain references: schedule, augmentation, images held and streamed, checkpoints."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_samples import CONFIG

import nmtool.pretrain.images as images_module
from nmtool.artifact.memo import Memo
from nmtool.artifact.stage import Staging
from nmtool.data.sources import open_dataset
from nmtool.encoders.spec import Preprocessing
from nmtool.encoders.timm import Pixels, create
from nmtool.pretrain import checkpoint
from nmtool.pretrain.images import Images, augmented
from nmtool.pretrain.plan import Part, learning_rate


def test_schedule_is_torchs_cosine_after_a_linear_start() -> None:
    config = dataclasses.replace(CONFIG, lr=0.4, warmup_epochs=1.0)
    rates = [learning_rate(config, step, 40, 10) for step in range(40)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.4)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    for step in range(10, 40):
        assert rates[step] == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), step
        optimizer.step()
        theirs.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    none = dataclasses.replace(config, warmup_epochs=0.0)
    assert learning_rate(none, 0, 40, 10) == 0.4
    assert math.isfinite(learning_rate(config, 0, 1, 1))


@pytest.mark.parametrize("how", ["none", "crop", "flip", "weak"])
def test_augmentation_is_a_shifted_and_flipped_copy_of_each_image(how: str) -> None:
    source = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (16, 3, 24, 20), dtype=np.uint8))
    out = augmented(source, how, np.random.default_rng(5))
    again = augmented(source, how, np.random.default_rng(5))
    assert torch.equal(out, again)
    pad = 3 if how in ("crop", "weak") else 0
    found = []
    for before, after in zip(source.numpy(), out.numpy(), strict=True):
        wide = np.pad(before, ((0, 0), (pad, pad), (pad, pad)))
        fits = [
            (flip, top, left)
            for flip in (False, True)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            if np.array_equal(after[..., ::-1] if flip else after, wide[:, top : top + 24, left : left + 20])
        ]
        assert len(fits) == 1
        found.append(fits[0])
    assert len({flip for flip, _, _ in found}) == (2 if how in ("flip", "weak") else 1)
    assert len({where for _, *where in [(f, (t, w)) for f, t, w in found] for where in where}) > 3 or pad == 0


def test_streamed_images_are_the_held_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset("digits", memo=Memo(None))
    rows = np.array([3, 1, 7, 20, 21, 5])
    part = Part(split="test", rows=rows, labels=rows, clean=rows)
    spec = Preprocessing(
        size=(16, 16), interpolation="bilinear", crop_pct=1.0, crop_mode="center", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    held = Images(dataset, part, Pixels(spec), 2)
    monkeypatch.setattr(images_module, "HELD_BYTES", 0)
    streamed = Images(dataset, part, Pixels(spec), 2)
    positions = [np.array([5, 0]), np.array([1, 2, 3]), np.array([4])]
    for one, two in zip(held.batches(positions), streamed.batches(positions), strict=True):
        assert torch.equal(one, two)
    first = next(iter(held.batches([np.array([2])])))
    assert torch.equal(first[0], Pixels(spec).crop(dataset.image("test", 7)))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_restored_run_takes_the_same_steps(tmp_path: Path, name: str) -> None:
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)

    def fresh(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = create("test_resnet", {}, num_classes=8, seed=seed).to(memory_format=torch.channels_last)
        if name == "sgd":
            return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        return model, torch.optim.AdamW(model.parameters(), lr=0.01)

    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    straight = fresh(0)
    steps(*straight, 3)
    staging = Staging(tmp_path, {}, 0)
    checkpoint.keep(staging, *straight, checkpoint.Progress(step=3, log=[{"epoch": 0}]))
    steps(*straight, 3)
    resumed = fresh(1)
    progress = checkpoint.restore(staging, *resumed)
    assert (progress.step, progress.log) == (3, [{"epoch": 0}])
    steps(*resumed, 3)
    assert checkpoint.weights_bytes(resumed[0]) == checkpoint.weights_bytes(straight[0])


def test_a_damaged_checkpoint_begins_anew(tmp_path: Path) -> None:
    model = create("test_resnet", {}, num_classes=8, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    staging = Staging(tmp_path, {}, 0)
    before = checkpoint.weights_bytes(model)
    for data in (b"", b"\x80\x02}q\x00.", before, before[: len(before) // 2]):
        staging.keep(checkpoint.NAME, data)
        assert checkpoint.restore(staging, model, optimizer).step == 0
        assert checkpoint.weights_bytes(model) == before
