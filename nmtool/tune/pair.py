"""Two stacks of linear heads that start apart and are trained in turn: the two networks of DivideMix, on features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nmtool.tune.heads import LinearHeads, uniform
from nmtool.tune.optimise import factor
from nmtool.tune.plan import Run

# DivideMix's and UNICON's released code.
_MOMENTUM = 0.9


class Net:
    """One head of each run's pair, with its optimiser; any of the K heads may sit out a step.

    Args:
        runs: the K runs.
        which: 0 or 1. Head 0 starts as a linear probe of the same seed does, head 1 from a stream of its own.
        dim, classes: D and C.
        device: where to work.
    """

    def __init__(self, runs: Sequence[Run], which: int, dim: int, classes: int, device: torch.device) -> None:
        self.runs, self.heads = runs, LinearHeads(runs, dim, classes, device)
        self._weight, self._bias = self.heads.parameters.values()
        if which:
            bound = math.sqrt(6 / dim)
            with torch.no_grad():
                for k, run in enumerate(runs):
                    self._weight[k] = uniform(run.seed, ("classifier", "second"), (classes, dim), bound).to(device)
        # each head a group of its own: so that it has its own rate, and may stand still
        self._views = [[p.detach()[k : k + 1] for p in (self._weight, self._bias)] for k in range(len(runs))]
        groups = [
            {"params": views, "lr": run.probe.lr, "weight_decay": run.probe.weight_decay}
            for views, run in zip(self._views, runs, strict=True)
        ]
        assert runs[0].semi is not None
        self._optimizer: torch.optim.Optimizer
        if runs[0].semi.optimizer == "sgd":
            self._optimizer = torch.optim.SGD(groups, momentum=_MOMENTUM)
        else:
            self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)

    def logits(self, x: Tensor, active: Sequence[int]) -> Tensor:
        """[A, B, C] of features [A, B, D], one block for each active head."""
        if len(active) == len(self.runs):
            return torch.baddbmm(self._bias, x, self._weight.mT)
        return torch.baddbmm(self._bias[list(active)], x, self._weight[list(active)].mT)

    def step(self, active: Sequence[int], done: Sequence[int], steps: Sequence[int]) -> None:
        """One update of the active heads from their gradients; of its ``steps`` an active head has ``done`` so many."""
        now = dict(zip(active, zip(done, steps, strict=True), strict=True))
        for k, (group, views) in enumerate(zip(self._optimizer.param_groups, self._views, strict=True)):
            probe = self.runs[k].probe
            if k in now:
                group["lr"] = probe.lr * factor(probe.schedule, *now[k])
            for view, parameter in zip(views, (self._weight, self._bias), strict=True):
                assert parameter.grad is not None
                view.grad = parameter.grad[k : k + 1] if k in now else None
        self._optimizer.step()
        self._weight.grad = self._bias.grad = None

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments by name, for a checkpoint."""
        tensors = {name: p.detach().contiguous() for name, p in self.heads.parameters.items()}
        for i, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"{i}/{k}": torch.as_tensor(v).contiguous() for k, v in state.items() if v is not None}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave."""
        with torch.no_grad():
            for name, parameter in self.heads.parameters.items():
                parameter.copy_(tensors[name])
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            index, _, key = name.partition("/")
            if key:
                state.setdefault(int(index), {})[key] = tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def mean_heads(nets: Sequence[Net]) -> LinearHeads:
    """One linear head a run, whose logits are the mean of its pair's: the published sum, halved, so that the confidence
    is that of one head."""
    heads = nets[0].heads.one(0)
    heads.heads = nets[0].heads.heads
    with torch.no_grad():
        heads.parameters = {
            name: torch.stack([n.heads.parameters[name] for n in nets]).mean(0) for name in heads.parameters
        }
    return heads
