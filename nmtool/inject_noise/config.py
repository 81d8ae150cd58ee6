"""What ``inject-noise`` can be asked."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.errors import UsageError
from nmtool.settings import setting

TYPES = ("symmetric", "asymmetric", "pairflip", "matrix", "captions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of ``inject-noise``."""

    data: str = setting(operand=True, key=False, doc="Data URI: folder:, table:, arrays:, digits.")
    type: str = setting(choices=TYPES, key=True, doc="Which labels become wrong, and how.")
    ratio: tuple[float, ...] = setting(
        (), key=True, doc="Share of samples made wrong, in [0, 1); several give one artifact each. Not for matrix."
    )
    split: str = setting("train", key=True, doc="The split whose labels are made wrong.")
    map: str | None = setting(
        None, key=False, doc="For asymmetric: JSON {class: class} or CSV lines from,to; by name or by number."
    )
    groups: str | None = setting(
        None, key=False, doc="For asymmetric: JSON {class: group}; each class becomes the next one of its group."
    )
    matrix: str | None = setting(
        None, key=False, doc="For matrix: .npy or .csv, P(noisy | clean), a row a clean class, rows summing to 1."
    )
    include_self: bool = setting(
        False, key=True, doc="For symmetric: draw the new label from all classes, its own too (ELR, DivideMix)."
    )
    bernoulli: bool = setting(False, key=True, doc="For symmetric: flip each sample by chance, not an exact count.")
    seed: int = setting(0, key=True, doc="Seed of the draw.")
    device: str = setting("auto", key=False, doc="Not used here: the stage is arithmetic on labels.")
    workers: int = setting(1, key=False, doc="Not used here.")

    def __post_init__(self) -> None:
        if self.type == "matrix":
            if self.ratio or self.matrix is None:
                raise UsageError("--type matrix", "--matrix FILE and no --ratio (the matrix says how many)")
        elif not self.ratio:
            raise UsageError("--ratio is missing", "the share of samples to make wrong, for example 0.1 or 0,0.1,0.3")
        for ratio in self.ratio:
            if not 0 <= ratio < 1:
                raise UsageError(f"--ratio {ratio:g}", "a number in [0, 1)")
        if self.type == "asymmetric" and (self.map is None) == (self.groups is None):
            raise UsageError("--type asymmetric", "either --map FILE or --groups FILE")
        unused = {
            "--map": self.map is not None and self.type != "asymmetric",
            "--groups": self.groups is not None and self.type != "asymmetric",
            "--matrix": self.matrix is not None and self.type != "matrix",
            "--include-self": self.include_self and self.type != "symmetric",
            "--bernoulli": self.bernoulli and self.type != "symmetric",
        }
        for flag, wrong in unused.items():
            if wrong:
                raise UsageError(f"{flag} with --type {self.type}", "a type that it belongs to")
