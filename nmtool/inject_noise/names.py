"""Classes by name: as the data spells them, or as the literature does. Guesses only where one reading is possible."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from nmtool.errors import DataError


def class_number(name: object, classes: tuple[str, ...], where: str) -> int:
    """A class by its name, or by its number where no class has that name.

    Raises:
        DataError: neither; the nearest name is the hint.
    """
    text = str(name)
    if text in classes:
        return classes.index(text)
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < len(classes):
        return int(text)
    near = difflib.get_close_matches(text, classes, n=1)
    raise DataError(
        f"{where} names the class {text!r}", "a class of the data", f"did you mean {near[0]!r}?" if near else ""
    )


def plain(name: str) -> str:
    """``Aquarium Fish`` as ``aquarium_fish``."""
    return "_".join(name.casefold().replace("-", " ").replace("_", " ").split())


def known_as(
    classes: tuple[str, ...], names: Iterable[str], spellings: Mapping[str, str] | None = None
) -> dict[str, int] | None:
    """The data's label of each known name that is among its classes; None where a class of the data is not known.

    Args:
        classes: the data's, in label order.
        names: the known ones, as ``plain`` writes them.
        spellings: other spellings of some of them.

    Raises:
        DataError: two classes of the data are the same known one.
    """
    wanted = set(names)
    found: dict[str, int] = {}
    for label, given in enumerate(classes):
        name = plain(given)
        name = name if name in wanted else (spellings or {}).get(name, name)
        if name not in wanted:
            return None
        if name in found:
            raise DataError(
                f"the classes {classes[found[name]]!r} and {given!r} both read {name!r}",
                "one class of that name",
                "give a file of class names as they are",
            )
        found[name] = label
    return found
