"""``suite:NAME[/MEMBER]``: one of the papers' datasets, in its official layout below the data root.

The suite's folder is looked for under its own name, under the names that official archives and torchvision give it, as
the data root itself, then under these names in any case, and one inside another, as archives are often unpacked. A
layout that is not the official one is refused with a drawing of the expected tree. Sizes that are not the official ones
are remarked on, not refused: a part of a dataset is good for trying.
"""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from nmtool.artifact.memo import Memo
from nmtool.data import files
from nmtool.data.dataset import Dataset
from nmtool.data.suites.catalogue import SUITES
from nmtool.data.suites.facts import Request, Suite, WrongLayout
from nmtool.errors import InputMissingError, UsageError

_SHOWN = 4


def open_suite(where: str, *, uri: str, memo: Memo, data_root: Path | None) -> Dataset:
    """Index one of the papers' datasets.

    Args:
        where: ``NAME`` or ``NAME/MEMBER``.
        uri: the whole URI, for messages.
        memo: remembers digests.
        data_root: the folder below which datasets lie.

    Raises:
        UsageError: no such suite or member, or no data root.
        InputMissingError: the layout, or a file of it, is not there; the message draws the expected tree.
        DataError: a file of it is not what it should be (``WrongLayout`` where the layout is another).
    """
    name, _, member = where.partition("/")
    suite = suite_named(name, uri)
    if member and member not in suite.members:
        near = difflib.get_close_matches(member, suite.members, n=1)
        raise UsageError(
            f"no member {member!r} of suite:{suite.name}",
            "one of " + ", ".join(suite.members) if suite.members else "no member: it is one dataset",
            f"did you mean suite:{suite.name}/{near[0]}?" if near else "",
        )
    if suite.parts_only and not member:
        raise UsageError(
            f"{uri}: {suite.title} is {len(suite.members)} datasets",
            "one of " + ", ".join(f"suite:{suite.name}/{each}" for each in suite.members),
        )
    if data_root is None:
        raise UsageError(
            f"{uri} without a data root", f"the folder that holds {suite.title}", "give --data-root DIR or $NMTOOL_DATA"
        )
    root = _place(suite, data_root, uri)
    try:
        return suite.load(suite, Request(root=root, member=member, uri=uri, memo=memo))
    except (InputMissingError, WrongLayout) as error:
        raise type(error)(error.found, error.expected, _drawn(suite, error.remedy)) from error


def suite_named(name: str, uri: str) -> Suite:
    """The suite of a name or alias; case, ``-`` and ``_`` don't matter.

    Raises:
        UsageError: there is none; the nearest is named.
    """
    known = {_plain(each): suite for suite in SUITES for each in (suite.name, *suite.aliases)}
    if _plain(name) not in known:
        near = difflib.get_close_matches(_plain(name), known, n=1)
        # cola for glue/cola; the first of those that have such a part
        part = next((f"{suite.name}/{each}" for suite in SUITES for each in suite.members if each == name.lower()), "")
        meant = part or (known[near[0]].name if near else "")
        hint = f"did you mean suite:{meant}?" if meant else "nmtool list suites names them all"
        raise UsageError(f"no suite {name!r} (in {uri!r})", "a suite's name", hint)
    return known[_plain(name)]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _place(suite: Suite, data_root: Path, uri: str) -> Path:
    """The folder that has the suite's layout.

    Raises:
        InputMissingError: none has; the message says where it was looked for and draws the tree.
    """
    root, _ = files.place(str(data_root), "folder", "--data-root")
    names = list(dict.fromkeys((suite.name, *suite.folders)))
    for place in itertools.chain((root / name for name in names), (root,), _others(root, names)):
        if any(_is_there(place, witness) for witness in suite.witnesses):
            return place
    shown = ", ".join(suite.witnesses[:_SHOWN]) + (" …" if len(suite.witnesses) > _SHOWN else "")
    raise InputMissingError(
        f"no {suite.title} for {uri} in {str(data_root)!r}",
        f"one of {shown} in {_or([*(f'{name}/' for name in names), 'the data root itself'])}",
        _drawn(suite, "put it there, or name another --data-root"),
    )


def _is_there(place: Path, witness: str) -> bool:
    """Whether a folder has a path, or one that a pattern stands for."""
    return any(place.glob(witness)) if "*" in witness else (place / witness).exists()


def _others(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """Folders called so but for case, ``-`` and ``_``, then those inside one of them, in the order of the names."""
    known = {_plain(name) for name in names}
    outer = _called(root, known)
    yield from outer
    for place in outer:
        yield from _called(place, known)


def _called(place: Path, known: Collection[str]) -> list[Path]:
    with files.told(f"the folder {str(place)!r}"), os.scandir(place) as entries:
        return [
            place / name
            for name in sorted(each.name for each in entries if _plain(each.name) in known and each.is_dir())
        ]


def _or(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _drawn(suite: Suite, remedy: str) -> str:
    """A remedy with the expected tree under it."""
    tree = "\n".join("  " + line for line in suite.tree.strip("\n").splitlines())
    return f"{remedy + '; ' if remedy else ''}the official layout, below the data root:\n{tree}"
