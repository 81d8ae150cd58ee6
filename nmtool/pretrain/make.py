"""A pre-training run from its plan to its payload: size, model, optimiser, the loop, then weights, config and log."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch

from nmtool.artifact.format import canonical
from nmtool.artifact.stage import Session, Staging
from nmtool.data.dataset import Dataset
from nmtool.data.images import BrokenSample
from nmtool.encoders.device import choose_device, keep_freed_memory, thread_count
from nmtool.encoders.facts import Facts, facts_of
from nmtool.encoders.resolve import CONFIG, WEIGHTS
from nmtool.encoders.spec import Preprocessing
from nmtool.encoders.timm import Pixels, create
from nmtool.errors import UsageError
from nmtool.numerics.seeds import torch_seed
from nmtool.pretrain import checkpoint
from nmtool.pretrain.config import Config
from nmtool.pretrain.images import Images
from nmtool.pretrain.loop import train
from nmtool.pretrain.plan import Plan

LOG = "log.jsonl"


def make(
    staging: Staging, config: Config, dataset: Dataset, plan: Plan, kwargs: Mapping[str, object], session: Session
) -> Mapping[str, object]:
    """Train and write the payload; returns the summary."""
    device = choose_device(config.device)
    if config.amp == "fp16" and device.type != "cuda":
        raise UsageError(f"--amp fp16 on {device.type}", "a CUDA device", "take --amp bf16 or none")
    if device.type == "cpu":
        keep_freed_memory()
    facts, preprocessing = _preprocessing(config, dataset, plan, kwargs, session)
    here = Pixels(preprocessing)
    threads = thread_count(config.workers)
    images = Images(dataset, plan.train, here, threads)
    held = Images(dataset, plan.validation, here, threads) if plan.validation is not None else None
    seed = torch_seed(config.seed, "pretrain", "init")
    model = create(config.arch, kwargs, num_classes=len(plan.classes), seed=seed)
    model.to(device=device, memory_format=torch.channels_last if config.channels_last else torch.preserve_format)
    optimizer = _optimizer(model, config)
    size = min(config.batch_size, len(plan.train.rows))
    total = config.epochs * (len(plan.train.rows) // size)
    began = time.perf_counter()
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), session.report.progress(total * size, f"training {config.arch}") as bar:
        progress = checkpoint.restore(staging, model, optimizer)
        before = progress.step
        bar(before * size)
        normal = Pixels(preprocessing, device)
        train(model, optimizer, normal, (images, held), plan, config, staging, device, progress, bar, session.report)
    seconds = time.perf_counter() - began
    _write(staging, model, progress, config, plan, preprocessing, facts, kwargs)
    return _summary(config, plan, progress, (total - before) * size / max(seconds, 1e-9), device)


def _preprocessing(
    config: Config, dataset: Dataset, plan: Plan, kwargs: Mapping[str, object], session: Session
) -> tuple[Facts, Preprocessing]:
    """The input size, and with it how images are prepared: whole (no crop margin), timm's mean and deviation."""
    own = facts_of(config.arch, kwargs, None, session.memo)
    size = config.image_size
    if size is None and "img_size" not in kwargs:
        height, width = _first_size(dataset, plan)
        # small square images (digits, CIFAR) stay as they are; photographs come in the architecture's own size
        size = height if height == width and height < own.preprocessing.size[0] else None
        if size is not None:
            try:
                facts_of(config.arch, kwargs, size, session.memo)
            except UsageError:
                size = None  # an architecture of one size only
    facts = facts_of(config.arch, kwargs, size, session.memo)
    return facts, dataclasses.replace(facts.preprocessing, crop_pct=1.0, crop_mode="center")


def _first_size(dataset: Dataset, plan: Plan) -> tuple[int, int]:
    try:
        height, width = dataset.image(plan.train.split, int(plan.train.rows[0])).shape[:2]
        return int(height), int(width)
    except BrokenSample:
        return 0, 1  # it is told, with its name, where all images are read


def _optimizer(model: Any, config: Config) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum; vectors (biases, norms) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.lr)


def _write(
    staging: Staging,
    model: Any,
    progress: checkpoint.Progress,
    config: Config,
    plan: Plan,
    preprocessing: Preprocessing,
    facts: Facts,
    kwargs: Mapping[str, object],
) -> None:
    staging.write(WEIGHTS, checkpoint.weights_bytes(model))
    body = {
        "arch": config.arch,
        "kwargs": dict(kwargs),
        "num_classes": len(plan.classes),
        "classes": list(plan.classes),
        "preprocessing": dataclasses.asdict(preprocessing),
        "dim": facts.dim,
        "objective": config.objective,
        "split": plan.train.split,
        "epochs": config.epochs,
    }
    staging.write(CONFIG, canonical(body))
    staging.write(LOG, b"".join(canonical(line) + b"\n" for line in progress.log))


def _summary(
    config: Config, plan: Plan, progress: checkpoint.Progress, rate: float, device: torch.device
) -> dict[str, object]:
    last = progress.log[-1]
    return {
        "arch": config.arch,
        "objective": config.objective,
        "epochs": config.epochs,
        "samples_per_s": round(rate, 1),
        "metrics": {name: value for name, value in last.items() if name != "epoch"},
        "n": len(plan.train.rows),
        "classes": len(plan.classes),
        "validation": plan.validation.split if plan.validation is not None else "",
        "noise": plan.noise if config.labels is not None else 0.0,
        "device": device.type,
    }
