"""Small stacks side by side: on a CPU each has a thread of its own, in which torch uses one thread.

A few linear heads are too little work to share out within a matrix product: two stacks of three heads (768 dimensions,
100 classes, batches of 64; two cores) took 3.2 s in turn with one thread, 2.6 to 3.5 s in turn with two, 2.4 s side by
side. Numbers do not depend on it beyond rounding. It refuses to leave work running behind: when one stack fails, or the
user stops, the others end with their current step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TypeVar

import torch

from nmtool.encoders.device import one_thread_each
from nmtool.tune.material import Bench
from nmtool.tune.plan import Run

T = TypeVar("T")
Part = tuple[Run, ...]
Work = Callable[[Part, Bench], T]

# How much faster than one by one it has to be by the plan: below that, threads within a stack may give as much.
_WORTH = 1.5


class _Stopped(Exception):
    """Raised within a stack's thread when the others are to end."""


def results(parts: Sequence[Part], small: Callable[[Part], bool], work: Work[T], bench: Bench) -> list[T]:
    """``work(part, bench)`` of every part, in the parts' order.

    Args:
        parts: stacks.
        small: whether a part is of those that may run side by side.
        work: trains a part; it tells its progress to the bench it is given, and feels for its pulse step by step.
        bench: where to work.

    Raises:
        Exception: the first that a part raised; all threads have ended.
    """
    beside = [i for i, part in enumerate(parts) if small(part)] if bench.device.type == "cpu" else []
    threads = min(torch.get_num_threads(), len(beside))
    if gain([_cost(parts[i]) for i in beside], threads) < _WORTH or bench.crew.world > 1:
        return [work(part, bench) for part in parts]
    done: dict[int, T] = _together([(i, parts[i]) for i in beside], threads, work, bench)
    return [done[i] if i in done else work(part, bench) for i, part in enumerate(parts)]


def gain(costs: Sequence[float], threads: int) -> float:
    """How many times as fast ``threads`` are as one, where each job is done by one of them, the longest first."""
    if not costs or threads < 1:
        return 1.0
    busy = [0.0] * threads
    for cost in sorted(costs, reverse=True):
        busy[busy.index(min(busy))] += cost
    return sum(costs) / max(busy)


def _cost(part: Part) -> float:
    """Work of a part beside others: steps of all heads."""
    return len(part) * part[0].fraction * part[0].probe.epochs


def _together(parts: Sequence[tuple[int, Part]], threads: int, work: Work[T], bench: Bench) -> dict[int, T]:
    """Results by number."""
    stop, lock = threading.Event(), threading.Lock()

    def pulse() -> None:
        if stop.is_set():
            raise _Stopped

    def advance(done: int) -> None:
        pulse()
        with lock:
            bench.advance(done)

    told = replace(bench, advance=advance, pulse=pulse)
    longest_first = sorted(parts, key=lambda numbered: -_cost(numbered[1]))
    with one_thread_each(), ThreadPoolExecutor(threads, thread_name_prefix="nmtool-tune") as pool:
        futures = {number: pool.submit(work, part, told) for number, part in longest_first}
        try:
            ended, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            failed = [f for f in futures.values() if f in ended and f.exception() is not None]
            if failed:
                failed[0].result()
        finally:  # the user's Ctrl-C, too, arrives in the wait
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return {number: future.result() for number, future in futures.items()}
