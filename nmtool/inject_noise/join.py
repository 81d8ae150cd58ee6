"""From a file's rows to the data's, by sample id."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from nmtool.errors import DataError
from nmtool.records import Int, TextColumn

_NUMBERED = re.compile(r"(?:.*/)?([0-9]{1,18})")


def rows_by_id(ids: TextColumn, given: Sequence[str], where: str) -> Int:
    """Where each id stands among the given ones, int64 [n].

    Raises:
        DataError: an id that is not there, or stands there twice.
    """
    import pyarrow.compute as pc

    column = TextColumn.of(given)
    if ids == column:
        return np.arange(len(ids), dtype=np.int64)
    texts = column.to_arrow()
    if pc.count_distinct(texts).as_py() < len(column):
        twice = Counter(column).most_common(1)[0][0]
        raise DataError(f"{where} has sample {twice!r} twice", "each sample once")
    rows = np.asarray(pc.index_in(ids.to_arrow(), value_set=texts).fill_null(-1).to_numpy(), dtype=np.int64)
    _all_found(rows, ids, where)
    return rows


def rows_by_number(ids: TextColumn, count: int, where: str) -> Int:
    """The number at the end of each id, int64 [n]: ``train/000012`` is row 12 of the file's ``count`` rows.

    Raises:
        DataError: ids that are no such numbers, the same number twice, or a number beyond the file's rows.
    """
    hint = f"give {where} a column 'sample' with the ids of the data"
    rows = np.empty(len(ids), dtype=np.int64)
    for position, sample in enumerate(ids):
        found = _NUMBERED.fullmatch(sample)
        if found is None:
            raise DataError(f"{where} has no sample ids, and {sample!r} is no row number", "either", hint)
        rows[position] = int(found[1])
    if np.unique(rows).size < rows.size:
        raise DataError(f"{where} has no sample ids, and the data's row numbers repeat", "each number once", hint)
    rows[rows >= count] = -1
    _all_found(rows, ids, f"{where} ({count} rows)")
    return rows


def _all_found(rows: Int, ids: TextColumn, where: str) -> None:
    missing = np.flatnonzero(rows < 0)
    if missing.size:
        first = ids[int(missing[0])]
        raise DataError(
            f"{missing.size} of {len(ids)} samples of the data are not in {where} (first: {first!r})",
            "a row for each sample of the data",
        )
