"""One table, of text cells, however it is printed: the page, Markdown and LaTeX all print this.

Text that comes from data is made harmless to look at here (control characters shown, not obeyed); what it takes to be
harmless in HTML, Markdown, CSV or LaTeX is the business of whoever prints it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from nmtool.report.statistics import Stat

NONE = "–"
LONGEST = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: its text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column's title, and whether it holds numbers (set right)."""

    title: str
    number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; every row has as many cells as there are columns.

    Attributes:
        caption: what it holds.
        columns, rows: its content.
        note: a sentence on how to read it; may be empty.
        folded: for the page: numbers beside a figure, shown on request.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    folded: bool = False

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.caption


def shown(text: object, longest: int = LONGEST) -> str:
    """Data as visible text: control, bidirectional and surrogate characters as ``\\x1b``, cut to a length."""
    out = []
    for character in str(text)[: longest + 1]:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            code = ord(character)
            out.append(f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}")
        else:
            out.append(character)
    visible = "".join(out)
    return visible[: longest - 1] + "…" if len(visible) > longest else visible


def number(value: object) -> float | None:
    """A number, or None for what is none."""
    return float(value) if isinstance(value, (int, float)) else None


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in [0, 1] as a percentage without its sign."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


def share(value: object) -> str:
    """A ratio as short as it goes: ``30 %``."""
    return f"{100 * value:.4g} %" if isinstance(value, (int, float)) else NONE


def decimal(value: float | None, digits: int = 4) -> str:
    """A number with a fixed number of decimals."""
    return NONE if value is None else f"{value:.{digits}f}"


def stat_text(stat: Stat | None, *, as_percent: bool) -> str:
    """``83.25 ± 0.41``; without ± for one run."""
    if stat is None:
        return NONE
    write = percent if as_percent else decimal
    return write(stat.mean) if stat.std is None else f"{write(stat.mean)} ± {write(stat.std)}"


def stat_cells(stats: Sequence[Stat | None], *, as_percent: bool, mark: bool = True) -> list[Cell]:
    """A column's cells; the best mean (all of them, where they tie as printed) is marked if ``mark``."""
    texts = [stat_text(stat, as_percent=as_percent) for stat in stats]
    if not mark or len(stats) < 2:
        return [Cell(text=text) for text in texts]
    write = percent if as_percent else decimal
    top = max((s.mean for s in stats if s is not None), default=None)
    return [
        Cell(text=text, best=s is not None and top is not None and write(s.mean) == write(top))
        for text, s in zip(texts, stats, strict=True)
    ]
