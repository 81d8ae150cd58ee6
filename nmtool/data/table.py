"""``table:FILE.parquet|.csv|.tsv``: a manifest of samples, a row each.

Columns: ``path`` (an image file, relative to the table's folder, which it may not leave) or ``image`` (bytes, Parquet
only) or ``text`` (and ``text_b``); and, as far as there are, ``label`` (whole number, name or real number),
``caption``, ``split``, ``domain``. Other names are mapped: ``?text=sentence1&label=score``; ``root=images`` names the
folder that paths start from. ``table:train=a.tsv,test=b.tsv`` joins files as splits; their own split columns are then
ignored.

Sample ids are the paths; a path that several rows have gets ``path#K``, K the row's place among them; rows without a
path are numbered, ``train/000012``. Rows stand in the order of their ids. A table of images with captions and no label
holds captions; where there is a label, captions are ignored.

Opening reads what ids and labels are made of, and nothing else: captions and texts are read, and image files looked at,
when a caption, a text, an image or a digest is first asked for.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nmtool.artifact.memo import Memo
from nmtool.data import files
from nmtool.data.address import Address, parse
from nmtool.data.columns import ImageCells, TableFile
from nmtool.data.dataset import Dataset, Indexed
from nmtool.data.images import decode
from nmtool.data.index import combined, make_splits, numbered_content
from nmtool.data.labels import classes_of, odd_remark, real_numbers, whole_remark
from nmtool.data.places import Places
from nmtool.data.rows import Rows, columns_of, kind_of, read_rows
from nmtool.records import UNLABELLED, Float, Int, SampleIndex, TextColumn


class TableDataset(Indexed):
    """Rows of tables, by id."""

    def __init__(
        self,
        *,
        uri: str,
        kind: str,
        splits: dict[str, SampleIndex],
        classes: tuple[str, ...],
        samples: _Samples,
        targets: Mapping[str, Float] | None,
        remarks: Sequence[str],
    ) -> None:
        super().__init__(uri=uri, kind=kind, splits=splits, classes=classes, remarks=remarks)
        self._samples, self._targets = samples, targets

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        if self.kind == "text":
            self._refuse("images")
        name, row = self.splits[split].ids[row], range(len(self.splits[split]))[row]
        return decode(self._samples.image(split, row, name), name=name)

    def caption(self, split: str, row: int) -> str:
        """The caption of sample ``row``."""
        return self._samples.texts(split, row)[0] if self.kind == "captions" else super().caption(split, row)

    def text(self, split: str, row: int) -> tuple[str, ...]:
        """The text, or the pair of texts, of sample ``row``."""
        return self._samples.texts(split, row) if self.kind == "text" else super().text(split, row)

    def targets(self, split: str) -> Float | None:
        """Real-number labels float64 [n], NaN where there is none; None where the labels are classes."""
        return None if self._targets is None else self._targets[split]


def open_table(where: str, *, uri: str, memo: Memo) -> Dataset:
    """Index the table or tables ``where``.

    Raises:
        UsageError: the URI can't be understood.
        InputMissingError: a table is not there.
        DataError: no column to take samples from, a path that leaves the folder, labels that are no classes.
    """
    address = parse(where, uri)
    tables = [_open(path) for _, path in address.files]
    columns = [columns_of(table, address) for table in tables]
    kind = kind_of(tables, columns)
    rows = read_rows(tables, columns, address)
    labels, classes, numbers = _labels(rows, tables[0].name)
    targets = None if numbers is None else {split: numbers[each.at] for split, each in rows.splits.items()}
    samples = _Samples(tables, columns, address, rows, kind, targets)
    named = ", ".join(table.name for table in tables)
    splits = make_splits(
        kind=kind,
        classes=classes,
        rows={split: (each.ids, labels[each.at]) for split, each in rows.splits.items()},
        contents=samples.contents,
        memo=memo,
        question=samples.question,
        trusted=samples.trusted,
    )
    return TableDataset(
        uri=uri,
        kind=kind,
        splits=splits,
        classes=classes,
        samples=samples,
        targets=targets,
        remarks=[*whole_remark((targets or {}).values(), named), *odd_remark(classes, named)],
    )


def _open(where: str) -> TableFile:
    path, _ = files.place(where, "file", "table")
    return TableFile(path, path.name)


def _labels(rows: Rows, name: str) -> tuple[Int, tuple[str, ...], Float | None]:
    """Class labels int64 [n] in the tables' order, class names, and the labels that are real numbers."""
    n = int(rows.starts[-1])
    if rows.labels is None or all(cell is None for cell in rows.labels.cells):
        return np.full(n, UNLABELLED, dtype=np.int64), (), None
    numbers = real_numbers(rows.labels)
    if numbers is None:
        return *classes_of(rows.labels, f"the label column of {name}"), None
    return np.full(n, UNLABELLED, dtype=np.int64), (), numbers


class _Samples:
    """What the rows hold beside ids and labels, read when it is first asked for. Safe among threads."""

    def __init__(
        self,
        tables: Sequence[TableFile],
        columns: Sequence[Mapping[str, str]],
        address: Address,
        rows: Rows,
        kind: str,
        targets: Mapping[str, Float] | None,
    ) -> None:
        self.rows = rows
        self._tables, self._columns, self._address = tables, columns, address
        self._kind, self._targets = kind, targets
        self._cells = {k: ImageCells(t, columns[k]["image"]) for k, t in enumerate(tables) if "image" in columns[k]}
        by_path = kind != "text" and not self._cells
        self._places = Places(tables, address.root, rows) if by_path else None
        self._texts: list[TextColumn] = []
        self._read = ("", "")
        self._digests: list[list[str]] = []
        self._lock = threading.Lock()

    def question(self) -> object:
        """What changes whenever a sample may have: identities of tables and image files, and the columns taken."""
        identities = self._places.identities() if self._places else np.zeros((0, 5), dtype=np.int64)
        return [
            "table",
            [
                [split, os.fsencode(table.path).hex(), list(table.identity)]
                for (split, _), table in zip(self._address.files, self._tables, strict=True)
            ],
            [sorted(each.items()) for each in self._columns],
            self._address.root,
            files.listing_digest((), identities),
        ]

    def trusted(self) -> bool:
        """Whether all files were old enough when they were looked at."""
        return all(table.settled for table in self._tables) and (self._places is None or self._places.trusted())

    def image(self, split: str, row: int, name: str) -> bytes:
        """The bytes of a row's image file."""
        if self._places is None:
            table, place = self._source(split, row)
            return self._cells[table].one(place, name)
        path, _, (size, mtime_ns, *_) = self._places.of(split, row)
        return files.read(path, size, mtime_ns, name)

    def texts(self, split: str, row: int) -> tuple[str, ...]:
        """The caption of a row, or its texts."""
        at = int(self.rows.splits[split].at[row])
        return tuple(column[at] for column in self._columns_of_texts())

    def contents(self, split: str) -> Iterator[str]:
        """Hex digests of the samples of a split; an image file that rows side by side name is read once."""
        targets = None if self._targets is None else self._targets[split]
        for row in range(len(self.rows.splits[split].at)):
            if self._kind == "text":
                target = () if targets is None else (repr(float(targets[row])),)
                yield combined(*self.texts(split, row), *target)
            elif self._kind == "captions":
                yield combined(self._image_digest(split, row), *self.texts(split, row))
            else:
                digest = self._image_digest(split, row)
                yield digest if targets is None else numbered_content(digest, targets[row])

    def _columns_of_texts(self) -> list[TextColumn]:
        with self._lock:
            if not self._texts:
                roles = [role for role in ("text", "text_b", "caption") if role in self._columns[0]]
                found = [
                    [table.texts(column[role]) for role in roles]
                    for table, column in zip(self._tables, self._columns, strict=True)
                ]
                self._texts = [TextColumn.joined(parts) for parts in zip(*found, strict=True)]
            return self._texts

    def _source(self, split: str, row: int) -> tuple[int, int]:
        """The table of a row, and its row there."""
        at = int(self.rows.splits[split].at[row])
        table = int(np.searchsorted(self.rows.starts, at, side="right")) - 1
        return table, at - int(self.rows.starts[table])

    def _image_digest(self, split: str, row: int) -> str:
        if self._places is not None:
            path, shown, expected = self._places.of(split, row)
            if self._read[0] != path:
                self._read = path, files.digest(path, expected, shown)
            return self._read[1]
        if not self._digests:
            self._digests = [
                [hashlib.sha256(data).hexdigest() for data in self._cells[table].all()] for table in sorted(self._cells)
            ]
        table, place = self._source(split, row)
        return self._digests[table][place]
