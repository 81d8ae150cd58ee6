"""Sample ids of a Hugging Face dataset: the rule that ``nmtool.data.hf`` states. Opens nothing."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from nmtool.data.ids import names_of_paths
from nmtool.data.index import check_id
from nmtool.errors import DataError
from nmtool.records import Int, TextColumn

Ids = tuple[TextColumn, Int]
"""N ids in order, and the row that each is of, int64 [n]."""


def given_ids(cells: Any, above: str, where: str) -> Ids:
    """The ids that a column gives.

    Args:
        cells: pyarrow array [n] of texts or whole numbers.
        above: what comes before each, with a slash; empty for nothing.
        where: the column, for messages.

    Raises:
        DataError: an empty cell, an id twice, or a text that can't be one.
    """
    import pyarrow as pa

    texts = cells.cast(pa.large_string())
    if texts.null_count:
        raise DataError(f"row {texts.is_null().index(True).as_py()} of {where} is empty", "an id for every row")
    ids, again = _ordered(_joined(above, _names(texts, where)))
    if again:
        raise DataError(f"the id {again!r} stands twice in {where}", "ids that are unique", "map another column")
    return ids


def path_ids(paths: Any, classes: Any, above: str, where: str) -> tuple[Ids | None, str]:
    """``CLASS/FILE`` of images that have paths and labels; else the path below the folder that all are in.

    Args:
        paths: pyarrow array [n] of texts, as stored; only their last parts survive ``save_to_disk``.
        classes: pyarrow array [n] of class names, null where unlabelled.
        above: what comes before each, with a slash; empty for nothing.
        where: the split, for messages.

    Returns:
        The ids, or None where there are none such; then also the id that would come about twice, if that is why.

    Raises:
        DataError: a path that can't be part of an id.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if paths.null_count or classes.null_count:
        return None, ""
    texts = _names(paths.cast(pa.large_string()), f"the paths of {where}")
    last = pc.replace_substring_regex(texts, "(?s)^.*/", "")
    if pc.any(pc.equal(last, pa.scalar("", last.type))).as_py():
        return None, ""
    ids, again = _ordered(_joined(above, classes.cast(pa.large_string()), last))
    if not again:
        return ids, ""
    ends = pc.min_max(texts)
    # of texts, and up to a slash: the folder of the first and the last is that of all
    common = os.path.commonprefix([ends["min"].as_py(), ends["max"].as_py()])  # noqa: RUF071
    below = pc.utf8_slice_codeunits(texts, common.rfind("/") + 1)
    ids, twice = _ordered(_joined(above, below))
    return (None, again) if twice else (ids, "")


def _names(texts: Any, where: str) -> Any:
    """The texts as ids can have them: in NFC, without NUL."""
    try:
        column = TextColumn.from_arrow(texts)
    except ValueError as error:
        raise DataError(f"{where}: {error}", "texts in UTF-8") from None
    if (column.data == 0).any():
        check_id(next(text for text in column if "\0" in text), f"text in {where}")
    return names_of_paths(column).to_arrow()


def _joined(above: str, *parts: Any) -> Any:
    """``above`` and the parts, with slashes between the parts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.large_string()
    both = pc.binary_join_element_wise(*parts, pa.scalar("/", text))
    return pc.binary_join_element_wise(pa.scalar(above, text), both, pa.scalar("", text)) if above else both


def _ordered(texts: Any) -> tuple[Ids, str]:
    """Texts in bytewise order with the row of each, and one that stands twice, or nothing."""
    import pyarrow.compute as pc

    order = pc.array_sort_indices(texts)
    ids = texts.take(order)
    n = len(ids)
    same = pc.index(pc.equal(ids.slice(0, max(0, n - 1)), ids.slice(1)), True).as_py()
    again = ids[same].as_py() if same >= 0 else ""
    return (TextColumn.from_arrow(ids), np.asarray(order).astype(np.int64)), again
