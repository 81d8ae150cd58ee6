"""MLP tuning: a small network h: D → D on the features, then a linear classifier (NMTune 4.1 without its terms)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from nmtool.tune import cleansed
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
        for i, (fan_in, out) in enumerate(pairwise(widths)):
            bound = 1 / math.sqrt(fan_in)
            weight = [uniform(r.seed, ("mlp", i, "weight"), (out, fan_in), bound).T for r in runs]
            bias = [uniform(r.seed, ("mlp", i, "bias"), (1, out), bound) for r in runs]
            self._add(f"mlp.{i}.weight", torch.stack(weight), device)
            self._add(f"mlp.{i}.bias", torch.stack(bias), device)
            if self.shape.batch_norm and i < self.layers - 1:
                self._add(f"norm.{i}.scale", torch.ones(len(runs), 1, out), device)
                self._add(f"norm.{i}.bias", torch.zeros(len(runs), 1, out), device)
                self.buffers[f"norm.{i}.mean"] = torch.zeros(len(runs), 1, out, device=device)
                self.buffers[f"norm.{i}.var"] = torch.ones(len(runs), 1, out, device=device)
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
            h = torch.baddbmm(self.parameters[f"mlp.{i}.bias"], h, self.parameters[f"mlp.{i}.weight"])
            if i < self.layers - 1:
                h = act(self._normalise(h, i, training) if self.shape.batch_norm else h)
        return self.parameters["residual.scale"] * h + x if self.shape.residual else h

    def _normalise(self, h: Tensor, i: int, training: bool) -> Tensor:
        """BatchNorm1d of each head; a batch of one row has no variance and takes the running statistics."""
        mean, var = self.buffers[f"norm.{i}.mean"], self.buffers[f"norm.{i}.var"]
        rows = h.shape[1]
        if training and rows > 1:
            batch_var, batch_mean = torch.var_mean(h, dim=1, correction=0, keepdim=True)
            with torch.no_grad():
                mean.lerp_(batch_mean, _MOMENTUM)
                var.lerp_(batch_var * (rows / (rows - 1)), _MOMENTUM)
            mean, var = batch_mean, batch_var
        return (h - mean) * (var + _EPS).rsqrt() * self.parameters[f"norm.{i}.scale"] + self.parameters[
            f"norm.{i}.bias"
        ]


def fit(runs: tuple[Run, ...], material: Material, bench: Bench) -> Trained:
    """Train MLPs with their classifiers as one stack."""
    return fit_stack(MlpHeads, runs, material, bench)


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Train MLPs with their classifiers as one stack, and judge them on every split."""
    if runs[0].cleansing is not None:
        return cleansed.tune(MlpHeads, lambda _: None, runs, material, bench)
    return judge(runs, fit(runs, material, bench), material, bench)
