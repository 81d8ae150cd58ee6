"""MATLAB's .mat files of level 5, as annotations come in: arrays of numbers, texts, cells of texts, lists of records.

Read here rather than by scipy: a damaged or forged file is refused with its name before memory is taken for what it
claims, containers may not nest without end, and what is large is unpacked only when it is asked for. MATLAB 7.3 files,
which are HDF5, and level 4 are refused. Format: "MAT-File Format", The MathWorks.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from nmtool.data import files
from nmtool.errors import DataError, StorageError

BYTES = 1 << 31
"""What an array of numbers may have, unpacked."""

_OTHERS = 1 << 28

_HEAD, _START = 128, 4096
_DEPTH = 4
_MATRIX, _PACKED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16", 17: "utf-16", 18: "utf-32"}
# Classes of arrays, and the type that each class of numbers is turned into.
_CELL, _STRUCT, _CHAR = 1, 2, 4
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x0800


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable, by its header.

    Attributes:
        shape: as MATLAB has it: at least two numbers.
        type: of the numbers, as numpy writes it; empty for cells, records and texts.
    """

    shape: tuple[int, ...]
    type: str
    offset: int
    size: int
    packed: bool


class Mat:
    """A .mat file: the headers of its variables, read at once, and their values, read on demand. Safe among threads."""

    def __init__(self, path: Path, name: str) -> None:
        """Read the headers.

        Args:
            path: the file.
            name: what messages call it: its place below the suite's folder.

        Raises:
            InputMissingError: no such file.
            DataError: no .mat file of level 5, or a damaged one.
        """
        self.path, self.name = path, name
        files.regular(path, name)
        with files.told(name), path.open("rb") as stream:
            self._identity = files.identity(os.fstat(stream.fileno()))
            self._order = self._start(stream.read(_HEAD))
            self.variables = dict(self._headers(stream))

    def numbers(self, key: str) -> npt.NDArray[Any]:
        """An array of real numbers, in MATLAB's shape, not to be written to; raises as ``Mat`` and where it is none."""
        value = self._value(key)
        if not isinstance(value, np.ndarray):
            raise DataError(f"{key} of {self.name} is no array of numbers", "numbers")
        return value

    def texts(self, key: str) -> list[str]:
        """A cell array of texts, flat; raises as ``Mat`` and where it is none."""
        value = self._value(key)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise DataError(f"{key} of {self.name} is no list of texts", "a cell array of texts")
        return value

    def records(self, key: str, fields: tuple[str, ...]) -> list[tuple[Any, ...]]:
        """Some fields of all records, flat: numbers and texts; raises as ``Mat`` and where there are no records."""
        value = self._value(key)
        if not isinstance(value, _Records):
            raise DataError(f"{key} of {self.name} is no list of records", "a struct array")
        missing = [field for field in fields if field not in value.fields]
        if missing:
            has = ", ".join(value.fields) or "none"
            raise DataError(f"{key} of {self.name} has no field {missing[0]!r} (it has {has})", "the official fields")
        places = [value.fields.index(field) for field in fields]
        return [tuple(row[place] for place in places) for row in value.rows]

    def _start(self, head: bytes) -> str:
        if head[:6] == b"MATLAB" and head[124:126] in (b"\x00\x02", b"\x02\x00"):
            raise DataError(f"{self.name} is a MATLAB 7.3 file", "one of level 5", "save it with -v7")
        order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
        if order is None:
            raise DataError(f"{self.name} is no .mat file of level 5", "the official file", "fetch it again")
        return order

    def _headers(self, stream: BinaryIO) -> Iterator[tuple[str, Variable]]:
        at, end = _HEAD, self._identity[0]
        seen: set[str] = set()
        while at < end:
            stream.seek(at)
            tag = stream.read(8)
            if len(tag) < 8:
                self._damaged("it ends within a tag")
            kind, size = struct.unpack(self._order + "II", tag)
            at += 8
            if kind not in (_MATRIX, _PACKED) or at + size > end:
                self._damaged("it was cut, or its tags are wrong")
            start = stream.read(min(size, _START))
            if kind == _PACKED:
                start = self._unpacked(start, _START, whole=False)
                if len(start) < 8 or struct.unpack(self._order + "I", start[:4])[0] != _MATRIX:
                    self._damaged("no variable where one should be")
                start = start[8:]
            reader = _Reader(start, self._order, self.name)
            number, shape, name = reader.header()
            if name in seen:
                self._damaged(f"the variable {name!r} stands twice")
            seen.add(name)
            if number:
                packed = kind == _PACKED
                yield name, Variable(shape=shape, type=_CLASSES.get(number, ""), offset=at, size=size, packed=packed)
            at += size

    def _value(self, key: str) -> Any:
        found = self.variables.get(key)
        if found is None:
            has = ", ".join(sorted(self.variables)[:10]) or "none"
            raise DataError(f"{self.name} has no variable {key!r} (it has {has})", "the official file")
        with files.told(self.name), self.path.open("rb") as stream:
            if files.identity(os.fstat(stream.fileno())) != self._identity:
                raise StorageError(f"{self.name} changed after it was opened", "data at rest", "run it again")
            stream.seek(found.offset)
            body = stream.read(found.size)
        if found.packed:
            most = min(BYTES, math.prod(found.shape) * 8) + _START if found.type else _OTHERS
            body = self._unpacked(body, most, whole=True)
        return _Reader(memoryview(body)[8 if found.packed else 0 :], self._order, self.name).matrix(_DEPTH)

    def _unpacked(self, data: bytes, most: int, *, whole: bool) -> bytes:
        stream = zlib.decompressobj()
        try:
            out = stream.decompress(data, most)
        except zlib.error as error:
            self._damaged(str(error))
        if whole and not stream.eof and (stream.unconsumed_tail or len(out) >= most):
            raise DataError(f"a variable of {self.name} unpacks to over {most} bytes", f"at most {most}")
        if whole and not stream.eof:
            self._damaged("a variable was cut")
        return out

    def _damaged(self, why: str) -> NoReturn:
        _damaged(self.name, why)


def _damaged(name: str, why: str) -> NoReturn:
    raise DataError(f"{name} is damaged ({why})", "a sound .mat file", "fetch it again")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Records:
    fields: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class _Reader:
    """Elements of one variable, one after the other."""

    def __init__(self, data: bytes | memoryview, order: str, name: str) -> None:
        self._data, self._order, self._name, self._at = memoryview(data), order, name, 0

    def header(self) -> tuple[int, tuple[int, ...], str]:
        """Class, shape and name of the matrix that begins here; class 0 for one without any contents."""
        return self._header()[:3]

    def _header(self) -> tuple[int, tuple[int, ...], str, bool]:
        if self._at >= len(self._data):
            return 0, (0, 0), "", False
        flags = self._numbers("u4", 2)
        shape = tuple(int(n) for n in self._numbers("i4", None))
        kind, body = self._element()
        if kind not in (1, 2, 16):
            _damaged(self._name, "a variable has no name")
        if len(shape) < 2 or min(shape) < 0:
            _damaged(self._name, f"an array of the shape {list(shape)}")
        return int(flags[0]) & 0xFF, shape, bytes(body).decode("utf-8", "replace"), bool(int(flags[0]) & _COMPLEX)

    def matrix(self, depth: int) -> Any:
        """The value that begins here: an array, a text, a list (cells) or records."""
        number, shape, _, two = self._header()
        n = math.prod(shape)
        if number in _CLASSES and not two:
            kind, body = self._element()
            return self._array(kind, body, _CLASSES[number], shape)
        if number == _CHAR:
            return self._text(shape)
        if depth == 0 or number not in (0, _CELL, _STRUCT) or two:
            what = "containers in one another" if depth == 0 else f"an array of MATLAB's class {number}"
            raise DataError(f"{self._name} holds {what}", "numbers, texts, cells of texts or records")
        if number == 0:
            return np.zeros((0, 0))
        fields = self._fields() if number == _STRUCT else ("",)
        if n * len(fields) > len(self._data) // 8:
            _damaged(self._name, f"an array of the shape {list(shape)} without its contents")
        rows = [tuple(self._inner(depth) for _ in fields) for _ in range(n)]
        return _Records(fields=fields, rows=rows) if number == _STRUCT else [row[0] for row in rows]

    def _inner(self, depth: int) -> Any:
        kind, body = self._element()
        if kind != _MATRIX:
            _damaged(self._name, "no array where one should be")
        return _Reader(body, self._order, self._name).matrix(depth - 1)

    def _array(self, kind: int, body: memoryview, wanted: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        if kind not in _NUMBERS:
            _damaged(self._name, f"numbers of the type {kind}")
        stored = np.dtype(self._order + _NUMBERS[kind])
        if len(body) != math.prod(shape) * stored.itemsize:
            _damaged(self._name, f"an array of the shape {list(shape)} in {len(body)} bytes")
        # numbers may be stored in a smaller type than theirs
        array = np.frombuffer(body, dtype=stored).astype(wanted, copy=False).reshape(shape, order="F")
        array.flags.writeable = False
        return array

    def _text(self, shape: tuple[int, ...]) -> str:
        if math.prod(shape) == 0:
            return ""
        kind, body = self._element()
        if kind not in _TEXTS or math.prod(shape) != max(shape):
            raise DataError(f"{self._name} holds a table of characters", "texts of one line")
        codec = _TEXTS[kind] + ("" if kind in (1, 2, 16) else "-le" if self._order == "<" else "-be")
        try:
            return bytes(body).decode(codec)
        except UnicodeDecodeError:
            _damaged(self._name, "a text that is no Unicode")

    def _fields(self) -> tuple[str, ...]:
        width = int(self._numbers("i4", 1)[0])
        _, body = self._element()
        names = bytes(body)
        if not 0 < width <= 256 or len(names) % width:
            _damaged(self._name, "records without names of fields")
        cells = [names[at : at + width] for at in range(0, len(names), width)]
        return tuple(cell.partition(b"\0")[0].decode("ascii", "replace") for cell in cells)

    def _numbers(self, wanted: str, count: int | None) -> npt.NDArray[Any]:
        kind, body = self._element()
        size = np.dtype(wanted).itemsize
        if _NUMBERS.get(kind) != wanted or len(body) % size or (count is not None and len(body) != count * size):
            _damaged(self._name, "a variable without a proper header")
        return np.frombuffer(body, dtype=self._order + wanted)

    def _element(self) -> tuple[int, memoryview]:
        """Type and contents of the next element; each begins at a multiple of eight bytes."""
        tag = bytes(self._data[self._at : self._at + 8])
        if len(tag) < 8:
            _damaged(self._name, "it ends within a tag")
        kind, size = struct.unpack(self._order + "II", tag)
        start = self._at + 8
        if kind >> 16:  # four bytes or fewer are kept in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, self._at + 4
        limit = start + 4 if start == self._at + 4 else len(self._data)
        if start + size > limit:
            _damaged(self._name, "an element reaches beyond its end")
        self._at = start + 4 if start == self._at + 4 else min(limit, start + -(-size // 8) * 8)
        return kind, self._data[start : start + size]
