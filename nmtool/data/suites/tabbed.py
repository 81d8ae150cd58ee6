"""Rows of the text files that datasets come with: lines, tab-separated tables with or without a header, key lists.

Files are UTF-8. A line ends at a line feed and nowhere else (texts hold the other characters that Python takes for line
ends), and quotes are characters like any other. What does not fit is refused with the file's name and the line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nmtool.data import files
from nmtool.data.index import check_id
from nmtool.data.suites.facts import WrongLayout
from nmtool.errors import DataError

Cells = tuple[int, list[str]]
"""Number of a line, from 1, and cells of it."""


def lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Each line's number and text; a byte order mark and carriage returns at the ends of lines are dropped.

    Args:
        path: the file.
        name: what messages call it: its place below the suite's folder.

    Raises:
        InputMissingError: no such file.
        DataError: no file, or no UTF-8.
    """
    files.regular(path, name)
    with files.told(name):
        stream = path.open("rb")
    with stream:
        for number, raw in enumerate(stream, 1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{name}, line {number}, is no UTF-8", "text in UTF-8", "unpack it again") from None
            yield number, text.removesuffix("\n").removesuffix("\r")


def headed(path: Path, name: str, columns: Sequence[str], *, broken: bool = False) -> Iterator[Cells]:
    """The cells of some columns, of every row below the header.

    Args:
        columns: names in the header.
        broken: leave out rows that have fewer fields than the header, as every reader of such a file does.

    Raises:
        WrongLayout: no such columns.
        DataError: a row with another number of fields.
    """
    source = lines(path, name)
    names = next(source, (1, ""))[1].split("\t")
    missing = [column for column in columns if column not in names]
    if missing:
        raise WrongLayout(
            f"{name} has no column {missing[0]!r} (it has {', '.join(map(repr, names[:20]))})",
            "the header of the official file",
        )
    places = [names.index(column) for column in columns]
    for number, line in source:
        cells = line.split("\t")
        if len(cells) != len(names):
            if broken and len(cells) < len(names):
                continue
            raise DataError(f"{name}, line {number}, has {len(cells)} fields", f"{len(names)}, as in the header")
        yield number, [cells[place] for place in places]


def bare(path: Path, name: str, width: int) -> Iterator[Cells]:
    """The cells of every row of a file without a header, ``width`` a row.

    Raises:
        DataError: a row with another number of fields.
    """
    for number, line in lines(path, name):
        cells = line.split("\t")
        if len(cells) != width:
            raise DataError(f"{name}, line {number}, has {len(cells)} fields", f"{width}, as in the official file")
        yield number, cells


def listed(path: Path, name: str) -> list[str]:
    """The lines of a list, blank ones at its end dropped.

    Raises:
        DataError: nothing in it, or a blank line among the others.
    """
    found = [line.strip() for _, line in lines(path, name)]
    while found and not found[-1]:
        found.pop()
    if not found or not all(found):
        raise DataError(f"{name} has {'a blank line' if found else 'no line'}", "one entry a line")
    return found


def class_names(path: Path, name: str) -> list[str]:
    """The lines of a list of class names, in label order; raises ``DataError`` where one stands twice."""
    found = [check_id(line, f"class name in {name}") for line in listed(path, name)]
    twice = {line for line in found if found.count(line) > 1} if len(set(found)) < len(found) else set()
    if twice:
        raise DataError(f"the class {min(twice)!r} stands twice in {name}", "each class once")
    return found


def keyed(path: Path, name: str, classes: int) -> Iterator[tuple[str, int]]:
    """``PATH NUMBER`` of each line, the number a class.

    Raises:
        DataError: another form, or a number that is no class.
    """
    for number, line in lines(path, name):
        place, space, cell = line.strip().rpartition(" ")
        if not space and not cell:
            continue
        if not (place and cell.isascii() and cell.isdigit()):
            raise DataError(f"{name}, line {number}: {line[:80]!r}", "a path, a space and a class number")
        if int(cell) >= classes:
            raise DataError(f"{name}, line {number}: the class number {cell}", f"0 to {classes - 1}")
        yield place, int(cell)


def class_of(cell: str, words: Mapping[str, int], where: str) -> int:
    """The class number that a cell stands for; raises ``DataError`` naming ``where`` and the words there are."""
    try:
        return words[cell]
    except KeyError:
        raise DataError(f"{where}: the class {cell[:80]!r}", f"one of {', '.join(words)}") from None


def score_of(cell: str, where: str, low: float, high: float) -> float:
    """The real number in a cell; raises ``DataError`` where it is none, or outside the scale."""
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise DataError(f"{where}: the score {cell[:80]!r}", f"a number from {low:g} to {high:g}")
    return value
