"""A backbone with a head on it, as one network to fine-tune on images: its epoch, its losses, its predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nmtool.errors import DivergedError
from nmtool.numerics import losses
from nmtool.numerics.seeds import torch_seed
from nmtool.records import Float, Int
from nmtool.tune import subset
from nmtool.tune.pictures import Pictures, Shots
from nmtool.tune.plan import Run
from nmtool.tune.scale import Scaling

_EVAL_BATCH = 256
# Lineage repositories of TURN; the paper names none (published-code 6, row 17).
_MOMENTUM = 0.9
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Network(nn.Module):
    """Backbone → scaling (fixed, as the probe learned it) → linear classifier.

    The scaling stays a layer: so the head has the same tensors, and Z the same meaning, as a probe's.

    Args:
        pictures: opens the backbone; this network changes a copy.
        weight, bias: the probe's classifier, [C, D] and [C].
        scaling: the probe's.
        device: where to work.
    """

    def __init__(
        self, pictures: Pictures, weight: Tensor, bias: Tensor, scaling: Scaling, device: torch.device
    ) -> None:
        super().__init__()
        self.backbone = pictures.fresh_module().requires_grad_(True).to(device)
        self._encoder = pictures.encoder
        self._scaling, self._device = scaling, device
        self.classifier = nn.Linear(weight.shape[1], weight.shape[0], device=device)
        with torch.no_grad():
            self.classifier.weight.copy_(weight)
            self.classifier.bias.copy_(bias)

    def transform(self, pixels: Tensor) -> Tensor:
        """Z [B, D], what enters the classifier, of uint8 images [B, 3, H, W]."""
        prepared = self._encoder.pixels.normalise(pixels.to(self._device))
        images = prepared.contiguous(memory_format=torch.channels_last)
        return self._scaling(self._encoder.features_by(self.backbone, images))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, C] of uint8 images."""
        out: Tensor = self.classifier(self.transform(pixels))
        return out

    def freeze_statistics(self) -> None:
        """BatchNorm layers keep the backbone's statistics, scale and shift still learning.

        A clean subset of a few batches moves the weights faster than running averages follow: on digits, 2 batches an
        epoch, test accuracy fell from .99 to .65 in four epochs while training accuracy rose.
        """
        for module in self.modules():
            if isinstance(module, _NORMS):
                module.eval()

    def has_batch_norm(self) -> bool:
        """Whether a batch of one image can't be trained on."""
        return any(isinstance(m, _NORMS) for m in self.modules())


def optimiser(network: Network, run: Run) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum over all parameters, constant learning rate; made once and kept over the rounds."""
    f = run.finetune
    assert f is not None
    if f.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=f.lr, momentum=_MOMENTUM, weight_decay=f.weight_decay)
    return torch.optim.AdamW(network.parameters(), lr=f.lr, weight_decay=f.weight_decay)


def batches(rows: Int, size: int) -> Iterator[Int]:
    """Consecutive parts of ``rows``."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def train_epoch(
    network: Network, optimizer: torch.optim.Optimizer, shots: Shots, rows: Int, noisy: Int, run: Run, epoch: int
) -> dict[str, float]:
    """One epoch of full fine-tuning on ``rows``; BatchNorm layers use the statistics that ``batch_norm`` says.

    A last batch of one image is left out where the network has BatchNorm.

    Raises:
        DivergedError: the loss is not finite.
    """
    f = run.finetune
    assert f is not None
    network.train()
    if f.batch_norm == "frozen":
        network.freeze_statistics()
    order = subset.order(rows, run.seed, epoch, "finetune")
    single = network.has_batch_norm() and f.batch_norm == "train"
    total, hits, seen = 0.0, 0, 0
    for step, part in enumerate(batches(order, f.batch_size)):
        if single and len(part) == 1:
            continue
        pixels = shots.batch(part)
        if f.augment == "weak":
            pixels = weakly(pixels, torch_seed(run.seed, "tune", "augment", epoch, step))
        y = torch.from_numpy(noisy[part]).to(network.classifier.weight.device)
        logits = network(pixels)
        if f.loss == "ce":
            loss = losses.cross_entropy(logits, y)
        else:
            loss = losses.generalized_cross_entropy(logits, y, run.probe.q)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise DivergedError(
                f"the {f.loss} loss is {value} in epoch {epoch} of fine-tuning, step {step + 1} ({run.words()})",
                "a finite loss",
                "lower --fft-lr",
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total, seen = total + value * len(part), seen + len(part)
        hits += int((logits.detach().argmax(-1) == y).sum())
    return {f.loss: total / max(1, seen), "train_accuracy": hits / max(1, seen)}


def weakly(pixels: Tensor, seed: int) -> Tensor:
    """Each image flipped left to right with probability 1/2 and shifted by up to 1/8 of its size, edges repeated."""
    stream = torch.Generator().manual_seed(seed)
    n, _, height, width = pixels.shape
    flips = torch.rand(n, generator=stream) < 0.5
    pixels = torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    padded = functional.pad(pixels.float(), (pad_x, pad_x, pad_y, pad_y), mode="replicate").to(torch.uint8)
    tops = torch.randint(0, 2 * pad_y + 1, (n,), generator=stream).tolist()
    lefts = torch.randint(0, 2 * pad_x + 1, (n,), generator=stream).tolist()
    parts = [padded[i, :, t : t + height, x : x + width] for i, (t, x) in enumerate(zip(tops, lefts, strict=True))]
    return torch.stack(parts)


@torch.inference_mode()
def losses_of(network: Network, shots: Shots, rows: Int, noisy: Int) -> Float:
    """Cross-entropy float64 [n] of each row, in evaluation mode, without augmentation (TURN 4.1.2)."""
    network.eval()
    parts = []
    for part in batches(rows, _EVAL_BATCH):
        y = torch.from_numpy(noisy[part]).to(network.classifier.weight.device)
        parts.append(losses.cross_entropy_each(network(shots.batch(part)).double(), y).cpu().numpy())
    return np.concatenate(parts).astype(np.float64)


@torch.inference_mode()
def predict(network: Network, shots: Shots, rows: Int) -> tuple[Any, Any, Any]:
    """Classes int32 [n], their probabilities float32 [n], and Z float32 [n, D], in evaluation mode."""
    network.eval()
    found: list[tuple[Any, Any, Any]] = []
    for part in batches(rows, _EVAL_BATCH):
        z = network.transform(shots.batch(part))
        top = network.classifier(z).softmax(-1).max(-1)
        found.append((top.indices.to(torch.int32).cpu().numpy(), top.values.cpu().numpy(), z.cpu().numpy()))
    classes, confidence, spaces = (np.concatenate([f[i] for f in found]) for i in range(3))
    return classes, confidence, spaces
