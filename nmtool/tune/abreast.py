"""Stacks side by side: small ones on a CPU, each in a thread in which torch uses one thread; on a GPU in streams.

On a GPU a stack's time is that of its kernels' latencies (a linear probe, the spectral term of a small batch) or of its
memory's bandwidth (AdamW of a network): side by side they hide each other's.
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
_STREAMS, _SHARE = 4, 0.6  # at most so many stacks on a GPU, in at most so much of its free memory


class _Stopped(Exception):
    """Raised within a stack's thread when the others are to end."""


def results(
    parts: Sequence[Part],
    beside: Callable[[Part], bool],
    work: Work[T],
    bench: Bench,
    bytes_of: Callable[[Part], int] = lambda part: 0,
) -> list[T]:
    """``work(part, bench)`` of every part, in the parts' order.

    Args:
        parts: stacks.
        beside: whether a part is of those that may run side by side.
        work: trains a part; it tells its progress to the bench it is given, and feels for its pulse step by step.
        bench: where to work.
        bytes_of: memory that a part takes, for a GPU.

    Raises:
        Exception: the first that a part raised; all threads have ended.
    """
    several = [i for i, part in enumerate(parts) if beside(part)] if bench.crew.world == 1 else []
    done: dict[int, T] = {}
    by_steps = work
    if bench.device.type == "cuda":
        by_steps = _in_stream(work)
        threads = _streams([bytes_of(parts[i]) for i in several], bench.device)
        if threads > 1:
            done = _together([(i, parts[i]) for i in several], threads, by_steps, bench)
    else:
        threads = min(torch.get_num_threads(), len(several))
        if gain([_cost(parts[i]) for i in several], threads) >= _WORTH:
            done = _together([(i, parts[i]) for i in several], threads, work, bench)
    return [done[i] if i in done else (by_steps if i in several else work)(part, bench) for i, part in enumerate(parts)]


def _streams(bytes_: Sequence[int], device: torch.device) -> int:
    """How many parts that take so much memory may be on a GPU at once."""
    if not bytes_:
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return min(_STREAMS, len(bytes_), int(_SHARE * free // max(1, *bytes_)))


def _in_stream(work: Work[T]) -> Work[T]:
    """The same on a stream of its own, which has done all when it returns."""

    def on_stream(part: Part, at: Bench) -> T:
        stream = torch.cuda.Stream(at.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.default_stream(at.device))  # which made the features
        with torch.cuda.stream(stream):
            found = work(part, at)
        stream.synchronize()
        return found

    return on_stream


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
