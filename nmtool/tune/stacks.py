"""Which runs train together: equal steps, and no more of them than fit the memory planned.

The plan is part of the result to rounding, so it depends on the recipe and the kind of device alone, never on what else
the machine does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from nmtool.tune.material import Overlay
from nmtool.tune.plan import Run
from nmtool.tune.subset import share

# Parameters, gradients, moments and activations of one stack.
PLANNED_BYTES: Mapping[str, int] = {"cpu": 2 << 30, "cuda": 16 << 30}


def stacks(runs: Iterable[Run], overlays: Sequence[Overlay]) -> list[tuple[Run, ...]]:
    """Runs by stack: equal ``stack_key`` and equally many training rows; within one, equal (lr, decay) side by side."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    counts: dict[tuple[int, float], int] = {}
    for run in runs:
        seen = (run.labels, run.fraction)
        if seen not in counts:  # a share is stratified: its size is the same for all seeds
            counts[seen] = int(np.size(share(overlays[run.labels].y, run.seed, run.fraction)))
        groups.setdefault((*run.stack_key(), counts[seen]), []).append(run)
    return [tuple(sorted(g, key=lambda r: (r.probe.lr, r.probe.weight_decay, r.index))) for g in groups.values()]


def slices(stack: tuple[Run, ...], bytes_per_head: Callable[[Run], int], device: str) -> list[tuple[Run, ...]]:
    """A stack cut so that each part fits the memory planned for this kind of device; at least one head a part."""
    heads = max(1, PLANNED_BYTES.get(device, PLANNED_BYTES["cpu"]) // max(1, bytes_per_head(stack[0])))
    return [stack[i : i + heads] for i in range(0, len(stack), heads)]
