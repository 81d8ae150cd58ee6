"""The classification loss of a stack of heads, with whatever it remembers about the training rows between steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nmtool.numerics import losses
from nmtool.tune.material import Material
from nmtool.tune.plan import Early, Run


class ClassLoss(Protocol):
    """Losses [K] of a stack's logits; some keep a state about each training row, which a checkpoint holds."""

    @property
    def name(self) -> str:
        """What its column in the log is called."""

    def __call__(self, logits: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """[K] of logits [K, B, C], labels [K, B] and the training rows [K, B] that they are of."""

    def slope(self, logits: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The same [K], and the gradient [K, B, C] of its sum by the logits; neither is recorded by autograd."""

    def state(self) -> dict[str, Tensor]:
        """What it remembers, by name."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave."""


def _by_autograd(loss: ClassLoss, logits: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """``ClassLoss.slope`` of a loss that has no closed form here."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        value = loss(logits, y, rows)
        (slope,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), slope


class _Stateless:
    """A loss of the batch alone."""

    def __init__(self, name: str, q: float) -> None:
        self.name, self._q = name, q

    def __call__(self, logits: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        del rows
        if self.name == "ce":
            return losses.cross_entropy(logits, y)
        return losses.generalized_cross_entropy(logits, y, self._q)

    def slope(self, logits: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        del rows
        return losses.loss_and_slope(logits, y, self._q if self.name == "gce" else None)

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        del state


class _Early:
    """ELR: a target for each training row and head, which the loss moves before it uses it."""

    name = "elr"

    def __init__(self, early: Early, heads: int, rows: int, classes: int) -> None:
        self._loss = losses.EarlyLearning(rows, classes, beta=early.elr_beta, lam=early.elr_lambda, heads=heads)

    def __call__(self, logits: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return self._loss(logits, y, rows)

    def slope(self, logits: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return _by_autograd(self, logits, y, rows)

    def state(self) -> dict[str, Tensor]:
        return {"target": self._loss.target}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._loss.target = state["target"].clone()


class _Squared:
    """Mean squared error of a head's one output, against real numbers that it keeps by training row."""

    name = "squared_error"  # mse is NMTune's consistency term

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def __call__(self, logits: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        del y
        return losses.squared_error(logits[..., 0], self._values[rows])

    def slope(self, logits: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return _by_autograd(self, logits, y, rows)

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        del state


def bytes_per_head(run: Run, rows: int, classes: int) -> int:
    """What the loss of one head remembers."""
    return 4 * rows * classes if run.probe.loss == "elr" else 0


def class_loss(runs: Sequence[Run], material: Material) -> ClassLoss:
    """The loss that a stack of runs trains with; they agree in it, as in all of their ``stack_key``."""
    probe = runs[0].probe
    if material.values is not None:
        return _Squared(torch.from_numpy(material.values).to(material.X))
    if probe.loss == "elr":
        assert runs[0].early is not None
        return _Early(runs[0].early, len(runs), len(material.X), len(material.classes))
    return _Stateless(probe.loss, probe.q)
