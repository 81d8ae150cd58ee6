"""Classes by name: as the data spells them, or as the literature does. Guesses only where one reading is possible."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from nmtool.errors import DataError

_NUMBER = re.compile(r"[0-9]{1,18}")


def class_numbers(
    names: Iterable[object], classes: tuple[str, ...], where: str, among: Iterable[str] = ()
) -> list[int]:
    """The labels of classes that a file names.

    Numbers are names where classes have all of them as names (folders called "1" to "11", whose order is that of
    texts), and else label numbers, all of them: never some of them the one and some the other.

    Args:
        names: as the file has them.
        classes: the data's, in label order.
        where: what the file is called in messages.
        among: other names from the same file, which have to be read alike.

    Raises:
        DataError: no class of the data; the nearest name is the hint.
    """
    texts = [str(name) for name in names]
    place = {name: label for label, name in enumerate(classes)}
    by_name = all(text in place for text in {*texts, *among} if _NUMBER.fullmatch(text))
    numbers = []
    for text in texts:
        if not by_name and _NUMBER.fullmatch(text):
            if int(text) >= len(classes):
                raise DataError(f"{where} holds the label {text}", f"0 to {len(classes) - 1}, or names of classes")
            numbers.append(int(text))
        elif text in place:
            numbers.append(place[text])
        else:
            near = difflib.get_close_matches(text, classes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{where} names the class {text!r}", "a class of the data", hint)
    return numbers


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
