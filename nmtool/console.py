"""What a person sees while a stage works: news on stderr, bars on a terminal only, text from data made harmless.

Nothing here writes to stdout: that belongs to the result.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_EVERY_S = 10.0


def escape(text: str) -> str:
    """Text that may come from data, safe for a terminal: control and direction characters shown as ``\\xNN``."""
    return _CONTROL.sub(lambda m: "".join(f"\\x{ord(c):02x}" for c in m.group()), text)


class Console:
    """Reports on stderr.

    Args:
        quiet: errors only.
        verbose: details, too.
        colour: escape sequences may be used (a terminal, and no ``NO_COLOR``).
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, colour: bool = False) -> None:
        self.quiet, self.verbose, self.colour = quiet, verbose, colour
        self._terminal = sys.stderr.isatty()

    def info(self, message: str) -> None:
        """A line of news, unless ``--quiet``."""
        if not self.quiet:
            self._line("", message, "")

    def detail(self, message: str) -> None:
        """A line for ``--verbose``."""
        if self.verbose and not self.quiet:
            self._line("", message, "2")

    def warning(self, message: str) -> None:
        """Something the user should know, unless ``--quiet``."""
        if not self.quiet:
            self._line("warning: ", message, "33")

    def error(self, message: str) -> None:
        """Why the command failed; always shown."""
        self._line("error: ", message, "31")

    def _line(self, label: str, message: str, colour: str) -> None:
        # Lines of a longer message are indented: text from data can't forge a line of its own.
        text = label + escape(message).replace("\n", "\n  ")
        if not self._terminal:
            text = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}"
        elif self.colour and colour:
            text = f"\x1b[{colour}m{text}\x1b[0m"
        with contextlib.suppress(BrokenPipeError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    @contextlib.contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        """A bar on a terminal; elsewhere a timestamped line every ten seconds."""
        if self.quiet:
            yield lambda done: None
        elif self._terminal and self.colour:
            yield from self._bar(total, what)
        else:
            yield self._ticker(total, what)

    def _bar(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        from rich.console import Console as Rich
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Rich(stderr=True, markup=False, highlight=False), transient=True) as bar:
            task = bar.add_task(escape(what), total=total)
            yield lambda done: bar.advance(task, done)

    def _ticker(self, total: int, what: str) -> Callable[[int], None]:
        state = {"done": 0, "said": time.monotonic()}

        def advance(done: int) -> None:
            state["done"] += done
            if time.monotonic() - state["said"] >= _EVERY_S:
                state["said"] = time.monotonic()
                self.info(f"{what}: {state['done']}/{total}")

        return advance
