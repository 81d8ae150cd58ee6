"""NMTune (paper 1, Eq. 6): the MLP's loss plus weighted consistency, covariance and dominant singular value terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from nmtool.numerics.terms import Blind, Name, regularisers
from nmtool.tune import cleansed
from nmtool.tune.fit import Terms, Trained, judge
from nmtool.tune.fit import fit as fit_stack
from nmtool.tune.material import Bench, Material
from nmtool.tune.mlp import MlpHeads
from nmtool.tune.outcome import Outcome
from nmtool.tune.plan import Run
from nmtool.tune.views import AcrossViews

_NAMES: tuple[Name, ...] = ("mse", "cov", "svd")


class Regularisers:
    """The three terms of a stack, each with a weight a head; a term that no head weighs is not computed."""

    def __init__(self, runs: Sequence[Run], device: torch.device) -> None:
        first = runs[0].terms
        assert first is not None
        self.topk = first.svd_topk
        self.reduce = cast(Literal["row", "elem"], first.mse_reduce)
        weights = {name: [getattr(r.terms, f"weight_{name}") for r in runs] for name in _NAMES}
        self._names = tuple(name for name in _NAMES if any(weights[name]))
        self.can_be_blind = self.topk == 1 or "svd" not in self._names
        self.blind: Blind | None = None
        self.weights: dict[str, Tensor] = {name: torch.tensor(weights[name], device=device) for name in self._names}

    def __call__(self, F: Tensor, Z: Tensor) -> dict[str, Tensor]:
        """Unweighted terms [K] of features F and transformed features Z, both [K, B, D]: Eq. 3, 4 and 5."""
        values = regularisers(F, Z, self._names, topk=self.topk, reduce=self.reduce, blind=self.blind)
        return {name: values[name] for name in self._names}


def terms_of(runs: tuple[Run, ...], device: torch.device) -> Terms:
    """The terms of a stack; of two views, the consistency is across them."""
    plain = Regularisers(runs, device)
    return AcrossViews(plain, plain.reduce) if runs[0].views else plain


def fit(runs: tuple[Run, ...], material: Material, bench: Bench) -> Trained:
    """Train NMTune heads as one stack."""
    return fit_stack(MlpHeads, runs, material, bench, terms_of(runs, bench.device))


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Train NMTune heads as one stack, and judge them on every split."""
    if runs[0].cleansing is not None:
        return cleansed.tune(MlpHeads, lambda one: terms_of(one, bench.device), runs, material, bench)
    return judge(runs, fit(runs, material, bench), material, bench)
