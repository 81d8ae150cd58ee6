"""AdamW over a stack of heads, each with its own learning rate and decay, by PyTorch's own fused kernel.

Heads of equal settings lie side by side and are one block of each tensor; a block is one parameter of
``torch.optim.AdamW``. So the arithmetic is PyTorch's, one pass over the memory, and no update is written here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from nmtool.tune.plan import Run

_MOMENTS = ("exp_avg", "exp_avg_sq")


def factor(schedule: str, step: int, steps: int) -> float:
    """Share of the learning rate at a step, counted from 0; no warm-up; cosine and linear reach 0 after the last."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    return 1 - step / steps if schedule == "linear" else 1.0


class StackAdamW:
    """AdamW (Loshchilov & Hutter 2019), betas 0.9 and 0.999, eps 1e-8, decoupled decay on every parameter.

    Args:
        parameters: tensors [K, ...] that require gradients.
        runs: the K heads' settings; equal (lr, weight_decay) must be neighbours to share a block.
        steps: steps in all, for the schedule.
    """

    def __init__(self, parameters: Mapping[str, Tensor], runs: Sequence[Run], steps: int) -> None:
        self._parameters = list(parameters.values())
        self._schedule, self._steps, self.done = runs[0].probe.schedule, steps, 0
        self.stepped = False  # by this process: else a checkpoint would say what the last one said
        self._blocks: list[tuple[int, int, list[Tensor]]] = []
        self._lrs: list[float] = []
        groups = []
        start = 0
        for (lr, decay), members in groupby(runs, key=lambda r: (r.probe.lr, r.probe.weight_decay)):
            stop = start + len(list(members))
            views = [p.detach()[start:stop] for p in self._parameters]
            self._blocks.append((start, stop, views))
            self._lrs.append(lr)
            groups.append({"params": views, "lr": lr, "weight_decay": decay})
            start = stop
        self._adamw = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)

    def step(self) -> None:
        """One update from the parameters' gradients, which are then cleared."""
        now = factor(self._schedule, self.done, self._steps)
        for group, lr, (start, stop, views) in zip(self._adamw.param_groups, self._lrs, self._blocks, strict=True):
            group["lr"] = lr * now
            for view, parameter in zip(views, self._parameters, strict=True):
                assert parameter.grad is not None
                view.grad = parameter.grad[start:stop]
        self._adamw.step()
        for parameter in self._parameters:
            parameter.grad = None
        self.done += 1
        self.stepped = True

    def state(self) -> dict[str, Tensor]:
        """The moments by name, for a checkpoint."""
        views = [v for _, _, block in self._blocks for v in block]
        return {f"{i}/{m}": self._adamw.state[v][m] for i, v in enumerate(views) for m in _MOMENTS}

    def restore(self, state: Mapping[str, Tensor], done: int) -> None:
        """Go on after ``done`` steps from the moments that ``state`` gave."""
        self.done = done
        for i, view in enumerate(v for _, _, block in self._blocks for v in block):
            moments = {m: state[f"{i}/{m}"].to(view.device).clone() for m in _MOMENTS}
            self._adamw.state[view] = {"step": torch.tensor(float(done), device=view.device), **moments}
