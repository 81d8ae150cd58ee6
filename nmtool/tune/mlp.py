"""MLP tuning: a small network h: D → D on the features, then a linear classifier (NMTune 4.1 without its terms)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nmtool.encoders.device import short_sides_are_slow
from nmtool.tune import cleansed, products
from nmtool.tune.fit import Trained, judge
from nmtool.tune.fit import fit as fit_stack
from nmtool.tune.heads import LinearHeads, uniform
from nmtool.tune.material import Bench, Material
from nmtool.tune.outcome import Outcome
from nmtool.tune.plan import Run, Shape

# PyTorch's BatchNorm1d defaults, which the authors' code leaves as they are.
_MOMENTUM, _EPS = 0.1, 1e-5
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "none": lambda x: x,
}


# In how many parts a hidden layer is computed where products with a short side are slow (MKL). A product of a batch
# with a wide matrix is shared out badly among a few threads, a product a part well: the five wide products of a step,
# D 768, batch 64, two cores, took 11.5 ms whole and 8.2 ms in four parts.
_PARTS = 4


def _widths(shape: Shape, dim: int) -> list[int]:
    """Dimensions between the layers: D, then the hidden ones, then D again (L_MSE compares Z with F)."""
    return [dim, *[shape.width * dim] * (shape.layers - 1), dim]


class MlpHeads(LinearHeads):
    """K networks Linear(D, wD) - [BatchNorm] - activation - … - Linear(., D), then Linear(D, C).

    With ``residual`` Z = s * h(F) + F, else Z = h(F).

    Linear layers start at PyTorch's default U(±1/sqrt(fan-in)), s at 1 (authors' code).
    """

    transforms = True

    def __init__(self, runs: Sequence[Run], dim: int, classes: int, device: torch.device) -> None:
        super().__init__(runs, dim, classes, device)
        assert runs[0].shape is not None
        self.shape = runs[0].shape
        self.layers = self.shape.layers
        widths = _widths(self.shape, dim)
        self.row_width = 2 * sum(widths)
        slow = short_sides_are_slow(device) and not self.half
        self.parts = math.gcd(_PARTS, widths[1]) if self.layers > 1 and slow else 1
        for i, (fan_in, out) in enumerate(pairwise(widths)):
            bound, name = 1 / math.sqrt(fan_in), f"mlp.{i}.weight"
            drawn = [uniform(r.seed, ("mlp", i, "weight"), (out, fan_in), bound, device) for r in runs]
            weight = [self.kept(name, one.T) for one in drawn]
            bias = torch.stack([uniform(r.seed, ("mlp", i, "bias"), (1, out), bound) for r in runs])
            self._add(name, torch.stack(weight), device)
            parts = self.parts if self._cut(i) == "out" else 1
            vector = (len(runs), parts, 1, out // parts)  # one for all its rows
            self._add(f"mlp.{i}.bias", bias.view(vector), device)
            if self.shape.batch_norm and i < self.layers - 1:
                self._add(f"norm.{i}.scale", torch.ones(vector), device)
                self._add(f"norm.{i}.bias", torch.zeros(vector), device)
                self.buffers[f"norm.{i}.mean"] = torch.zeros(vector, device=device)
                self.buffers[f"norm.{i}.var"] = torch.ones(vector, device=device)
        if self.shape.residual:
            self._add("residual.scale", torch.ones(len(runs), 1, dim), device)

    def _add(self, name: str, value: Tensor, device: torch.device) -> None:
        self.parameters[name] = value.contiguous().to(device).requires_grad_()

    @staticmethod
    def bytes_per_head(run: Run, dim: int, classes: int) -> int:
        """As of ``LinearHeads``, with the network."""
        assert run.shape is not None
        widths = _widths(run.shape, dim)
        weights = sum(a * b for a, b in pairwise(widths))
        return LinearHeads.bytes_per_head(run, dim, classes) + 16 * weights + 16 * run.probe.batch_size * sum(widths)

    def transform(self, x: Tensor, *, training: bool) -> Tensor:
        """Z [K, B, D]; batch statistics are those of the batch while training, the running ones else."""
        act = _ACTIVATIONS[self.shape.activation]
        h = x.expand(self.heads, -1, -1)
        for i in range(self.layers):
            h = self._linear(h, i, training)
            if i < self.layers - 1:
                h = act(self._normalise(h, i, training) if self.shape.batch_norm else h)
        return self.parameters["residual.scale"] * h + x if self.shape.residual else h

    def _cut(self, i: int) -> Literal["out", "in", "none"]:
        """Which side of layer i is cut into parts: the output, then, of the layer that takes it, the input."""
        if self.parts == 1 or (i % 2 == 0 and i + 1 == self.layers):
            return "none"
        return "in" if i % 2 else "out"

    def _linear(self, h: Tensor, i: int, training: bool) -> Tensor:
        """Layer i: [K, B, in] → [K * parts, B, out / parts] and back to [K, B, out], by turns."""
        weight, bias = (self.parameters[f"mlp.{i}.{name}"].flatten(0, 1) for name in ("weight", "bias"))
        if self.half and training:
            return products.rounded(h, weight) + bias
        if self._cut(i) == "in":
            return torch.bmm(h, weight).view(self.heads, self.parts, h.shape[1], -1).sum(1) + bias
        if self._cut(i) == "out":
            h = h.unsqueeze(1).expand(-1, self.parts, -1, -1).flatten(0, 1)
        return torch.baddbmm(bias, h, weight)

    def kept(self, name: str, whole: Tensor) -> Tensor:
        """[in, out] → [parts, in, out / parts] or [parts, in / parts, out]; the classifier as in a probe."""
        if not name.startswith("mlp."):
            return super().kept(name, whole)
        cut = self._cut(int(name.split(".")[1]))
        if cut == "out":
            return whole.reshape(len(whole), self.parts, -1).transpose(0, 1)
        return whole.reshape(self.parts if cut == "in" else 1, -1, whole.shape[1])

    def whole(self, name: str, kept: Tensor) -> Tensor:
        """The inverse of ``kept``."""
        if not name.startswith("mlp."):
            return super().whole(name, kept)
        cut = self._cut(int(name.split(".")[1]))
        return kept.transpose(0, 1).flatten(1) if cut == "out" else kept.flatten(0, 1)

    def _normalise(self, h: Tensor, i: int, training: bool) -> Tensor:
        """BatchNorm1d of each head; a batch of one row has no variance and takes the running statistics."""
        mean, var = (self.buffers[f"norm.{i}.{name}"].flatten(0, 1) for name in ("mean", "var"))
        scale, bias = (self.parameters[f"norm.{i}.{name}"].flatten(0, 1) for name in ("scale", "bias"))
        rows = h.shape[1]
        if training and rows > 1:
            batch_var, batch_mean = torch.var_mean(h, dim=1, correction=0, keepdim=True)
            with torch.no_grad():
                mean.lerp_(batch_mean, _MOMENTUM)
                var.lerp_(batch_var * (rows / (rows - 1)), _MOMENTUM)
            mean, var = batch_mean, batch_var
        return (h - mean) * (var + _EPS).rsqrt() * scale + bias


def fit(runs: tuple[Run, ...], material: Material, bench: Bench) -> Trained:
    """Train MLPs with their classifiers as one stack."""
    return fit_stack(MlpHeads, runs, material, bench)


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Train MLPs with their classifiers as one stack, and judge them on every split."""
    if runs[0].cleansing is not None:
        return cleansed.tune(MlpHeads, lambda _: None, runs, material, bench)
    return judge(runs, fit(runs, material, bench), material, bench)
