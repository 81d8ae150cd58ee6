"""From the label cells of a table or an array to class labels. Reads nothing; refuses numbers that name no class."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nmtool.data.index import check_id
from nmtool.errors import DataError
from nmtool.records import UNLABELLED, Int

# A label of 10**9 would ask for as many class names.
MAX_CLASSES = 1_000_000
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")

Cell = str | int | float | bool | None


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
        bad = [row for row, value in enumerate(values.tolist()) if not UNLABELLED <= value < top]
        shown = ", ".join(f"row {row}: {values[row]}" for row in bad[:5])
        raise DataError(f"{where} has {len(bad)} labels out of range ({shown})", f"-1 (unlabelled) or 0 to {top - 1}")
    return values.astype(np.int64)


def names_of(numbers: Int) -> tuple[str, ...]:
    """Names of classes that have only numbers: "0", "1", …"""
    return tuple(str(k) for k in range(int(numbers.max(initial=-1)) + 1))


def real_numbers(cells: Sequence[Cell]) -> npt.NDArray[np.float64] | None:
    """float64 [n] where the cells are real numbers and not all whole ones; NaN where a cell is empty; else None."""
    if all(_whole(cell) is not None for cell in cells if not _empty(cell)):
        return None
    try:
        return np.array([math.nan if _empty(cell) else float(cell) for cell in cells])  # type: ignore[arg-type]
    except ValueError:
        return None


def classes_of(cells: Sequence[Cell], where: str) -> tuple[Int, tuple[str, ...]]:
    """Class labels int64 [n] and class names.

    Whole numbers are the labels themselves and name classes "0" to "max"; else every cell is a name, and names are
    numbered in NFC order. An empty cell is unlabelled (-1).

    Args:
        cells: of all splits together, so that a class has one number everywhere.
        where: what they are called in messages.
    """
    numbers = [UNLABELLED if _empty(cell) else _whole(cell) for cell in cells]
    if all(number is not None for number in numbers):
        values = numbered(np.array(numbers, dtype=np.int64), where)
        return values, names_of(values)
    names = [None if _empty(cell) else check_id(str(cell), "class name") for cell in cells]
    classes = tuple(sorted({name for name in names if name is not None}))
    place: dict[str | None, int] = {name: k for k, name in enumerate(classes)}
    place[None] = UNLABELLED
    return np.array([place[name] for name in names], dtype=np.int64), classes


def _empty(cell: Cell) -> bool:
    return cell is None or cell == ""


def _whole(cell: Cell) -> int | None:
    if isinstance(cell, int):
        return int(cell)
    return int(cell) if isinstance(cell, str) and _WHOLE.fullmatch(cell) else None
