"""What stands after ``table:``: files, the split each one is, and which columns hold what. Opens nothing."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from nmtool.errors import UsageError
from nmtool.records import check_split

ROLES = ("path", "image", "text", "text_b", "label", "caption", "split", "domain")
_SETTINGS = (*ROLES, "root")
_SPLIT = r"[A-Za-z0-9_][A-Za-z0-9._/-]*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A parsed table URI.

    Attributes:
        files: (split or None, path) of each file, in the order given.
        columns: column name by role, for the roles mapped by name; the others default to a column of the role's name.
        root: folder, relative to the file's, that paths start from; empty for the file's own.
    """

    files: tuple[tuple[str | None, str], ...]
    columns: Mapping[str, str]
    root: str


def parse(where: str, uri: str) -> Address:
    """Read ``FILE?role=column&…`` or ``SPLIT=FILE,SPLIT=FILE?…``. A ``%3F`` and the like stand for odd characters.

    Raises:
        UsageError: an unknown role, a role twice, a split twice, or no file.
    """
    place, _, query = where.partition("?")
    settings: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        role, sep, column = (unquote(part) for part in pair.partition("="))
        if role not in _SETTINGS:
            near = difflib.get_close_matches(role, _SETTINGS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"as {uri.partition('?')[0]}?label=COLUMN"
            raise UsageError(f"no column role {role!r} (in {uri!r})", f"one of {', '.join(_SETTINGS)}", hint)
        if not sep or not column or role in settings:
            raise UsageError(f"{pair!r} in {uri!r}", f"each role once, as {role}=COLUMN")
        settings[role] = column
    root = settings.pop("root", "")
    return Address(files=_files(place, uri, "split" in settings), columns=settings, root=root)


def _files(place: str, uri: str, split_mapped: bool) -> tuple[tuple[str | None, str], ...]:
    if not place:
        raise UsageError(f"no file in {uri!r}", "table:FILE.parquet, table:FILE.csv or table:FILE.tsv")
    # a file that is really there may have '=' in its path
    if not re.match(rf"{_SPLIT}=", place) or os.path.exists(unquote(place)):  # noqa: PTH110
        return ((None, unquote(place)),)
    if split_mapped:
        raise UsageError(f"{uri!r} names splits by file and by column", "one of the two", "leave out split=…")
    files: dict[str | None, str] = {}
    for part in re.split(rf",(?={_SPLIT}=)", place):
        split, _, path = part.partition("=")
        if split in files or not path:
            raise UsageError(f"{part!r} in {uri!r}", "each split once, as SPLIT=FILE")
        files[check_split(split)] = unquote(path)
    return tuple(files.items())
