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
    seed: int = setting(0, key=False, doc="Not used here: nothing is drawn.")
    device: str = setting("auto", key=False, doc="Not used here: LAPACK in float64 on the CPU.")
    workers: int = setting(1, key=False, doc="Not used here.")
