"""The steps of a stack on a GPU as recorded CUDA graphs: one launch a step, where its kernels would wait for Python.

A step of a small stack is some 50 to 250 kernels of a few microseconds each, and Python takes ten to launch one. So a
step is made such that it reads everything from the device (its rows, its learning rate, its number), is recorded once
for each size of a batch, and replayed. A recorded step can't look at a value: terms that had to (see
``spectral.unlooked``) tell their doubts, and an epoch with doubts is done again from where it began, with more effort,
and at last by steps that do look. So a head's numbers are those of such steps, to rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nmtool.numerics.spectral import EFFORTS
from nmtool.numerics.terms import Blind

if TYPE_CHECKING:
    from nmtool.tune.fit import Terms
    from nmtool.tune.heads import LinearHeads
    from nmtool.tune.loss import ClassLoss
    from nmtool.tune.optimise import StackAdamW

Step = Callable[[Tensor], tuple[Tensor, Tensor]]
# Batches of a size that are not recorded, in which libraries choose their kernels; and steps from which on it pays.
_WARM, _PAYS = 2, 16


def pays(device: torch.device, terms: Terms | None, steps: int) -> bool:
    """Whether a stack's steps are to be recorded: on a GPU, where they are enough, and no term looks at values."""
    return device.type == "cuda" and steps >= _PAYS and (terms is None or terms.can_be_blind)


class Recorder:
    """Epochs of recorded steps.

    Args:
        step: of rows [U, B] gives hits [K] and losses [T, K], neither recorded by autograd, and leaves gradients.
        heads, adamw, loss, terms: what it changes.
        size: of a batch.
    """

    def __init__(
        self, step: Step, heads: LinearHeads, adamw: StackAdamW, loss: ClassLoss, terms: Terms | None, size: int
    ) -> None:
        self._step, self._heads, self._adamw, self._loss, self._terms = step, heads, adamw, loss, terms
        self._size = size
        self._device = adamw.device
        self._blind: Blind | None = None
        if terms is not None:
            self._blind = Blind(torch.zeros(heads.heads, dtype=torch.bool, device=self._device))
        self._range = torch.arange(size, device=self._device)
        self._at = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._hits = torch.zeros(heads.heads, device=self._device)
        self._order = self._losses = torch.empty(0)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._seen: Counter[int] = Counter()

    def epoch(self, order: Tensor, pulse: Callable[[], None]) -> tuple[Tensor, Tensor] | None:
        """One pass over the rows ``order`` [U, n].

        Args:
            order: the same shape in each epoch.
            pulse: called in every step.

        Returns:
            Hits [K] and losses [steps, T, K]; None where no effort was enough, and then nothing has changed.
        """
        before = self._state() if self._blind is not None else {}
        done = self._adamw.done
        if self._order.shape != order.shape:
            self._order = torch.empty_like(order)
        self._order.copy_(order)
        while True:
            self._pass(order.shape[1], pulse)
            if self._blind is None or not self._blind.doubt.any():
                return self._hits, self._losses
            for name, tensor in self._changed().items():
                tensor.copy_(before[name])
            self._adamw.done = done
            self._graphs.clear()
            if self._blind.effort + 1 == len(EFFORTS):
                return None
            self._blind.effort += 1

    @torch.no_grad()
    def _pass(self, n: int, pulse: Callable[[], None]) -> None:
        self._at.zero_()
        self._hits.zero_()
        if self._terms is not None and self._blind is not None:
            self._terms.blind = self._blind
            self._blind.doubt.zero_()
        steps = -(-n // self._size)
        try:
            for start in range(0, n, self._size):
                pulse()
                self._one(min(self._size, n - start), steps)
                self._adamw.passed()
        finally:
            if self._terms is not None:
                self._terms.blind = None

    def _one(self, rows: int, steps: int) -> None:
        graph = self._graphs.get(rows)
        if graph is None and (self._device.type != "cuda" or self._seen[rows] < _WARM):
            self._seen[rows] += 1
            self._work(rows, steps)
            return
        if graph is None:
            graph = self._graphs[rows] = self._record(rows, steps)
        graph.replay()

    def _work(self, rows: int, steps: int) -> None:
        """What is recorded: everything it reads and writes has its place on the device."""
        now = self._order.index_select(1, self._at * self._size + self._range[:rows])
        hits, losses = self._step(now)
        self._adamw.step_on_device()
        if self._losses.shape != (steps, *losses.shape):
            self._losses = torch.zeros(steps, *losses.shape, device=self._device)
        self._losses.index_copy_(0, self._at, losses[None])
        self._hits += hits
        self._at += 1

    def _record(self, rows: int, steps: int) -> torch.cuda.CUDAGraph:
        """Record ``_work``, which does nothing yet."""
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream(self._device)
        # the default stream can't be recorded; and other threads, with streams of their own, go on meanwhile
        side = here if here != torch.cuda.default_stream(self._device) else torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with torch.cuda.stream(side):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._work(rows, steps)
            finally:
                graph.capture_end()
        here.wait_stream(side)
        return graph

    def _changed(self) -> dict[str, Tensor]:
        """All that a step changes, by name."""
        heads = {**self._heads.parameters, **self._heads.buffers}
        return {
            **{f"head/{n}": t.detach() for n, t in heads.items()},
            **{f"adamw/{n}": t for n, t in self._adamw.changed().items()},
            **{f"loss/{n}": t for n, t in self._loss.state().items()},
        }

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._changed().items()}
