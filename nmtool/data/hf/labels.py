"""The labels of a Hugging Face dataset's splits: classes, or real numbers. Reads label columns, no samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nmtool.data.hf.columns import Column, Roles
from nmtool.data.hf.store import Store
from nmtool.data.labels import CodedCells, classes_of, numbered, odd_remark, real_numbers, whole_remark
from nmtool.errors import DataError
from nmtool.records import UNLABELLED, Float, Int

_HIDDEN = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Labels by split, in stored order.

    Attributes:
        values: int64 [n] by split, -1 unlabelled.
        classes: class names in label order; empty where there are none.
        targets: float64 [n] by split, where the labels are real numbers; else None.
        remarks: what is odd about them.
    """

    values: Mapping[str, Int]
    classes: tuple[str, ...] = ()
    targets: Mapping[str, Float] | None = None
    remarks: Sequence[str] = field(default_factory=tuple)

    def names(self, split: str) -> Any:
        """The class name of each row of a split, as a pyarrow array; null where unlabelled."""
        import pyarrow as pa

        values = self.values[split]
        return pa.array(self.classes, pa.large_string()).take(pa.array(values, mask=values < 0))

    def stored_targets(self, store: Store, rows: Mapping[str, Int]) -> Float | None:
        """The real numbers by stored row, float64 [stored rows], NaN where there is none."""
        if self.targets is None:
            return None
        out = np.full(int(store.starts[-1]), np.nan)
        for split, mine in rows.items():
            out[mine] = self.targets[split]
        return out


def labels_of(store: Store, columns: Mapping[str, Column], roles: Roles, rows: Mapping[str, Int]) -> Labelled:
    """The labels of all splits.

    Args:
        rows: stored rows by split, in stored order.

    Raises:
        DataError: a number that is no class.
    """
    if "label" not in roles.columns:
        return Labelled(values=_none(rows))
    column = roles.columns["label"]
    if roles.names is not None:
        return Labelled(
            values={split: _numbers(store, column, mine, split, len(roles.names)) for split, mine in rows.items()},
            classes=roles.names,
        )
    cells = {split: _cells(store, column, mine) for split, mine in rows.items()}
    joined = CodedCells.joined(list(cells.values()))
    if all(cell is None for cell in joined.cells):
        return Labelled(values=_none(rows))
    reals = real_numbers(joined)
    cuts = np.cumsum([len(each) for each in cells.values()])[:-1]
    if reals is not None:
        targets = dict(zip(cells, np.split(reals, cuts), strict=True))
        remarks = [*_hidden(targets), *whole_remark(targets.values(), f"column {column!r}")]
        return Labelled(values=_none(rows), targets=targets, remarks=remarks)
    values, classes = classes_of(joined, f"column {column!r}")
    parts = dict(zip(cells, np.split(values, cuts), strict=True))
    return Labelled(values=parts, classes=classes, remarks=odd_remark(classes, f"column {column!r}"))


def _none(rows: Mapping[str, Int]) -> dict[str, Int]:
    return {split: np.full(len(mine), UNLABELLED, dtype=np.int64) for split, mine in rows.items()}


def _numbers(store: Store, column: str, rows: Int, split: str, classes: int) -> Int:
    """The labels of a ``ClassLabel``; an empty one is unlabelled."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    array = store.column((column,), rows)
    values = array.fill_null(UNLABELLED) if array.null_count else array
    return numbered(values.to_numpy(zero_copy_only=False), f"column {column!r} of split {split}", classes)


def _cells(store: Store, column: str, rows: Int) -> CodedCells:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(rows):
        return CodedCells(cells=[], codes=np.zeros(0, dtype=np.int64))
    array = store.column((column,), rows)
    if array.null_count == len(array) or pa.types.is_floating(array.type):  # few floats are alike
        return CodedCells(cells=array.to_pylist(), codes=np.arange(len(array)))
    encoded = pc.dictionary_encode(array, null_encoding="encode")
    try:
        return CodedCells(cells=encoded.dictionary.to_pylist(), codes=encoded.indices.to_numpy())
    except UnicodeDecodeError:
        raise DataError(f"column {column!r} holds text that is no UTF-8", "names in UTF-8") from None


def _hidden(targets: Mapping[str, Float]) -> list[str]:
    """A remark on splits whose numbers were withheld: GLUE's test sets say -1 throughout."""
    return [
        f"all {len(each):,} labels of split {split} are {_HIDDEN:g}, as where they are withheld"
        for split, each in targets.items()
        if len(each) and (each == _HIDDEN).all() and len(targets) > 1
    ]


def names_in(
    store: Store, column: str, columns: Mapping[str, Column], rows: Int, split: str
) -> tuple[Sequence[str], Int]:
    """The names in a column of splits or domains, and int64 [n] which of them each row has.

    Raises:
        DataError: a row without one.
    """
    if columns[column].kind == "class":
        names: Sequence[str] = columns[column].names
        codes = _numbers(store, column, rows, split, len(names))
        empty = np.flatnonzero(codes < 0)
    else:
        coded = _cells(store, column, rows)
        codes = coded.codes.astype(np.int64)
        blank = [k for k, cell in enumerate(coded.cells) if not isinstance(cell, str) or not cell]
        empty = np.flatnonzero(np.isin(codes, blank))
        names = [str(cell) for cell in coded.cells]
    if len(empty):
        raise DataError(f"row {int(empty[0])} of column {column!r} of split {split} is empty", "a name in every row")
    used = np.unique(codes)
    return [names[code] for code in used.tolist()], np.searchsorted(used, codes).astype(np.int64)
