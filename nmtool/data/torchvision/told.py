"""torchvision's refusals, and what it stumbles over, in the words and exit codes of the error family."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nmtool.data.torchvision.sets import Set
from nmtool.errors import (
    DataError,
    InputMissingError,
    NmtoolError,
    PermissionDeniedError,
    UnavailableError,
    UsageError,
)

INSTALL = "pip install torchvision"


def missing(
    chosen: Set, uri: str, home: Path, below: str, gone: Sequence[str], needed: Sequence[str]
) -> InputMissingError:
    """What torchvision expects and does not find.

    Args:
        chosen: the dataset.
        uri: as the user gave it.
        home: its folder.
        below: that folder below the root; empty for the root itself.
        gone: paths below it that are not there.
        needed: those that have to be.
    """
    place = f"{below}/" if below else "the data root"
    packed = next((name for name in gone if (home / f"{name}.gz").exists()), None)
    shown = ", ".join(gone[:8]) + (" …" if len(gone) > 8 else "")
    return InputMissingError(
        f"{uri}: {shown} not in {place}" if gone else f"{uri}: no {place}",
        f"what torchvision's {chosen.name} reads there: {', '.join(needed) or 'its files'}",
        f"unpack {packed}.gz: torchvision reads what is in it"
        if packed
        else "put it there unpacked (nothing is downloaded), or name another --data-root",
    )


def class_of(name: str, uri: str) -> Any:
    """The class of torchvision's.

    Raises:
        UnavailableError: torchvision can't be imported.
        UsageError: the one that is installed has no such dataset.
    """
    try:
        library = importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise UnavailableError(
            f"torchvision can't be imported ({error})", "it, to read its datasets", INSTALL
        ) from None
    found = getattr(library, name, None)
    if found is None:
        near = difflib.get_close_matches(name, library.__all__, n=1)
        raise UsageError(
            f"{uri}: the torchvision that is installed has no {name}",
            "a newer one",
            f"did you mean torchvision:{near[0]}?" if near else f"{INSTALL} --upgrade",
        )
    return found


@contextlib.contextmanager
def told(chosen: Set, split: str, home: Path) -> Iterator[None]:
    """Turn torchvision's refusals, and what it stumbles over, into the error family."""
    what = f"{chosen.name}, split {split}"
    try:
        yield
    except (NmtoolError, MemoryError):
        raise
    except FileNotFoundError as error:
        where = str(error.filename or error).replace(f"{home}/", "")
        raise InputMissingError(f"{what}: {where} is not there", "all files that torchvision reads") from None
    except PermissionError as error:
        where = str(error.filename).replace(f"{home}/", "")
        raise PermissionDeniedError(f"{what}: {where} may not be read", "", "change its permissions") from None
    except Exception as error:  # damaged files make torchvision raise anything
        words = (str(error) or type(error).__name__).replace(f"{home}/", "")[:300]
        if isinstance(error, ImportError) or "pip install" in words:
            package = f"pip install {chosen.extra}"
            raise UnavailableError(f"torchvision can't read {what} ({words})", "", package) from None
        if chosen.md5 and isinstance(error, RuntimeError) and ("corrupted" in words or "not found" in words):
            hint = f"suite:{chosen.suite} reads the same files without it" if chosen.suite else "fetch it again"
            raise DataError(
                f"torchvision does not take the files of {what}, for the official ones: it checks their md5",
                "the official files, byte for byte",
                hint,
            ) from None
        raise DataError(f"torchvision can't read {what} ({words})", "sound files", "fetch them again") from None
