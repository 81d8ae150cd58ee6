"""A section of the report: a heading, how to read it, figures and tables."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.report.figures import Figure
from nmtool.report.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One sample to look at: a small image file (or none), a text (or none), a title and lines below."""

    picture: bytes
    text: str
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section; there is none without data.

    Attributes:
        anchor: its id in the page, a plain word.
        title: its heading.
        intro: how to read it.
        figures, tables: what it shows.
        cards, cards_title: samples to look at, on the page alone.
    """

    anchor: str
    title: str
    intro: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    cards: tuple[Card, ...] = ()
    cards_title: str = ""
