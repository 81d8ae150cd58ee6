"""One WebDataset shard: which members make a sample, its label as it stands there, and where its image and text are.

WebDataset's rule: members belong together whose names are the same up to the first dot of the last part; what follows
the dot says what a member is (``jpg``, ``cls``, ``txt``, ``json``). The parts of a sample may stand anywhere in the
shard. Two images in one sample, a part twice, a label or JSON that can't be read are refused, with the member's name.
No image is read here; labels are, and what was found is remembered for as long as the shard is the same.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nmtool.artifact.memo import Memo
from nmtool.data import files, tars
from nmtool.data.images import SUFFIXES
from nmtool.data.index import check_id
from nmtool.data.wds.shardlist import Shard
from nmtool.data.wds.texts import TEXT_BYTES, Cell, cell_of, decoded, json_of
from nmtool.errors import DataError
from nmtool.records import Int

FORMAT = 1
CLS_BYTES = 4096
_LABEL_KEYS = ("label", "cls", "class")
_IMAGES = frozenset(suffix[1:] for suffix in SUFFIXES)
# Left behind by Windows and macOS; the same as in ``folder:``.
_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))
_META = re.compile(r"__[^/]*__(/|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which parts are what, as asked; empty where nothing was said.

    Attributes:
        image: suffix of the image part.
        label, caption: a suffix, or ``json:KEY``.
        as_folder: every image file is a sample of its own, as ``folder:`` has it.
    """

    image: str = ""
    label: str = ""
    caption: str = ""
    as_folder: bool = False


@dataclass(slots=True, kw_only=True)
class Listing:
    """The samples of one shard, in no particular order.

    Attributes:
        archive: the file.
        ids: N sample ids in NFC: the image's name in the shard, or the key of a sample without one.
        places: int64 [N, 4]: offset and size of the image, offset and size of the caption or text; -1 where none.
        is_json: bool [N]: the caption is a value in a JSON part.
        cells: N labels, whole numbers or names; None where there is none.
        folders: all folders in the archive, in NFC, hidden ones left out.
        left_out: members that are no samples' parts, by reason.
    """

    archive: tars.Archive
    ids: list[str] = field(default_factory=list)
    places: Int = field(default_factory=lambda: np.zeros((0, 4), dtype=np.int64))
    is_json: Int = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    cells: list[Cell] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    left_out: dict[str, int] = field(default_factory=lambda: {"hidden": 0, "other": 0})


def listing(shard: Shard, parts: Parts, memo: Memo) -> Listing:
    """List a shard, or remember it.

    Raises:
        DataError, InputMissingError, StorageError: as ``tars.index``; parts that can't be read or told apart.
    """
    path, name = shard.path, shard.path.name
    with files.told(name):
        identity = files.identity(path.stat())
    asked = ["shard", FORMAT, os.fsencode(path).hex(), list(identity), parts.image, parts.label, parts.caption]
    asked.append(parts.as_folder)
    trusted = files.settled(files.stacked([identity]))
    if trusted:
        known = _unpacked(memo.recall(asked), tars.Archive(path=path, name=name, identity=identity))
        if known:
            return known
    index = tars.index(path, name)
    found = _Reading(index, parts).listing()
    if trusted and index.archive.identity == identity:
        memo.remember(asked, _packed(found))
    return found


class _Reading:
    """Lists one shard."""

    def __init__(self, index: tars.Index, parts: Parts) -> None:
        self._index, self._parts = index, parts
        self._found = Listing(archive=index.archive)
        self._hidden: dict[str, bool] = {"": False}
        self._rows: list[tuple[int, int, int, int]] = []
        self._json: list[bool] = []
        self._cells: dict[Cell, Cell] = {}  # each label in memory once

    def listing(self) -> Listing:
        """The samples."""
        found = self._found
        for folder in self._index.folders:
            self._is_hidden(folder)
        groups = self._files() if self._parts.as_folder else self._groups()
        with tars.reading(found.archive) as take:
            for key, members in groups.items():
                self._sample(key, members, take)
        found.folders = {check_id(name, "folder name") for name, hidden in self._hidden.items() if name and not hidden}
        found.places = np.array(self._rows, dtype=np.int64).reshape(-1, 4)
        found.is_json = np.array(self._json, dtype=np.int64)
        return found

    def _is_hidden(self, folder: str) -> bool:
        """Whether a folder, or one above it, is hidden; told once for each."""
        if folder not in self._hidden:
            above, _, last = folder.rpartition("/")
            self._hidden[folder] = self._is_hidden(above) or last.startswith(".") or last.lower() in _LITTER
        return self._hidden[folder]

    def _visible(self) -> list[tuple[int, int]]:
        """Members that are not hidden, with where their last name starts."""
        out, hidden = [], 0
        for row, name in enumerate(self._index.names):
            above, _, last = name.rpartition("/")
            if self._is_hidden(above) or last.startswith(".") or last.lower() in _LITTER:
                hidden += 1
            else:
                out.append((row, len(name) - len(last)))
        self._found.left_out["hidden"] += hidden
        return out

    def _files(self) -> dict[str, dict[str, int]]:
        """Every image file on its own."""
        visible, names = self._visible(), self._index.names
        groups = {names[row]: {"": row} for row, _ in visible if names[row].lower().endswith(SUFFIXES)}
        self._found.left_out["other"] += len(visible) - len(groups)
        return groups

    def _groups(self) -> dict[str, dict[str, int]]:
        """Members by key and suffix."""
        groups: dict[str, dict[str, int]] = {}
        names, left_out = self._index.names, self._found.left_out
        for row, start in self._visible():
            name = names[row]
            dot = name.find(".", start)
            if _META.match(name) or (not start and name.startswith("__")):
                left_out["hidden"] += 1
            elif dot < 0:
                left_out["other"] += 1
            else:
                group, suffix = groups.setdefault(name[:dot], {}), name[dot + 1 :].lower()
                if suffix in group:
                    raise self._both(names[group[suffix]], name, f"the part {suffix!r} of one sample")
                group[suffix] = row
        return groups

    def _sample(self, key: str, members: dict[str, int], take: Callable[[int, int], bytes]) -> None:
        image = self._image(members)
        text, in_json = self._text(members)
        part, _, json_key = self._label_part()
        cell = None
        if part and part in members:
            cell = self._label(members[part], json_key, take)
        elif text < 0 and "json" in members and not (self._parts.label or self._parts.caption):
            cell, in_json = self._look(members["json"], take)
            text = members["json"] if in_json else -1
        if image < 0 and text < 0:
            self._found.left_out["other"] += len(members)
            return
        used = {row for row in (image, text, members.get(part, -1)) if row >= 0}
        self._found.left_out["other"] += sum(row not in used for name, row in members.items() if name != "json")
        self._found.ids.append(check_id(self._index.names[image] if image >= 0 else key, "member name"))
        self._found.cells.append(self._cells.setdefault(cell, cell))
        self._rows.append((*self._place(image), *self._place(text)))
        self._json.append(in_json)

    def _label_part(self) -> tuple[str, str, str]:
        """The suffix of the part with the label, and the key in it where it is JSON."""
        if self._parts.as_folder or (self._parts.caption and not self._parts.label):
            return "", "", ""
        return (self._parts.label or "cls").partition(":")

    def _image(self, members: dict[str, int]) -> int:
        """The row of the image part, or -1."""
        if self._parts.image:
            return members.get(self._parts.image.lower(), -1)
        if self._parts.as_folder:
            return members[""]
        found = [row for suffix, row in members.items() if suffix.rpartition(".")[2] in _IMAGES]
        if len(found) > 1:
            names = self._index.names
            raise self._both(names[found[0]], names[found[1]], "the image of one sample", "?image=jpg or ?as=folder")
        return found[0] if found else -1

    def _text(self, members: dict[str, int]) -> tuple[int, bool]:
        """The row of the caption or text part, or -1, and whether it is JSON."""
        if self._parts.caption:
            part, _, key = self._parts.caption.partition(":")
            return members.get(part, -1), bool(key)
        return (-1 if self._parts.as_folder else members.get("txt", members.get("caption", -1))), False

    def _place(self, row: int) -> tuple[int, int]:
        return (int(self._index.offsets[row]), int(self._index.sizes[row])) if row >= 0 else (-1, -1)

    def _bytes(self, row: int, limit: int, take: Callable[[int, int], bytes]) -> tuple[bytes, str]:
        name, size = f"{self._index.names[row]!r} in {self._found.archive.name}", int(self._index.sizes[row])
        if size > limit:
            raise DataError(f"{name} has {size} bytes", f"at most {limit}")
        return take(int(self._index.offsets[row]), size), name

    def _label(self, row: int, key: str, take: Callable[[int, int], bytes]) -> Cell:
        """A label part's text, or the value of a JSON part's key."""
        data, name = self._bytes(row, TEXT_BYTES if key else CLS_BYTES, take)
        if key:
            return cell_of(json_of(data, name).get(key), f"{key!r} in {name}")
        text = decoded(data, name).strip()
        if not text:
            raise DataError(f"{name} is empty", "a class number or name", "remove it where there is no label")
        return cell_of(text, name)

    def _look(self, row: int, take: Callable[[int, int], bytes]) -> tuple[Cell, bool]:
        """What a JSON part has, where nothing was said of it: a label, or whether it has a caption."""
        data, name = self._bytes(row, TEXT_BYTES, take)
        record = json_of(data, name)
        key = next((key for key in _LABEL_KEYS if record.get(key) is not None), None)
        if key:
            return cell_of(record[key], f"{key!r} in {name}"), False
        return None, isinstance(record.get("caption"), str)

    def _both(self, a: str, b: str, what: str, hint: str = "") -> DataError:
        first, second = sorted((a, b))
        return DataError(
            f"{first!r} and {second!r} in {self._found.archive.name} would both be {what}",
            "one",
            f"write {hint}" if hint else "rename or remove one",
        )


def _packed(found: Listing) -> dict[str, object]:
    return {
        "ids": "\0".join(found.ids),
        "places": base64.b64encode(found.places.astype("<i8").tobytes()).decode(),
        "json": base64.b64encode(found.is_json.astype("<i8").tobytes()).decode(),
        "cells": found.cells,
        "folders": "\0".join(sorted(found.folders)),
        "left_out": found.left_out,
    }


def _unpacked(known: Any, archive: tars.Archive) -> Listing | None:
    """What was remembered; None where it is not what was kept."""
    once: dict[Cell, Cell] = {}
    try:
        found = Listing(
            archive=archive,
            ids=known["ids"].split("\0") if known["ids"] else [],
            places=np.frombuffer(base64.b64decode(known["places"]), dtype="<i8").reshape(-1, 4),
            is_json=np.frombuffer(base64.b64decode(known["json"]), dtype="<i8"),
            cells=[once.setdefault(cell, cell) for cell in known["cells"]],
            folders=set(known["folders"].split("\0")) - {""},
            left_out=known["left_out"],
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        return None
    n = len(found.ids)
    return found if len(found.places) == len(found.is_json) == len(found.cells) == n else None
