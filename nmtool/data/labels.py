"""From the label cells of a table or an array to class labels, or to real numbers. Reads nothing; refuses numbers that
name no class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.data.index import check_id
from nmtool.errors import DataError
from nmtool.records import UNLABELLED, Int

# A label of 10**9 would ask for as many class names.
MAX_CLASSES = 1_000_000
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedCells(Sequence[Cell]):
    """Cells of many rows that repeat: what is worked out for a cell is worked out once.

    Attributes:
        cells: the cells that there are, each some row's; one may stand there twice.
        codes: int [n], which of them each row has.
    """

    cells: Sequence[Cell]
    codes: npt.NDArray[np.integer]

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> CodedCells:
        """The cells of the rows, as they come."""
        if isinstance(cells, CodedCells):
            return cells
        place: dict[object, int] = {}
        found: list[Cell] = []
        codes = np.empty(len(cells), dtype=np.int64)
        for row, cell in enumerate(cells):
            # 1, 1.0 and True are equal, and so are 0.0 and -0.0: they are not the same cell
            name = cell if isinstance(cell, str) else (type(cell), repr(cell))
            code = codes[row] = place.setdefault(name, len(place))
            if code == len(found):
                found.append(cell)
        return cls(cells=found, codes=codes)

    @classmethod
    def same(cls, cell: Cell, n: int) -> CodedCells:
        """One cell, n times."""
        return cls(cells=[cell], codes=np.zeros(n, dtype=np.int8))

    @classmethod
    def joined(cls, parts: Sequence[CodedCells]) -> CodedCells:
        """The rows of all parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        cells: list[Cell] = []
        codes = []
        for part in parts:
            codes.append(part.codes.astype(np.int64) + len(cells))
            cells += part.cells
        return cls(cells=cells, codes=np.concatenate(codes))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: Any) -> Any:
        return self.cells[self.codes[row]]


def numbered(values: npt.NDArray[np.generic], where: str, classes: int | None = None) -> Int:
    """Whole-number labels, checked: -1 is unlabelled, else 0 <= label < C.

    Args:
        values: any array [n] of integers.
        where: what it is called in messages.
        classes: C where it is known.

    Raises:
        DataError: not one dimension, no integers, or out of range; with the first five rows.
    """
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(f"{where} is {values.dtype} {list(values.shape)}", "whole numbers, one a row")
    top = MAX_CLASSES if classes is None else classes
    # as Python numbers: an unsigned 2**64 - 1 must not wrap to -1
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if lowest < UNLABELLED or highest >= top:
        raise _out_of_range(where, values.tolist(), top)
    return values.astype(np.int64)


def names_of(numbers: Int) -> tuple[str, ...]:
    """Names of classes that have only numbers: "0", "1", …"""
    return tuple(str(k) for k in range(int(numbers.max(initial=-1)) + 1))


def real_numbers(cells: Sequence[Cell]) -> npt.NDArray[np.float64] | None:
    """float64 [n] where the cells are real numbers and not all whole ones; NaN where a cell is empty; else None."""
    coded = CodedCells.of(cells)
    if all(_whole(cell) is not None for cell in coded.cells if not _empty(cell)):
        return None
    try:
        values = [math.nan if _empty(cell) else float(cell) for cell in coded.cells]  # type: ignore[arg-type]
    except ValueError:
        return None
    return np.asarray(np.array(values, dtype=np.float64)[coded.codes])


def whole_remark(numbers: Iterable[npt.NDArray[np.float64]], where: str) -> list[str]:
    """A remark on real numbers that are all whole ones: classes that were saved as floating by mistake look like this.

    A column of classes with empty cells in it comes out of pandas so, for one.

    Args:
        numbers: float64 arrays of labels, those that are not finite being none.
        where: what holds them, for the message.
    """
    told = np.concatenate([np.zeros(0), *(values[np.isfinite(values)] for values in numbers)])
    if not told.size or np.any(told != np.floor(told)):
        return []
    return [
        f"the labels of {where} are floating and all whole numbers ({told[0]:g}, …): "
        "they are taken as real numbers; if they are classes, save them as integers"
    ]


def odd_remark(classes: Sequence[str], where: str) -> list[str]:
    """A remark on class names most of which are real numbers: one odd cell makes classes of a column of scores.

    Args:
        classes: the names.
        where: what holds them, for the message.
    """
    odd = [name for name in classes if not _is_number(name)]
    scores = sum(_whole(name) is None for name in classes) - len(odd)  # whole numbers are names often enough
    if not odd or 2 * scores <= len(classes):
        return []
    return [
        f"the labels of {where} are {len(classes) - len(odd)} different numbers and {odd[0]!r}, which is none: all are "
        "taken as names of classes; if the numbers are scores, leave such cells empty"
    ]


def classes_of(cells: Sequence[Cell], where: str) -> tuple[Int, tuple[str, ...]]:
    """Class labels int64 [n] and class names.

    Whole numbers are the labels themselves and name classes "0" to "max"; else every cell is a name, and names are
    numbered in NFC order. An empty cell is unlabelled (-1).

    Args:
        cells: of all splits together, so that a class has one number everywhere.
        where: what they are called in messages.
    """
    coded = CodedCells.of(cells)
    numbers = [UNLABELLED if _empty(cell) else _whole(cell) for cell in coded.cells]
    whole = [number for number in numbers if number is not None]
    if len(whole) == len(numbers):
        if any(not UNLABELLED <= number < MAX_CLASSES for number in whole):
            raise _out_of_range(where, [whole[code] for code in coded.codes.tolist()], MAX_CLASSES)
        values = np.array(whole, dtype=np.int64)[coded.codes]
        return values, names_of(values)
    names = [None if _empty(cell) else check_id(str(cell), "class name") for cell in coded.cells]
    classes = tuple(sorted({name for name in names if name is not None}))
    place: dict[str | None, int] = {name: k for k, name in enumerate(classes)}
    place[None] = UNLABELLED
    return np.array([place[name] for name in names], dtype=np.int64)[coded.codes], classes


def _out_of_range(where: str, labels: Sequence[int], top: int) -> DataError:
    bad = [row for row, label in enumerate(labels) if not UNLABELLED <= label < top]
    shown = ", ".join(f"row {row}: {labels[row]}" for row in bad[:5])
    return DataError(f"{where} has {len(bad)} labels out of range ({shown})", f"-1 (unlabelled) or 0 to {top - 1}")


def _empty(cell: Cell) -> bool:
    return cell is None or cell == ""


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _whole(cell: Cell) -> int | None:
    if isinstance(cell, int):
        return int(cell)
    return int(cell) if isinstance(cell, str) and _WHOLE.fullmatch(cell) else None
