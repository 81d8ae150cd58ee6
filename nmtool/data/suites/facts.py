"""What a suite is: the record that every dataset of the papers is described by. Reads nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.errors import DataError

Metric = Literal["accuracy", "mean per class", "matthews", "pearson", "none"]
Group = Literal["in-domain", "out-of-domain", "pre-training", "noisy labels", "GLUE", "GLUE-X"]


class WrongLayout(DataError):
    """Files that are there and are not laid out as the official ones; the message gets the expected tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a loader is given.

    Attributes:
        root: the folder in which the suite's layout was found.
        member: what stands after the suite's name in the URI; empty for the whole.
        uri: as the user gave it, for messages.
        memo: remembers digests.
    """

    root: Path
    member: str
    uri: str
    memo: Memo


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One dataset of the papers.

    Attributes:
        name: as in ``suite:NAME``: lower case.
        title: as the papers write it.
        group: which study it belongs to.
        kind: what a sample is: ``images``, ``text`` or ``captions``.
        classes: how many; 0 for pairs and for regression.
        splits: official number of samples by split; None where it is not fixed.
        metric: what the papers report on it.
        source: its citation.
        tree: the official layout below the data root, drawn, as an error shows it.
        witnesses: paths below the suite's folder, or patterns with ``*``; the folder is the one that has any of them.
        folders: what the suite's folder is called below the data root, besides its name; "" is the root itself.
        load: reads the layout; raises the error family, naming what is wrong.
        members: parts that may be asked for alone, as ``suite:domainnet/real``.
        parts_only: whether a member has to be named: the suite is no one dataset.
        aliases: other names that users write; case, ``-`` and ``_`` never matter.
        note: where the papers' tables are wrong, or the reading needs a word.
        protocol: how the papers train and test on it, where that is more than train and test.
        subset: which of ImageNet-1K's classes it has, for its variants; ``data/classlists.py`` has their numbers.
    """

    name: str
    title: str
    group: Group
    kind: str
    classes: int
    splits: Mapping[str, int | None]
    metric: Metric
    source: str
    tree: str
    witnesses: tuple[str, ...]
    load: Callable[[Suite, Request], Dataset] = field(repr=False)
    folders: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    parts_only: bool = False
    aliases: tuple[str, ...] = ()
    note: str = ""
    protocol: str = ""
    subset: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", MappingProxyType(dict(self.splits)))
