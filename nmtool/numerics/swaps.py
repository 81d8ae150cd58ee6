"""Wrong captions: pairs of image and text that change texts. Needs numpy alone; draws from the generator given."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from nmtool.errors import DataError, UsageError
from nmtool.numerics.checks import Labels, as_labels, as_ratio

SwapMode = Literal["exact", "random-swaps", "until"]


def _swap_sequentially(n: int, swaps: int | None, wanted: int, rng: np.random.Generator) -> Labels:
    """A permutation of n by random transpositions: ``swaps`` of them, or until ``wanted`` positions are displaced."""
    permutation = np.arange(n, dtype=np.int64)
    cells = permutation.data  # a memoryview; item access through it is some times faster than through the array
    displaced = done = 0
    while True:
        size = min(2**16, n) if swaps is None else min(2**16, swaps - done)
        if size == 0:
            return permutation
        left = rng.integers(0, n, size=size)
        right = rng.integers(0, n - 1, size=size)
        right += right >= left  # two different positions
        for i, j in zip(left.tolist(), right.tolist(), strict=True):
            a, b = cells[i], cells[j]
            cells[i], cells[j] = b, a
            displaced += (b != i) + (a != j) - (a != i) - (b != j)
            if swaps is None and displaced >= wanted:
                return permutation
        done += size


def swap_captions(
    labels: ArrayLike | int, ratio: float | Fraction, *, rng: np.random.Generator, mode: SwapMode = "exact"
) -> Labels:
    """Give a share of image-text pairs the text of another pair (NMTune §2.1, YFCC15M).

    Modes: ``exact`` chooses 2 * floor(ratio * N / 2) positions without replacement, pairs them at random and swaps
    within pairs, so that exactly so many positions are mismatched. ``random-swaps`` makes int(ratio * N) swaps of two
    random positions, as the authors' script does; about 1 - exp(-2 * ratio) of the pairs end up mismatched. ``until``
    swaps random positions until at least ratio * N are mismatched, as the paper words it. Positions count, not texts:
    two pairs with equal captions may be swapped with each other. In mode ``exact`` the pairs are the beginning of one
    permutation: generators in the same state give nested draws.

    Args:
        labels: [N] caption rows, usually ``arange(N)``, with -1 for pairs that take no part; or N itself.
        ratio: 0 to 1.
        rng: source of every draw.
        mode: ``exact``, ``random-swaps`` or ``until``.

    Returns:
        [N] int64: the caption row of each position. 15 million pairs take seconds in mode ``exact``.

    Raises:
        DataError: ratio or labels out of range; fewer than two pairs where a swap is asked for.
        UsageError: an unknown mode.
    """
    share = as_ratio(ratio)
    if isinstance(labels, (int, np.integer)):
        if labels < 0:
            raise DataError(f"{labels} captions", "0 or more")
        captions = np.arange(labels, dtype=np.int64)
    else:
        captions = as_labels(labels, name="captions")
    rows = np.flatnonzero(captions >= 0)
    n = rows.size
    if mode == "exact":
        chosen = rng.permutation(rows)[: 2 * math.floor(share * n / 2)]
        left, right = chosen[0::2], chosen[1::2]
        captions[left], captions[right] = captions[right], captions[left]
        return captions
    if mode not in ("random-swaps", "until"):
        raise UsageError(f"caption mode {mode!r}", "exact, random-swaps or until")
    swaps, wanted = (math.floor(share * n), 0) if mode == "random-swaps" else (None, math.ceil(share * n))
    if not (swaps or wanted):
        return captions
    if n < 2:
        raise DataError(f"{n} caption", "2 or more to swap", "use ratio 0")
    captions[rows] = captions[rows[_swap_sequentially(n, swaps, wanted, rng)]]
    return captions
