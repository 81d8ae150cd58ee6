"""What ``report`` can be asked."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.errors import UsageError
from nmtool.settings import setting

FORMATS = ("html", "markdown", "csv", "json", "latex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of ``report``."""

    artifacts: tuple[str, ...] = setting(
        operand=True, key=False, repeat=True, doc="ARTIFACT|DIR, several; a folder is searched for artifacts below it."
    )
    format: tuple[str, ...] = setting(
        ("html",), key=True, choices=FORMATS, doc="What to write beside the page, comma-separated; html always is."
    )
    title: str = setting("Noisy model learning report", key=True, doc="The page's title.")
    seed: int = setting(0, key=False, doc="Not used here: nothing is drawn.")
    device: str = setting("auto", key=False, doc="Not used here: numbers are only read and averaged.")
    workers: int = setting(1, key=False, doc="Not used here.")

    def __post_init__(self) -> None:
        if not self.artifacts:
            raise UsageError("ARTIFACTS is missing", "artifacts, or a folder that holds some")
        for name in self.format:
            if name not in FORMATS:
                raise UsageError(f"--format is {name!r}", "one of " + ", ".join(FORMATS))
        # html, then the others in one order: the same set is the same report, however it was typed
        object.__setattr__(self, "format", tuple(f for f in FORMATS if f == "html" or f in self.format))
