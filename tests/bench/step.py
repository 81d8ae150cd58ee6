"""A training step of ``mlp`` and ``nmtune`` beside plain PyTorch, and beside the floor that the machine sets.

The floor: the step's matrix products, each measured alone at its own shape, whole or in four parts, by the library that
torch takes and by the one that nmtool may take (oneDNN, see ``products_by_onednn``), the fastest of all; and the bytes
that AdamW has to move at the measured bandwidth. Nothing is allowed for losses, activations and gathering the rows, nor
for weights that the products find in memory rather than in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from nmtool.artifact.stage import Silence
from nmtool.encoders.device import choose_device, keep_freed_memory, products_by_onednn
from nmtool.numerics import losses
from nmtool.tune.config import Config
from nmtool.tune.fit import fit
from nmtool.tune.material import Bench, Material, Overlay, Target
from nmtool.tune.mlp import MlpHeads
from nmtool.tune.nmtune import Regularisers
from nmtool.tune.plan import expand
from tests.bench import plain
from tests.bench.measure import Contender, Found, Line, adamw_s, clock, in_turns, product_s, say, settle
from tests.bench.sizes import Sizes

CLASSES, WEIGHT, LR, DECAY = 100, 0.01, 1e-3, 1e-4
PARTS = 4
SAMPLE_S = 0.5  # a round of a contender is made of as many steps as take about this long


def bench(sizes: Sizes, work: Path) -> Found:
    """Steps a second, for each dimension and batch size."""
    del work
    keep_freed_memory()  # as the command does: so that no contender depends on who came first
    found = Found()
    for dim in sizes.step_dims:
        for batch in sizes.step_batches:
            say(f"    D {dim}, batch {batch}")
            _one(dim, batch, sizes, found)
    found.notes.append(_compared())
    return found


def _one(dim: int, batch: int, sizes: Sizes, found: Found) -> None:
    device, seeds = choose_device(sizes.device), sizes.step_seeds
    widths = (dim, 4 * dim, dim, CLASSES)
    half = sizes.amp == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    products, bytes_s = (
        _products_s(batch, widths, device, dtype),
        adamw_s(sum(a * b + b for a, b in pairwise(widths)), device),
    )
    floor = products + bytes_s
    steps = max(2, min(200, round(SAMPLE_S / floor)))
    rng = torch.Generator(device=device).manual_seed(0)
    X = torch.randn(steps * batch, dim, generator=rng, device=device)
    y = torch.randint(CLASSES, (len(X),), generator=rng, device=device)
    # the SVD of 512 x 2,048 takes 20 ms on an H200, ten times the rest of a step
    few = max(2, steps // 10) if device.type == "cuda" else steps
    contenders = {
        "mlp": _ours("mlp", X, y, batch, steps, seeds, sizes.amp),
        "plain mlp": _plain(X, y, batch, steps, 0.0),
        "nmtune": _ours("nmtune", X, y, batch, steps, seeds, sizes.amp),
        "plain nmtune": _plain(X[: few * batch], y[: few * batch], batch, few, WEIGHT),
    }
    times = in_turns(sizes.rounds, contenders)
    where = (f", {seeds} seeds as one stack" if seeds > 1 else "") + (" on a GPU" if device.type == "cuda" else "")
    where += ", bf16" if half else ""
    for method in ("mlp", "nmtune"):
        found.add(
            Line(
                what=f"{method} step, D {dim}, batch {batch}{where}",
                unit="steps/s",
                plain=1 / times.median(f"plain {method}"),
                ours=1 / times.median(method),
                limit=1 / floor,
                limit_is=f"{products * 1e3:.1f} ms products + {bytes_s * 1e3:.1f} ms AdamW",
                noise=times.noise(method, f"plain {method}"),
            )
        )
    ours, theirs = (times.median(f"{who}nmtune") / times.median(f"{who}mlp") for who in ("", "plain "))
    found.notes.append(
        f"D {dim}, batch {batch}: an nmtune step takes {ours:.2f} x an mlp step (plain, with svdvals: {theirs:.2f} x)"
    )


def _products_s(batch: int, widths: Sequence[int], device: torch.device, dtype: torch.dtype) -> float:
    """Forward, gradient of the weights, and gradient of the input for all layers but the first."""
    total = 0.0
    for i, (a, b) in enumerate(pairwise(widths)):
        total += _fastest_s(batch, a, b, device, dtype) + _fastest_s(a, batch, b, device, dtype)
        total += _fastest_s(batch, b, a, device, dtype) if i else 0.0
    return total


def _fastest_s(rows: int, inner: int, columns: int, device: torch.device, dtype: torch.dtype) -> float:
    """One product, whole or cut into four along its longest side: libraries share out batches better."""
    sizes = [rows, inner, columns]
    longest = sizes.index(max(sizes))
    found = []
    for library in (nullcontext(), products_by_onednn(device)):
        with library:
            found.append(product_s(*sizes, dtype=dtype, device=device))
            if sizes[longest] % PARTS == 0:
                cut = [size // PARTS if i == longest else size for i, size in enumerate(sizes)]
                found.append(product_s(*cut, heads=PARTS, dtype=dtype, device=device))
    return min(found)


def _ours(method: str, X: torch.Tensor, y: torch.Tensor, batch: int, steps: int, seeds: int, amp: str) -> Contender:
    """Seconds a step of one head in ``tune``'s own loop: the second epoch, from one report of progress to the next."""
    # All that the plain step has is spelled out: the tool's defaults may come from elsewhere.
    config = Config(
        features="",
        method=(method,),
        epochs=(2,),
        batch_size=(batch,),
        lr=(LR,),
        weight_decay=(DECAY,),
        scale=("none",),
        batch_norm=False,
        residual=False,
        weight_mse=(WEIGHT,),
        weight_cov=(WEIGHT,),
        weight_svd=(WEIGHT,),
        svd_topk=(1,),
        mse_reduce="row",
        seeds=tuple(range(seeds)),
        amp=amp,
    )
    runs = expand(config, 0, X.shape[1])
    labels = y.cpu().numpy()
    ids = [str(row) for row in range(len(X))]
    target = Target(source="", shown="", split="", role="id", rows=np.arange(1), ids=ids[:1], X=X[:1], y=labels[:1])
    overlay = Overlay(name="", shown="", y=labels, ratio=None)
    material = Material(X=X, ids=ids, clean=labels, overlays=(overlay,), classes=("",) * CLASSES, targets=(target,))
    terms = Regularisers(runs, X.device) if runs[0].terms is not None else None

    def sample() -> float:
        ticks: list[float] = []
        at = Bench(device=X.device, report=Silence(), advance=lambda done: ticks.append(clock()))
        with products_by_onednn(X.device):  # as the command does
            fit(MlpHeads, runs, material, at, terms)
        return (ticks[-1] - ticks[-2]) / steps / seeds

    return sample


def _plain(X: torch.Tensor, y: torch.Tensor, batch: int, steps: int, weight: float) -> Contender:
    def sample() -> float:
        torch.manual_seed(0)
        model = plain.Mlp(X.shape[1], CLASSES).to(X.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
        plain.train_mlp(model, optimizer, X[: 2 * batch], y[: 2 * batch], batch, weight)  # warm, as above
        settle(X.device)
        began = clock()
        plain.train_mlp(model, optimizer, X, y, batch, weight)
        settle(X.device)
        return (clock() - began) / steps

    return sample


def _compared() -> str:
    """The three terms, nmtool's beside the plain ones, on one batch in float32."""
    rng = torch.Generator().manual_seed(1)
    F, Z = (
        torch.randn(64, 768, generator=rng),
        torch.randn(64, 768, generator=rng) @ torch.randn(768, 768, generator=rng),
    )
    ours = (losses.consistency(F, Z), losses.covariance(Z), losses.dominant_singular_value(Z))
    theirs = plain.nmtune_terms(F, Z)
    apart = max(abs(float(a / b) - 1) for a, b in zip(ours, theirs, strict=True))
    return f"the three terms of one batch, nmtool and plain, differ by {apart:.1e} of their value at most"
