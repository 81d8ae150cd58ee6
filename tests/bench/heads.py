"""A table of linear heads in one ``tune`` beside a plain training loop a head."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nmtool.artifact.stage import Session
from nmtool.records import ArtifactRef
from nmtool.tune.config import Config
from nmtool.tune.run import run
from tests.bench import plain
from tests.bench.artifacts import clusters, write_features
from tests.bench.measure import Found, Line, adamw_s, clock, in_turns, product_s, timed
from tests.bench.sizes import Sizes

SEEDS, FRACTIONS = (0, 1, 2), (0.1, 0.25, 0.5, 0.75, 1.0)
LRS, DECAYS = (1e-4, 1e-3, 3e-3, 1e-2), (0.0, *(10.0**-n for n in range(1, 13)))
BATCH, LR, TESTS = 64, 3e-3, 2000
PLAIN_OF_GRID = 4  # heads of the grid that the plain loop trains: they cost the same


def bench(sizes: Sizes, work: Path) -> Found:
    """Heads a minute, whole commands from files to files; accuracies side by side.

    With one torch thread it is seconds of the processor (see ``clock``), which leave out waiting for the disk.
    """
    splits = clusters(sizes.head_rows, TESTS, sizes.head_dim, sizes.head_classes)
    features = write_features(work / "features", splits, sizes.head_classes).path
    for split, (X, y) in splits.items():
        plain.save(work / f"{split}-X.npy", X)
        plain.save(work / f"{split}-y.npy", y)
    tables = _Tables(features, work, sizes)
    tables.ours(seeds=(0,), fraction=(0.1,), epochs=(1,))  # imports
    times = in_turns(
        sizes.head_rounds,
        {
            "nmtool": timed(tables.ours_table, clock),
            "plain": timed(tables.plain_table, clock),
            "nmtool grid": timed(tables.ours_grid, clock),
            "plain grid": timed(tables.plain_grid, clock),
        },
    )
    half = ", bf16" if sizes.amp == "bf16" else ""
    count, grid = len(SEEDS) * len(FRACTIONS), len(LRS) * len(DECAYS)
    size = f"{sizes.head_rows} x {sizes.head_dim}, {sizes.head_classes} classes"
    floors = {"table": _table_floor(sizes), "grid": _floor(sizes, grid, 1.0, sizes.grid_epochs)}
    lines = [
        Line(
            what=f"{count} heads (3 seeds x 5 shares) on {size}, {sizes.head_epochs} epochs{half}",
            unit="heads/min",
            plain=times.rate("plain", 60 * count),
            ours=times.rate("nmtool", 60 * count),
            limit=60 * count / floors["table"],
            limit_is="products + AdamW's bytes",
            noise=times.noise("plain", "nmtool"),
        ),
        Line(
            what=f"{grid} heads (4 rates x 13 decays), {sizes.grid_epochs} epoch{'s' * (sizes.grid_epochs != 1)}{half}",
            unit="heads/min",
            plain=times.rate("plain grid", 60 * PLAIN_OF_GRID),
            ours=times.rate("nmtool grid", 60 * grid),
            limit=60 * grid / floors["grid"],
            limit_is="products + AdamW's bytes",
            noise=times.noise("plain grid", "nmtool grid"),
        ),
    ]
    return Found(lines=lines, notes=[tables.compared()])


def _table_floor(sizes: Sizes) -> float:
    return sum(_floor(sizes, len(SEEDS), fraction, sizes.head_epochs) for fraction in FRACTIONS)


def _floor(sizes: Sizes, heads: int, fraction: float, epochs: int) -> float:
    """Seconds of the steps of one stack: two products (logits, weight gradient) and the optimiser's bytes."""
    dim, classes = sizes.head_dim, sizes.head_classes
    dtype = torch.bfloat16 if sizes.amp == "bf16" else torch.float32
    products = sum(product_s(*s, classes, heads=heads, dtype=dtype) for s in ((BATCH, dim), (dim, BATCH)))
    steps = math.ceil(fraction * sizes.head_rows / BATCH) * epochs
    return steps * (products + adamw_s(heads * (dim + 1) * classes))


class _Tables:
    """Both ways to the same heads; each begins with files and ends with files."""

    def __init__(self, features: Path, work: Path, sizes: Sizes) -> None:
        self.features, self.work, self.sizes = features, work, sizes
        self.accuracies: dict[tuple[int, float], float] = {}
        self.ref: ArtifactRef | None = None

    def ours(self, **asked: Any) -> ArtifactRef:
        """``nmtool tune`` into an empty store, with all that it writes; no spectra, as the plain loop has none."""
        store = self.work / "store"
        shutil.rmtree(store, ignore_errors=True)
        common: dict[str, Any] = {"lr": (LR,), "weight_decay": (0.0,), "scale": ("none",), "batch_size": (BATCH,)}
        config = Config(
            features=str(self.features), device="cpu", spectra=False, amp=self.sizes.amp, **{**common, **asked}
        )
        return run(config, Session(store=store))

    def ours_table(self) -> None:
        self.ref = self.ours(seeds=SEEDS, fraction=FRACTIONS, epochs=(self.sizes.head_epochs,))

    def ours_grid(self) -> None:
        self.ours(lr=LRS, weight_decay=DECAYS, epochs=(self.sizes.grid_epochs,))

    def plain_table(self) -> None:
        runs = [{"seed": s, "fraction": f, "lr": LR, "weight_decay": 0.0} for s in SEEDS for f in FRACTIONS]
        self._plain(runs, self.sizes.head_epochs)

    def plain_grid(self) -> None:
        pairs = itertools.islice(itertools.product(LRS, DECAYS), PLAIN_OF_GRID)
        runs = [{"seed": 0, "fraction": 1.0, "lr": lr, "weight_decay": decay} for lr, decay in pairs]
        self._plain(runs, self.sizes.grid_epochs, remember=False)

    def _plain(self, runs: list[dict[str, Any]], epochs: int, *, remember: bool = True) -> None:
        loaded = {
            n: torch.from_numpy(np.load(self.work / f"{n}.npy")) for n in ("train-X", "train-y", "test-X", "test-y")
        }
        heads = {}
        for number, asked in enumerate(runs):
            accuracy, head = plain.linear_head(
                loaded["train-X"],
                loaded["train-y"],
                (loaded["test-X"], loaded["test-y"]),
                classes=self.sizes.head_classes,
                epochs=epochs,
                batch_size=BATCH,
                **asked,
            )
            heads[number] = head
            if remember:
                self.accuracies[asked["seed"], asked["fraction"]] = accuracy
        torch.save(heads, self.work / "plain.pt")

    def compared(self) -> str:
        """Mean test accuracy at each share of the rows."""
        assert self.ref is not None
        rows: Any = self.ref.summary["results"]
        words = []
        for fraction in FRACTIONS:
            ours = np.mean([row["accuracy"] for row in rows if row["fraction"] == fraction])
            theirs = np.mean([self.accuracies[seed, fraction] for seed in SEEDS])
            words.append(f"{fraction:.0%}: {ours:.3f} and {theirs:.3f}")
        return "test accuracy, mean of 3 seeds, nmtool and plain: " + "; ".join(words)
