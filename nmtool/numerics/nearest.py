"""The nearest rows by cosine, exactly, in blocks of bounded memory; equally near ones in the order of their rows.

It knows nothing of labels but in :func:`vote_shares`, where each row asks all the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Similarities of so many rows are in memory at once, whatever the number of rows: 64 MiB. Fixed,
# since the shape of a product is part of its rounding.
_ASKED, _TRAINED = 512, 32768


def unit(x: Tensor) -> Tensor:
    """Rows of unit length; rows of zeros stay zero, and are similar to nothing."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(norm > 0, norm, 1.0)


@torch.no_grad()
def nearest(asked: Tensor, trained: Tensor, views: Sequence[Tensor], most: int) -> list[tuple[Tensor, Tensor]]:
    """The ``most`` nearest training rows of each asked row, nearest first, for several choices of training rows.

    Args:
        asked: [q, D] rows of unit length; ``trained``: [N, D] likewise.
        views: int64 [n] each: sorted rows of ``trained`` that may be found.
        most: as many, or all rows of a view where it has fewer.

    Returns:
        For each view cosines float32 [q, m] and positions in the view int64 [q, m].
    """
    best: list[Tensor | None] = [None] * len(views)
    for start in range(0, len(trained), _TRAINED):
        cosines = asked @ trained[start : start + _TRAINED].T
        for i, view in enumerate(views):
            low, high = (int(torch.searchsorted(view, edge)) for edge in (start, start + cosines.shape[1]))
            if low == high:
                continue
            mine = cosines if high - low == cosines.shape[1] else cosines[:, view[low:high] - start]
            keys = _largest(mine, low, most)
            known = best[i]
            if known is not None:
                keys = torch.cat([known, keys], dim=1)
                keys = keys.topk(min(most, keys.shape[1]), dim=1).values
            best[i] = keys
    return [_unpacked(keys) for keys in best if keys is not None]


def _largest(cosines: Tensor, start: int, most: int) -> Tensor:
    """The ``most`` largest keys [q, m] of each row, in descending order.

    Where the first one left out is as near as the last one taken, ``topk`` may take either: those rows are done again
    by their keys. For all rows that would take three times as long.
    """
    if cosines.shape[1] <= most:
        columns = torch.arange(cosines.shape[1], device=cosines.device)
        return _keys(cosines, columns + start).sort(dim=1, descending=True).values
    top = cosines.topk(most + 1, dim=1)
    keys = _keys(top.values[:, :most], top.indices[:, :most] + start).sort(dim=1, descending=True).values
    tied = (top.values[:, most] == top.values[:, most - 1]).nonzero()[:, 0]
    step = max(1, (1 << 24) // cosines.shape[1])
    for rows in torch.split(tied, step):
        columns = torch.arange(cosines.shape[1], device=cosines.device)
        keys[rows] = _keys(cosines[rows], columns + start).topk(most, dim=1).values
    return keys


def _keys(cosines: Tensor, columns: Tensor) -> Tensor:
    """Whole numbers in the order of the cosines, and of equal ones the earlier column first: no two are equal."""
    bits = (cosines + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (ordered << 32) | (0xFFFFFFFF - columns)


def _unpacked(keys: Tensor) -> tuple[Tensor, Tensor]:
    ordered = (keys >> 32).int()
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    return bits.view(torch.float32), 0xFFFFFFFF - (keys & 0xFFFFFFFF)


@torch.no_grad()
def vote_shares(
    X: Tensor, labels: Tensor, k: int, classes: int, advance: Callable[[int], None] = lambda done: None
) -> Tensor:
    """Shares of the votes of each row's ``k`` nearest other rows, float32 [N, C]; a row never votes on itself.

    Memory beside the arguments and the result is that of one block of similarities.

    Args:
        X: [N, D] rows of unit length, N of 2 or more.
        labels: int64 [N] in [0, classes).
        k: neighbours; all other rows where they are fewer.
        classes: C.
        advance: told how many rows are done.
    """
    k = min(k, len(X) - 1)
    everything = torch.arange(len(X), device=X.device)
    out = torch.zeros(len(X), classes, device=X.device)
    for start in range(0, len(X), _ASKED):
        mine = everything[start : start + _ASKED]
        _, positions = nearest(X[mine], X, [everything], k + 1)[0]
        # among more than k twins of a row it need not be found itself: then the last one goes
        other = positions != mine[:, None]
        other[:, -1] &= ~other.all(1)
        near = positions[other].view(len(mine), k)
        out[mine] = out[mine].scatter_add_(1, labels[near], torch.full(near.shape, 1.0 / k, device=X.device))
        advance(len(mine))
    return out
