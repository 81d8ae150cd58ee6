"""A stack of K linear classifiers: what every method on features ends in, and the whole of a linear probe."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from nmtool.numerics.seeds import torch_seed
from nmtool.tune import products
from nmtool.tune.plan import Run

_CPU = torch.device("cpu")
LAYOUT = "out, in"
"""Order of a classifier's dimensions, part of a checkpoint's name: one of the other order can have the same shape."""


def uniform(
    seed: int, names: tuple[str | int, ...], shape: tuple[int, ...], bound: float, device: torch.device = _CPU
) -> Tensor:
    """U(-bound, bound) from the run's seed and the parameter's name; the same on every device and in every stack."""
    stream = torch.Generator().manual_seed(torch_seed(seed, "tune", "init", *names))
    # drawn on the CPU, where a generator draws the same everywhere; the rest is each number's own arithmetic
    return torch.rand(shape, generator=stream).to(device).mul_(2).sub_(1).mul_(bound)


class LinearHeads:
    """K linear classifiers [D] → [C].

    Weights start at U(±sqrt(6/D)) and biases at 0, as the authors' code (published-code 1.2). The weights are kept as
    [K, C, D]: where all heads see the same rows, they are one [K * C, D] and the stack is one wide product.

    Attributes:
        parameters: trained tensors, [K, ...].
        buffers: tensors that are part of the head but not trained, [K, ...].
        row_width: numbers that one row takes on its way through one head.
        half: make the products of training in bfloat16.
        transforms: whether Z is anything but the scaled features.
    """

    transforms = False

    def __init__(self, runs: Sequence[Run], dim: int, classes: int, device: torch.device) -> None:
        bound = math.sqrt(6 / dim)
        weight = torch.stack([uniform(r.seed, ("classifier",), (classes, dim), bound, device) for r in runs])
        self.dim, self.heads = dim, len(runs)
        self.parameters: dict[str, Tensor] = {
            "classifier.weight": weight.requires_grad_(),
            "classifier.bias": torch.zeros(len(runs), 1, classes, device=device).requires_grad_(),
        }
        self.buffers: dict[str, Tensor] = {}
        self.row_width = 2 * dim
        self.half = runs[0].amp == "bf16"

    @staticmethod
    def bytes_per_head(run: Run, dim: int, classes: int) -> int:
        """Memory of one head while training: parameter, gradient, two moments, and a batch of activations."""
        return LinearHeads.state_bytes(dim, classes) + 8 * run.probe.batch_size * (dim + 3 * classes)

    @staticmethod
    def state_bytes(dim: int, classes: int) -> int:
        """Of that the parameters, gradients and moments of a linear classifier."""
        return 16 * dim * classes

    def transform(self, x: Tensor, *, training: bool) -> Tensor:
        """Z [K, B, D] of features [K, B, D] (or [1, B, D], the same for all heads): here the features themselves."""
        del training
        return x

    def classify(self, z: Tensor, *, training: bool = False) -> Tensor:
        """Logits [K, B, C] of Z."""
        weight, bias = self.parameters["classifier.weight"], self.parameters["classifier.bias"]
        if self.half and training and (self.transforms or len(z) == self.heads):
            return products.rounded(z, weight.mT) + bias
        if len(z) == self.heads:
            return torch.baddbmm(bias, z, weight.mT)
        if self.half and training:
            wide = products.multiplied(products.half(z[0]), products.half(weight.flatten(0, 1)).T) + bias.flatten()
        else:
            wide = torch.addmm(bias.flatten(), z[0], weight.flatten(0, 1).T)
        return wide.view(len(wide), self.heads, -1).transpose(0, 1)

    @torch.no_grad()
    def learn(self, x: Tensor, slope: Tensor) -> None:
        """The parameters' gradients in closed form, where Z is the features themselves: autograd takes longer.

        Args:
            x: features [K or 1, B, D].
            slope: gradient of the K losses' sum by the logits, [K, B, C].
        """
        shared = len(x) != self.heads
        left = slope.transpose(0, 1).flatten(1).T if shared else slope.mT
        right = x[0] if shared else x
        gradient = products.multiplied(products.half(left), products.half(right)) if self.half else left @ right
        self.parameters["classifier.weight"].grad = gradient.view(self.heads, -1, x.shape[-1])
        self.parameters["classifier.bias"].grad = slope.sum(1, keepdim=True)

    def one(self, k: int) -> Self:
        """Head k alone, as a stack of one that shares its memory."""
        single = copy.copy(self)
        single.heads = 1
        single.parameters = {name: p.detach()[k : k + 1] for name, p in self.parameters.items()}
        single.buffers = {name: b[k : k + 1] for name, b in self.buffers.items()}
        return single

    def export(self, k: int) -> dict[str, Tensor]:
        """Head k as PyTorch's layers hold it: ``NAME.weight`` [out, in], ``NAME.bias`` [out], other vectors flat."""
        tensors = {name: p.detach()[k] for name, p in {**self.parameters, **self.buffers}.items()}
        return {
            name: (self.whole(name, t).T if name.endswith(".weight") else t.flatten()).contiguous()
            for name, t in tensors.items()
        }

    def whole(self, name: str, kept: Tensor) -> Tensor:
        """A weight [in, out] from what one head keeps of it."""
        del name
        return kept.T

    def kept(self, name: str, whole: Tensor) -> Tensor:
        """What one head keeps of a weight [in, out]: the inverse of ``whole``."""
        del name
        return whole.T

    def restore(self, k: int, tensors: Mapping[str, Tensor]) -> None:
        """Make head k the one that ``export`` gave; raises ``KeyError`` or ``ValueError`` where it does not fit."""
        with torch.no_grad():
            for name, mine in {**self.parameters, **self.buffers}.items():
                given, place = tensors[name], mine[k]
                whole = self.whole(name, place).T if name.endswith(".weight") else place.flatten()
                if given.shape != whole.shape:
                    raise ValueError(f"{name} has shape {tuple(given.shape)}")
                place.copy_(self.kept(name, given.T) if name.endswith(".weight") else given.reshape(place.shape))
