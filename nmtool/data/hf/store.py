"""The shards of a Hugging Face dataset as one long table, its columns read when they are asked for.

Rows are counted through all shards of all splits, in the order in which they are stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.data import files
from nmtool.data.hf.arrow import ArrowShard, Leaf
from nmtool.data.hf.files import Layout, Stored
from nmtool.data.hf.parquet import HELD, ParquetShard
from nmtool.errors import DataError
from nmtool.records import Int, offsets_of

Shard = ArrowShard | ParquetShard
_ROWS = 1_000_000_000
_OFTEN = 5


class Store:
    """All shards, opened.

    Attributes:
        shards: in order.
        rows: of each split, int64 [n]: the stored rows that it has, in its order.
        remarks: what is odd about them.
    """

    def __init__(self, layout: Layout) -> None:
        """Index the files.

        Raises:
            InputMissingError: a file is not there.
            DataError: a damaged file, or another number of rows than the dataset says it has.
        """
        self.layout = layout
        self.shards: list[Shard] = []
        self.first: dict[str, int] = {}
        self.rows: dict[str, Int] = {}
        self.remarks: list[str] = []
        self._picked: list[Shard] = []
        start = 0
        for split, stored in sorted(layout.splits.items()):
            self.first[split] = len(self.shards)
            opened = [self._open(path) for path in stored.paths]
            self.shards += opened
            n = sum(shard.rows for shard in opened)
            if n > _ROWS:
                raise DataError(f"split {split} of {layout.root.name} has {n:,} rows", f"at most {_ROWS:,}")
            self.rows[split] = start + self._choice(stored, n, split)
            self._check(stored, len(self.rows[split]), split)
            start += n
        self.starts = offsets_of(np.array([shard.rows for shard in self.shards], dtype=np.int64))
        about = [[os.fsencode(path).hex(), list(files.identity(path.stat()))] for path in layout.about]
        self._about: list[object] = [*about]
        self._settled = files.settled(files.stacked([files.identity(path.stat()) for path in layout.about]))

    def _open(self, path: Path) -> Shard:
        kind: Callable[[Path, str], Shard] = ParquetShard if path.suffix == ".parquet" else ArrowShard
        return kind(path, self.layout.name(path))

    def _choice(self, stored: Stored, n: int, split: str) -> Int:
        """The rows that were picked of n; all where none were."""
        if not stored.picked:
            return np.arange(n, dtype=np.int64)
        import pyarrow as pa

        parts = []
        for path in stored.picked:
            shard = self._open(path)
            self._picked.append(shard)
            if len(shard.schema) != 1 or not pa.types.is_integer(shard.schema.field(0).type):
                raise DataError(f"{shard.name} is no list of rows", "one column of whole numbers", "save it flattened")
            parts.append(shard.column((shard.schema.names[0],)).to_numpy())
        picked = np.concatenate(parts)
        if picked.dtype.kind not in "iu" or (len(picked) and not 0 <= int(picked.min()) <= int(picked.max()) < n):
            raise DataError(
                f"the rows picked for split {split} are not all there", f"0 to {n - 1}", "save it flattened"
            )
        return picked.astype(np.int64)

    def _check(self, stored: Stored, n: int, split: str) -> None:
        if stored.rows < 0 or stored.rows == n:
            return
        found = f"split {split} of {self.layout.root.name} has {n:,} rows, and its info counts {stored.rows:,}"
        if stored.surely:
            raise DataError(found, "all rows", "fetch it again: files are missing or mixed up")
        # select() and filter() leave the old count behind
        self.remarks.append(f"{found}: rows were picked before it was saved, or are missing")

    def column(self, leaf: Leaf, rows: Int) -> Any:
        """Cells of a leaf, for these rows, as one pyarrow array; texts as ``large_string``."""
        import pyarrow as pa

        from nmtool.data.hf.columns import is_text

        parts = []
        for number in np.unique(self.place(rows)[0]).tolist():
            chunks = self.shards[number].column(leaf)
            chunks = chunks.cast(pa.large_string()) if is_text(chunks.type) else chunks
            mine = (rows >= self.starts[number]) & (rows < self.starts[number + 1])
            parts.append((np.flatnonzero(mine), chunks.take(pa.array(rows[mine] - self.starts[number]))))
        if not parts:
            return pa.array([], pa.null())
        whole = pa.chunked_array([chunk for _, part in parts for chunk in part.chunks], parts[0][1].type)
        array = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], whole.type)
        order = np.concatenate([places for places, _ in parts])
        if (np.diff(order) > 0).all():
            return array
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return array.take(pa.array(back))

    def place(self, rows: Any) -> tuple[Any, Any]:
        """Shard of each row, and its row there."""
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        return shard, rows - self.starts[shard]

    def scattered(self, rows: Int) -> bool:
        """Whether reading these rows in their order would read Parquet files many times over."""
        shards, places = self.place(rows)
        held, wanted = 0, 0
        for number in np.unique(shards).tolist():
            shard = self.shards[number]
            if isinstance(shard, ParquetShard):
                held += shard.identity[0]
                wanted += shard.bytes_to_read(places[shards == number])
        return held > HELD and wanted > _OFTEN * held

    def question(self) -> object:
        """What changes whenever a file of the dataset does."""
        read = [*self.shards, *self._picked]
        return [
            self.first,
            [[os.fsencode(shard.path).hex(), list(shard.identity)] for shard in read],
            self._about,
        ]

    def settled(self) -> bool:
        """Whether all files were old enough, when they were indexed, for their time stamps to be trusted."""
        return self._settled and all(shard.settled for shard in (*self.shards, *self._picked))
