"""What ``inject-noise`` can be asked."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.errors import UsageError
from nmtool.settings import setting

TYPES = ("symmetric", "asymmetric", "pairflip", "instance", "matrix", "human", "captions")
# Without a ratio: their files say how many.
_BY_FILE = {"matrix": "--matrix", "human": "--human"}
# The types that each setting belongs to; where a setting is not named, all.
_BELONGS = {
    "map": ("asymmetric",),
    "groups": ("asymmetric",),
    "related": ("symmetric", "pairflip", "asymmetric"),
    "ratio_of": ("symmetric", "pairflip", "asymmetric"),
    "matrix": ("matrix",),
    "human": ("human",),
    "include_self": ("symmetric",),
    "bernoulli": ("symmetric",),
    "nested": ("symmetric", "asymmetric", "pairflip", "instance", "captions"),
    "caption_mode": ("captions",),
    "features": ("instance",),
    "instance_input": ("instance",),
    "instance_std": ("instance",),
    "seed": ("symmetric", "asymmetric", "pairflip", "instance", "matrix", "captions"),
    "seeds": ("symmetric", "asymmetric", "pairflip", "instance", "matrix", "captions"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of ``inject-noise``."""

    data: str = setting(operand=True, key=False, doc="Data URI: folder:, table:, arrays:, wds:, hf:, suite:, digits …")
    type: str = setting(choices=TYPES, key=True, doc="Which labels become wrong, and how.")
    ratio: tuple[float, ...] = setting(
        (),
        key=True,
        doc="Share of samples made wrong, in [0, 1); several give one artifact each.",
    )
    ratio_of: str = setting(
        "mapped", choices=("mapped", "all"), key=True, doc="Of the rows of classes that flip, or of all labelled rows."
    )
    split: str = setting("train", key=True, doc="The split whose labels are made wrong.")
    map: str | None = setting(
        None, key=False, doc="For asymmetric: cifar10, or a file: JSON {class: class} or CSV lines from,to."
    )
    groups: str | None = setting(
        None,
        key=False,
        doc="For asymmetric, to the next class of its group: cifar100, consecutive[:K], imagenet-cifar100, or JSON "
        "{class: group}.",
    )
    related: str | None = setting(
        None,
        key=False,
        doc="File of the only classes that flip and are flipped to: one a line, or a JSON list.",
    )
    matrix: str | None = setting(
        None, key=False, doc="For matrix: .npy or .csv, P(noisy | clean) or counts, a row a clean class."
    )
    human: str | None = setting(
        None, key=False, doc="For human: FILE[:KEY], CIFAR-N's .pt, or .npz, .npy, .csv, .tsv, .parquet."
    )
    features: str | None = setting(
        None, key=False, doc="For instance: FEATURES[:SPLIT], joined by sample id, in place of raw pixels."
    )
    instance_input: str | None = setting(
        None, choices=("raw", "features"), key=True, doc="For instance [raw for images, features with --features]."
    )
    instance_std: float = setting(0.1, key=True, doc="For instance: deviation of the flip probabilities (CORES).")
    caption_mode: str = setting(
        "exact",
        choices=("exact", "random-swaps", "until"),
        key=True,
        doc="For captions: exactly that share mismatched; or that many swaps; or swaps until the share is reached.",
    )
    include_self: bool = setting(
        False, key=True, doc="For symmetric: draw the new label from all classes, its own too (ELR, DivideMix)."
    )
    bernoulli: bool = setting(False, key=True, doc="For symmetric: flip each sample by chance, not an exact count.")
    nested: bool = setting(
        False, key=True, doc="What is flipped at a ratio is flipped at every higher one, to the same label."
    )
    seed: int | None = setting(None, key=True, doc="Seed of the draw [0].")
    seeds: tuple[int, ...] | None = setting(None, key=True, doc="Several seeds, one artifact each.")
    data_root: str | None = setting(
        None, key=False, doc="Where torchvision: and suite: find their data [$NMTOOL_DATA]."
    )
    device: str = setting("auto", key=False, doc="Not used here: the stage is arithmetic on labels.")
    workers: int = setting(1, key=False, doc="For instance on raw pixels: threads that decode images.")

    def __post_init__(self) -> None:
        for name, types in _BELONGS.items():
            flag = "--" + name.replace("_", "-")
            if self.type not in types and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UsageError(f"{flag} with --type {self.type}", "one of the types " + ", ".join(types))
        self._check_ratio()
        if self.map is not None and self.groups is not None:
            raise UsageError("--map and --groups together", "one of them")
        if self.caption_mode != "exact" and self.nested:
            raise UsageError(f"--nested with --caption-mode {self.caption_mode}", "--caption-mode exact")
        self._check_instance()
        if self.seed is not None and self.seeds is not None:
            raise UsageError("--seed and --seeds together", "one of them")
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise UsageError(f"--seeds {','.join(map(str, self.seeds))}", "different seeds, one at least")
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}", "1 or more")

    def _check_ratio(self) -> None:
        if self.type in _BY_FILE:
            flag = _BY_FILE[self.type]
            if self.ratio or getattr(self, self.type) is None:
                raise UsageError(f"--type {self.type}", f"{flag} FILE and no --ratio (the file says how many)")
        elif not self.ratio:
            raise UsageError("--ratio is missing", "the share of samples to make wrong, for example 0.1 or 0,0.1,0.3")
        for ratio in self.ratio:
            if not 0 <= ratio < 1:
                raise UsageError(f"--ratio {ratio:g}", "a number in [0, 1)")
        if len(set(self.ratio)) < len(self.ratio):
            raise UsageError(f"--ratio {','.join(f'{r:g}' for r in self.ratio)}", "each ratio once")

    def _check_instance(self) -> None:
        if not self.instance_std >= 0:
            raise UsageError(f"--instance-std {self.instance_std:g}", "0 or more")
        if self.instance_input == "raw" and self.features is not None:
            raise UsageError("--instance-input raw with --features", "one of them")

    def all_seeds(self) -> tuple[int, ...]:
        """The seeds asked for."""
        return self.seeds if self.seeds is not None else (0 if self.seed is None else self.seed,)
