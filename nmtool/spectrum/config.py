"""What ``spectrum`` can be asked."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.settings import setting

PREPROCESS = ("raw", "center", "l2", "l2_rowcenter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of ``spectrum``."""

    features: tuple[str, ...] = setting(
        operand=True, key=False, doc="FEATURES[:SPLIT], several; without a split: all of them."
    )
    preprocess: tuple[str, ...] = setting(
        ("raw",),
        key=True,
        choices=PREPROCESS,
        doc="raw: the paper's equations; l2_rowcenter: its released code; center: columns; l2: rows.",
    )
    # Keyed by content and by the numbers of the runs, and only where heads are given: so that older keys hold.
    heads: str = setting(
        "", key=False, doc="a heads artifact: the spectrum of what enters its classifiers, run by run."
    )
    run: tuple[str, ...] = setting(("all",), key=False, doc="with --heads: which runs, all or N,N,…")
    seed: int = setting(0, key=False, doc="Not used here: nothing is drawn.")
    device: str = setting("auto", key=False, doc="Not used here: LAPACK in float64 on the CPU.")
    workers: int = setting(1, key=False, doc="Not used here.")
