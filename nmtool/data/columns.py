"""Columns of a CSV, TSV or Parquet file, by name. The files are untrusted; nothing in them is evaluated.

A column is read when it is asked for, and as a column: millions of texts are never millions of Python's. Image bytes in
a Parquet column are read by row groups (``ImageCells``).
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from nmtool.data import files
from nmtool.data.delimited import Delimited
from nmtool.data.images import BrokenSample
from nmtool.data.labels import CodedCells
from nmtool.errors import DataError, NmtoolError, UsageError
from nmtool.records import TextColumn

SUFFIXES = (".parquet", ".csv", ".tsv")


class TableFile:
    """One file: its column names at once, its number of rows and its columns when ``load`` or a column is called."""

    def __init__(self, path: Path, name: str) -> None:
        """Read the names.

        Args:
            path: the file, absolute.
            name: what messages call it.

        Raises:
            UsageError: neither .parquet, .csv nor .tsv.
            InputMissingError: no such file.
            DataError: no header, a column name twice, a damaged file.
        """
        self.path, self.name = path, name
        suffix = path.suffix.lower()
        self.is_parquet = suffix == ".parquet"
        self._text = Delimited(name=name, tsv=suffix == ".tsv")
        self._held: dict[str, TextColumn] = {}
        self.rows = 0
        if suffix not in SUFFIXES:
            raise UsageError(f"the table {name!r}", f"a file ending in {', '.join(SUFFIXES)}", "rename or convert it")
        self.identity = files.identity(files.regular(path, name))
        self.settled = files.settled(files.stacked([self.identity]))
        if self.is_parquet:
            with self.parquet() as file:
                self.names: list[str] = list(file.schema_arrow.names)
                self.rows = file.metadata.num_rows
        else:
            with self._stream() as stream:
                self.names = self._text.header(stream)
        if len(set(self.names)) != len(self.names):
            twice = next(each for each in self.names if self.names.count(each) > 1)
            raise DataError(f"column {twice!r} stands twice in {name}", "each column once", "rename one")

    def load(self, columns: Sequence[str]) -> None:
        """Count the rows, and of a text file read these columns in the one pass that takes.

        Raises:
            DataError: rows of different lengths, text that is no UTF-8, quotes that are not balanced.
        """
        if not self.is_parquet:
            with self._stream() as stream:
                self.rows, found = self._text.columns(stream, self.names, columns)
            self._held = dict(zip(columns, found, strict=True))

    def texts(self, column: str) -> TextColumn:
        """All cells of a column that has to hold text everywhere; the file is read again where they were not loaded."""
        if not self.is_parquet:
            return self._from_text(column)
        import pyarrow as pa

        array = self._from_parquet(column)
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        is_text = any(test(array.type) for test in _texts())
        if array.null_count or (len(array) and not is_text):
            row = array.is_null().index(True).as_py() if is_text else 0
            raise DataError(f"row {row} of column {column!r} of {self.name} is {array[row].as_py()!r}", "text")
        try:
            return TextColumn.from_arrow(array) if is_text else TextColumn.of(())
        except ValueError as error:
            raise self.damaged(error) from None

    def cells(self, column: str) -> CodedCells:
        """All cells of a column: texts, or, from Parquet, numbers too; None where one is empty."""
        import pyarrow as pa
        import pyarrow.compute as pc

        array = self._from_parquet(column) if self.is_parquet else self._from_text(column).to_arrow()
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        tests = (*_texts(), pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
        if array.null_count < len(array) and not any(test(array.type) for test in tests):
            odd = array.drop_null()[0].as_py()
            raise DataError(f"column {column!r} of {self.name} holds {type(odd).__name__}", "texts or numbers")
        if array.null_count == len(array) or pa.types.is_floating(array.type):  # few floats are alike
            return CodedCells(cells=array.to_pylist(), codes=np.arange(len(array)))
        encoded = pc.dictionary_encode(array, null_encoding="encode")
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.unify_dictionaries().combine_chunks()
        try:
            return CodedCells(cells=encoded.dictionary.to_pylist(), codes=encoded.indices.to_numpy())
        except UnicodeDecodeError as error:
            raise self.damaged(error) from None

    def _from_text(self, column: str) -> TextColumn:
        if column not in self._held:
            with self._stream() as stream:
                _, (found,) = self._text.columns(stream, self.names, [column])
            return found
        return self._held[column]

    def forget(self) -> None:
        """Give back the memory of the columns that were loaded."""
        self._held.clear()

    def _from_parquet(self, column: str) -> Any:
        """A column as a pyarrow ``ChunkedArray``."""
        with self.parquet() as file:
            # Without threads: a process that ends while Arrow's pool is still starting is aborted.
            return file.read(columns=[column], use_threads=False).column(0)

    @contextlib.contextmanager
    def parquet(self) -> Iterator[Any]:
        """The open ``ParquetFile``, which has to be the one that was indexed."""
        import pyarrow
        import pyarrow.parquet

        self._check_unchanged()
        try:
            with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False) as file:
                yield file
        except NmtoolError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            with files.told(self.name):
                if isinstance(error, OSError) and error.errno is not None:
                    raise
            raise self.damaged(error) from None

    @contextlib.contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        """The open text file, which has to be, before and after, the one that was indexed."""
        self._check_unchanged()
        with files.told(self.name), self.path.open("rb") as stream:
            yield stream
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        with files.told(self.name):
            if files.identity(self.path.stat()) != self.identity:
                raise DataError(f"{self.name} changed after it was indexed", "data at rest", "run again")

    def damaged(self, error: Exception) -> DataError:
        """What to raise where the Parquet reader gives up."""
        return DataError(f"{self.name} is no sound Parquet file ({str(error)[:200]})", "a Parquet file")


def _texts() -> tuple[Any, ...]:
    """pyarrow's tests for the types of texts."""
    import pyarrow as pa

    return pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view


class ImageCells:
    """The image bytes in a Parquet column, by row; the two row groups last used stay in memory. Safe among threads."""

    def __init__(self, file: TableFile, column: str) -> None:
        self._file, self._column = file, column
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._starts: list[int] | None = None

    def all(self) -> Iterator[bytes]:
        """The bytes of every row, in order; empty where a cell is."""
        with self._file.parquet() as file:
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
        with self._file.parquet() as file:
            starts = [0]
            for group in range(file.metadata.num_row_groups):
                starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
        return starts

    def _load(self, group: int) -> Any:
        with self._file.parquet() as file:
            return file.read_row_group(group, columns=[self._column]).column(0)

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
