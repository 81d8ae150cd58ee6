"""``arrays:FILE.npz``: samples as arrays, ``X_SPLIT`` with ``y_SPLIT``, and ``classes``.

``X`` is uint8 [n, H, W, 3], [n, H, W, 1] or [n, H, W] (images), or floating [n, D] (ready-made features; rows that are
not finite are taken in as they are, and marked by ``extract``). ``y`` is whole numbers [n], -1 unlabelled, or names,
or floating: real numbers for regression, whatever their values, NaN or infinite where there is none (as a floating
column of a Parquet table is). Where it is missing, all rows are unlabelled. Other keys are ignored. Sample ids are row
numbers, ``train/000012``. Refuses class names beside real numbers, and splits whose labels are of different sorts.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.artifact.memo import Memo
from nmtool.data import files
from nmtool.data.dataset import Dataset, Indexed
from nmtool.data.ids import numbered_ids
from nmtool.data.index import check_id, make_splits, numbered_content
from nmtool.data.labels import MAX_CLASSES, classes_of, names_of, numbered, whole_remark
from nmtool.data.npz import Member, Npz
from nmtool.errors import DataError
from nmtool.records import UNLABELLED, Float, Int, SampleIndex, check_split

_WANTED = "X_SPLIT and y_SPLIT, as X_train, y_train, X_test, y_test"
_CLASSES_BYTES = 64 << 20


class _ArraysDataset(Indexed):
    """Rows of an npz file; arrays that can't be read by rows are unpacked once, on first use."""

    def __init__(
        self,
        *,
        uri: str,
        kind: str,
        splits: dict[str, SampleIndex],
        classes: tuple[str, ...],
        npz: Npz,
        targets: dict[str, Float] | None,
    ) -> None:
        remarks = whole_remark((targets or {}).values(), npz.name)
        super().__init__(uri=uri, kind=kind, splits=splits, classes=classes, remarks=remarks)
        self._npz, self._targets = npz, targets
        self._unpacked: dict[str, npt.NDArray[Any]] = {}
        self._lock = threading.Lock()

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        if self.kind != "images":
            self._refuse("images")
        self.splits[split].ids[row]  # an unknown split or row is a KeyError or IndexError here, and no odd read
        key, row = f"X_{split}", range(len(self.splits[split]))[row]
        if self._npz.members[key].by_rows:
            image = self._npz.rows(key, row, row + 1)[0]
        else:
            with self._lock:
                if key not in self._unpacked:
                    self._unpacked[key] = self._npz.whole(key)
            image = self._unpacked[key][row]
        if image.ndim == 2:
            image = image[:, :, None]
        return np.array(np.broadcast_to(image, (*image.shape[:2], 3)), dtype=np.uint8)

    def features(self, split: str) -> npt.NDArray[np.floating[Any]]:
        """All rows of ``split``, float [n, D], in the file's precision."""
        return self._npz.whole(f"X_{split}") if self.kind == "features" else super().features(split)

    def targets(self, split: str) -> Float | None:
        """Real-number labels float64 [n], NaN where there is none; None where the labels are classes."""
        return None if self._targets is None else self._targets[split]


def open_arrays(where: str, *, uri: str, memo: Memo) -> Dataset:
    """Index the npz file ``where``.

    Raises:
        InputMissingError: no such file.
        DataError: no npz file, no ``X_SPLIT``, a shape or type that is neither images nor features, labels out of
            range or no whole numbers.
    """
    path, _ = files.place(where, "file", "arrays")
    npz = Npz(path, path.name)
    members = {key.removeprefix("X_"): member for key, member in npz.members.items() if key.startswith("X_")}
    if not members:
        keys = ", ".join(sorted(npz.members)[:20]) or "none"
        raise DataError(f"{npz.name} has no array X_… (its arrays: {keys})", _WANTED, "rename its arrays")
    for key in npz.members:
        if key.startswith("y_") and key.removeprefix("y_") not in members:
            raise DataError(f"{npz.name} has {key} and no X_{key.removeprefix('y_')}", _WANTED)
    kind = _kind([members[split] for split in sorted(members)], npz.name)
    rows = {check_split(split): member.shape[0] for split, member in sorted(members.items())}
    labels, classes, targets = _labels(npz, rows)
    splits = make_splits(
        kind=kind,
        classes=classes,
        rows={split: (numbered_ids(split, len(values)), values) for split, values in labels.items()},
        contents=lambda split: _contents(npz, f"X_{split}", None if targets is None else targets[split]),
        memo=memo,
        question=["arrays", os.fsencode(path).hex(), list(npz.identity)],
        trusted=npz.settled,
    )
    return _ArraysDataset(uri=uri, kind=kind, splits=splits, classes=classes, npz=npz, targets=targets)


def _contents(npz: Npz, key: str, targets: Float | None) -> Iterator[str]:
    """Hex sha256 of each row: of its type, shape and little-endian bytes, and of its label that is a real number."""
    if targets is None:
        yield from _samples(npz, key)
        return
    for sample, target in zip(_samples(npz, key), targets.tolist(), strict=True):
        yield numbered_content(sample, target)


def _samples(npz: Npz, key: str) -> Iterator[str]:
    """Hex sha256 of each row of X."""
    head: Any = None
    for block in npz.blocks(key):
        block = block.astype(block.dtype.newbyteorder("<"), copy=False)
        if head is None:
            shape = "x".join(str(n) for n in block.shape[1:])
            head = hashlib.sha256(f"{block.dtype.kind}{block.dtype.itemsize}:{shape}\0".encode())
        for row in block.reshape(len(block), -1):
            sha = head.copy()
            sha.update(row)
            yield sha.hexdigest()


def _kind(members: list[Member], name: str) -> str:
    """``images`` or ``features``, the same for all splits."""
    kinds = set()
    for member in members:
        if len(member.shape) < 2 or 0 in member.shape:
            raise _unfit(member, name)
        if member.dtype == np.uint8 and (
            len(member.shape) == 3 or (len(member.shape) == 4 and member.shape[3] in (1, 3))
        ):
            kinds.add(("images", 0))
        elif member.dtype.kind == "f" and member.dtype.itemsize in (2, 4, 8) and len(member.shape) == 2:
            kinds.add(("features", member.shape[1]))
        else:
            raise _unfit(member, name)
    if len(kinds) > 1:
        shown = ", ".join(f"{member.key}: {member.dtype} {list(member.shape)}" for member in members)
        raise DataError(
            f"{name} mixes samples of different sorts ({shown})", "all images, or all features of one length"
        )
    return kinds.pop()[0]


def _unfit(member: Member, name: str) -> DataError:
    channels_first = len(member.shape) == 4 and member.shape[1] == 3
    return DataError(
        f"array {member.key} of {name} is {member.dtype} {list(member.shape)}",
        "uint8 [n, height, width, 3] (images) or floating [n, D] (features), with n > 0",
        "put the channels last: X.transpose(0, 2, 3, 1)" if channels_first else "convert it",
    )


def _labels(npz: Npz, rows: dict[str, int]) -> tuple[dict[str, Int], tuple[str, ...], dict[str, Float] | None]:
    """Class labels by split, the class names, and the labels that are real numbers."""
    given: dict[str, npt.NDArray[Any]] = {}
    for split, n in rows.items():
        member = npz.members.get(f"y_{split}")
        if member is None:
            continue
        if member.shape != (n,):
            raise DataError(f"y_{split} of {npz.name} has shape {list(member.shape)}", f"[{n}], one label a row")
        given[split] = npz.whole(f"y_{split}")
    names = _class_names(npz)
    if any(values.dtype.kind == "f" for values in given.values()):
        targets = _numbers(given, rows, names, npz.name)
        return {split: np.full(n, UNLABELLED, np.int64) for split, n in rows.items()}, (), targets
    if given and all(values.dtype.kind == "U" for values in given.values()):
        return *_named(given, rows, names, npz.name), None
    known = len(names) if names is not None else None
    labels = {split: numbered(values, f"y_{split} of {npz.name}", known) for split, values in given.items()}
    if names is None:
        names = names_of(np.concatenate(list(labels.values()))) if labels else ()
    return {split: labels.get(split, np.full(n, UNLABELLED, np.int64)) for split, n in rows.items()}, names, None


def _numbers(
    given: dict[str, npt.NDArray[Any]], rows: dict[str, int], names: tuple[str, ...] | None, name: str
) -> dict[str, Float]:
    """Labels that are real numbers, float64 [n] by split; all NaN for a split without any."""
    for split, values in given.items():
        if values.dtype.kind != "f" or values.dtype.itemsize > 8:
            shown = ", ".join(f"y_{each}: {array.dtype}" for each, array in given.items())
            raise DataError(
                f"labels of {name} that are not all of one sort ({shown})",
                f"float64 or less in y_{split}, as real numbers, or no floating labels at all",
                f'convert it: y_{split}.astype("float64")',
            )
    if names is not None:
        shown = ", ".join(f"y_{each}: {array.dtype}" for each, array in given.items())
        raise DataError(
            f"{name} has classes and labels that are real numbers ({shown})",
            "whole numbers where there are classes, or real numbers without classes",
            'for classes save y.astype("int64")',
        )
    return {
        split: given[split].astype(np.float64) if split in given else np.full(n, np.nan) for split, n in rows.items()
    }


def _named(
    given: dict[str, npt.NDArray[Any]], rows: dict[str, int], names: tuple[str, ...] | None, name: str
) -> tuple[dict[str, Int], tuple[str, ...]]:
    """Labels given as names; numbered in the order of ``classes``, else in NFC order."""
    order = list(given)
    cells = [str(cell) for split in order for cell in given[split]]
    values, found = classes_of(cells, f"y of {name}")
    if names is not None:
        strange = sorted(set(found) - set(names))
        if strange:
            raise DataError(f"labels not among the classes of {name}: {strange[:5]}", f"some of {list(names[:5])} …")
        number = {each: k for k, each in enumerate(names)}
        # the last place is that of -1, unlabelled
        values = np.array([*(number[each] for each in found), UNLABELLED], dtype=np.int64)[values]
    parts = dict(zip(order, np.split(values, np.cumsum([len(given[split]) for split in order])[:-1]), strict=True))
    return {split: parts.get(split, np.full(n, UNLABELLED, np.int64)) for split, n in rows.items()}, names or found


def _class_names(npz: Npz) -> tuple[str, ...] | None:
    member = npz.members.get("classes")
    if member is None:
        return None
    if len(member.shape) != 1 or member.dtype.kind not in "US" or member.shape[0] > MAX_CLASSES:
        raise DataError(f"classes of {npz.name} is {member.dtype} {list(member.shape)}", "a list of names")
    if member.shape[0] * member.dtype.itemsize > _CLASSES_BYTES:
        raise DataError(f"classes of {npz.name} takes over {_CLASSES_BYTES} bytes", "names of a reasonable length")
    cells = npz.whole("classes").tolist()
    try:
        names = tuple(check_id(c.decode() if isinstance(c, bytes) else c, "class name") for c in cells)
    except UnicodeDecodeError as error:
        raise DataError(f"a class name of {npz.name} is no UTF-8: {error.object[:40]!r}", "names in UTF-8") from None
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the class {twice!r} of {npz.name} stands twice", "each class once")
    return names
