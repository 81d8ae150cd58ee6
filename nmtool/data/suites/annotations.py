"""What the annotation files of the image suites have in common: lists of names, and class numbers that begin at 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.data.index import check_id
from nmtool.data.suites.samples import ImageFiles
from nmtool.data.suites.tabbed import lines
from nmtool.errors import DataError
from nmtool.records import Int

NAMES = 100_000


def rows(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank, without the spaces around it; raises as ``tabbed.lines``."""
    for number, line in lines(path, name):
        if line.strip():
            yield number, line.strip()


def class_list(path: Path, name: str) -> list[str]:
    """The class names of a list, one a line, in label order.

    Raises:
        InputMissingError: no such file.
        DataError: it is empty, has a name twice, or one that can't be.
    """
    return distinct([line for _, line in rows(path, name)], name)


def distinct(names: Sequence[str], where: str) -> list[str]:
    """Class names, checked: at least one, none twice; raises ``DataError``."""
    if not 0 < len(names) <= NAMES:
        raise DataError(f"{where} has {len(names)} class names", f"1 to {NAMES}")
    checked = [check_id(name, f"class name in {where}") for name in names]
    if len(set(checked)) != len(checked):
        twice = next(name for at, name in enumerate(checked) if name in checked[:at])
        raise DataError(f"the class {twice!r} stands twice in {where}", "each class once")
    return checked


def plain(path: str, name: str) -> str:
    """A relative path of plain segments, from the annotation file ``name``; raises ``DataError`` for any other."""
    if "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise DataError(f"the path {path[:120]!r} in {name}", "a relative one inside the suite's folder")
    return path


def class_numbers(names: Sequence[str]) -> dict[str, int]:
    """The label of each class name."""
    return {name: number for number, name in enumerate(names)}


def from_one(values: npt.NDArray[Any], classes: int, name: str) -> Int:
    """Labels int64 [n], from 0, of class numbers that begin at 1, in an array of any shape with one long side.

    Raises:
        DataError: no whole numbers of 1 to ``classes``; ``name`` is the file.
    """
    flat = np.asarray(values).reshape(-1)
    if values.size != max(values.shape, default=0) or flat.dtype.kind not in "uif":
        raise DataError(f"the class numbers of {name} have the shape {list(values.shape)}", "one a sample")
    bad = np.flatnonzero(~((flat >= 1) & (flat <= classes) & (flat == np.floor(flat))))
    if bad.size:
        raise DataError(f"{name}: sample {int(bad[0]) + 1} has the class number {flat[bad[0]]}", f"1 to {classes}")
    return flat.astype(np.int64) - 1


def apart(splits: Mapping[str, ImageFiles], title: str) -> None:
    """Raise ``DataError`` where a sample is in two splits."""
    owner: dict[str, str] = {}
    for split, found in splits.items():
        for path in found.paths:
            if owner.setdefault(path, split) != split:
                raise DataError(
                    f"{path!r} of {title} is in {owner[path]} and in {split}", "splits with no common sample"
                )


def together(splits: Mapping[str, ImageFiles], *names: str) -> ImageFiles:
    """The samples of several splits as one."""
    parts = [splits[name] for name in names]
    return ImageFiles(
        paths=[path for part in parts for path in part.paths],
        labels=np.concatenate([np.asarray(part.labels, dtype=np.int64) for part in parts]),
    )
