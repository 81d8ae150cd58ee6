"""Columns of texts in the files that Hugging Face keeps them in: Parquet shards, and what ``save_to_disk`` writes.

The files are read as ``hf:`` reads them, a column at a time. Shards are counted by their names
(``train-00000-of-00002.parquet``): a missing one is refused, not skipped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.data.hf.arrow import ArrowShard
from nmtool.data.hf.files import STATE, find
from nmtool.data.hf.parquet import ParquetShard
from nmtool.data.hf.store import Store
from nmtool.data.suites.facts import WrongLayout
from nmtool.errors import DataError, InputMissingError


def shards(folder: Path, split: str) -> list[Path]:
    """The Parquet files of a split, in order; none where there is none.

    Raises:
        InputMissingError: one of those that their names count is not there.
    """
    form = re.compile(rf"{re.escape(split)}-(\d{{5}})-of-(\d{{5}})\.parquet")
    named = [found for path in folder.glob(f"{split}-*.parquet") if (found := form.fullmatch(path.name))]
    if not named:
        return []
    of = max(found[2] for found in named)
    wanted = [folder / f"{split}-{k:05d}-of-{of}.parquet" for k in range(int(of))]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise InputMissingError(f"{folder.name}/{missing[0].name} is not there", f"all {int(of)} shards of {split}")
    return wanted


def parquet(paths: Sequence[Path], columns: Sequence[str]) -> list[list[Any]]:
    """Cells by column, of all files together.

    Raises:
        WrongLayout: a file has no such column.
        DataError: it is damaged.
    """
    out: list[list[Any]] = [[] for _ in columns]
    for path in paths:
        shard = ParquetShard(path, f"{path.parent.name}/{path.name}")
        _check(shard, columns)
        for cells, column in zip(out, columns, strict=True):
            cells += _texts(shard.column((column,)), shard.name)
    return out


def saved(folder: Path, columns: Sequence[str]) -> tuple[list[list[Any]], list[Path]]:
    """Cells by column of a dataset that ``save_to_disk`` wrote, and the files they were read from.

    Raises:
        InputMissingError: a file that its ``state.json`` names is not there.
        WrongLayout: it has no such column.
        DataError: it is damaged.
    """
    if not (folder / STATE).is_file():
        raise InputMissingError(f"{folder.name}/{STATE} is not there", "what save_to_disk writes")
    layout = find(folder, "")
    store = Store(layout)
    for shard in store.shards:
        _check(shard, columns)
    rows = np.concatenate(list(store.rows.values()))
    cells = [_texts(store.column((column,), rows), folder.name) for column in columns]
    read = [path for stored in layout.splits.values() for path in (*stored.paths, *stored.picked)]
    return cells, [*layout.about, *read]


def _texts(array: Any, name: str) -> list[Any]:
    """A column's cells; raises ``DataError`` where a text is no UTF-8."""
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        raise DataError(f"{name} holds text that is no UTF-8", "text in UTF-8", "fetch it again") from None


def _check(shard: ArrowShard | ParquetShard, columns: Sequence[str]) -> None:
    names = shard.schema.names
    missing = [column for column in columns if column not in names]
    if missing:
        raise WrongLayout(
            f"{shard.name} has no column {missing[0]!r} (it has {', '.join(names)})", "the official columns"
        )
