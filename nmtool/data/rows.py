"""The rows of one or several tables: which columns hold what, each row's split, sample id, file and label cell.

Looks at the image files that a table names and reads none of them. A path of a table can't lead out of its folder.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from nmtool.data import files
from nmtool.data.address import ROLES, Address
from nmtool.data.columns import TableFile
from nmtool.data.index import check_id
from nmtool.data.labels import Cell
from nmtool.errors import DataError, InputMissingError
from nmtool.records import check_split

_ABOUT = ("label", "split", "domain")


@dataclass(slots=True, kw_only=True)
class Rows:
    """All rows of all files, in the files' order; a list that the table has no column for is empty.

    Attributes:
        splits: split of each row.
        sources: (file, row in it) of each row.
        paths: as in the table.
        places: the image file's path on disk and its identity.
        texts, captions, labels: their cells.
        ids: sample ids.
    """

    splits: list[str]
    sources: list[tuple[int, int]]
    paths: list[str]
    places: list[tuple[str, files.Identity]]
    texts: list[tuple[str, ...]]
    captions: list[str]
    labels: list[Cell]
    ids: list[str]


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


def read_rows(tables: list[TableFile], columns: list[dict[str, str]], address: Address, kind: str) -> Rows:
    """All rows of all tables.

    Raises:
        InputMissingError: image files that are not there.
        DataError: no row, a path that leaves the table's folder, two that are one in NFC, a split with an odd name.
    """
    rows = Rows(splits=[], sources=[], paths=[], places=[], texts=[], captions=[], labels=[], ids=[])
    for k, (table, column, (split, _)) in enumerate(zip(tables, columns, address.files, strict=True)):
        rows.splits += _splits(table, column, split)
        rows.sources += [(k, row) for row in range(table.rows)]
        rows.labels += table.cells(column["label"]) if "label" in column else [None] * table.rows
        if "path" in column:
            paths = [_inside(path, table.name) for path in table.texts(column["path"])]
            rows.paths += paths
            if "image" not in column:
                rows.places += _places(table, address.root, paths)
        if "text" in column:
            parts = [table.texts(column[role]) for role in ("text", "text_b") if role in column]
            rows.texts += list(zip(*parts, strict=True))
        if kind == "captions":
            rows.captions += table.texts(column["caption"])
    if not rows.splits:
        raise DataError(f"no rows in {', '.join(table.name for table in tables)}", "at least one sample")
    rows.ids = _ids(rows)
    return rows


def _splits(table: TableFile, column: Mapping[str, str], given: str | None) -> list[str]:
    """The split of each row: the file's, or the split column's, after the domain where there is one."""
    if given is not None or "split" not in column:
        splits = [given or "train"] * table.rows
    else:
        splits = table.texts(column["split"])
    if "domain" in column:
        splits = [f"{domain}/{split}" for domain, split in zip(table.texts(column["domain"]), splits, strict=True)]
    for split in sorted(set(splits)):
        check_split(split)
    return splits


def _inside(path: str, name: str) -> str:
    """A path of a table in its plain form; it has to be relative and may not climb."""
    parts = PurePosixPath(check_id(path, f"path in {name}")).parts
    if path.startswith("/") or ".." in parts or not parts:
        raise DataError(
            f"the path {path!r} in {name}", "one relative to the table's folder, and inside it", "move the files there"
        )
    return "/".join(PurePosixPath(path).parts)


def _places(table: TableFile, root: str, paths: list[str]) -> list[tuple[str, files.Identity]]:
    """Where each image file is and its identity, each file looked at once."""
    base = table.path.parent / _inside(root, "root=") if root else table.path.parent
    home = os.path.realpath(table.path.parent)
    known: dict[str, tuple[str, files.Identity]] = {}
    really: dict[str, str] = {}
    missing = []
    for path in dict.fromkeys(paths):
        full = os.path.join(base, path)  # noqa: PTH118 (a hundred thousand times)
        above, last = os.path.split(full)
        if above not in really:
            really[above] = os.path.realpath(above)
        with files.told(f"{path!r} of {table.name}"):
            try:
                found = os.lstat(full)
            except (FileNotFoundError, NotADirectoryError):
                missing.append(path)
                continue
        place = os.path.join(really[above], last)  # noqa: PTH118
        if stat.S_ISLNK(found.st_mode) or os.path.commonpath((home, place)) != home:
            raise DataError(
                f"the path {path!r} in {table.name} goes by a link", "a file inside the table's folder itself"
            )
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"the path {path!r} in {table.name} is no file", "an image file")
        known[path] = place, files.identity(found)
    if missing:
        shown = ", ".join(repr(path) for path in missing[:5])
        raise InputMissingError(
            f"{len(missing)} image files of {table.name} are not there ({shown})",
            f"paths relative to the table's folder{' and root=' + root if root else ''}",
            "mend the paths, name their folder with root=FOLDER, or take the rows out",
        )
    return [known[path] for path in paths]


def _ids(rows: Rows) -> list[str]:
    if not rows.paths:
        total = Counter(rows.splits)
        numbers: Counter[str] = Counter()
        ids = []
        for split in rows.splits:
            ids.append(f"{split}/{numbers[split]:0{max(6, len(str(total[split] - 1)))}d}")
            numbers[split] += 1
        return ids
    raw: dict[str, str] = {}
    for path in rows.paths:
        name = check_id(path, "path")
        if raw.setdefault(name, path) != path:
            raise DataError(f"the paths {raw[name]!a} and {path!a} are the same in Unicode's NFC", "distinct names")
    total, numbers, ids = Counter(rows.paths), Counter(), []
    for path in rows.paths:
        width = len(str(total[path] - 1))
        ids.append(check_id(path, "path") + (f"#{numbers[path]:0{width}d}" if total[path] > 1 else ""))
        numbers[path] += 1
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise DataError(f"the sample id {twice!r} comes about twice", "paths that end in no #number", "rename the file")
    return ids
