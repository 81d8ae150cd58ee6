"""Linear probe: one linear classifier on the (scaled) features, by AdamW or by L-BFGS."""

from __future__ import annotations

from nmtool.tune import cleansed, lbfgs
from nmtool.tune.fit import Trained, judge
from nmtool.tune.fit import fit as fit_stack
from nmtool.tune.heads import LinearHeads
from nmtool.tune.material import Bench, Material
from nmtool.tune.outcome import Outcome
from nmtool.tune.plan import Run


def fit(runs: tuple[Run, ...], material: Material, bench: Bench) -> Trained:
    """Train linear probes: as one stack by AdamW, one by one by L-BFGS."""
    if runs[0].logistic is not None:
        return lbfgs.fit(runs, material, bench)
    return fit_stack(LinearHeads, runs, material, bench)


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Train linear probes, and judge them on every split."""
    if runs[0].cleansing is not None:
        return cleansed.tune(LinearHeads, lambda _: None, runs, material, bench)
    return judge(runs, fit(runs, material, bench), material, bench)
