"""Which runs train together: equal steps, and no more of them than fit the memory planned.

The plan is part of the result to rounding, so it depends on the recipe and the kind of device alone, never on what else
the machine does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from nmtool.tune.heads import LinearHeads
from nmtool.tune.material import Overlay
from nmtool.tune.plan import Run
from nmtool.tune.subset import hold_out, share

# Parameters, gradients, moments and activations of one stack.
PLANNED_BYTES: Mapping[str, int] = {"cpu": 2 << 30, "cuda": 16 << 30}
# Of a stack of linear probes on a CPU parameters, gradients and moments alone, which AdamW passes over in each step:
# they stay in the cache, and a large stack becomes several, for as many threads.
LIGHT_BYTES = 16 << 20


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
    heads = PLANNED_BYTES.get(device, PLANNED_BYTES["cpu"]) // max(1, bytes_per_head(stack[0]))
    return _cut(stack, -(-len(stack) // max(1, heads)))


def light(run: Run, dim: int, outputs: int) -> bool:
    """Whether a run is a linear probe by AdamW so small that stacks of its kind go side by side on a CPU."""
    plain = run.method == "lp" and run.logistic is None and run.cleansing is None
    plain = plain and run.probe.loss != "elr"  # which remembers every training row
    return plain and 2 * LinearHeads.state_bytes(dim, outputs) <= LIGHT_BYTES


def light_slices(stack: tuple[Run, ...], dim: int, outputs: int) -> list[tuple[Run, ...]]:
    """A stack of light runs cut so that each part stays in the cache."""
    return _cut(stack, -(-len(stack) * LinearHeads.state_bytes(dim, outputs) // LIGHT_BYTES))


def _cut(stack: tuple[Run, ...], parts: int) -> list[tuple[Run, ...]]:
    """Into so many parts, about equal."""
    cuts = [len(stack) * i // parts for i in range(parts + 1)]
    return [stack[a:b] for a, b in pairwise(cuts)]
