"""What heads see of a row: its feature, or two of its cached augmented views, scaled as they learned to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nmtool.tune.feed import Feed
from nmtool.tune.material import Material
from nmtool.tune.scale import Scaling
from nmtool.tune.views import pair_of


class Seen:
    """Features of a stack's rows.

    Args:
        feed: the stack's.
        material: with views, or without.
        heads: K.

    Attributes:
        count: views of a row in a step: two, or one where there is but the feature.
        guess_on_clean: whether labels are guessed from the feature itself: where the views are strong ones.
    """

    def __init__(self, feed: Feed, material: Material, heads: int) -> None:
        views = material.views
        self._X = material.X
        self._views = None if views is None or views.X.shape[1] < 2 else views.X
        self._scalings = [feed.scalings[feed.view[k]] for k in range(heads)]
        self.count = 1 if self._views is None else 2
        self.guess_on_clean = self._views is not None and views is not None and views.augment == "strong"

    def one_view(self, rows: Tensor, epoch: int) -> Tensor:
        """[K, B, D] of the rows [K, B] of all heads: one view, another from epoch to epoch, or the feature."""
        everyone = range(len(self._scalings))
        if self._views is None:
            return self.clean(rows, everyone)
        return self._scaled(self._views[rows, epoch % self._views.shape[1]], everyone)

    def views(self, rows: Tensor, active: Sequence[int], epoch: int) -> Tensor:
        """[A, V, B, D] of the rows [A, B] of the active heads."""
        if self._views is None:
            return self.clean(rows, active)[:, None]
        pair = pair_of(epoch, self._views.shape[1])
        return torch.stack([self._scaled(self._views[rows, v], active) for v in pair], 1)

    def clean(self, rows: Tensor, active: Sequence[int]) -> Tensor:
        """[A, B, D]: the features."""
        return self._scaled(self._X[rows], active)

    def of_one(self, rows: Tensor, head: int) -> Tensor:
        """[B, D]: the features of the rows [B] as one head sees them."""
        return self._scalings[head](self._X[rows])

    def _scaled(self, x: Tensor, active: Sequence[int]) -> Tensor:
        first = self._scalings[0]
        if first.mean is None:
            return first(x)
        means, stds = ([getattr(self._scalings[k], name) for k in active] for name in ("mean", "std"))
        return Scaling(kind=first.kind, mean=torch.stack(means)[:, None], std=torch.stack(stds)[:, None])(x)
