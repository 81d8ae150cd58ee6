"""Cached augmented views of the training rows: which of them an epoch sees, and NMTune's consistency across two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from nmtool.numerics import losses

if TYPE_CHECKING:
    from nmtool.numerics.terms import Blind
    from nmtool.tune.fit import Terms


def pair_of(epoch: int, views: int) -> tuple[int, int]:
    """Two of ``views``: they take turns from epoch to epoch."""
    return (2 * epoch) % views, (2 * epoch + 1) % views


class AcrossViews:
    """NMTune's terms on batches of two views: the consistency is that of Z of the second view and F of the first.

    So the authors' code has it (src/models/nml_tune.py); the other terms are of all 2 B rows, there and here.
    """

    def __init__(self, terms: Terms, reduce: Literal["row", "elem"]) -> None:
        self._terms, self._reduce = terms, reduce

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """As of the terms."""
        return self._terms.weights

    @property
    def can_be_blind(self) -> bool:
        """As of the terms."""
        return self._terms.can_be_blind

    @property
    def blind(self) -> Blind | None:
        """As of the terms."""
        return self._terms.blind

    @blind.setter
    def blind(self, value: Blind | None) -> None:
        self._terms.blind = value

    def __call__(self, F: Tensor, Z: Tensor) -> dict[str, Tensor]:
        """Terms [K] of F and Z [K or 1, 2 B, D], first views before second ones."""
        parts, half = self._terms(F, Z), F.shape[-2] // 2
        if "mse" in parts:
            parts["mse"] = losses.consistency(F[..., :half, :], Z[..., half:, :], reduce=self._reduce)
        return parts
