"""AdamW over a stack of heads, each with its own learning rate and decay, by PyTorch's own fused kernel.

Heads of equal settings lie side by side and are one block of each tensor, for which the kernel is called once. So the
arithmetic is that of ``torch.optim.AdamW(fused=True)`` (a test compares them), one pass over memory, and no update is
written here. The kernel is called directly: what ``Optimizer.step`` does around it takes longer than the kernel for a
linear head, and as long again for each block.
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
        self._settings, self._sizes = [], []
        for (lr, decay), members in groupby(runs, key=lambda r: (r.probe.lr, r.probe.weight_decay)):
            self._settings.append((lr, decay))
            self._sizes.append(len(list(members)))
        # by block: its part of each parameter, and that part's moments
        self._views = self._cut([p.detach() for p in self._parameters])
        self._moments = {m: self._cut([torch.zeros_like(p) for p in self._parameters]) for m in _MOMENTS}
        self.device = self._parameters[0].device
        self._count = torch.zeros((), device=self.device)
        self._rates: Tensor | None = None

    def _cut(self, tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        return list(zip(*(torch.split(t, self._sizes) for t in tensors), strict=True))

    def step(self) -> None:
        """One update from the parameters' gradients, which are then cleared."""
        now = factor(self._schedule, self.done, self._steps)
        self._count += 1
        self._update([lr * now for lr, _ in self._settings])
        self.passed()

    def step_on_device(self) -> None:
        """The same, its number and its learning rates read on the device; what is recorded of it can be replayed.

        Whoever does so tells by ``passed`` that a step was made.
        """
        if self._rates is None:  # [steps, blocks]
            factors = [factor(self._schedule, step, self._steps) for step in range(self._steps)]
            rates = [[lr * now for lr, _ in self._settings] for now in factors]
            self._rates = torch.tensor(rates, dtype=torch.float64).float().to(self.device)
        rates_now = self._rates.index_select(0, self._count.long().view(1))[0]
        self._count += 1
        self._update(list(rates_now.unbind()))

    def passed(self) -> None:
        """A step was made."""
        self.done += 1
        self.stepped = True

    def forget(self) -> None:
        """Clear gradients without a step."""
        for parameter in self._parameters:
            parameter.grad = None

    def _update(self, rates: Sequence[float | Tensor]) -> None:
        gradients = []
        for parameter in self._parameters:
            assert parameter.grad is not None
            gradients.append(parameter.grad.contiguous())  # as the kernel reads it
            parameter.grad = None
        counts = [self._count] * len(gradients)
        blocks = zip(rates, self._settings, self._views, self._cut(gradients), *self._moments.values(), strict=True)
        for rate, (_, decay), views, slopes, first, second in blocks:
            torch._fused_adamw_(
                views,
                slopes,
                first,
                second,
                [],
                counts,
                lr=rate,
                beta1=0.9,
                beta2=0.999,
                weight_decay=decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )

    def changed(self) -> dict[str, Tensor]:
        """What a step changes beside the parameters: the moments, and on the device the count of steps."""
        return {**self._flat(), "count": self._count}

    def _flat(self) -> dict[str, Tensor]:
        wide = len(self._parameters)
        return {
            f"{block * wide + i}/{name}": tensor
            for name, blocks in self._moments.items()
            for block, parts in enumerate(blocks)
            for i, tensor in enumerate(parts)
        }

    def state(self) -> dict[str, Tensor]:
        """The moments by name, for a checkpoint."""
        return self._flat()

    def restore(self, state: Mapping[str, Tensor], done: int) -> None:
        """Go on after ``done`` steps from the moments that ``state`` gave."""
        self.done = done
        self._count.fill_(float(done))
        for name, moment in self._flat().items():
            moment.copy_(state[name])
