"""Parquet shards of a Hugging Face dataset, with the same doors as ``ArrowShard``: columns, and cells by row group."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.data import files
from nmtool.data.hf.arrow import Leaf
from nmtool.errors import DataError, NmtoolError
from nmtool.records import Int, offsets_of

HELD = 256 << 20
"""Bytes of row groups that stay in memory."""

_ROWS = 64


class ParquetShard:
    """One Parquet file. Safe among threads.

    Row groups are read whole; those last used stay in memory, 256 MiB of them or one. The footer's statistics are left
    alone: pyarrow ends the process where a damaged file's are inconsistent (measured with 26.0.1).

    Attributes:
        path, name: where it is, and what messages call it.
        rows: number of rows.
        schema: the ``pyarrow.Schema``.
        identity, settled: of the file, when it was indexed.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Read the footer.

        Raises:
            InputMissingError: no such file.
            DataError: no sound Parquet file.
        """
        self.path, self.name = path, name
        self.identity = files.identity(files.regular(path, name))
        self.settled = files.settled(files.stacked([self.identity]))
        self._held: OrderedDict[tuple[Leaf, int], Any] = OrderedDict()
        self._lock = threading.Lock()
        with self._open() as file:
            self.schema = file.schema_arrow
            self.rows = int(file.metadata.num_rows)
            groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
            self._sizes = np.array([group.total_byte_size for group in groups], dtype=np.int64)
            self._starts = offsets_of(np.array([group.num_rows for group in groups], dtype=np.int64))
        if self._starts[-1] != self.rows:
            raise self._damaged(f"{self.rows} rows in {int(self._starts[-1])} of its row groups")

    def column(self, leaf: Leaf) -> Any:
        """All cells of a leaf as a ``pyarrow.ChunkedArray``; null where a struct around it is."""
        with self._open() as file:
            # Without threads: a process that ends while Arrow's pool is still starting is aborted.
            return self._whole(_plain(file.read(columns=[".".join(leaf)], use_threads=False), leaf), self.rows)

    def cell(self, leaf: Leaf, row: int, limit: int) -> bytes | None:
        """The bytes of one cell, of text or binary; None where it is null.

        Raises:
            OverflowError: it has over ``limit`` bytes.
        """
        row = range(self.rows)[row]
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            array = self._group(leaf, group)
        data = _bytes(array[row - int(self._starts[group])])
        if data is not None and len(data) > limit:
            raise OverflowError(len(data))
        return data

    def cells(self, leaf: Leaf) -> Iterator[bytes | None]:
        """The bytes of every cell, in order, a few rows at a time."""
        import pyarrow as pa

        left = self.rows
        with self._open() as file:
            for batch in file.iter_batches(batch_size=_ROWS, columns=[".".join(leaf)], use_threads=False):
                left -= batch.num_rows
                for cell in _plain(pa.Table.from_batches([batch]), leaf):
                    yield _bytes(cell)
        if left:
            raise self._damaged("other rows than its footer counts")

    def bytes_to_read(self, rows: Int) -> int:
        """Bytes that reading these rows one by one takes, in this order, where nothing stays in memory."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        return int(self._sizes[groups[np.flatnonzero(np.diff(groups, prepend=-1))]].sum())

    def _group(self, leaf: Leaf, group: int) -> Any:
        key = leaf, group
        if key not in self._held:
            with self._open() as file:
                table = file.read_row_group(group, columns=[".".join(leaf)], use_threads=False)
            rows = int(self._starts[group + 1] - self._starts[group])
            self._held[key] = self._whole(_plain(table, leaf), rows)
            while len(self._held) > 1 and sum(each.nbytes for each in self._held.values()) > HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        """The open ``ParquetFile``, which has to be the one that was indexed."""
        import pyarrow
        import pyarrow.parquet

        with files.told(self.name):
            if files.identity(self.path.stat()) != self.identity:
                raise DataError(f"{self.name} changed after it was indexed", "data at rest", "run again")
        try:
            with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False) as file:
                yield file
        except NmtoolError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            with files.told(self.name):
                if isinstance(error, OSError) and error.errno is not None:
                    raise
            raise self._damaged(str(error)) from None

    def _whole(self, array: Any, rows: int) -> Any:
        if len(array) != rows:
            raise self._damaged("other rows than its footer counts")
        return array

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self.name} is no sound Parquet file ({why[:200]})", "a whole file", "fetch it again")


def _plain(table: Any, leaf: Leaf) -> Any:
    """The leaf of a table that holds nothing else, its dictionary undone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = table.column(0)
    for field in leaf[1:]:
        array = pc.struct_field(array, [field])
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


def _bytes(cell: Any) -> bytes | None:
    return bytes(cell.as_buffer()) if cell.is_valid else None
