"""Timing in turns, the lines of the table, and the machine's own rates that limits are computed from."""

from __future__ import annotations

import gc
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def clock() -> float:
    """Seconds: of the wall; with one torch thread those of the processor, which other work on the machine leaves alone.

    On an idle machine the two are the same for work that neither waits nor forks, as all of it here that uses this.
    """
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


CPU = torch.device("cpu")


def settle(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Contender = Callable[[], float]
"""Does its work once and returns the seconds that count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table.

    Attributes:
        what: what was measured.
        unit: a rate (more is better), or a time where ``lower``.
        plain: the plain implementation; None where there is none.
        ours: nmtool.
        limit: what the machine allows; None where it is not known.
        limit_is: what the limit is made of.
        lower: less is better.
        noise: how far apart the rounds were: the longest time over the shortest, minus 1, of either.
    """

    what: str
    unit: str
    plain: float | None
    ours: float
    limit: float | None = None
    limit_is: str = ""
    lower: bool = False
    noise: float = 0.0

    def times(self, other: float | None) -> float | None:
        """How many times as fast as ``other`` nmtool is."""
        if other is None:
            return None
        return other / self.ours if self.lower else self.ours / other

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        names = ("what", "unit", "plain", "limit", "limit_is", "lower", "noise")
        body = {name: getattr(self, name) for name in names}
        return {**body, "nmtool": self.ours, "ratio": self.times(self.plain), "share": self.times(self.limit)}


@dataclass(slots=True, kw_only=True)
class Found:
    """What a bench found: lines of the table, and sentences under them."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, line: Line) -> None:
        """A line, told at once: a run that is cut short has shown what it found."""
        self.lines.append(line)
        parts = ((line.plain, "plain"), (line.ours, "nmtool"), (line.limit, "limit"))
        say(f"    {line.what}: {', '.join(f'{word} {value:.4g}' for value, word in parts if value)} {line.unit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of each contender, a number a round."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """The median round."""
        return statistics.median(self.seconds[name])

    def rate(self, name: str, amount: float) -> float:
        """Units a second, of ``amount`` units a round."""
        return amount / self.median(name)

    def noise(self, *names: str) -> float:
        """Longest round over shortest, minus 1; the worst of these contenders."""
        return max(max(self.seconds[n]) / min(self.seconds[n]) - 1 for n in names)


def timed(work: Callable[[], object], seconds: Callable[[], float] = time.perf_counter) -> Contender:
    """A contender all of whose work counts; ``clock`` for work that only computes, and in this process alone."""

    def run() -> float:
        began = seconds()
        work()
        return seconds() - began

    return run


def in_turns(rounds: int, contenders: Mapping[str, Contender]) -> Times:
    """A, B, A, B, …: what slows the machine for a while slows them all."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            gc.collect()
            seconds[name].append(run())
    return Times(seconds=seconds)


def repeated(work: Callable[[], object], device: torch.device = CPU, *, least_s: float = 0.2, rounds: int = 5) -> float:
    """Shortest seconds of one call, over rounds of at least ``least_s`` together: for limits, where noise only adds."""
    work()
    settle(device)
    began = clock()
    work()
    settle(device)
    calls = max(1, math.ceil(least_s / rounds / max(clock() - began, 1e-7)))
    best = math.inf
    for _ in range(rounds):
        began = clock()
        for _ in range(calls):
            work()
        settle(device)
        best = min(best, (clock() - began) / calls)
    return best


def product_s(
    rows: int,
    inner: int,
    columns: int,
    *,
    heads: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> float:
    """Seconds of the matrix product [rows, inner] x [inner, columns] alone, ``heads`` of them as one batch."""
    a, b = (torch.rand(heads, *s, dtype=dtype, device=device) for s in ((rows, inner), (inner, columns)))
    out = torch.empty(heads, rows, columns, dtype=dtype, device=device)
    if heads == 1:
        a, b, out = a[0], b[0], out[0]
        return repeated(lambda: torch.mm(a, b, out=out), device)
    return repeated(lambda: torch.bmm(a, b, out=out), device)


def flops(dtype: torch.dtype = torch.float32, size: int = 1536) -> float:
    """Operations a second of a large square matrix product."""
    return 2 * size**3 / product_s(size, size, size, dtype=dtype)


def bandwidth(bytes_: int, device: torch.device = CPU) -> float:
    """Bytes a second that go to and from memory, over a working set of this size: the best of three access patterns."""
    n = max(1024, bytes_ // 12)
    a, b, c = (torch.rand(n, device=device) for _ in range(3))
    return max(
        8 * n / repeated(lambda: c.copy_(a), device),
        12 * n / repeated(lambda: a.add_(b), device),
        12 * n / repeated(lambda: torch.add(a, b, out=c), device),
    )


def adamw_s(parameters: int, device: torch.device = CPU) -> float:
    """Least seconds of an AdamW step: reads parameter, gradient and both moments, writes all but the gradient."""
    return 28 * parameters / bandwidth(16 * parameters, device)


def machine(work: Path) -> dict[str, Any]:
    """What the numbers depend on."""
    packages = ("numpy", "torch", "timm", "pillow", "zarr", "scikit-learn", "nmtool")
    found = os.statvfs(work)
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "file_system": _file_system(work),
        "free_gb": round(found.f_bavail * found.f_frsize / 1e9, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {name: version(name) for name in packages},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _file_system(path: Path) -> str:
    """The type of the file system under ``path``, from the mount that lies deepest above it."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    above = [(len(where), kind) for where, kind in mounts if path.resolve().is_relative_to(where)]
    return max(above)[1] if above else "unknown"


def say(text: str) -> None:
    """News, while one waits."""
    print(text, file=sys.stderr, flush=True)
