"""The paper's Table 14 (NMTune B.6): its 14 in-domain sets' sizes, LP, MLP and NMTune, three seeds, 30 epochs.

The features are random: only their sizes matter for the time. It needs a CUDA device, and says so where there is none;
``workload`` itself runs on any device, at any share of the rows, and a test runs it on CPU. The paper's figure is for
one V100 and holds what its authors' loop does beside the training (reading features, evaluation after each epoch).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from nmtool.artifact.stage import Silence
from nmtool.data.suites.catalogue import SUITES
from nmtool.tune.build import side_by_side
from nmtool.tune.config import Config
from nmtool.tune.material import Bench, Material, Overlay, Target
from nmtool.tune.method import method_named
from nmtool.tune.plan import Run, expand
from tests.bench.measure import Found, Line, say
from tests.bench.sizes import Sizes

METHODS, SEEDS = ("lp", "mlp", "nmtune"), (0, 1, 2)
PAPER_S = (5.01 + 7.96 + 8.23) * 3600  # Table 14, vision in-domain: hours on one V100
BATCHES = (512, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What was done: seconds, and the operations and bytes of the training steps alone."""

    seconds: float
    runs: int
    operations: float
    bytes_: float


def bench(sizes: Sizes, work: Path) -> Found:
    """Seconds of the whole table at each batch size; nothing without a CUDA device."""
    del work
    if not torch.cuda.is_available():
        return Found(notes=["skipped: needs a CUDA device, and there is none here"])
    device = torch.device("cuda")
    half = sizes.amp == "bf16"
    found, rate, width = Found(), _rate(device, torch.bfloat16 if half else torch.float32), _bandwidth(device)
    for batch in BATCHES:
        say(f"    batch {batch}")
        done = workload(device, batch_size=batch, epochs=sizes.table_epochs, dim=sizes.table_dim, amp=sizes.amp)
        floor = done.operations / rate + done.bytes_ / width
        found.add(
            Line(
                what=f"{done.runs} heads of Table 14, D {sizes.table_dim}, {sizes.table_epochs} epochs, batch {batch}"
                + (", bf16" if half else ""),
                unit="s",
                plain=None,
                ours=done.seconds,
                limit=floor,
                limit_is="products + AdamW's bytes at this device's measured rates",
                lower=True,
            )
        )
        found.notes.append(
            f"batch {batch}: {done.seconds:.1f} s; {done.operations / done.seconds / 1e12:.1f} TFLOP/s and "
            f"{done.bytes_ / done.seconds / 1e9:.0f} GB/s of {rate / 1e12:.1f} and {width / 1e9:.0f} measured; "
            f"the paper's {PAPER_S / 3600:.1f} V100 hours are {PAPER_S / done.seconds:.0f} times as long"
        )
    return found


def workload(
    device: torch.device,
    *,
    batch_size: int,
    epochs: int,
    dim: int,
    share: float = 1.0,
    most: int | None = None,
    amp: str = "none",
) -> Work:
    """Train and judge all heads of the table, set by set.

    Args:
        device: where.
        batch_size, epochs: of all methods.
        dim: of the features.
        share: of each set's rows.
        most: the first so many sets alone.
        amp: none or bf16.
    """
    settings = {"method": METHODS, "seeds": SEEDS, "epochs": (epochs,), "batch_size": (batch_size,), "amp": amp}
    runs = expand(Config(features="", **settings), 0, dim)
    at = Bench(device=device, report=Silence(), spectra=False)
    began, operations, bytes_, heads = time.perf_counter(), 0.0, 0.0, 0
    for material in _materials(device, dim, share, most):
        classes = len(material.classes)

        def train(part: tuple[Run, ...], where: Bench, material: Material = material) -> int:
            return len(method_named(part[0].method).resolve()(part, material, where))

        heads += sum(side_by_side(runs, train, material, at))
        steps = -(-len(material.X) // batch_size) * epochs
        for run in runs:
            products, weights = _step(run, batch_size, dim, classes)
            operations += steps * products
            bytes_ += steps * 28 * weights
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Work(seconds=time.perf_counter() - began, runs=heads, operations=operations, bytes_=bytes_)


def _step(run: Run, batch: int, dim: int, classes: int) -> tuple[float, int]:
    """Operations of a step's matrix products (forward, weights, input but for the first layer), and parameters."""
    widths = (dim, classes) if run.shape is None else (dim, run.shape.width * dim, dim, classes)
    products = sum(2.0 * batch * a * b * (3 if i else 2) for i, (a, b) in enumerate(pairwise(widths)))
    return products, sum((a + 1) * b for a, b in pairwise(widths))


def _materials(device: torch.device, dim: int, share: float, most: int | None) -> Iterator[Material]:
    sets = [suite for suite in SUITES if suite.group == "in-domain"][:most]
    rng = torch.Generator(device=device).manual_seed(0)
    for suite in sets:
        rows, tests = (
            max(suite.classes, round(share * count))
            for count in (suite.splits.get("trainval") or suite.splits["train"] or 0, suite.splits["test"] or 0)
        )
        X, T = (torch.randn(n, dim, generator=rng, device=device) for n in (rows, tests))
        y, t = (np.arange(n, dtype=np.int64) % suite.classes for n in (rows, tests))
        ids = [str(row) for row in range(max(rows, tests))]
        target = Target(source="", shown="", split="test", role="id", rows=np.arange(tests), ids=ids[:tests], X=T, y=t)
        overlay = Overlay(name="", shown="", y=y, ratio=None)
        classes = tuple(str(c) for c in range(suite.classes))
        yield Material(X=X, ids=ids[:rows], clean=y, overlays=(overlay,), classes=classes, targets=(target,))


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of large products."""
    size = 4096 if dtype == torch.float32 else 8192
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _seconds(device, lambda: a @ a)


def _bandwidth(device: torch.device) -> float:
    """Bytes a second of a copy."""
    a = torch.rand(64 << 20, device=device)
    b = torch.empty_like(a)
    return 8 * a.numel() / _seconds(device, lambda: b.copy_(a))


def _seconds(device: torch.device, call: object, times: int = 10) -> float:
    assert callable(call)
    call()
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / times
