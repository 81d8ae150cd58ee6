"""The training loop, one page: everything random is drawn by name from the seed, by epoch and step.

So a resumed run goes through the very states of an uninterrupted one, and runs that differ in their labels alone start
from the same weights and see the same crops of the same images in the same order. A loss that is not finite ends it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nmtool.artifact.stage import Reporter, Staging
from nmtool.encoders.device import autocast
from nmtool.encoders.timm import Pixels
from nmtool.errors import DivergedError
from nmtool.numerics.seeds import generator, torch_seed
from nmtool.pretrain import checkpoint
from nmtool.pretrain.config import Config
from nmtool.pretrain.images import Images, augmented
from nmtool.pretrain.plan import Plan, learning_rate, log_line

# Asking a GPU for a loss stops it; on a CPU it costs nothing.
GPU_LOOK_EVERY = 50


def train(
    model: Any,
    optimizer: torch.optim.Optimizer,
    pixels: Pixels,
    images: tuple[Images, Images | None],
    plan: Plan,
    config: Config,
    staging: Staging,
    device: torch.device,
    progress: checkpoint.Progress,
    advance: Callable[[int], None],
    report: Reporter,
) -> None:
    """Train ``model`` in place, from where ``progress`` says; it holds the log in the end.

    Raises:
        DivergedError: the loss, named with its epoch and step.
        DataError: a broken image.
    """
    forward = torch.compile(model) if config.compile else model
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
    if progress.scaler:
        scaler.load_state_dict(progress.scaler)
    count = len(plan.train.rows)
    size = min(config.batch_size, count)
    per_epoch = count // size
    labels = torch.from_numpy(plan.train.labels.copy()).to(device)
    clean = torch.from_numpy(plan.train.clean.copy()).to(device)
    unread: list[tuple[int, torch.Tensor]] = []
    for epoch in range(progress.step // per_epoch, config.epochs):
        order = generator(config.seed, "pretrain", "order", epoch).permutation(count)
        begun = progress.step - epoch * per_epoch
        positions = [order[i * size : (i + 1) * size] for i in range(begun, per_epoch)]
        model.train()
        for at, raw in zip(positions, images[0].batches(positions), strict=True):
            step = progress.step
            seed_dropout(torch_seed(config.seed, "pretrain", "step", step), device)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, config.epochs * per_epoch, per_epoch)
            batch = augmented(
                to_device(raw, device), config.augment, generator(config.seed, "pretrain", "augment", step)
            )
            where = torch.from_numpy(at).to(device)
            with autocast(device, config.amp):
                logits = forward(laid_out(pixels.normalise(batch), config))
                loss = F.cross_entropy(logits, labels[where], label_smoothing=config.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            guess = logits.detach().argmax(dim=1)
            right = torch.stack(((guess == labels[where]).sum(), (guess == clean[where]).sum()))
            unread.append((step, torch.cat((loss.detach().double().view(1), right.double()))))
            progress.step += 1
            inside = config.checkpoint_steps and progress.step % config.checkpoint_steps == 0
            last = progress.step % per_epoch == 0
            if last or inside or device.type == "cpu" or len(unread) >= GPU_LOOK_EVERY:
                look(unread, progress, size, per_epoch)
            if inside and not last:
                progress.scaler = scaler.state_dict()
                checkpoint.keep(staging, model, optimizer, progress)
            advance(size)
        finish_epoch(epoch, model, pixels, images[1], plan, config, device, progress)
        report.info(told(progress.log[-1], config.epochs))
        if (epoch + 1) % config.checkpoint_every == 0 or epoch + 1 == config.epochs:
            progress.scaler = scaler.state_dict()
            checkpoint.keep(staging, model, optimizer, progress)


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed what layers draw from, in the state that the caller forked; cheaper than ``torch.manual_seed``."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def told(line: Mapping[str, object], epochs: int) -> str:
    """An epoch's log line for people."""
    numbers = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in line.items() if name != "epoch")
    return f"epoch {line['epoch']} of {epochs}: {numbers}"


def look(unread: list[tuple[int, torch.Tensor]], progress: checkpoint.Progress, size: int, per_epoch: int) -> None:
    """Read the losses of the last steps and add them up; raises ``DivergedError`` at the first that is not finite."""
    for step, numbers in zip([s for s, _ in unread], torch.stack([n for _, n in unread]).tolist(), strict=True):
        loss, right, right_clean = numbers
        if not math.isfinite(loss):
            raise DivergedError(
                f"the cross-entropy is {loss} in epoch {step // per_epoch + 1} at step {step + 1}",
                "a finite loss",
                "take a smaller --lr, a longer --warmup-epochs, or --amp none",
            )
        for name, value in (("loss", loss * size), ("right", right), ("right_clean", right_clean), ("seen", size)):
            progress.sums[name] += value
    unread.clear()


def finish_epoch(
    epoch: int,
    model: Any,
    pixels: Pixels,
    images: Images | None,
    plan: Plan,
    config: Config,
    device: torch.device,
    progress: checkpoint.Progress,
) -> None:
    """Validate, write the epoch's line and begin new sums; raises ``DivergedError`` for weights that are not finite."""
    if not all(bool(torch.isfinite(p).all()) for p in model.state_dict().values()):
        raise DivergedError(f"a weight is not finite after epoch {epoch + 1}", "finite weights", "take a smaller --lr")
    accuracy = None
    if images is not None and plan.validation is not None:
        accuracy = validate(model, pixels, images, plan.validation.clean, config, device)
    progress.log.append(log_line(epoch, progress.sums, accuracy))
    progress.sums = checkpoint.Progress().sums


def validate(
    model: Any, pixels: Pixels, images: Images, clean: np.ndarray[Any, Any], config: Config, device: torch.device
) -> float:
    """Share of the images whose largest logit is at the clean label."""
    model.eval()
    positions = np.array_split(np.arange(len(clean)), -(-len(clean) // config.batch_size))
    right = 0
    with torch.no_grad():
        for at, raw in zip(positions, images.batches(positions), strict=True):
            with autocast(device, config.amp):
                logits = model(laid_out(pixels.normalise(to_device(raw, device)), config))
            right += int((logits.argmax(dim=1).cpu() == torch.from_numpy(clean[at])).sum())
    return right / len(clean)


def to_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To the device; through pinned memory where that lets the copy run beside the work."""
    return images.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else images


def laid_out(images: torch.Tensor, config: Config) -> torch.Tensor:
    """In the memory layout that was asked for."""
    return images.contiguous(memory_format=torch.channels_last if config.channels_last else torch.contiguous_format)
