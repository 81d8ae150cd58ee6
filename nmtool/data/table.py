"""``table:FILE.parquet|.csv|.tsv``: a manifest of samples, a row each.

Columns: ``path`` (an image file, relative to the table's folder, which it may not leave) or ``image`` (bytes, Parquet
only) or ``text`` (and ``text_b``); and, as far as there are, ``label`` (whole number or name; a real number for text),
``caption``, ``split``, ``domain``. Other names are mapped: ``?text=sentence1&label=score``; ``root=images`` names the
folder that paths start from. ``table:train=a.tsv,test=b.tsv`` joins files as splits; their own split columns are then
ignored.

Sample ids are the paths; a path that several rows have gets ``path#K``, K the row's place among them; rows without a
path are numbered, ``train/000012``. Rows stand in the order of their ids. A table of images with captions and no label
holds captions; where there is a label, captions are ignored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from nmtool.artifact.memo import Memo
from nmtool.data import files
from nmtool.data.address import parse
from nmtool.data.columns import ImageCells, TableFile
from nmtool.data.dataset import Dataset, Indexed
from nmtool.data.images import decode
from nmtool.data.index import combined, make_splits
from nmtool.data.labels import classes_of, real_numbers
from nmtool.data.rows import Rows, columns_of, kind_of, read_rows
from nmtool.errors import DataError
from nmtool.records import UNLABELLED, Float, Int, SampleIndex


class TableDataset(Indexed):
    """Rows of tables, by id."""

    def __init__(
        self,
        *,
        uri: str,
        kind: str,
        splits: dict[str, SampleIndex],
        classes: tuple[str, ...],
        rows: Rows,
        order: Mapping[str, list[int]],
        images: Mapping[int, ImageCells],
        targets: Float | None,
    ) -> None:
        super().__init__(uri=uri, kind=kind, splits=splits, classes=classes)
        self._rows, self._order, self._images, self._targets = rows, order, images, targets

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        if self.kind == "text":
            self._refuse("images")
        name, at = self.splits[split].ids[row], self._order[split][row]
        if self._images:
            file, place = self._rows.sources[at]
            return decode(self._images[file].one(place, name), name=name)
        path, (size, mtime_ns, *_) = self._rows.places[at]
        return decode(files.read(path, size, mtime_ns, name), name=name)

    def caption(self, split: str, row: int) -> str:
        """The caption of sample ``row``."""
        return self._rows.captions[self._order[split][row]] if self.kind == "captions" else super().caption(split, row)

    def text(self, split: str, row: int) -> tuple[str, ...]:
        """The text, or the pair of texts, of sample ``row``."""
        return self._rows.texts[self._order[split][row]] if self.kind == "text" else super().text(split, row)

    def targets(self, split: str) -> Float | None:
        """Real-number labels float64 [n], NaN where there is none; None where the labels are classes."""
        return None if self._targets is None else self._targets[self._order[split]]


def open_table(where: str, *, uri: str, memo: Memo) -> Dataset:
    """Index the table or tables ``where``.

    Raises:
        UsageError: the URI can't be understood.
        InputMissingError: a table, or image files that it names, are not there.
        DataError: no column to take samples from, a path that leaves the folder, labels that are no classes.
    """
    address = parse(where, uri)
    tables = [_open(path) for _, path in address.files]
    columns = [columns_of(table, address) for table in tables]
    kind = kind_of(tables, columns)
    rows = read_rows(tables, columns, address, kind)
    images = {k: ImageCells(table, columns[k]["image"]) for k, table in enumerate(tables) if "image" in columns[k]}
    targets = real_numbers(rows.labels)
    if targets is not None and kind != "text":
        shown = next(cell for cell in rows.labels if cell not in (None, ""))
        raise DataError(
            f"labels that are real numbers (such as {shown})", "classes: whole numbers or names", "map another column"
        )
    labels, classes = _labels(rows, targets, tables[0].name)
    order = {split: _order(rows, split) for split in sorted(set(rows.splits))}
    identities = files.stacked([place[1] for place in rows.places])
    splits = make_splits(
        kind=kind,
        classes=classes,
        rows={split: ([rows.ids[at] for at in taken], labels[taken]) for split, taken in order.items()},
        contents=_Contents(rows, order, images, kind, targets),
        memo=memo,
        question=[
            "table",
            [
                [split, os.fsencode(table.path).hex(), list(table.identity)]
                for (split, _), table in zip(address.files, tables, strict=True)
            ],
            [sorted(each.items()) for each in columns],
            address.root,
            files.listing_digest(rows.ids if len(identities) else (), identities),
        ],
        trusted=all(table.settled for table in tables) and files.settled(identities),
    )
    return TableDataset(
        uri=uri, kind=kind, splits=splits, classes=classes, rows=rows, order=order, images=images, targets=targets
    )


def _open(where: str) -> TableFile:
    path, _ = files.place(where, "file", "table")
    return TableFile(path, path.name)


def _order(rows: Rows, split: str) -> list[int]:
    return sorted((at for at, name in enumerate(rows.splits) if name == split), key=rows.ids.__getitem__)


def _labels(rows: Rows, targets: Float | None, name: str) -> tuple[Int, tuple[str, ...]]:
    if targets is not None or all(cell is None for cell in rows.labels):
        return np.full(len(rows.labels), UNLABELLED, dtype=np.int64), ()
    return classes_of(rows.labels, f"the label column of {name}")


class _Contents:
    """Hex digests of the samples of a split; each image file is read once, however many rows name it."""

    def __init__(
        self,
        rows: Rows,
        order: Mapping[str, list[int]],
        images: Mapping[int, ImageCells],
        kind: str,
        targets: Float | None,
    ) -> None:
        self._rows, self._order, self._images, self._kind, self._targets = rows, order, images, kind, targets
        self._read: dict[str, str] = {}
        self._cells: list[list[str]] | None = None

    def __call__(self, split: str) -> Iterator[str]:
        for at in self._order[split]:
            if self._kind == "text":
                target = () if self._targets is None else (repr(float(self._targets[at])),)
                yield combined(*self._rows.texts[at], *target)
            elif self._kind == "captions":
                yield combined(self._image(at), self._rows.captions[at])
            else:
                yield self._image(at)

    def _image(self, at: int) -> str:
        if not self._images:
            path, expected = self._rows.places[at]
            if path not in self._read:
                self._read[path] = files.digest(path, expected, self._rows.paths[at])
            return self._read[path]
        if self._cells is None:
            self._cells = [
                [hashlib.sha256(data).hexdigest() for data in self._images[file].all()] for file in sorted(self._images)
            ]
        file, row = self._rows.sources[at]
        return self._cells[file][row]
