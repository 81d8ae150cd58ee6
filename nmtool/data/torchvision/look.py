"""Looking at a folder with torchvision's eyes: which splits are there, and what torchvision finds in them.

torchvision's words are turned into the error family, and it is kept from what it does besides reading: it makes folders
and unpacks archives where something is missing, so nothing of a dataset may be missing before it is asked.
"""

from __future__ import annotations

import inspect
import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.data import files
from nmtool.data.images import SUFFIXES
from nmtool.data.index import check_id
from nmtool.data.suites.annotations import distinct, plain
from nmtool.data.suites.samples import Pixels
from nmtool.data.torchvision.sets import Arrays, Files, Part, Set, Take
from nmtool.data.torchvision.told import class_of, missing, told
from nmtool.errors import (
    DataError,
    StorageError,
)
from nmtool.records import UNLABELLED, Int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A folder as it was: names of all files, and the identities of those that are no images."""

    digest: str
    others: Sequence[str]
    identities: Int


def _seen(home: Path, reads: Sequence[str], name: str) -> _Seen:
    """Look through files and folders below ``home``; images are known by name alone: the index looks at their bytes."""
    images: list[str] = []
    others: dict[str, files.Identity] = {}
    with files.told(f"the folder of {name}"):
        for each in reads:
            path = home / each
            if path.is_dir():
                _walk(path, f"{each}/" if each else "", images, others)
            elif path.exists():
                others[each] = files.identity(files.regular(path, f"{each} of {name}"))
    names = sorted(others)
    identities = files.stacked([others[each] for each in names])
    return _Seen(
        digest=files.listing_digest([*names, "", *sorted(images)], identities), others=names, identities=identities
    )


def _walk(top: Path, prefix: str, images: list[str], others: dict[str, files.Identity]) -> None:
    """All files below a folder; no link is followed, and a pipe, which torchvision would wait for, is refused."""
    waiting = [(str(top), prefix)]
    while waiting:
        place, before = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                name = before + entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, name + "/"))
                elif entry.name.lower().endswith(SUFFIXES):
                    images.append(os.fsencode(name).decode("utf-8", "backslashreplace"))
                else:
                    found = entry.stat(follow_symlinks=False)
                    if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
                        raise DataError(f"{name!r} is no file", "files and folders")
                    others[name] = files.identity(found)


class Source:
    """One dataset in its folder, with the splits that are there. Safe among threads."""

    def __init__(self, chosen: Set, member: str, root: Path, parts: Mapping[str, Part], uri: str) -> None:
        """Look at the folder; see ``of``.

        Args:
            chosen, member: what is asked for.
            root: what torchvision is given.
            parts: the splits that are there.
            uri: for messages.
        """
        self.chosen, self.home, self.parts = chosen, root / chosen.folder(member), parts
        self._member, self._root, self._uri = member, root, uri
        reads = [each.format(member=member) for each in chosen.reads]
        every = [each for part in parts.values() for each in chosen.needed(part, member)]
        self._reads = reads or (every if isinstance(chosen.rows, Arrays) else [""])
        self._seen = _seen(self.home, self._reads, chosen.name)
        self._made: dict[str, tuple[int, Take]] = {}
        self._lock = threading.RLock()

    @classmethod
    def of(cls, chosen: Set, member: str, data_root: Path, uri: str) -> Source:
        """Find the folder, and the splits that are there.

        Raises:
            InputMissingError: what torchvision expects is not there.
        """
        top, _ = files.place(str(data_root), "folder", "--data-root")
        below = chosen.folder(member)
        needed = {split: chosen.needed(part, member) for split, part in chosen.parts.items()}
        every = list(dict.fromkeys(each for names in needed.values() for each in names))
        # a dataset without a folder of its own is told by any of its files
        signs = [below] if below else every
        roots = (top, top / chosen.name, top / chosen.name.lower())
        root = next((each for each in roots if any((each / sign).exists() for sign in signs)), None)
        if root is None:
            raise missing(chosen, uri, top / below, below, every, every)
        gone = {each for each in every if not (root / below / each).exists()}
        there = {split: part for split, part in chosen.parts.items() if not gone & set(needed[split])}
        for split, part in chosen.parts.items():
            left_out = part.optional and gone >= set(chosen.needed(part, member, own=True)) and there
            if split not in there and not left_out:
                own = [each for each in needed[split] if each in gone]
                raise missing(chosen, uri, root / below, below, own, needed[split])
        return cls(chosen, member, root, there, uri)

    def question(self) -> list[object]:
        """Plain JSON that changes with whatever torchvision may find."""
        return [os.fsencode(self.home).hex(), sorted(self.parts), self._seen.digest]

    def settled(self) -> bool:
        """Whether the files are old enough for their time stamps to be trusted."""
        return files.settled(self._seen.identities)

    def inputs(self) -> list[Path]:
        """All files that were looked at, but images."""
        return [self.home / name for name in self._seen.others]

    def found(self) -> dict[str, Any]:
        """Classes, and by split labels and, for image files, paths below the folder: plain JSON.

        Raises:
            NmtoolError: as ``open_torchvision``.
        """
        splits: dict[str, dict[str, Any]] = {}
        classes: list[str] = []
        for split in self.parts:
            made = self._opened(split)
            with told(self.chosen, split, self.home):
                names = [str(name) for name in self.chosen.classes(made)]
            names = distinct(names, self.chosen.name)
            if splits and names != classes:
                raise DataError(
                    f"the classes of {self.chosen.name} in split {split} are not those of {next(iter(splits))}",
                    "the same in all splits: torchvision numbers those that it finds in each",
                )
            classes = names
            read = self._files if isinstance(self.chosen.rows, Files) else self._arrays
            splits[split] = read(made, split, classes)
        self._check_unchanged()
        return {"classes": classes, "splits": splits}

    def images(self, split: str, n: int) -> Callable[[int, int], Pixels]:
        """Reads rows of a split, uint8 [rows, H, W, 3]; torchvision reads its files when the first is asked for."""

        def rows(start: int, stop: int) -> Pixels:
            with self._lock:
                if split not in self._made:
                    self._arrays(self._opened(split), split, ())
                    self._check_unchanged()
                count, take = self._made[split]
            if count != n:
                raise self._changed()
            block = np.ascontiguousarray(take(start, stop))
            return block if block.ndim == 4 else np.repeat(block[..., None], 3, axis=3)

        return rows

    def _check_unchanged(self) -> None:
        if _seen(self.home, self._reads, self.chosen.name).digest != self._seen.digest:
            raise self._changed()

    def _changed(self) -> StorageError:
        return StorageError(f"{self.chosen.name} changed while it was being read", "data at rest", "run it again")

    def _opened(self, split: str) -> Any:
        """torchvision's dataset."""
        if self.chosen.check is not None:
            self.chosen.check(self.home, split, self._member)
        make = class_of(self.chosen.name, self._uri)
        asked = {**self.chosen.members.get(self._member, {}), **self.parts[split].args}
        if "download" in inspect.signature(make).parameters:
            asked["download"] = False
        with told(self.chosen, split, self.home):
            return make(str(self._root), **asked)

    def _arrays(self, made: Any, split: str, classes: Sequence[str]) -> dict[str, Any]:
        """Labels of a set in arrays; what takes its images is kept."""
        assert isinstance(self.chosen.rows, Arrays)
        what = f"{self.chosen.name}, split {split}"
        with told(self.chosen, split, self.home):
            given, n, take = self.chosen.rows.read(made, self.home, split)
            labels = self._numbers(given, split)
            first = take(0, min(n, 1))
        if len(labels) != n:
            raise DataError(f"{what}: {n} images and {len(labels)} labels", "as many of each")
        if first.dtype != np.uint8 or first.ndim not in (3, 4) or first.shape[3:] not in ((), (3,)):
            raise DataError(f"{what}: images of {first.dtype} {list(first.shape[1:])}", "uint8 [H, W] or [H, W, 3]")
        self._made[split] = n, take
        return {"labels": labels}

    def _numbers(self, given: Sequence[Any], split: str) -> list[int]:
        """torchvision's labels, -1 for those that it does not have."""
        labels = [UNLABELLED if label is None else int(label) for label in given]
        least = min((int(label) for label in given if label is not None), default=0)
        if least < 0 and not (least == UNLABELLED and self.parts[split].unlabelled):
            raise DataError(
                f"{self.chosen.name}, split {split}, has the class number {least} from torchvision", "0 or more"
            )
        return labels

    def _files(self, made: Any, split: str, classes: Sequence[str]) -> dict[str, Any]:
        """Paths and labels of a set of image files."""
        assert isinstance(self.chosen.rows, Files)
        what = f"{self.chosen.name}, split {split}"
        with told(self.chosen, split, self.home):
            read = list(self.chosen.rows.read(made))
            places = [os.fspath(path) for path, _ in read]
            labels = self._numbers([label for _, label in read], split)
        paths = []
        for path, label in zip(places, labels, strict=True):
            if not path.startswith(f"{self.home}/"):
                raise DataError(f"{what}, names the file {path[:200]!r}", "one inside its folder")
            paths.append(plain(path[len(str(self.home)) + 1 :], what))
            if not UNLABELLED <= label < len(classes):
                raise DataError(f"{what}, has the class number {label}", f"0 to {len(classes) - 1}")
            folder = check_id(f"/{paths[-1]}", "path")
            if self.chosen.rows.by_folder and label != UNLABELLED and f"/{classes[label]}/" not in folder:
                raise DataError(f"{what}: torchvision takes {paths[-1]!r} for {classes[label]!r}", "its folder's class")
        return {"paths": paths, "labels": labels}
