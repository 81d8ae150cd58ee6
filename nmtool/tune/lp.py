"""Linear probe: one linear classifier on the (scaled) features."""

from __future__ import annotations

from nmtool.tune import fit
from nmtool.tune.heads import LinearHeads
from nmtool.tune.material import Bench, Material
from nmtool.tune.outcome import Outcome
from nmtool.tune.plan import Run


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Train linear probes as one stack."""
    return fit.train(LinearHeads, runs, material, bench)
