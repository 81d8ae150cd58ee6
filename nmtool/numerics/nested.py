"""One order of all rows in which noise of every ratio is a beginning: what flips at 5 % flips at 10 % as well.

Largest remainder can't do that: it may round a class up at one ratio and down at a higher one. Here the i-th flip of a
class has a window of ratios, ((i - 1)/n_c, i/n_c], and the k-th flip of all takes place at ratio (k - 1/2)/N. Giving
each place to the open window that closes first (earliest deadline) meets all windows, since by Hall's theorem some
order does: jobs that must lie in (a, b] are J <= N_P (b - a) for the n_c of the classes P that have any, and places in
(a, b] are more than N (b - a) - 1, or are J at least where P is all classes. So at every ratio the total is exact, and
each class has the floor or the ceil of its quota, as in the draw of a single ratio.
"""

from __future__ import annotations

import heapq
from fractions import Fraction

import numpy as np

from nmtool.numerics.checks import Labels, half_up, shuffled_by_class


def first_flips(labels: Labels, eligible: Labels, share: Fraction, rng: np.random.Generator) -> Labels:
    """The rows that flip at ``share``: a beginning of an order that labels, eligible classes and generator decide.

    Args:
        labels: [N], -1 or a class.
        eligible: [C], labelled rows of each class that may flip; 0 for a class that may not.
        share: 0 to 1, of the eligible rows.
        rng: the same stream for every share of a nested family; it is advanced by the same amount for each.

    Returns:
        Row numbers, round(share * sum(eligible)) of them, half up; of class c floor or ceil of share * eligible[c].
    """
    order = shuffled_by_class(labels, rng)
    order = order[(labels[order] >= 0) & (eligible[labels[order]] > 0)]
    owner = interleaved(eligible, rng)
    flips = np.empty_like(order)
    flips[np.argsort(owner, kind="stable")] = order  # the rows of a class take its places in turn
    return flips[: half_up(share, flips.size)]


def interleaved(counts: Labels, rng: np.random.Generator) -> Labels:
    """A class for each of sum(counts) places, spread so evenly that every beginning has its share of every class.

    For every r from 0 to 1, of the first round(r * sum(counts)) places, half up, class c has floor or ceil of
    r * counts[c].

    Args:
        counts: int64 [C], 0 or more each, their sum under 2**31.
        rng: decides between classes that have the same window.

    Returns:
        int64 [sum(counts)].
    """
    total = int(counts.sum())
    if total == 0:
        return np.empty(0, dtype=np.int64)
    sizes, many = np.unique(counts[counts > 0], return_counts=True)  # classes of one size have the same windows
    group = np.repeat(np.arange(sizes.size), sizes)
    size = sizes[group]
    turn = np.arange(size.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    opens = (2 * total * turn + size) // (2 * size)  # the first place after ratio turn/size
    closes = (2 * total * (turn + 1) - size) // (2 * size)  # the last one up to ratio (turn + 1)/size
    window = _earliest_deadline(opens, closes, many[group], total)
    # The classes of one size, in random order in each of their windows.
    members = np.argsort(counts, kind="stable")[np.flatnonzero(np.sort(counts) > 0)[0] :]
    first = np.cumsum(many) - many
    place = np.argsort(window, kind="stable")
    listed = window[place]
    within = np.arange(total) - np.searchsorted(listed, np.arange(size.size))[listed]
    owner = np.empty(total, dtype=np.int64)
    owner[place] = members[first[group[listed]] + within][np.lexsort((rng.random(total), listed))]
    return owner


def _earliest_deadline(opens: Labels, closes: Labels, many: Labels, total: int) -> Labels:
    """The window served at each of ``total`` places, ``many`` places a window: the open one that closes first."""
    runs: list[int] = []
    lengths: list[int] = []
    pending: list[list[int]] = []  # closes, window, places it still wants
    at = 0
    order = np.argsort(opens, kind="stable")
    starts = [*opens[order].tolist(), total]
    for number, (window, deadline, wanted) in enumerate(
        zip(order.tolist(), closes[order].tolist(), many[order].tolist(), strict=True)
    ):
        heapq.heappush(pending, [deadline, window, wanted])
        until = starts[number + 1]
        while at < until and pending:
            head = pending[0]
            taken = min(head[2], until - at)
            runs.append(head[1])
            lengths.append(taken)
            at += taken
            head[2] -= taken
            if not head[2]:
                heapq.heappop(pending)
    return np.repeat(np.array(runs, dtype=np.int64), lengths)
