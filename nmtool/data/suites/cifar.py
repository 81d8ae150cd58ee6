"""CIFAR-10 and CIFAR-100 in the "python version": pickled batches of 32 x 32 images, unpacked or in their archive.

Rows stand in the order of the batches, so that row numbers are those of torchvision and of the CIFAR-N labels. The
batches are read when an image is asked for; labels are remembered for as long as the files are the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.data import files, pickles, tars
from nmtool.data.dataset import Dataset
from nmtool.data.index import check_id
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageArray, Pixels, array_dataset
from nmtool.errors import DataError, InputMissingError, StorageError
from nmtool.records import Int

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where things are: names of files and, in bytes as Python 2 wrote them, of their entries."""

    folder: str
    archive: str
    splits: Mapping[str, Sequence[str]]
    labels: bytes
    meta: str
    names: bytes


_TEN = _Layout(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    splits={"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]},
    labels=b"labels",
    meta="batches.meta",
    names=b"label_names",
)
_HUNDRED = _Layout(
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    splits={"train": ["train"], "test": ["test"]},
    labels=b"fine_labels",
    meta="meta",
    names=b"fine_label_names",
)
_COARSE = replace(_HUNDRED, labels=b"coarse_labels", names=b"coarse_label_names")


def _load10(suite: Suite, request: Request) -> Dataset:
    return _load(suite, request, _TEN)


def _load100(suite: Suite, request: Request) -> Dataset:
    if request.member == "coarse":
        return _load(replace(suite, classes=20), request, _COARSE)
    return _load(suite, request, _HUNDRED)


def _load(suite: Suite, request: Request, layout: _Layout) -> Dataset:
    batches = _Batches(suite, request.root, layout)
    question = ["cifar", _FORMAT, suite.name, request.member, batches.question()]
    known = request.memo.recall(question)
    if not isinstance(known, dict):
        known = batches.found()
        if files.settled(files.stacked(batches.identities)):
            request.memo.remember(question, known)
    splits = {
        split: ImageArray(labels=np.array(known["labels"][split], dtype=np.int64), images=batches.images(split))
        for split in layout.splits
    }
    return array_dataset(suite, request, known["classes"], splits, inputs=batches.inputs)


class _Batches:
    """The batches of one set. Safe among threads."""

    def __init__(self, suite: Suite, root: Path, layout: _Layout) -> None:
        self._suite, self._root, self._layout = suite, root, layout
        named = [layout.meta, *(part for parts in layout.splits.values() for part in parts)]
        self._archive: Path | None = root / layout.archive
        if (root / layout.meta).is_file() or not self._archive.exists():
            self._archive = None
        self.inputs = [root / name for name in named] if self._archive is None else [self._archive]
        self.identities = [_identity(path) for path in self.inputs]
        self._parts: dict[str, tuple[Pixels, Int]] = {}
        self._lock = threading.RLock()

    def question(self) -> list[object]:
        """What changes when a file does."""
        return [[os.fsencode(path).hex(), *each] for path, each in zip(self.inputs, self.identities, strict=True)]

    def found(self) -> dict[str, Any]:
        """Class names and labels by split, as plain JSON.

        Raises:
            InputMissingError: a file is not there.
            DataError: one is not what it should be.
        """
        layout = self._layout
        with self._lock:
            names = self._read([layout.meta, *(part for parts in layout.splits.values() for part in parts)])
            labels = {
                split: [int(label) for part in parts for label in self._parts[part][1]]
                for split, parts in layout.splits.items()
            }
        return {"classes": names, "labels": labels}

    def images(self, split: str) -> Callable[[int, int], Pixels]:
        """Reads rows of a split, uint8 [rows, 32, 32, 3]."""

        def rows(start: int, stop: int) -> Pixels:
            wanted = self._layout.splits[split]
            with self._lock:
                if any(part not in self._parts for part in wanted):
                    self._read(wanted)
                parts = [self._parts[part][0] for part in wanted]
            taken, before = [], 0
            for pixels in parts:
                taken.append(pixels[max(0, start - before) : max(0, stop - before)])
                before += len(pixels)
            return np.concatenate(taken).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)

        return rows

    def _read(self, wanted: Sequence[str]) -> list[str]:
        """Read files, keep what batches hold, and return the class names, where the file with them was wanted."""
        names: list[str] = []
        missing = dict.fromkeys(wanted)
        for name, data in self._bodies(wanted):
            missing.pop(name)
            body = pickles.load(data, name)
            if not isinstance(body, dict):
                raise DataError(f"{name} holds a {type(body).__name__}", "a dictionary, as CIFAR's batches")
            if name == self._layout.meta:
                names = _names(body, self._layout.names, name)
            else:
                self._parts[name] = _batch(body, self._layout.labels, name)
        if missing:
            raise InputMissingError(
                f"no {', '.join(missing)} in {self._layout.archive}", "the official archive", "fetch it again"
            )
        if [_identity(path) for path in self.inputs] != self.identities:
            raise StorageError(f"{self._suite.title} changed while it was being read", "data at rest", "run it again")
        return names

    def _bodies(self, wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        if self._archive is None:
            for name in wanted:
                with files.told(name):
                    yield name, (self._root / name).read_bytes()
            return
        inside = {f"{self._layout.folder}/{name}": name for name in wanted}
        for path, data in tars.stream_members(
            self._archive, self._archive.name, wanted=inside.__contains__, member_bytes=pickles.BYTES
        ):
            yield inside[path], data


def _identity(path: Path) -> files.Identity:
    found = files.identity(files.regular(path, path.name))
    if found[0] > pickles.BYTES:
        raise DataError(f"{path.name} has {found[0]} bytes", f"at most {pickles.BYTES}")
    return found


def _names(body: dict[Any, Any], key: bytes, name: str) -> list[str]:
    names = body.get(key)
    if not isinstance(names, list) or not names or not all(isinstance(each, bytes) for each in names):
        raise DataError(f"{name} has no {key.decode()}", "a list of class names")
    return [check_id(each.decode("utf-8", "replace"), f"class name in {name}") for each in names]


def _batch(body: dict[Any, Any], key: bytes, name: str) -> tuple[Pixels, Int]:
    """Images uint8 [n, 3072], the three colours one after the other, and labels [n] of one batch."""
    data, labels = body.get(b"data"), body.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        shown = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"data of {name} is {shown}", "uint8 [n, 3072]")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{name} has no {key.decode()}", "a list of class numbers")
    if len(labels) != len(data):
        raise DataError(f"{name} has {len(data)} images and {len(labels)} labels", "as many of each")
    strange = [label for label in labels if not 0 <= label < 1 << 31]
    if strange:
        raise DataError(f"{name} has the class number {strange[0]}", "0 or more")
    return data, np.array(labels, dtype=np.int64)


CIFAR10 = Suite(
    name="cifar10",
    title="CIFAR-10",
    group="in-domain",
    kind="images",
    classes=10,
    splits={"train": 50_000, "test": 10_000},
    metric="accuracy",
    source="Krizhevsky 2009",
    tree="""
cifar-10-batches-py/               or cifar-10-python.tar.gz as it is
  batches.meta
  data_batch_1 … data_batch_5
  test_batch
""",
    witnesses=("batches.meta", "data_batch_1", "test_batch", "cifar-10-python.tar.gz"),
    folders=("cifar-10-batches-py", "cifar10/cifar-10-batches-py"),
    load=_load10,
)

CIFAR100 = Suite(
    name="cifar100",
    title="CIFAR-100",
    group="in-domain",
    kind="images",
    classes=100,
    splits={"train": 50_000, "test": 10_000},
    metric="accuracy",
    source="Krizhevsky 2009",
    tree="""
cifar-100-python/                  or cifar-100-python.tar.gz as it is
  meta
  train
  test
""",
    witnesses=("meta", "cifar-100-python.tar.gz"),
    folders=("cifar-100-python", "cifar100/cifar-100-python"),
    load=_load100,
    members=("coarse",),
    note="suite:cifar100/coarse has the 20 super-classes as labels.",
)
