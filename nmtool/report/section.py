"""A section of the report: a heading, how to read it, figures and tables."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.report.figures import Figure
from nmtool.report.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section; there is none without data.

    Attributes:
        anchor: its id in the page, a plain word.
        title: its heading.
        intro: how to read it.
        figures, tables: what it shows.
    """

    anchor: str
    title: str
    intro: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
