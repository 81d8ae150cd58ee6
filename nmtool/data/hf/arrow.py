"""Arrow stream files, as ``datasets`` writes them: a column, or one cell, read without the bytes of the others.

Of a file only the messages' headers are read at first, from which it is known where each buffer of each column lies.
A label column of a hundred gigabytes of images costs a few reads then, and one image two. The files are untrusted and
never mapped into memory; every offset is checked before it is used, and a stream without its end mark is refused.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nmtool.data import files
from nmtool.data.hf.messages import Fields, offsets_in, schema_of, width_of
from nmtool.errors import DataError
from nmtool.records import Bool, Int, offsets_of

Leaf = tuple[str, ...]
"""A column, or a field of a column of structs."""

_HEAD = 64 << 20
_BLOCK = 8 << 20
_SCHEMA, _RECORDS = 1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """A record batch: its rows, where its body begins in the file, and int64 [buffers, 2] offset and length in it."""

    rows: int
    body: int
    buffers: Int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A leaf's type, its first buffer and how many it has, and the validity buffers of the structs around it."""

    type: Any
    first: int
    width: int
    above: tuple[int, ...]


class ArrowShard:
    """One Arrow stream file. Safe among threads.

    Attributes:
        path, name: where it is, and what messages call it.
        rows: number of rows.
        schema: the ``pyarrow.Schema``.
        identity, settled: of the file, when it was indexed.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Find the buffers.

        Raises:
            InputMissingError: no such file.
            DataError: truncated, damaged, compressed, or with columns of a type that ``datasets`` does not write.
        """
        self.path, self.name = path, name
        self.identity = files.identity(files.regular(path, name))
        self.settled = files.settled(files.stacked([self.identity]))
        self._batches: list[_Batch] = []
        with self._open() as descriptor:
            try:
                self._index(descriptor)
            except (struct.error, ValueError, OverflowError) as error:
                self._damaged(str(error))
        self._starts = offsets_of(np.array([batch.rows for batch in self._batches], dtype=np.int64))
        self.rows = int(self._starts[-1])

    def column(self, leaf: Leaf) -> Any:
        """All cells of a leaf as a ``pyarrow.ChunkedArray``; null where a struct around it is."""
        import pyarrow as pa
        import pyarrow.compute as pc

        place = self._places[leaf]
        chunks = []
        with self._open() as descriptor:
            for batch in self._batches:
                if not batch.rows:
                    continue
                if not place.width:  # a column without a type has no buffers
                    chunks.append(pa.nulls(batch.rows, place.type))
                    continue
                buffers = [self._buffer(descriptor, batch, place.first + k) for k in range(place.width)]
                validity, *others = [pa.py_buffer(each) for each in buffers]
                try:
                    array = pa.Array.from_buffers(
                        place.type, batch.rows, [validity if validity.size else None, *others]
                    )
                    array.validate(full=True)
                except (pa.ArrowException, ValueError) as error:
                    self._damaged(str(error))
                valid = self._valid(descriptor, batch, place.above)
                chunks.append(
                    array if valid is None else pc.if_else(pa.array(valid), array, pa.scalar(None, place.type))
                )
        return pa.chunked_array(chunks, place.type)

    def cell(self, leaf: Leaf, row: int, limit: int) -> bytes | None:
        """The bytes of one cell, of text or binary; None where it is null.

        Raises:
            OverflowError: it has over ``limit`` bytes.
        """
        place, row = self._places[leaf], range(self.rows)[row]
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        batch, row = self._batches[number], row - int(self._starts[number])
        with self._open() as descriptor:
            for validity in (*place.above, place.first):
                at, size = batch.buffers[validity].tolist()
                if size and not self._read(descriptor, batch, at, size, row // 8, 1)[0] >> row % 8 & 1:
                    return None
            kind, width = offsets_in(place.type)
            at, size = batch.buffers[place.first + 1].tolist()
            low, high = struct.unpack(f"<2{kind}", self._read(descriptor, batch, at, size, row * width, 2 * width))
            if not 0 <= low <= high:
                self._damaged("offsets out of order")
            if high - low > limit:
                raise OverflowError(high - low)
            at, size = batch.buffers[place.first + 2].tolist()
            return self._read(descriptor, batch, at, size, low, high - low)

    def cells(self, leaf: Leaf) -> Iterator[bytes | None]:
        """The bytes of every cell, in order, some megabytes at a time."""
        place = self._places[leaf]
        kind, width = offsets_in(place.type)
        with self._open() as descriptor:
            for batch in self._batches:
                if not batch.rows:
                    continue
                valid = self._valid(descriptor, batch, (*place.above, place.first))
                at, size = batch.buffers[place.first + 1].tolist()
                body = self._read(descriptor, batch, at, size, 0, (batch.rows + 1) * width)
                cuts = np.frombuffer(body, f"<{kind}").astype(np.int64)
                if cuts[0] < 0 or (np.diff(cuts) < 0).any():
                    self._damaged("offsets out of order")
                at, size = batch.buffers[place.first + 2].tolist()
                row = 0
                while row < batch.rows:
                    stop = max(row + 1, int(np.searchsorted(cuts, cuts[row] + _BLOCK, side="right")) - 1)
                    block = self._read(descriptor, batch, at, size, int(cuts[row]), int(cuts[stop] - cuts[row]))
                    low = (cuts[row : stop + 1] - cuts[row]).tolist()
                    for k in range(stop - row):
                        yield block[low[k] : low[k + 1]] if valid is None or valid[row + k] else None
                    row = stop

    def nulls(self, leaf: Leaf) -> Bool:
        """bool [rows]: where a cell is null."""
        place = self._places[leaf]
        out = np.zeros(self.rows, dtype=bool)
        with self._open() as descriptor:
            for start, batch in zip(self._starts.tolist(), self._batches, strict=False):
                valid = self._valid(descriptor, batch, (*place.above, place.first)) if batch.rows else None
                if valid is not None:
                    out[start : start + batch.rows] = ~valid
        return out

    def _valid(self, descriptor: int, batch: _Batch, buffers: tuple[int, ...]) -> Any:
        """bool [rows]: not null in any of these validity buffers; None where none says anything."""
        out = None
        for number in buffers:
            body = self._buffer(descriptor, batch, number)
            if body:
                if len(body) * 8 < batch.rows:
                    self._damaged("a validity buffer that is too short")
                bits = np.unpackbits(np.frombuffer(body, np.uint8), count=batch.rows, bitorder="little").astype(bool)
                out = bits if out is None else out & bits
        return out

    def _buffer(self, descriptor: int, batch: _Batch, number: int) -> bytes:
        at, size = batch.buffers[number].tolist()
        return self._read(descriptor, batch, at, size, 0, size)

    def _read(self, descriptor: int, batch: _Batch, at: int, size: int, start: int, length: int) -> bytes:
        """``length`` bytes from ``start`` of the buffer of ``size`` bytes at ``at`` of a batch's body."""
        if start + length > size:
            self._damaged("a buffer that is too short")
        return self._bytes(descriptor, batch.body + at + start, length)

    def _bytes(self, descriptor: int, at: int, length: int) -> bytes:
        parts = []
        while length:
            with files.told(self.name):
                part = os.pread(descriptor, min(length, 1 << 30), at)
            if not part:
                self._damaged("it ends too early")
            parts.append(part)
            at, length = at + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        """A descriptor of the file, which has to be the one that was indexed."""
        with files.told(self.name):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if files.identity(os.fstat(descriptor)) != self.identity:
                raise DataError(f"{self.name} changed after it was indexed", "data at rest", "run again")
            yield descriptor
        finally:
            os.close(descriptor)

    def _index(self, descriptor: int) -> None:
        """Read the headers of all messages, up to the end mark."""
        total, at, count = self.identity[0], 0, -1
        while True:
            mark, size = struct.unpack("<Ii", self._bytes(descriptor, at, 8))
            if mark != 0xFFFFFFFF or not 0 <= size <= min(_HEAD, total):
                raise ValueError("no Arrow stream")
            if size == 0:
                break
            head = self._bytes(descriptor, at + 8, size)
            message = Fields.root(head)
            kind, length = message.number(1, "B"), message.number(3, "q")
            body = at + 8 + size
            if not 0 <= length <= total - body:
                raise ValueError("it ends too early")
            if count < 0:
                if kind != _SCHEMA:
                    raise ValueError("no schema at its beginning")
                self.schema = schema_of(struct.pack("<Ii", mark, size) + head)
                self._places, count = self._layout()
            elif kind != _RECORDS:
                self._refuse("dictionary-encoded columns")
            else:
                self._batches.append(self._batch(message.table(2), body, length, count))
            at = body + length
        if count < 0:
            raise ValueError("nothing in it")

    def _batch(self, table: Fields, body: int, length: int, count: int) -> _Batch:
        if table.has(3):
            self._refuse("compressed columns")
        rows, buffers = table.number(0, "q"), table.pairs(2)
        # a bit a row at the least: a row count that lies must not cost memory (reliability T5)
        if not 0 <= rows <= 8 * length or len(buffers) != count:
            raise ValueError(f"a batch of {rows} rows and {len(buffers)} buffers, not {count}")
        if (buffers < 0).any() or (buffers > length).any() or (buffers.sum(axis=1) > length).any():
            raise ValueError("a buffer outside its batch")
        return _Batch(rows=rows, body=body, buffers=buffers)

    def _layout(self) -> tuple[dict[Leaf, _Place], int]:
        """Where the buffers of each leaf stand among those of a batch, and how many there are."""
        places: dict[Leaf, _Place] = {}

        def walk(leaf: Leaf, kind: Any, first: int, above: tuple[int, ...]) -> int:
            width = width_of(kind)
            if width is None:
                self._refuse(f"the column {leaf[0]!r} of type {kind}")
            places[leaf] = _Place(type=kind, first=first, width=width, above=above)
            at = first + width
            for k in range(kind.num_fields):
                field = kind.field(k)
                at = walk((*leaf, field.name), field.type, at, (*above, first))
            return at

        at = 0
        for field in self.schema:
            at = walk((field.name,), getattr(field.type, "storage_type", field.type), at, ())
        return places, at

    def _damaged(self, why: str) -> NoReturn:
        raise DataError(f"{self.name} is no sound Arrow file ({why[:200]})", "a whole file", "fetch or save it again")

    def _refuse(self, what: str) -> NoReturn:
        raise DataError(f"{self.name} has {what}", "columns as datasets.save_to_disk writes them", "save it again")
