"""Which rows a stack of heads sees, and how they are scaled: heads that see the same rows share one gather."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmtool.records import Int
from nmtool.tune import subset
from nmtool.tune.material import Bench, Material
from nmtool.tune.plan import Run
from nmtool.tune.scale import Scaling, learn
from nmtool.tune.views import pair_of


class Feed:
    """Batches for K heads over one resident feature matrix.

    Runs with the same seed, share and labels see the same rows in the same order: U distinct views serve K heads.

    Attributes:
        n: training rows of each head.
        y: int64 [L, N] labels by overlay.
        scalings: the U scalings.
        view: which view each head has, K numbers below U.
        copies: how often a row stands in its batch.
    """

    copies = 1

    def __init__(self, runs: Sequence[Run], material: Material, bench: Bench) -> None:
        self._X, self._device = material.X, bench.device
        keys = [(r.seed, r.fraction, r.labels, r.nested, r.holdout) for r in runs]
        distinct = list(dict.fromkeys(keys))
        self.view = [distinct.index(key) for key in keys]
        self._seeds = [key[0] for key in distinct]
        self._rows: list[Int] = []
        self._held: list[Int] = []
        for seed, share, labels, nested, holdout in distinct:
            y = material.overlays[labels].y
            rows = subset.share(y, seed, share, nested)
            if holdout:
                rows, held = subset.hold_out(y, rows, seed, holdout)
                self._held.append(held)
            self._rows.append(rows)
        self._now: Sequence[Int] = self._rows
        self.n = len(self._rows[0])
        self.y = bench.tensor(np.stack([o.y for o in material.overlays]))
        self._labels = self.y.flatten()
        # where a head's labels begin in them
        self._overlay = torch.tensor([r.labels for r in runs], device=bench.device)[:, None] * self.y.shape[1]
        self._of_head = torch.tensor(self.view, device=bench.device)
        kind = runs[0].probe.scale
        self.scalings = [learn(kind, material.X, bench.tensor(rows)) for rows in self._rows]
        self._scaling = _together(self.scalings)
        self._one_to_one = self.view == list(range(len(runs)))

    def rows_of(self, head: int) -> Int:
        """int64 [n] sorted training rows of one head."""
        return self._rows[self.view[head]]

    def scaling_of(self, head: int) -> dict[str, npt.NDArray[Any]]:
        """The tensors of a head's scaling, by their names in a heads artifact; none where nothing is learned."""
        scaling = self.scalings[self.view[head]]
        if scaling.mean is None or scaling.std is None:
            return {}
        return {"scale.mean": scaling.mean.cpu().numpy(), "scale.std": scaling.std.cpu().numpy()}

    @property
    def held(self) -> Tensor:
        """int64 [U, h]: the rows that a search holds out."""
        return torch.from_numpy(np.stack(self._held)).to(self._device)

    def choose(self, rows: Int) -> None:
        """From now on epochs have these rows instead of all; for a feed of one view."""
        self._now, self.n = [rows], len(rows)

    def order(self, epoch: int) -> Tensor:
        """int64 [U, n]: the rows of an epoch in their order."""
        pairs = zip(self._now, self._seeds, strict=True)
        return torch.from_numpy(np.stack([subset.order(r, s, epoch) for r, s in pairs])).to(self._device)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features [K or 1, B, D] and labels [K, B] of the rows [U, B] of one step."""
        # one flat index each: three times as fast as indexing by rows [U, B]
        x = self._X.index_select(0, rows.flatten()).view(*rows.shape, -1)
        labels = self._labels.take(self.of_heads(rows) + self._overlay)
        return self._spread(self._scaling(x)), labels

    def of_heads(self, rows: Tensor) -> Tensor:
        """The rows [K, B] of each head, of the rows [U, B] of one step."""
        return rows if self._one_to_one else rows[self._of_head]

    def rows_in(self, rows: Tensor) -> Tensor:
        """The rows [K, B] that the features and labels of a batch are of, in their order, of the rows [U, B]."""
        return self.of_heads(rows)

    def scaled(self, x: Tensor) -> Tensor:
        """Features [B, D] as each head sees them: [K or 1, B, D]."""
        return self._spread(self._scaling(x[None]))

    def _spread(self, x: Tensor) -> Tensor:
        return x if x.shape[0] == 1 or self._one_to_one else x[self._of_head]


class ViewFeed(Feed):
    """Batches of two augmented views of each row: all first views, then all second ones, in the same order.

    Where there are more than two views, they take turns from epoch to epoch.
    """

    copies = 2

    def __init__(self, runs: Sequence[Run], material: Material, bench: Bench) -> None:
        super().__init__(runs, material, bench)
        assert material.views is not None
        self._views = material.views.X
        self._labels_of = torch.tensor([r.labels for r in runs], device=bench.device)[:, None]
        self._pair = pair_of(0, self._views.shape[1])

    def order(self, epoch: int) -> Tensor:
        """As of ``Feed``."""
        self._pair = pair_of(epoch, self._views.shape[1])
        return super().order(epoch)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Views [K or 1, 2 B, D] and labels [K, 2 B] of the rows [U, B] of one step."""
        x = torch.cat([self._views[rows, view] for view in self._pair], 1)
        labels = self.y[self._labels_of, self.of_heads(rows)]
        return self._spread(self._scaling(x)), labels.repeat(1, 2)

    def rows_in(self, rows: Tensor) -> Tensor:
        """As of ``Feed``: [K, 2 B]."""
        return self.of_heads(rows).repeat(1, 2)


def _together(scalings: Sequence[Scaling]) -> Scaling:
    """U scalings as one over a leading dimension."""
    if scalings[0].mean is None:
        return scalings[0]
    means, stds = ([getattr(s, name) for s in scalings] for name in ("mean", "std"))
    return Scaling(kind=scalings[0].kind, mean=torch.stack(means)[:, None], std=torch.stack(stds)[:, None])
