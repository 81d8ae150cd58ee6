"""A backbone with a head on it, one network to fine-tune on images: its losses, predictions and augmentation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nmtool.encoders.device import autocast
from nmtool.encoders.encoder import ImageEncoder, Pixels
from nmtool.numerics import losses
from nmtool.records import Float, Int
from nmtool.tune.crew import Crew
from nmtool.tune.pictures import Shots
from nmtool.tune.plan import Run, WhiteBox
from nmtool.tune.scale import Scaling

EVAL_BATCH = 256
# Lineage repositories of TURN; the paper names none (published-code 6, row 17).
_MOMENTUM = 0.9
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Network(nn.Module):
    """Backbone → scaling (fixed, as learned from the features) → linear classifier.

    The scaling stays a layer: so the head has the same tensors, and Z the same meaning, as a probe's.

    Args:
        encoder: has the backbone; this network changes a copy.
        weight, bias: the classifier that it starts from, [C, D] and [C].
        scaling: of the backbone's output.
        device: where to work.
        adapters: of the backbone, whose own weights then stay; None: all of them learn.
        seed: of the adapters' initial weights.

    Attributes:
        classes: C.
        device: see above.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        weight: Tensor,
        bias: Tensor,
        scaling: Scaling,
        device: torch.device,
        adapters: WhiteBox | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(encoder.module).requires_grad_(adapters is None)
        if adapters is not None:
            from nmtool.tune import lora

            lora.adapt(self.backbone, adapters, seed, encoder.spec.arch)
        self.backbone.to(device)
        self._encoder = encoder
        self._scaling, self.device = scaling, device
        self.classes = weight.shape[0]
        self.classifier = nn.Linear(weight.shape[1], weight.shape[0], device=device)
        with torch.no_grad():
            self.classifier.weight.copy_(weight)
            self.classifier.bias.copy_(bias)

    @property
    def pixels(self) -> Pixels:
        """How its images are prepared."""
        return self._encoder.pixels

    def transform(self, pixels: Tensor) -> Tensor:
        """Z [B, D], what enters the classifier, of uint8 images [B, 3, H, W]."""
        if self.device.type == "cuda":
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        prepared = self._encoder.pixels.normalise(pixels)
        images = prepared.contiguous(memory_format=torch.channels_last)
        return self._scaling(self._encoder.features_by(self.backbone, images))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, C] of uint8 images."""
        out: Tensor = self.classifier(self.transform(pixels))
        return out

    def autocast(self, amp: str) -> torch.autocast:
        """The mixed precision that is asked for: none, bf16 or fp16."""
        return autocast(self.device, amp)

    def learned(self) -> dict[str, Tensor]:
        """By name, what training changes: parameters that learn, and all buffers."""
        found = {n: p.detach() for n, p in self.named_parameters() if p.requires_grad}
        return found | {n: b for n, b in self.named_buffers() if n in self.state_dict()}

    def backbone_state(self) -> dict[str, Tensor]:
        """The backbone's tensors in its own naming, adapters merged into the weights they adapt."""
        from nmtool.tune import lora

        return {k: v.detach().contiguous().cpu() for k, v in lora.merged(self.backbone).items()}

    def adapter_state(self) -> dict[str, Tensor]:
        """What training changed in a backbone that has adapters, by name: the adapters, and all buffers."""
        start = "backbone."
        learned = self.learned().items()
        return {k.removeprefix(start): v.contiguous().cpu() for k, v in learned if k.startswith(start)}

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
    """AdamW or SGD with momentum over all parameters that learn; made once and kept over all epochs."""
    f = run.finetune
    assert f is not None
    parameters = [p for p in network.parameters() if p.requires_grad]
    if f.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=f.lr, momentum=_MOMENTUM, weight_decay=f.weight_decay)
    return torch.optim.AdamW(parameters, lr=f.lr, weight_decay=f.weight_decay)


def batches(rows: Int, size: int) -> Iterator[Int]:
    """Consecutive parts of ``rows``."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def weakly(pixels: Tensor, seed: int, among: int = 0, places: Int | None = None) -> Tensor:
    """Each image flipped left to right with probability 1/2 and shifted by up to 1/8 of its size, edges repeated.

    Args:
        pixels: uint8 [n, 3, H, W].
        seed: of the draws, one for each image of a step.
        among: images of that step, where ``pixels`` are only some of them.
        places: int64 [n] which.
    """
    stream = torch.Generator().manual_seed(seed)
    n, _, height, width = pixels.shape
    which = torch.arange(n) if places is None else torch.from_numpy(places)
    drawn = among or n
    flips = (torch.rand(drawn, generator=stream) < 0.5)[which]
    pixels = torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    padded = functional.pad(pixels.float(), (pad_x, pad_x, pad_y, pad_y), mode="replicate").to(torch.uint8)
    tops = torch.randint(0, 2 * pad_y + 1, (drawn,), generator=stream)[which].tolist()
    lefts = torch.randint(0, 2 * pad_x + 1, (drawn,), generator=stream)[which].tolist()
    parts = [padded[i, :, t : t + height, x : x + width] for i, (t, x) in enumerate(zip(tops, lefts, strict=True))]
    return torch.stack(parts)


@torch.inference_mode()
def losses_of(
    network: Network, shots: Shots, rows: Int, noisy: Int, amp: str = "none", crew: Crew | None = None
) -> Float:
    """Cross-entropy float64 [n] of each row, in evaluation mode, without augmentation (TURN 4.1.2)."""
    network.eval()
    crew = crew or Crew()
    parts: list[Float] = []
    for part in batches(_share(rows, crew), EVAL_BATCH):
        y = torch.from_numpy(noisy[part]).to(network.device)
        with network.autocast(amp):
            logits = network(shots.batch(part))
        parts.append(losses.cross_entropy_each(logits.double(), y).cpu().numpy())
    return np.concatenate(crew.together(parts)).astype(np.float64)


@torch.inference_mode()
def predict(
    network: Network, shots: Shots, rows: Int, *, spaces: bool = True, amp: str = "none", crew: Crew | None = None
) -> tuple[Any, Any, Any]:
    """Classes int32 [n], their probabilities float32 [n], and where asked Z float32 [n, D], in evaluation mode."""
    network.eval()
    crew = crew or Crew()
    found: list[tuple[Any, Any, Any]] = []
    for part in batches(_share(rows, crew), EVAL_BATCH):
        with network.autocast(amp):
            z = network.transform(shots.batch(part))
            logits = network.classifier(z)
        top = logits.float().softmax(-1).max(-1)
        z = z.float() if spaces else z[:0].float()
        found.append((top.indices.to(torch.int32).cpu().numpy(), top.values.cpu().numpy(), z.cpu().numpy()))
    found = crew.together(found)
    classes, confidence, space = (np.concatenate([f[i] for f in found]) for i in range(3))
    return classes, confidence, space


def _share(rows: Int, crew: Crew) -> Int:
    """This rank's part of ``rows``: the ranks' parts, one after the other, are all of them."""
    return np.array_split(rows, crew.world)[crew.rank]
