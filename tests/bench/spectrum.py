"""Singular values of many features, block by block, beside LAPACK on the whole matrix in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nmtool.numerics.singular import Streamed, singular_value_entropy, singular_values_streaming
from tests.bench import plain
from tests.bench.measure import Found, Line, flops, in_turns, timed
from tests.bench.sizes import Sizes

BLOCK = 2730  # rows of a chunk of a feature store at D 768


def bench(sizes: Sizes, work: Path) -> Found:
    """Rows a second, and how far the values are apart."""
    del work
    rows, dim = sizes.spectrum_rows, sizes.spectrum_dim
    rng = np.random.default_rng(0)
    # A spectrum that falls by three decades, as features have.
    X = (rng.normal(size=(rows, dim)) * np.logspace(0, -3, dim)).astype(np.float32)
    X = (X @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]).astype(np.float32)
    results: dict[str, Any] = {}
    times = in_turns(
        sizes.rounds,
        {
            "nmtool": timed(lambda: results.update(ours=singular_values_streaming(_blocks(X)))),
            "plain": timed(lambda: results.update(plain=plain.singular_values(X))),
        },
    )
    # The Gram matrix is symmetric: half of its products are enough.
    floor = rows * dim**2 / flops(torch.float64, 1024)
    line = Line(
        what=f"singular values of {rows} x {dim}, beside np.linalg.svd in float64",
        unit="rows/s",
        plain=times.rate("plain", rows),
        ours=times.rate("nmtool", rows),
        limit=rows / floor,
        limit_is="half a product, float64",
        noise=times.noise("plain", "nmtool"),
    )
    ours: Streamed = results["ours"]
    sigma = results["plain"]
    apart = np.abs(ours.values / sigma - 1).max()
    entropy = singular_value_entropy(ours.values) - plain.entropy(sigma)
    note = f"by {ours.method}; values differ by {apart:.1e} of their own size at most, SVE by {entropy:.1e}"
    return Found(lines=[line], notes=[note])


def _blocks(X: Any) -> Iterator[Any]:
    for start in range(0, len(X), BLOCK):
        yield X[start : start + BLOCK]
