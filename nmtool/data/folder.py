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
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nmtool.artifact.memo import Memo
from nmtool.data import files
from nmtool.data.dataset import Dataset, Indexed
from nmtool.data.images import SUFFIXES, decode
from nmtool.data.index import check_id, make_splits
from nmtool.errors import DataError, InputMissingError
from nmtool.records import Int, SampleIndex, TextColumn, check_split

SPLIT_NAMES = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"))
_LAYOUTS = "DIR/CLASS/image.jpg, DIR/SPLIT/CLASS/image.jpg or DIR/DOMAIN/SPLIT/CLASS/image.jpg"
# Left behind by Windows and macOS.
_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))


# Of what went after the walk. No file has it: reading that one is refused as changed, the others are as they were.
_GONE: files.Identity = (-2, 0, 0, 0, 0)


@dataclass(slots=True, kw_only=True)
class _Listing:
    """What a walk found; paths as on disk, relative and with slashes.

    Attributes:
        paths: of all image files.
        renamed: sample id by path, of the paths that are not in NFC; the others are their own ids.
        folders: path by name in NFC.
        left_out: as in ``Dataset``.
    """

    paths: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=lambda: {"hidden": 0, "links": 0, "other": 0})


class _Files:
    """The files of all splits by row, looked at when an image or a digest is first asked for. Safe among threads."""

    def __init__(self, root: str, paths: dict[str, Sequence[str]]) -> None:
        self._root, self._paths = root, paths
        self._identities: dict[str, Int] = {}
        self._settled = False
        self._lock = threading.Lock()

    def identities(self) -> dict[str, Int]:
        """Identities int64 [n, 5] by split."""
        with self._lock:
            if not self._identities:
                found = {split: self._look(paths) for split, paths in self._paths.items()}
                self._settled = all(files.settled(each) for each in found.values())
                self._identities = found
            return self._identities

    def settled(self) -> bool:
        """Whether all were old enough, when they were looked at, for their time stamps to be trusted."""
        self.identities()
        return self._settled

    def of(self, split: str, row: int) -> tuple[str, files.Identity]:
        """Where a row's file is, and its identity."""
        size, mtime, ctime, inode, device = self.identities()[split][row].tolist()
        return f"{self._root}/{self._paths[split][row]}", (size, mtime, ctime, inode, device)

    def _look(self, paths: Sequence[str]) -> Int:
        out = np.empty((len(paths), 5), dtype=np.int64)
        for row, path in enumerate(paths):
            out[row] = _GONE
            try:
                found = os.lstat(f"{self._root}/{path}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                with files.told(path):
                    raise
            if stat.S_ISREG(found.st_mode):
                out[row] = files.identity(found)
        return out


class _FolderDataset(Indexed):
    """Images by path; a file that is no longer the one indexed is a broken sample."""

    def __init__(
        self,
        *,
        uri: str,
        splits: dict[str, SampleIndex],
        classes: tuple[str, ...],
        left_out: dict[str, int],
        held: _Files,
    ) -> None:
        super().__init__(
            uri=uri, kind="images", splits=splits, classes=classes, left_out=left_out, remarks=_remarks(uri, left_out)
        )
        self._held = held

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        name, row = self.splits[split].ids[row], range(len(self.splits[split]))[row]
        path, (size, mtime_ns, *_) = self._held.of(split, row)
        return decode(files.read(path, size, mtime_ns, name), name=name)


def _remarks(uri: str, left_out: dict[str, int]) -> tuple[str, ...]:
    """What is told of entries that may have been meant as samples; hidden ones are not."""
    told = [
        f"{left_out[reason]} {words}"
        for reason, words in (("links", "links (not followed)"), ("other", "entries without an image suffix"))
        if left_out[reason]
    ]
    return (f"{uri}: {' and '.join(told)} left out",) if told else ()


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
    path_of = {sample: path for path, sample in listing.renamed.items()}
    # by code point, which is the order of the UTF-8 bytes
    ids = sorted(listing.renamed.get(path, path) for path in listing.paths) if path_of else sorted(listing.paths)
    groups = [(above, list(samples)) for above, samples in itertools.groupby(ids, lambda each: each.rpartition("/")[0])]
    classes = _classes(listing, _depth(groups, listing, where))
    number = {name: k for k, name in enumerate(classes)}
    names: dict[str, list[str]] = {}
    labels: dict[str, list[Int]] = {}
    for above, samples in groups:
        split, _, label = above.rpartition("/")
        names.setdefault(check_split(split or "train"), []).extend(samples)
        labels.setdefault(split or "train", []).append(np.full(len(samples), number[label], dtype=np.int64))
    columns = {split: TextColumn.of(each) for split, each in names.items()}
    paths = {s: TextColumn.of(path_of.get(i, i) for i in each) if path_of else columns[s] for s, each in names.items()}
    held = _Files(str(root), dict(paths))

    def contents(split: str) -> Iterable[str]:
        for row, sample in enumerate(columns[split]):
            yield files.digest(*held.of(split, row), sample)

    def question() -> object:
        every = ((name, each) for name, each in held.identities().items())
        listed = [[name, files.listing_digest(columns[name], each)] for name, each in every]
        return ["folder", os.fsencode(root).hex(), listed, list(classes)]

    splits = make_splits(
        kind="images",
        classes=classes,
        rows={split: (columns[split], np.concatenate(labels[split])) for split in columns},
        contents=contents,
        memo=memo,
        question=question,
        trusted=held.settled,
    )
    return _FolderDataset(uri=uri, splits=splits, classes=classes, left_out=listing.left_out, held=held)


def _walk(root: str) -> _Listing:
    """All image files and folders under ``root``, without following a link."""
    listing = _Listing()
    waiting = [""]
    while waiting:
        above = waiting.pop()
        before = f"{above}/" if above else ""
        with files.told(f"the folder {above or '.'!r}"), os.scandir(f"{root}/{above}") as entries:
            for entry in entries:
                path = before + entry.name
                reason = _left_out(entry)
                if reason:
                    listing.left_out[reason] += 1
                elif entry.is_dir(follow_symlinks=False):
                    _add(listing.folders, check_id(path, "folder name"), path)
                    waiting.append(path)
                else:
                    listing.paths.append(path)
                    if not path.isascii() and (sample := check_id(path, "file name")) != path:
                        listing.renamed[path] = sample
    if listing.renamed:
        raw: dict[str, str] = {}
        for path in listing.paths:
            _add(raw, listing.renamed.get(path, path), path)
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
    name = entry.name.lower()
    if name.startswith(".") or name in _LITTER:
        return "hidden"
    if entry.is_file(follow_symlinks=False):
        return "" if name.endswith(SUFFIXES) else "other"
    if entry.is_dir(follow_symlinks=False):
        return ""
    return "links" if entry.is_symlink() else "other"


def _depth(groups: list[tuple[str, list[str]]], listing: _Listing, where: str) -> int:
    """How many folders stand above every image, 1, 2 or 3; the groups are (folder, its images), in order."""
    if not groups:
        out = ", ".join(f"{count} {reason}" for reason, count in listing.left_out.items() if count)
        raise DataError(
            f"no image in {where!r}" + (f" (left out: {out})" if out else ""),
            f"{_LAYOUTS} (image files end in {' '.join(SUFFIXES)})",
            "check the path; links are not followed",
        )
    example = {samples[0].count("/"): samples[0] for _, samples in reversed(groups)}
    depth = min(example)
    if len(example) > 1:
        shown = " and ".join(repr(example[d]) for d in sorted(example)[:2])
        raise DataError(f"images at different depths: {shown}", f"one layout: {_LAYOUTS}", "move or remove some")
    if not 1 <= depth <= 3:
        raise DataError(f"the image {example[depth]!r} stands {depth} folders deep", _LAYOUTS, "move the images")
    tops = {above.split("/")[0] for above, _ in groups}
    if depth == 1 and all(top.lower() in SPLIT_NAMES for top in tops):
        raise DataError(
            f"images directly in {', '.join(sorted(tops))}: these name splits, not classes",
            "DIR/SPLIT/CLASS/image.jpg",
            "put the images of a split into one folder a class (any one name where there are no labels)",
        )
    if depth == 3 and all(top.lower() in SPLIT_NAMES for top in tops):
        seconds = {above.split("/")[1].lower() for above, _ in groups}
        if not seconds <= SPLIT_NAMES:
            shown = repr(groups[0][1][0])
            raise DataError(f"folders SPLIT/DOMAIN/CLASS, as {shown}", "DOMAIN/SPLIT/CLASS", "swap the two levels")
    return depth


def _classes(listing: _Listing, depth: int) -> tuple[str, ...]:
    """Class names of all splits, in NFC order, those of empty class folders too."""
    return tuple(sorted({name.rsplit("/", 1)[-1] for name in listing.folders if name.count("/") == depth - 1}))
