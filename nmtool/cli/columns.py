"""Columns of text for a terminal: as wide as it is, within reason, and 100 characters where there is none."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping


def width() -> int:
    """Characters a line may have."""
    return max(60, min(120, shutil.get_terminal_size((100, 24)).columns))


def pairs(rows: Mapping[str, str], indent: str = "") -> Iterator[str]:
    """Names, and what they are in a second column."""
    wide = max((len(name) for name in rows), default=0) + 2
    for name, what in rows.items():
        head = f"{indent}{name:<{wide}}"
        lines = textwrap.wrap(
            what,
            max(width(), len(head) + 30),
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield from lines or [head.rstrip()]


def paragraphs(*texts: str) -> Iterator[str]:
    """Each text on lines of its own."""
    for text in texts:
        yield from textwrap.wrap(text, width(), break_long_words=False, break_on_hyphens=False)
