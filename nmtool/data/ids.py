"""Sample ids made for millions of rows at once, as columns: numbered ones, and those that are the paths of a table.

Works on what it is given; opens nothing. pyarrow sorts and compares: by bytes, which is the order of all ids.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.data.index import check_id
from nmtool.errors import DataError
from nmtool.records import Int, TextColumn, offsets_of

_BLOCK, _TEXTS = 1 << 18, 1 << 12
_SLASH, _DOT = ord("/"), ord(".")


def numbered_ids(split: str, n: int) -> TextColumn:
    """``train/000000`` to n - 1: at least six digits, and as many as keep the order of the rows."""
    head = np.frombuffer(f"{split}/".encode(), dtype=np.uint8)
    width = max(6, len(str(n - 1)))
    body = np.empty((n, len(head) + width), dtype=np.uint8)
    body[:, : len(head)] = head
    _digits(np.arange(n, dtype=np.int64), width, out=body[:, len(head) :])
    return TextColumn(data=body.reshape(-1), offsets=np.arange(n + 1, dtype=np.int64) * body.shape[1])


def _digits(numbers: Int, width: int, out: npt.NDArray[np.uint8]) -> None:
    """Decimal digits of int64 [n] into uint8 [n, width], with leading zeros."""
    rest = numbers
    for place in range(width - 1, -1, -1):
        rest, digit = np.divmod(rest, 10)
        out[:, place] = digit + ord("0")


def plain_paths(paths: TextColumn, plain: Callable[[str], str]) -> TextColumn:
    """Each path as ``plain`` gives it, which is called only for those that may need it: most are plain already.

    Args:
        paths: as a table has them.
        plain: returns a path's plain form, or raises. A path that is not empty, has no NUL and no segment that is empty
            or begins with a dot has to be its own.
    """
    rows, changed = [], []
    for row in _odd_rows(paths):
        path = paths[row]
        wanted = plain(path)
        if wanted != path:
            rows.append(row)
            changed.append(wanted)
    return _replaced(paths, rows, changed)


def _odd_rows(paths: TextColumn) -> Iterator[int]:
    """Rows of paths that may not be plain; see ``plain_paths``."""
    for start in range(0, len(paths), _BLOCK):
        cuts = paths.offsets[start : start + _BLOCK + 1]
        body, cuts = paths.data[cuts[0] : cuts[-1]], cuts - cuts[0]
        empty = np.flatnonzero(cuts[1:] == cuts[:-1])
        slash = body == _SLASH
        first = np.empty(len(body), dtype=bool)  # of a segment
        first[1:] = slash[:-1]
        first[cuts[:-1][cuts[1:] > cuts[:-1]]] = True
        odd = (body == 0) | (first & (slash | (body == _DOT)))
        last = cuts[1:][cuts[1:] > cuts[:-1]] - 1
        odd[last] |= slash[last]
        found = np.searchsorted(cuts, np.flatnonzero(odd), side="right") - 1
        yield from (start + np.union1d(found, empty)).tolist()


def _replaced(texts: TextColumn, rows: list[int], others: list[str]) -> TextColumn:
    if not rows:
        return texts
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = np.zeros(len(texts), dtype=bool)
    mask[rows] = True
    array = pc.replace_with_mask(texts.to_arrow(), pa.array(mask), pa.array(others, pa.large_string()))
    return TextColumn.from_arrow(array)


def names_of_paths(paths: TextColumn) -> TextColumn:
    """The paths in NFC.

    Raises:
        DataError: two different paths are the same name in NFC.
    """
    rows, changed = [], []
    for start in range(0, len(paths), _TEXTS):
        part = paths[start : start + _TEXTS]
        text = part.data.tobytes()
        # What is normal as a whole is so in all its parts (Unicode's annex 15).
        if text.isascii() or unicodedata.is_normalized("NFC", text.decode()):
            continue
        for row, path in enumerate(part, start):
            name = check_id(path, "path")
            if name != path:
                rows.append(row)
                changed.append(name)
    if rows:
        _check_twins(paths, rows, changed)
    return _replaced(paths, rows, changed)


def _check_twins(paths: TextColumn, rows: list[int], changed: list[str]) -> None:
    """No path may have the name of another; ``rows`` are those whose name is not their path."""
    import pyarrow as pa
    import pyarrow.compute as pc

    raw: dict[str, str] = {}
    twins: set[tuple[str, str]] = set()
    for row, name in zip(rows, changed, strict=True):
        if raw.setdefault(name, paths[row]) != paths[row]:
            twins.add((raw[name], paths[row]))
    array = paths.to_arrow()
    there = array.filter(pc.is_in(array, value_set=pa.array(list(raw), pa.large_string())))
    twins.update((name, raw[name]) for name in there.unique().to_pylist())
    if twins:
        one, other = min(twins)
        raise DataError(f"the paths {one!a} and {other!a} are the same in Unicode's NFC", "distinct names")


def ordered_ids(names: TextColumn) -> tuple[TextColumn, Int]:
    """The ids of rows with these names, in order, and the row that each is of, int64 [n].

    A name that several rows have gets ``name#K``, K the row's place among them, with zeros so that their order is kept.

    Raises:
        DataError: an id that comes about so is the name of another row.
    """
    texts, rows = _sorted(names, np.arange(len(names), dtype=np.int64))
    twice = _repeated(texts)
    if twice.any():
        import pyarrow as pa
        import pyarrow.compute as pc

        between = pa.scalar("", pa.large_string())
        joined = pc.binary_join_element_wise(texts.to_arrow(), _endings(twice).to_arrow(), between)
        texts = TextColumn.from_arrow(joined)
        texts, rows = _sorted(texts, rows)  # a name may go on with a character that is before "#"
        again = np.flatnonzero(_repeated(texts))
        if len(again):
            raise DataError(
                f"the sample id {texts[int(again[0])]!r} comes about twice",
                "paths that end in no #number",
                "rename the file",
            )
    return texts, rows


def _sorted(texts: TextColumn, rows: Int) -> tuple[TextColumn, Int]:
    """Both in the bytewise order of the texts; those that are equal keep theirs."""
    import pyarrow.compute as pc

    array: Any = texts.to_arrow()
    n = len(texts)
    if pc.all(pc.less_equal(array.slice(0, max(0, n - 1)), array.slice(1))).as_py():
        return texts, rows
    order = pc.array_sort_indices(array)
    return TextColumn.from_arrow(array.take(order)), rows[order.to_numpy()]


def _repeated(texts: TextColumn) -> npt.NDArray[np.bool_]:
    """bool [n]: where a text is the one before it."""
    import pyarrow.compute as pc

    array = texts.to_arrow()
    out = np.zeros(len(texts), dtype=bool)
    out[1:] = pc.equal(array.slice(0, max(0, len(texts) - 1)), array.slice(1)).to_numpy(zero_copy_only=False)
    return out


def _endings(twice: npt.NDArray[np.bool_]) -> TextColumn:
    """``#K`` for each row of a run of equal names, nothing for a row alone."""
    n = len(twice)
    begins = np.flatnonzero(~twice)
    total = np.diff(np.append(begins, n))
    widths = np.where(total > 1, 1, 0)
    for power in range(1, len(str(n))):
        widths += total > 10**power
    run = np.repeat(np.arange(len(begins)), total)
    place = np.arange(n, dtype=np.int64) - begins[run]
    width = widths[run]
    offsets = offsets_of(np.where(width > 0, width + 1, 0).astype(np.int64))
    body = np.full(offsets[-1], ord("#"), dtype=np.uint8)
    for each in range(1, int(widths.max(initial=0)) + 1):
        rows = np.flatnonzero(width == each)
        digits = np.empty((len(rows), each), dtype=np.uint8)
        _digits(place[rows], each, out=digits)
        body[offsets[rows][:, None] + np.arange(1, each + 1)] = digits
    return TextColumn(data=body, offsets=offsets)
