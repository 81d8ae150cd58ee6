"""Columns of a CSV or TSV file as compact columns of texts, the file read some megabytes at a time.

CSV is read as RFC 4180 writes it: quotes may hold commas and line breaks, and have to be balanced; blank lines are
skipped. In a TSV file quotes are characters like any other (GLUE's files have unbalanced ones), and a field can't hold
a tab or a line break. Both are UTF-8 with a header; a line ends with LF or CR LF.

TSV, and CSV up to the first block with a quote (or with a CR that ends no line, or a field over the csv module's
limit), is cut up by numpy: there, both are lines cut at the separator and nothing else. From that block on the csv
module reads.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

from nmtool.errors import DataError
from nmtool.records import Int, TextColumn, offsets_of

_BLOCK = 4 << 20
_ROWS = 1 << 15
_BOM = b"\xef\xbb\xbf"
_LF, _CR = ord("\n"), ord("\r")

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delimited:
    """How a file is written.

    Attributes:
        name: what messages call the file.
        tsv: tabs and no quotes, else commas and quotes.
    """

    name: str
    tsv: bool

    def header(self, stream: IO[bytes]) -> list[str]:
        """The column names; raises ``DataError`` where there is no line."""
        if self.tsv:
            for _, number, block in _blocks(stream):
                line = block[: block.index(b"\n")]
                self._check_text(number, line)
                return line.decode().removesuffix("\r").split("\t")
        for _, row in self._read_rows(stream, _begin(stream), 0):
            return row
        raise DataError(f"{self.name} is empty", "a header and at least one row")

    def columns(self, stream: IO[bytes], names: Sequence[str], wanted: Sequence[str]) -> tuple[int, list[TextColumn]]:
        """The number of rows, and the columns wanted.

        Args:
            stream: the file.
            names: as ``header`` gave them.
            wanted: some of them.

        Raises:
            DataError: rows of different lengths, text that is no UTF-8, quotes that are not balanced.
        """
        places = [names.index(name) for name in wanted]
        rows, parts = -1, []  # the header is one
        for found, part in self._parts(stream, len(names), places):
            parts.append([column[1:] for column in part] if rows < 0 and found else part)
            rows += found
        return rows, [TextColumn.joined([part[k] for part in parts]) for k in range(len(wanted))]

    def _parts(self, stream: IO[bytes], width: int, places: list[int]) -> Iterator[tuple[int, list[TextColumn]]]:
        """Number of rows, and the columns, of each block; the header's row among them."""
        for place, number, block in _blocks(stream):
            self._check_text(number, block)
            if self.tsv or not _needs_reader(block):
                data = np.frombuffer(block, dtype=np.uint8)
                starts, stops = self._fields(number, data, width)
                if self.tsv or int((stops - starts).max(initial=0)) <= csv.field_size_limit():
                    yield len(starts), [_taken(data, starts[:, k], stops[:, k]) for k in places]
                    continue
            rows: list[list[str]] = []
            for line, row in self._read_rows(stream, place, number - 1):
                if len(row) != width:
                    raise self._uneven(line, len(row), width)
                rows.append(row)
                if len(rows) == _ROWS:
                    yield len(rows), [TextColumn.of([row[k] for row in rows]) for k in places]
                    rows = []
            yield len(rows), [TextColumn.of([row[k] for row in rows]) for k in places]
            return

    def _read_rows(self, stream: IO[bytes], place: int, before: int) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of every row from byte ``place`` on, as the csv module reads them; blank ones skipped.

        ``before`` lines stand before that place.
        """
        stream.seek(place)
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        reader = csv.reader(text, strict=True)
        try:
            for row in reader:
                if row:
                    yield before + reader.line_num, row
        except csv.Error as error:
            found = f"{self.name}, line {before + reader.line_num}: {error}"
            raise DataError(found, "CSV as RFC 4180 has it", "mend the line") from None
        except UnicodeDecodeError:
            for _, number, block in _blocks(stream):
                self._check_text(number, block)
            raise
        finally:
            text.detach()

    def _fields(self, number: int, data: Bytes, width: int) -> tuple[Int, Int]:
        """Where each field of each line begins and stops, int64 [n, width] twice."""
        breaks = np.flatnonzero(data == _LF)
        begins = np.append(0, breaks[:-1] + 1)
        ends = breaks - ((breaks > begins) & (data[breaks - 1] == _CR))
        lines = np.arange(len(breaks))
        if not self.tsv:
            lines = np.flatnonzero(ends > begins)
        cuts = np.flatnonzero(data == ord("\t" if self.tsv else ","))
        found = np.bincount(np.searchsorted(breaks, cuts), minlength=len(breaks))[lines] + 1
        if np.any(found != width):
            first = int(np.flatnonzero(found != width)[0])
            raise self._uneven(number + int(lines[first]), int(found[first]), width)
        inner = cuts.reshape(len(lines), width - 1)
        return np.column_stack((begins[lines], inner + 1)), np.column_stack((inner, ends[lines]))

    def _uneven(self, line: int, found: int, width: int) -> DataError:
        return DataError(f"{self.name}, line {line}, has {found} fields", f"{width}, as in the header")

    def _check_text(self, number: int, block: bytes) -> None:
        try:
            block.decode()
        except UnicodeDecodeError as error:
            line = number + block.count(b"\n", 0, error.start)
            raise DataError(f"{self.name}, line {line}, is no UTF-8", "a table in UTF-8", "convert it") from None


def _begin(stream: IO[bytes]) -> int:
    """Where the text begins: after a byte order mark."""
    stream.seek(0)
    return len(_BOM) if stream.read(len(_BOM)) == _BOM else 0


def _blocks(stream: IO[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Place in the file, number of the first line, and bytes of whole lines; the last one is given a line break."""
    place, number = _begin(stream), 1
    stream.seek(place)
    waiting: list[bytes] = []
    while read := stream.read(_BLOCK):
        cut = read.rfind(b"\n") + 1
        waiting.append(read[:cut] if cut else read)
        if cut:
            block = b"".join(waiting)
            yield place, number, block
            place, number, waiting = place + len(block), number + block.count(b"\n"), [read[cut:]]
            stream.seek(place + len(read) - cut)  # whoever took the block may have read elsewhere
    if last := b"".join(waiting):
        yield place, number, last + b"\n"


def _needs_reader(block: bytes) -> bool:
    """Whether a block of CSV is more than lines cut at commas."""
    return b'"' in block or block.count(b"\r") != block.count(b"\r\n")


def _taken(data: Bytes, starts: Int, stops: Int) -> TextColumn:
    """The texts from each start to its stop."""
    offsets = offsets_of(stops - starts)
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], stops - starts)
    return TextColumn(data=data[places], offsets=offsets)
