"""``folder:DIR``: image folders.

Three layouts, told by how many folders stand above the image files, the class always directly above them::

    DIR/CLASS/image.jpg                 the split is called train
    DIR/SPLIT/CLASS/image.jpg           any split name (also photo/CLASS/…, where a domain has no splits)
    DIR/DOMAIN/SPLIT/CLASS/image.jpg    the split is called DOMAIN/SPLIT

Refused, because a guess would give wrong labels: images at different depths; folders called train, test, val … with
images directly in them; SPLIT/DOMAIN/CLASS; no image at all. Links are not followed; they, hidden entries and files
without an image suffix are left out and counted. A class folder without images stays in the list of classes.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nmtool.artifact.memo import Memo
from nmtool.data import files
from nmtool.data.dataset import Dataset, Indexed
from nmtool.data.images import SUFFIXES, decode
from nmtool.data.index import check_id, make_splits
from nmtool.errors import DataError, InputMissingError
from nmtool.records import Int, SampleIndex, check_split

SPLIT_NAMES = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"))
_LAYOUTS = "DIR/CLASS/image.jpg, DIR/SPLIT/CLASS/image.jpg or DIR/DOMAIN/SPLIT/CLASS/image.jpg"
# Left behind by Windows and macOS.
_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))


@dataclass(slots=True, kw_only=True)
class _Listing:
    """What a walk found; ids are NFC, paths as on disk, both relative and with slashes."""

    found: dict[str, tuple[str, files.Identity]] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=lambda: {"hidden": 0, "links": 0, "other": 0})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """The files of one split, by row: path as on disk, and identity int64 [n, 5]."""

    paths: list[str]
    identities: Int


class _FolderDataset(Indexed):
    """Images by path; a file that is no longer the one indexed is a broken sample."""

    def __init__(
        self,
        *,
        uri: str,
        splits: dict[str, SampleIndex],
        classes: tuple[str, ...],
        left_out: dict[str, int],
        root: str,
        held: dict[str, _Files],
    ) -> None:
        super().__init__(uri=uri, kind="images", splits=splits, classes=classes, left_out=left_out)
        self._root, self._held = root, held

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        name, held = self.splits[split].ids[row], self._held[split]
        path = f"{self._root}/{held.paths[row]}"
        size, mtime_ns = held.identities[row, :2].tolist()
        return decode(files.read(path, size, mtime_ns, name), name=name)


def open_folder(where: str, *, uri: str, memo: Memo) -> Dataset:
    """Index the image folder ``where``.

    Raises:
        InputMissingError: no such folder.
        DataError: no image, a layout that can't be told, two names that are one in NFC, or a name that is no UTF-8.
    """
    root, found = files.place(where, "folder", "folder")
    if not stat.S_ISDIR(found.st_mode):
        raise InputMissingError(f"{where!r} is a file", "a folder of images", "for a manifest, write table:FILE")
    listing = _walk(str(root))
    ids = sorted(listing.found)  # by code point, which is the order of the UTF-8 bytes
    depth = _depth(ids, listing, where)
    classes = _classes(listing, depth)
    number = {name: k for k, name in enumerate(classes)}
    rows: dict[str, tuple[list[str], list[int]]] = {}
    for above, samples in itertools.groupby(ids, lambda sample: sample.rpartition("/")[0]):
        split, _, label = above.rpartition("/")
        of_split = rows.setdefault(check_split(split or "train"), ([], []))
        of_split[0].extend(samples)
        of_split[1].extend([number[label]] * (len(of_split[0]) - len(of_split[1])))
    identities = files.stacked([listing.found[sample][1] for sample in ids])
    trusted = files.settled(identities)

    def contents(split: str) -> Iterable[str]:
        for sample in rows[split][0]:
            path, expected = listing.found[sample]
            yield files.digest(f"{root}/{path}", expected, sample)

    splits = make_splits(
        kind="images",
        classes=classes,
        rows={split: (names, np.array(labels, dtype=np.int64)) for split, (names, labels) in rows.items()},
        contents=contents,
        memo=memo,
        question=["folder", os.fsencode(root).hex(), files.listing_digest(ids, identities), list(classes)],
        trusted=trusted,
    )
    held = {split: _held([listing.found[sample] for sample in names]) for split, (names, _) in rows.items()}
    return _FolderDataset(uri=uri, splits=splits, classes=classes, left_out=listing.left_out, root=str(root), held=held)


def _held(found: list[tuple[str, files.Identity]]) -> _Files:
    return _Files(
        paths=[path for path, _ in found],
        identities=files.stacked([each for _, each in found]),
    )


def _walk(root: str) -> _Listing:
    """All image files and folders under ``root``, without following a link."""
    listing = _Listing()
    waiting = [""]
    while waiting:
        above = waiting.pop()
        with files.told(f"the folder {above or '.'!r}"), os.scandir(f"{root}/{above}") as entries:
            for entry in entries:
                path = f"{above}/{entry.name}" if above else entry.name
                reason = _left_out(entry)
                if reason:
                    listing.left_out[reason] += 1
                elif entry.is_dir(follow_symlinks=False):
                    _add(listing.folders, check_id(path, "folder name"), path)
                    waiting.append(path)
                else:
                    sample = check_id(path, "file name")
                    if sample in listing.found:
                        raise _twins(listing.found[sample][0], path)
                    listing.found[sample] = path, files.identity(entry.stat(follow_symlinks=False))
    return listing


def _add(folders: dict[str, str], name: str, path: str) -> None:
    if name in folders:
        raise _twins(folders[name], path)
    folders[name] = path


def _twins(a: str, b: str) -> DataError:
    first, second = sorted((a, b))
    return DataError(
        f"{first!a} and {second!a} are the same name in Unicode's NFC",
        "names that differ on every file system",
        "rename or remove one",
    )


def _left_out(entry: os.DirEntry[str]) -> str:
    """Why an entry is no sample and no folder of samples; empty where it is one."""
    if entry.name.startswith(".") or entry.name.lower() in _LITTER:
        return "hidden"
    if entry.is_symlink():
        return "links"
    if entry.is_dir(follow_symlinks=False):
        return ""
    return "" if entry.name.lower().endswith(SUFFIXES) and entry.is_file(follow_symlinks=False) else "other"


def _depth(ids: list[str], listing: _Listing, where: str) -> int:
    """How many folders stand above every image: 1, 2 or 3."""
    if not ids:
        out = ", ".join(f"{count} {reason}" for reason, count in listing.left_out.items() if count)
        raise DataError(
            f"no image in {where!r}" + (f" (left out: {out})" if out else ""),
            f"{_LAYOUTS} (image files end in {' '.join(SUFFIXES)})",
            "check the path; links are not followed",
        )
    example = {sample.count("/"): sample for sample in reversed(ids)}
    depth = min(example)
    if len(example) > 1:
        shown = " and ".join(repr(example[d]) for d in sorted(example)[:2])
        raise DataError(f"images at different depths: {shown}", f"one layout: {_LAYOUTS}", "move or remove some")
    if not 1 <= depth <= 3:
        raise DataError(f"the image {example[depth]!r} stands {depth} folders deep", _LAYOUTS, "move the images")
    tops = {sample.split("/", 1)[0] for sample in ids} if depth != 2 else set()
    if depth == 1 and all(top.lower() in SPLIT_NAMES for top in tops):
        raise DataError(
            f"images directly in {', '.join(sorted(tops))}: these name splits, not classes",
            "DIR/SPLIT/CLASS/image.jpg",
            "put the images of a split into one folder a class (any one name where there are no labels)",
        )
    if depth == 3 and all(top.lower() in SPLIT_NAMES for top in tops):
        seconds = {sample.split("/", 2)[1].lower() for sample in ids}
        if not seconds <= SPLIT_NAMES:
            raise DataError(f"folders SPLIT/DOMAIN/CLASS, as {ids[0]!r}", "DOMAIN/SPLIT/CLASS", "swap the two levels")
    return depth


def _classes(listing: _Listing, depth: int) -> tuple[str, ...]:
    """Class names of all splits, in NFC order, those of empty class folders too."""
    return tuple(sorted({name.rsplit("/", 1)[-1] for name in listing.folders if name.count("/") == depth - 1}))
