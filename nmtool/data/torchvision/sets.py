"""What is known of one of torchvision's datasets: how its splits are asked for, and where its rows and labels lie.

torchvision keeps what it found in attributes of many names, most of them private; each was chosen by reading its source
and is held by a test against ``dataset[i]``. Nothing here imports torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Take = Callable[[int, int], npt.NDArray[np.uint8]]
"""Called with first row and the row after the last: [rows, H, W] or [rows, H, W, 3]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One split.

    Attributes:
        args: how torchvision is asked for it.
        needs: paths below the set's folder without which it is not there; ``{member}`` stands for the member.
        optional: it may be missing.
        unlabelled: torchvision's label -1 says so; elsewhere it is a class number that was 0 where they begin at 1.
    """

    args: Mapping[str, object] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    optional: bool = False
    unlabelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """A set that torchvision holds in memory.

    Attributes:
        read: called with torchvision's dataset, its folder and the split: labels [n], None for all unlabelled, the
            number of images and what takes rows of them.
    """

    read: Callable[[Any, Path, str], tuple[Any, int, Take]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A set of image files.

    Attributes:
        read: called with torchvision's dataset: paths and labels, in its order; a label may be None.
        by_folder: a folder on the way to a file has the name of its class.
    """

    read: Callable[[Any], Iterable[tuple[Any, Any]]]
    by_folder: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """One of torchvision's datasets.

    Attributes:
        name: of its class.
        home: its folder below the root that torchvision is given; empty for the root itself.
        parts: splits by nmtool's names.
        rows: where they lie.
        needs: paths below its folder that every split needs.
        reads: what it reads below its folder; empty for all of it.
        classes: class names of torchvision's dataset, in label order.
        members: arguments for parts and variants that may be asked for, by name.
        homes: folders of members that have another.
        default: the member that is meant when none is named; None where one has to be.
        check: looks at the files before torchvision does; called with the folder, the split and the member.
        md5: torchvision refuses files that are not the official ones, byte for byte.
        suite: the suite that reads the same files.
        extra: what has to be installed beside torchvision.
    """

    name: str
    home: str
    parts: Mapping[str, Part]
    rows: Arrays | Files
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    classes: Callable[[Any], Iterable[str]] = lambda found: found.classes
    members: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    homes: Mapping[str, str] = field(default_factory=dict)
    default: str | None = ""
    check: Callable[[Path, str, str], None] | None = None
    md5: bool = False
    suite: str = ""
    extra: str = ""

    def folder(self, member: str) -> str:
        """Its folder below the root; empty for the root itself."""
        return self.homes.get(member, self.home)

    def needed(self, part: Part, member: str, *, own: bool = False) -> list[str]:
        """Paths below its folder that a split needs; ``own``: and that not every split needs."""
        return [each.format(member=member) for each in ((() if own else self.needs) + part.needs)]


def split_parts(*names: str, needs: str = "", **others: str) -> dict[str, Part]:
    """Parts asked for by ``split=``; ``others`` are nmtool's names with torchvision's."""
    asked = {**{name: name for name in names}, **others}
    return {
        name: Part(args={"split": word}, needs=(needs.replace("{split}", word),) if needs else ())
        for name, word in asked.items()
    }
