"""Which runs train together: equal steps, and no more of them than fit the memory planned.

The plan is part of the result to rounding, so it depends on the recipe and the kind of device alone, never on what else
the machine does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from nmtool.tune.material import Overlay
from nmtool.tune.plan import Run
from nmtool.tune.subset import hold_out, share

# Parameters, gradients, moments and activations of one stack.
PLANNED_BYTES: Mapping[str, int] = {"cpu": 2 << 30, "cuda": 16 << 30}


def stacks(runs: Iterable[Run], overlays: Sequence[Overlay]) -> list[tuple[Run, ...]]:
    """Runs by stack: equal ``stack_key`` and equally many training rows; within one, equal (lr, decay) side by side."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    counts: dict[tuple[int, float, float], tuple[int, int]] = {}
    for run in runs:
        if run.neighbours is not None:  # no steps to keep in step with: one look at the rows serves all shares
            groups.setdefault(run.stack_key(), []).append(run)
            continue
        seen = (run.labels, run.fraction, run.holdout)
        if seen not in counts:  # a share is stratified, and so is what is held out: as many for all seeds
            counts[seen] = _rows(run, overlays)
        groups.setdefault((*run.stack_key(), counts[seen]), []).append(run)
    return [tuple(sorted(g, key=lambda r: (r.probe.lr, r.probe.weight_decay, r.index))) for g in groups.values()]


def _rows(run: Run, overlays: Sequence[Overlay]) -> tuple[int, int]:
    """Rows that a run has, and of them those that it holds out."""
    y = overlays[run.labels].y
    rows = share(y, run.seed, run.fraction)
    return len(rows), len(hold_out(y, rows, run.seed, run.holdout)[1]) if run.holdout else 0


def slices(stack: tuple[Run, ...], bytes_per_head: Callable[[Run], int], device: str) -> list[tuple[Run, ...]]:
    """A stack cut so that each part fits the memory planned for this kind of device; at least one head a part."""
    heads = max(1, PLANNED_BYTES.get(device, PLANNED_BYTES["cpu"]) // max(1, bytes_per_head(stack[0])))
    return [stack[i : i + heads] for i in range(0, len(stack), heads)]
