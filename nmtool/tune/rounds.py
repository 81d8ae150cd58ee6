"""One epoch of DivideMix's second phase for one head: which rows meet in which step, and which are mixed with which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmtool.numerics.seeds import generator
from nmtool.records import Bool, Float, Int
from nmtool.tune.plan import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Who counts as labelled.

    Attributes:
        labelled: bool [n], at least one of them.
        weight: float64 [n]: how much of its given label a labelled row keeps.
    """

    labelled: Bool
    weight: Float


class Epoch:
    """The batches of one head: each labelled row once, the unlabelled ones in turn, as often as there is room.

    Args:
        run: whose.
        rows: int64 [n] its training rows.
        division: of them.
        unlabelled: rows of these a step (fewer where there are fewer).
        names: say whose random stream it is.
    """

    def __init__(self, run: Run, rows: Int, division: Division, unlabelled: int, names: tuple[str | int, ...]) -> None:
        assert run.semi is not None
        self._rng = generator(run.seed, "tune", *names)
        self._alpha = run.semi.mixup
        self._size = run.probe.batch_size
        self._labelled = self._rng.permutation(np.flatnonzero(division.labelled))
        self.steps = -(-len(self._labelled) // self._size)
        free = np.flatnonzero(~division.labelled)
        self._width = min(unlabelled, len(free))
        turns = -(-self.steps * self._width // max(1, len(free)))
        self._free = np.concatenate([self._rng.permutation(free) for _ in range(turns)] or [free])
        self._rows, self._weight = rows, division.weight

    def batch(self, step: int) -> tuple[Int, Float, Int]:
        """Labelled rows with their weights, and unlabelled rows, of one step."""
        own = self._labelled[step * self._size : (step + 1) * self._size]
        free = self._free[step * self._width : (step + 1) * self._width]
        return self._rows[own], self._weight[own], self._rows[free]

    def mix(self, valid: Int) -> tuple[Int, float]:
        """A random order of the places that are filled, and mixup's weight, at least 1/2."""
        weight = float(self._rng.beta(self._alpha, self._alpha))
        return valid[self._rng.permutation(len(valid))], max(weight, 1 - weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of A heads, padded to the widest.

    Attributes:
        labelled, weight: [A, B] rows and the weight of their labels; 0 where padded.
        unlabelled: [A, U] rows; 0 where padded.
        filled: [A, V (B + U)] float32: 1 where there is a row; views of the labelled first, then of the unlabelled.
        partner: [A, V (B + U)] the place that each place is mixed with.
        mix: [A] mixup's weight.
    """

    labelled: Tensor
    weight: Tensor
    unlabelled: Tensor
    filled: Tensor
    partner: Tensor
    mix: Tensor


def together(epochs: Sequence[Epoch], step: int, views: int, device: torch.device) -> Step:
    """The step of several heads as one."""
    parts = [epoch.batch(step) for epoch in epochs]
    wide, free = max(len(own) for own, _, _ in parts), max(len(other) for _, _, other in parts)
    heads, places = len(parts), views * (wide + free)
    labelled, unlabelled = np.zeros((heads, wide), np.int64), np.zeros((heads, free), np.int64)
    weight, filled = np.zeros((heads, wide), np.float32), np.zeros((heads, places), np.float32)
    partner = np.tile(np.arange(places), (heads, 1))
    mix = np.zeros(heads, np.float32)
    for a, (epoch, (own, sure, other)) in enumerate(zip(epochs, parts, strict=True)):
        labelled[a, : len(own)], weight[a, : len(own)], unlabelled[a, : len(other)] = own, sure, other
        for view in range(views):
            filled[a, view * wide : view * wide + len(own)] = 1
            start = views * wide + view * free
            filled[a, start : start + len(other)] = 1
        valid = np.flatnonzero(filled[a])
        partner[a, valid], mix[a] = epoch.mix(valid)
    arrays = (labelled, weight, unlabelled, filled, partner, mix)
    names = ("labelled", "weight", "unlabelled", "filled", "partner", "mix")
    return Step(**{name: torch.from_numpy(array).to(device) for name, array in zip(names, arrays, strict=True)})
