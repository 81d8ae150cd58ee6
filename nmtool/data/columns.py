"""Columns of a CSV, TSV or Parquet file, by name. The files are untrusted; nothing in them is evaluated.

CSV is read as RFC 4180 writes it: quotes may hold commas and line breaks, and have to be balanced. In a TSV file
quotes are characters like any other (GLUE's files have unbalanced ones), and a field can't hold a tab or a line break.
Both are UTF-8 with a header. Image bytes in a Parquet column are read by row groups (``ImageCells``).
"""

from __future__ import annotations

import contextlib
import csv
import io
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nmtool.data import files
from nmtool.data.images import BrokenSample
from nmtool.data.labels import Cell
from nmtool.errors import DataError, UsageError

SUFFIXES = (".parquet", ".csv", ".tsv")


class TableFile:
    """One file: its column names, its number of rows, and the cells of a column on demand."""

    def __init__(self, path: Path, name: str) -> None:
        """Read the names and, of a text file, the cells.

        Args:
            path: the file, absolute.
            name: what messages call it.

        Raises:
            UsageError: neither .parquet, .csv nor .tsv.
            InputMissingError: no such file.
            DataError: rows of different lengths, a column name twice, text that is no UTF-8, a damaged file.
        """
        self.path, self.name = path, name
        self.is_parquet = path.suffix.lower() == ".parquet"
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"the table {name!r}", f"a file ending in {', '.join(SUFFIXES)}", "rename or convert it")
        with files.told(name):
            self.identity = files.identity(path.stat())
            self.settled = files.settled(files.stacked([self.identity]))
            if self.is_parquet:
                self._open_parquet()
            else:
                self._read_text(path.read_bytes())
        if len(set(self.names)) != len(self.names):
            twice = next(each for each in self.names if self.names.count(each) > 1)
            raise DataError(f"column {twice!r} stands twice in {name}", "each column once", "rename one")

    def _open_parquet(self) -> None:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                self.names: list[str] = list(file.schema_arrow.names)
                self.rows: int = file.metadata.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            raise self.damaged(error) from None

    def _read_text(self, data: bytes) -> None:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise DataError(f"{self.name}, line {line}, is no UTF-8", "a table in UTF-8", "convert it") from None
        split = _tsv_rows(text) if self.path.suffix.lower() == ".tsv" else _csv_rows(text, self.name)
        lines = list(split)
        if not lines:
            raise DataError(f"{self.name} is empty", "a header and at least one row")
        (_, self.names), *rows = lines
        for number, row in rows:
            if len(row) != len(self.names):
                raise DataError(
                    f"{self.name}, line {number}, has {len(row)} fields", f"{len(self.names)}, as in the header"
                )
        self.rows = len(rows)
        self._cells = {name: [row[k] for _, row in rows] for k, name in enumerate(self.names)}

    def cells(self, column: str) -> Sequence[Cell]:
        """All cells of a column: texts, or, from Parquet, numbers too; None where one is empty."""
        if not self.is_parquet:
            return self._cells[column]
        import pyarrow
        import pyarrow.parquet

        try:
            # Without threads: a process that ends while Arrow's pool is still starting is aborted.
            with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False) as file:
                table = file.read(columns=[column], use_threads=False)
            cells: list[Any] = table.column(0).to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise self.damaged(error) from None
        odd = next((cell for cell in cells if not (cell is None or isinstance(cell, (str, int, float)))), None)
        if odd is not None:
            raise DataError(f"column {column!r} of {self.name} holds {type(odd).__name__}", "texts or numbers")
        return cells

    def texts(self, column: str) -> list[str]:
        """All cells of a column that has to hold text everywhere."""
        cells = self.cells(column)
        for row, cell in enumerate(cells):
            if not isinstance(cell, str):
                raise DataError(f"row {row} of column {column!r} of {self.name} is {cell!r}", "text")
        return [str(cell) for cell in cells]

    def damaged(self, error: Exception) -> DataError:
        """What to raise where the Parquet reader gives up."""
        return DataError(f"{self.name} is no sound Parquet file ({str(error)[:200]})", "a Parquet file")


class ImageCells:
    """The image bytes in a Parquet column, by row; the two row groups last used stay in memory. Safe among threads."""

    def __init__(self, file: TableFile, column: str) -> None:
        self._file, self._column = file, column
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._starts: list[int] | None = None

    def all(self) -> Iterator[bytes]:
        """The bytes of every row, in order; empty where a cell is."""
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=256, columns=[self._column]):
                for cell in batch.column(0):
                    yield self._bytes(cell.as_py())

    def one(self, row: int, name: str) -> bytes:
        """The bytes of one row; ``name`` is the sample's id."""
        with self._lock:
            if self._starts is None:
                self._starts = self._find_starts()
            group = next(g for g in range(len(self._starts) - 1) if row < self._starts[g + 1])
            if group not in self._groups:
                self._groups[group] = self._load(group)
                while len(self._groups) > 2:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            cell = self._groups[group][row - self._starts[group]].as_py()
        data = self._bytes(cell)
        if not data:
            raise BrokenSample(f"{name} has no image in its row", "the bytes of an image file")
        return data

    def _find_starts(self) -> list[int]:
        with self._opened() as file:
            starts = [0]
            for group in range(file.metadata.num_row_groups):
                starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
        return starts

    def _load(self, group: int) -> Any:
        with self._opened() as file:
            return file.read_row_group(group, columns=[self._column]).column(0)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        """The file, which has to be the one that was indexed."""
        import pyarrow
        import pyarrow.parquet

        with files.told(self._file.name):
            if files.identity(self._file.path.stat()) != self._file.identity:
                raise DataError(f"{self._file.name} changed after it was indexed", "data at rest", "run again")
        try:
            with pyarrow.parquet.ParquetFile(self._file.path) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            raise self._file.damaged(error) from None

    def _bytes(self, cell: object) -> bytes:
        if isinstance(cell, dict):  # as Hugging Face writes an image: {bytes, path}
            cell = cell.get("bytes")
        if cell is not None and not isinstance(cell, bytes):
            raise DataError(
                f"column {self._column!r} of {self._file.name} holds {type(cell).__name__}",
                "the bytes of image files",
                "if it names files, map it: ?path=" + self._column,
            )
        return cell or b""


def _tsv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every line; the last line break ends no further row."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield number, line.removesuffix("\r").split("\t")


def _csv_rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num}: {error}", "CSV as RFC 4180 has it", "mend the line") from None
