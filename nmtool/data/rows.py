"""The rows of one or several tables: which columns hold what, each row's split, sample id, path and label cell.

Columns all the way: a table may have fifteen million rows. Captions and texts are not read here, image files not looked
at; but no path may be one that leads out of the table's folder.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from nmtool.data.address import ROLES, Address
from nmtool.data.columns import TableFile
from nmtool.data.ids import names_of_paths, numbered_ids, ordered_ids, plain_paths
from nmtool.data.index import check_id
from nmtool.data.labels import CodedCells
from nmtool.errors import DataError
from nmtool.records import Int, TextColumn, check_split, offsets_of

_ABOUT = ("label", "split", "domain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The rows of one split, in the order of their ids.

    Attributes:
        ids: N sample ids.
        at: int64 [N], the row of the tables, counted through all of them, that each is.
        paths: N paths as in the table, in their plain form; None where there are none.
    """

    ids: TextColumn
    at: Int
    paths: TextColumn | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """All rows of all tables: what is known without a look at captions, texts or image files.

    Attributes:
        splits: members by split.
        labels: the label cells in the tables' order; None where no table has a label column.
        starts: int64 [tables + 1]: the number of each table's first row, and of all rows.
    """

    splits: Mapping[str, Members]
    labels: CodedCells | None
    starts: Int


def columns_of(table: TableFile, address: Address) -> dict[str, str]:
    """Column by role, of the roles that the file has and that its kind of samples has a use for.

    Raises:
        DataError: a mapped column is not there, or there is nothing to take samples from.
    """
    there = ", ".join(repr(name) for name in table.names)
    for role, column in address.columns.items():
        if column not in table.names:
            raise DataError(f"{table.name} has no column {column!r} for {role} (it has {there})", "one of its columns")
    taken = set(address.columns.values())
    columns = dict(address.columns)
    for role in ROLES:
        if role in table.names and role not in columns and role not in taken:
            columns[role] = role
    if "image" in columns and not table.is_parquet:
        if "image" in address.columns:
            raise DataError(f"{table.name} is no Parquet file and can't hold image bytes", "", "map it as path=…")
        del columns["image"]
    samples = [role for role in ("image", "path", "text") if role in columns]
    if not samples:
        hint = "?path=image" if "image" in table.names else "?text=COLUMN or ?path=COLUMN"
        raise DataError(
            f"no samples in {table.name} (its columns: {there})", "a column path, image or text", f"map one: {hint}"
        )
    # what was mapped by name outdoes what happens to have the name
    chosen = next((role for role in samples if role in address.columns), samples[0])
    keep = {"image": ("image", "path", "caption"), "path": ("path", "caption"), "text": ("text", "text_b")}[chosen]
    return {role: name for role, name in columns.items() if role in keep or role in _ABOUT}


def kind_of(tables: list[TableFile], columns: list[dict[str, str]]) -> str:
    """``images``, ``captions`` or ``text``; raises ``DataError`` where the tables differ."""
    sorts = {frozenset(role for role in each if role not in ("split", "domain", "label")) for each in columns}
    if len(sorts) > 1:
        shown = "; ".join(f"{t.name}: {', '.join(sorted(c))}" for t, c in zip(tables, columns, strict=True))
        raise DataError(f"tables with different columns ({shown})", "the same sort of samples in all")
    if "text" in columns[0]:
        return "text"
    return "captions" if "caption" in columns[0] and not any("label" in each for each in columns) else "images"


def read_rows(tables: list[TableFile], columns: list[dict[str, str]], address: Address) -> Rows:
    """All rows of all tables.

    Raises:
        DataError: no row, a path that leaves the table's folder, two that are one in NFC, a split with an odd name.
    """
    splits, labels, paths = [], [], []
    for table, column, (split, _) in zip(tables, columns, address.files, strict=True):
        table.load([column[role] for role in ("path", *_ABOUT) if role in column])
        splits.append(_splits(table, column, split))
        if any("label" in each for each in columns):
            labels.append(table.cells(column["label"]) if "label" in column else CodedCells.same(None, table.rows))
        if "path" in column:
            paths.append(plain_paths(table.texts(column["path"]), functools.partial(plain, name=table.name)))
        table.forget()
    starts = offsets_of(np.array([table.rows for table in tables], dtype=np.int64))
    if not starts[-1]:
        raise DataError(f"no rows in {', '.join(table.name for table in tables)}", "at least one sample")
    of_split = CodedCells.joined(splits)
    all_paths = TextColumn.joined(paths) if paths else None
    paths.clear()
    return Rows(
        splits=_members(of_split, all_paths),
        labels=CodedCells.joined(labels) if labels else None,
        starts=starts,
    )


def _splits(table: TableFile, column: Mapping[str, str], given: str | None) -> CodedCells:
    """The split of each row: the file's, or the split column's, after the domain where there is one."""
    if given is not None or "split" not in column:
        splits = CodedCells.same(given or "train", table.rows)
    else:
        splits = _names(table, column["split"])
    if "domain" in column:
        domains = _names(table, column["domain"])
        pairs, codes = np.unique(domains.codes * np.int64(len(splits.cells)) + splits.codes, return_inverse=True)
        both = (divmod(pair, len(splits.cells)) for pair in pairs.tolist())
        splits = CodedCells(cells=[f"{domains.cells[d]}/{splits.cells[s]}" for d, s in both], codes=codes)
    for split in sorted(map(str, splits.cells)):
        check_split(split)
    return splits


def _names(table: TableFile, column: str) -> CodedCells:
    """The cells of a column that has to hold text everywhere."""
    coded = table.cells(column)
    for code, cell in enumerate(coded.cells):
        if not isinstance(cell, str):
            row = int(np.argmax(coded.codes == code))
            raise DataError(f"row {row} of column {column!r} of {table.name} is {cell!r}", "text")
    return coded


def plain(path: str, name: str) -> str:
    """A path of the table ``name`` in its plain form; it has to be relative and may not climb."""
    parts = PurePosixPath(check_id(path, f"path in {name}")).parts
    if path.startswith("/") or ".." in parts or not parts:
        raise DataError(
            f"the path {path!r} in {name}", "one relative to the table's folder, and inside it", "move the files there"
        )
    return "/".join(PurePosixPath(path).parts)


def _members(of_split: CodedCells, paths: TextColumn | None) -> dict[str, Members]:
    """The rows of each split, by the split's name."""
    names = sorted({str(cell) for cell in of_split.cells})
    number = {name: k for k, name in enumerate(names)}
    codes = np.array([number[str(cell)] for cell in of_split.cells], dtype=np.int32)[of_split.codes]
    if paths is None:
        numbered = {name: np.flatnonzero(codes == k) for k, name in enumerate(names)}
        return {s: Members(ids=numbered_ids(s, len(at)), at=at, paths=None) for s, at in numbered.items() if len(at)}
    ids, at = ordered_ids(names_of_paths(paths))
    if ids != paths:
        paths = paths.take(at)
        if ids == paths:
            paths = ids  # in one copy
    if len(names) == 1:
        return {names[0]: Members(ids=ids, at=at, paths=paths)}
    codes = codes[at]
    members = {}
    for k, name in enumerate(names):
        mine = np.flatnonzero(codes == k)
        of_mine = ids.take(mine)
        own = of_mine if paths is ids else paths.take(mine)
        members[name] = Members(ids=of_mine, at=at[mine], paths=own)
    return members
