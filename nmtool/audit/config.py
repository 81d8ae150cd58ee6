"""What ``audit`` can be asked."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.errors import UsageError
from nmtool.settings import setting

VIEWS = ("mixture", "confident", "neighbours")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of ``audit``."""

    features: str = setting(
        operand=True, key=False, doc="FEATURES[:SPLIT]; without a split: that of the labels, or train."
    )
    labels: str | None = setting(
        None, key=False, doc="A labels artifact in place of the data's own labels: it is audited, and its flips judge."
    )
    views: tuple[str, ...] = setting(VIEWS, key=True, choices=VIEWS, doc="Which opinions to ask.")
    folds: int = setting(5, key=True, doc="Of cross-validation: no sample is judged by a probe that it trained.")
    neighbours: int = setting(50, key=True, doc="How many nearest samples vote.")
    gallery: int = setting(48, key=True, doc="Most suspicious samples kept with their picture or text, for the report.")
    data: str | None = setting(None, key=False, doc="Where the pictures are now, if not where extract read them.")
    data_root: str | None = setting(
        None, key=False, doc="Where torchvision: and suite: find their data [$NMTOOL_DATA]."
    )
    seed: int = setting(0, key=True, doc="Of the folds, of the order of training, of the mixtures.")
    device: str = setting("auto", key=False, doc="Where probe and neighbours are computed: auto, cpu, cuda, cuda:N.")
    workers: int = setting(0, key=False, doc="CPU threads [0: all].")

    def __post_init__(self) -> None:
        if not self.views:
            raise UsageError("--views is empty", "one or more of " + ", ".join(VIEWS))
        # in one order: the same set is the same audit, however it was typed
        object.__setattr__(self, "views", tuple(view for view in VIEWS if view in self.views))
        for name, low, high in (("folds", 2, 100), ("neighbours", 1, 1000), ("gallery", 0, 1000)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"--{name} is {value}", f"{low} to {high}")
