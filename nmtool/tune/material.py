"""What a method trains and is judged on, resident in memory; and the bench it works at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from nmtool.artifact.stage import Reporter
from nmtool.records import Float, Int
from nmtool.tune.crew import Crew

if TYPE_CHECKING:
    from nmtool.encoders.encoder import TextEncoder
    from nmtool.tune.pictures import Pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A split to evaluate on; rows without a label, or of a class that training does not know, are left out.

    Attributes:
        source: the features by content, safe for a payload.
        shown: the features as the user named them.
        split: the split's name.
        role: ``id`` or ``ood``.
        rows: int64 [n]: row numbers in the split.
        ids: n sample ids.
        X: float32 [n, D] on the bench's device.
        y: int64 [n] in the training split's class numbers; zeros where labels are real numbers.
        values: float64 [n] labels that are real numbers; else None.
    """

    source: str
    shown: str
    split: str
    role: str
    rows: Int
    ids: Sequence[str]
    X: torch.Tensor
    y: Int
    values: Float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """One set of training labels.

    Attributes:
        name: the labels artifact by content; empty for the data's own labels.
        shown: its path as the user gave it.
        y: int64 [N]: label of each training row (0 for real numbers), -1 where the row takes no part.
        ratio: share of the rows in use whose label is not the clean one; None where no clean label is known.
        type: of noise, as the labels artifact says; empty where it does not.
        requested: the share that was asked for, as it says; else None.
    """

    name: str
    shown: str
    y: Int
    ratio: float | None
    type: str = ""
    requested: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Augmented views of the training rows.

    Attributes:
        X: float32 [N, V, D] on the bench's device; rows not in use are zero.
        augment: ``weak`` or ``strong``.
    """

    X: torch.Tensor
    augment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Training rows and evaluation splits.

    Attributes:
        X: float32 [N, D] features of the training split on the bench's device; rows not in use are zero.
        ids: N sample ids.
        clean: int64 [N] the data's own labels.
        overlays: at least one.
        classes: class names; none where labels are real numbers.
        targets: the first is the in-domain one.
        pictures: opens the images and the backbone, for methods that need them; does nothing until called.
        views: of the training rows, where a method wants them and the features have them.
        values: float64 [N] labels of the training rows that are real numbers; else None.
        metric: the measure that counts, by its column.
        tower: opens the text tower beside the features' image tower, for methods that need it.
    """

    X: torch.Tensor
    ids: Sequence[str]
    clean: Int
    overlays: tuple[Overlay, ...]
    classes: tuple[str, ...]
    targets: tuple[Target, ...]
    pictures: Callable[[], Pictures] | None = None
    views: Views | None = None
    values: Float | None = None
    metric: str = "accuracy"
    tower: Callable[[], TextEncoder] | None = None

    @property
    def outputs(self) -> int:
        """Numbers that a head gives of each row: one a class, or the one number."""
        return len(self.classes) if self.values is None else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where a method works: device, news, checkpoints. None of it changes a number beyond rounding.

    Attributes:
        device: where tensors live.
        report: news.
        keep, kept: write and read a checkpoint by name; unset: nothing is kept.
        spectra: compute SVE and LSVR of the transformed space.
        keep_backbone: methods that change the backbone give it back among their tensors.
        advance: tells how many more run-epochs are done.
        pulse: called in every step of what may run in a thread; raises where it is to end.
        crew: the processes that fine-tune together; of one where there are no others.
        spectrum_cache: SVE and LSVR of spaces that several runs share (the features themselves).
        spectrum_lock: held meanwhile, so that stacks side by side decompose a shared space once.
    """

    device: torch.device
    report: Reporter
    keep: Callable[[str, bytes], None] = lambda name, data: None
    kept: Callable[[str], bytes | None] = lambda name: None
    spectra: bool = True
    keep_backbone: bool = False
    advance: Callable[[int], None] = lambda done: None
    pulse: Callable[[], None] = lambda: None
    crew: Crew = field(default_factory=Crew)
    spectrum_cache: dict[tuple[object, ...], tuple[float, float] | None] = field(default_factory=dict)
    spectrum_lock: threading.Lock = field(default_factory=threading.Lock)

    def with_progress(self, advance: Callable[[int], None]) -> Bench:
        """The same bench, telling its progress there."""
        return replace(self, advance=advance)

    def tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """An array on the device."""
        return torch.from_numpy(array).to(self.device)
