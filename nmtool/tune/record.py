"""The steps of a stack on a GPU as recorded CUDA graphs: one launch a step, where its kernels would wait for Python.

A step of a small stack is many kernels of a few microseconds each, and Python takes ten to launch one (H200). So a
step is made such that it reads everything from the device (its rows, its learning rate, its number), is recorded once
for each size of a batch, and replayed. A recorded step can't look at a value: terms that had to (see
``spectral.unlooked``) tell their doubts, and an epoch with doubts is done again from where it began, with more effort,
and at last by steps that do look. So a head's numbers are those of such steps, to rounding. A recording is not trusted
before its first replay has done what the step itself does: where it has not, or can't be made, steps stay single.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

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
# How far a replay may be from its step, as a share of what the step changes: sums on a GPU come in any order, and AdamW
# makes a whole step of a gradient that is rounding alone. Ours; how far GPUs really are has not been measured.
_APART = 0.02
_ONE_AT_A_TIME = threading.Lock()  # recordings share the device's generator, though nothing is drawn in them
_COPIES = 5  # of all that a step changes, before as many are made on the GPU


class Graph(Protocol):
    """What is recorded."""

    def replay(self) -> None:
        """Do it."""


def pays(device: torch.device, terms: Terms | None, steps: int) -> bool:
    """Whether a stack's steps are to be recorded: on a GPU, where they are enough, and no term looks at values."""
    return device.type == "cuda" and steps >= _PAYS and (terms is None or terms.can_be_blind)


class Recorder:
    """Epochs of recorded steps.

    Args:
        step: of rows [U, B] gives hits [K] and losses [T, K], neither recorded by autograd, and leaves gradients.
        heads, adamw, loss, terms: what it changes.
        size: of a batch.
        tell: takes a sentence where steps can't be recorded.
        effort: to begin with.
    """

    def __init__(
        self,
        step: Step,
        heads: LinearHeads,
        adamw: StackAdamW,
        loss: ClassLoss,
        terms: Terms | None,
        size: int,
        tell: Callable[[str], None],
        effort: int = 0,
    ) -> None:
        self._tell = tell
        self._step, self._heads, self._adamw, self._loss, self._terms = step, heads, adamw, loss, terms
        self._size = size
        self._device = adamw.device
        self._blind: Blind | None = None
        if terms is not None:
            self._blind = Blind(torch.zeros(heads.heads, dtype=torch.bool, device=self._device), effort)
        self._range = torch.arange(size, device=self._device)
        self._at = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._hits = torch.zeros(heads.heads, device=self._device)
        self._order = self._losses = torch.empty(0)
        self._graphs: dict[int, Graph] = {}
        self._single = False
        self._seen: Counter[int] = Counter()

    @property
    def effort(self) -> int:
        """Which of ``EFFORTS`` the steps take now."""
        return 0 if self._blind is None else self._blind.effort

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
            self._put_back(before)
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
        if rows in self._graphs:
            self._graphs[rows].replay()
        elif self._single or self._seen[rows] < _WARM:
            self._seen[rows] += 1
            self._work(rows, steps)
        else:
            self._proven(rows, steps)

    def _proven(self, rows: int, steps: int) -> None:
        """The step itself; and a recording of it, if one can be made that does the same."""
        before = self._state()
        self._work(rows, steps)
        after = self._state()
        self._put_back(before)
        try:
            graph = _record(self._device, lambda: self._work(rows, steps))
            if graph is not None:
                graph.replay()
                self._graphs[rows] = graph
            apart = _apart(before, after, self._state()) if graph is not None else 0.0
            why = "" if apart <= _APART else f"a replay is {apart:.1e} from what was recorded"
        except RuntimeError as error:  # some driver, library or operation that takes no part
            graph, why = None, str(error).strip().partition("\n")[0]
            self._adamw.forget()  # gradients that were not stepped by
        if graph is not None and not why:
            return
        self._put_back(after)
        self._graphs.clear()
        self._single = True
        if why:
            self._tell(
                f"steps can't be recorded as a CUDA graph here ({why}), and are launched one by one, which is slower"
            )

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

    def _changed(self) -> dict[str, Tensor]:
        """All that a step changes, by name."""
        heads = {**self._heads.parameters, **self._heads.buffers}
        return {
            **{f"head/{n}": t.detach() for n, t in heads.items()},
            **{f"adamw/{n}": t for n, t in self._adamw.changed().items()},
            **{f"loss/{n}": t for n, t in self._loss.state().items()},
            "told/at": self._at,
            "told/hits": self._hits,
            "told/losses": self._losses,
        }

    def _state(self) -> dict[str, Tensor]:
        """A copy: on the host where the GPU has no room for three of them."""
        tensors = self._changed()
        if self._device.type == "cuda":
            bytes_ = sum(t.numel() * t.element_size() for t in tensors.values())
            if _COPIES * bytes_ > torch.cuda.mem_get_info(self._device)[0]:
                return {name: tensor.cpu() for name, tensor in tensors.items()}
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def _put_back(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self._changed().items():
            if tensor.shape == state[name].shape:  # losses have their place since the first step
                tensor.copy_(state[name])


def _record(device: torch.device, work: Callable[[], None]) -> Graph | None:
    """Record ``work``, which does nothing yet; None where there is nothing to record with."""
    if device.type != "cuda":
        return None
    graph = torch.cuda.CUDAGraph()
    here = torch.cuda.current_stream(device)
    # the default stream can't be recorded; and other threads, with streams of their own, go on meanwhile
    side = here if here != torch.cuda.default_stream(device) else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(here)
    with _ONE_AT_A_TIME, torch.cuda.stream(side):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            work()
        finally:
            graph.capture_end()
    here.wait_stream(side)
    return graph


def _apart(before: Mapping[str, Tensor], wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """How far ``found`` is from ``wanted``, as a share of what changed: the largest of the kinds of tensors; or inf.

    Kinds are taken whole (all parameters, each of AdamW's moments, losses, …): of one tensor all gradients may be
    rounding. Hits are left out, since a tie is one on either side.
    """
    changed: dict[str, float] = {}
    off: dict[str, float] = {}
    for name, tensor in found.items():
        if name == "told/hits":
            continue
        kind = name if name.startswith("told/") else name.partition("/")[0]
        kind += "/" + name.rpartition("/")[2] if name.startswith("adamw/") else ""
        goal, start = (state[name].to(tensor.device) for state in (wanted, before))
        if goal.shape != start.shape:
            start = torch.zeros_like(goal)
        changed[kind] = math.hypot(changed.get(kind, 0.0), _distance(goal, start))
        off[kind] = math.hypot(off.get(kind, 0.0), _distance(goal, tensor))
    return max(off[kind] / changed[kind] if changed[kind] else math.inf if off[kind] else 0.0 for kind in off)


def _distance(a: Tensor, b: Tensor) -> float:
    """|a - b|, where neither is finite 0 (a head that diverges does so either way); inf where only one is."""
    apart = torch.where(a.isfinite() | b.isfinite(), a - b, 0)
    length = float(torch.linalg.vector_norm(apart.float(), dtype=torch.float64))
    return length if math.isfinite(length) else math.inf
