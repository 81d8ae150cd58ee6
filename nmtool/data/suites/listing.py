"""Folders of classes as suites have them: one look at each folder, every class known by its name. Opens no image.

A folder that is no class of the suite is refused by name; so are folders inside a class. Hidden entries, what macOS and
Windows leave behind, and files without an image suffix are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nmtool.data import files
from nmtool.data.images import SUFFIXES
from nmtool.data.suites.facts import Suite, WrongLayout
from nmtool.data.suites.samples import ImageFiles
from nmtool.errors import DataError
from nmtool.numerics.seeds import generator

SPLIT_VERSION = 1
"""Of the splits that nmtool draws where a dataset has none of its own."""

_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))


@dataclass(slots=True, kw_only=True)
class Entries:
    """What a folder holds: names of folders and of image files, sorted."""

    folders: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


def entries(root: Path, below: str, suite: Suite) -> Entries:
    """The folders and image files in ``root/below``; links among them are refused.

    Raises:
        InputMissingError: no such folder.
        DataError: a folder that is a link.
    """
    found = Entries()
    shown = f"the folder {below or root.name!r} of {suite.title}"
    with files.told(shown), os.scandir(root / below) as there:
        for entry in there:
            name = entry.name
            if name.startswith(".") or name.lower() in _LITTER:
                continue
            if name.lower().endswith(SUFFIXES):
                found.images.append(name)  # what is no file is told by located.py
            elif entry.is_dir(follow_symlinks=False):
                found.folders.append(name)
            elif entry.is_symlink() and entry.is_dir():
                raise DataError(f"{name!r} in {shown} is a link", "a folder itself; links are not followed")
    found.folders.sort()
    found.images.sort()
    return found


def regular(path: Path, name: str, most: int) -> Path:
    """The path, of a file of at most ``most`` bytes; a pipe would be waited for.

    Raises:
        InputMissingError: no such file.
        DataError: no file, or a larger one.
    """
    size = files.regular(path, name).st_size
    if size > most:
        raise DataError(f"{name} has {size} bytes", f"at most {most}")
    return path


def class_folders(root: Path, below: str, known: Mapping[str, int], suite: Suite) -> dict[str, list[str]]:
    """Image files by class folder, of those folders of ``root/below`` that are there; paths below ``root``.

    Args:
        root: the suite's folder.
        below: the folder that holds the class folders; empty for ``root`` itself.
        known: class numbers by folder name.
        suite: for messages.

    Raises:
        InputMissingError: no such folder.
        DataError: a folder that is no class, one inside a class folder, or images beside the class folders.
        WrongLayout: no class folder at all.
    """
    here = entries(root, below, suite)
    shown = f"{below}/" if below else ""
    strange = [name for name in here.folders if name not in known]
    if strange:
        raise DataError(
            f"the folder {shown + strange[0]!r} is no class of {suite.title}",
            f"one of its {len(known)} classes ({', '.join(list(known)[:3])} …)",
            "move it away",
        )
    if here.images:
        raise DataError(f"the image {shown + here.images[0]!r} of {suite.title} is in no class folder", "CLASS/image")
    if not here.folders:
        raise WrongLayout(f"no class folder in {shown or root.name!r} of {suite.title}", "a folder for each class")
    found = {}
    for name in here.folders:
        inside = entries(root, shown + name, suite)
        if inside.folders:
            raise DataError(f"the folder {f'{shown}{name}/{inside.folders[0]}'!r} inside a class", "image files only")
        found[name] = [f"{shown}{name}/{image}" for image in inside.images]
    return found


def image_files(found: Mapping[str, list[str]], known: Mapping[str, int]) -> ImageFiles:
    """One split of class folders."""
    labels: list[int] = []
    for name, paths in found.items():
        labels += [known[name]] * len(paths)
    return ImageFiles(paths=[path for paths in found.values() for path in paths], labels=labels)


def drawn(found: Mapping[str, list[str]], tests: Mapping[str, int], suite: Suite) -> dict[str, dict[str, list[str]]]:
    """A train and a test split, drawn class by class: the same on every machine for the same file names.

    Args:
        found: sorted paths by class.
        tests: how many of each class are for testing.
        suite: its name is part of the random stream.
    """
    splits: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for name, paths in found.items():
        rng = generator(0, "suite", suite.name, "split", SPLIT_VERSION, name)
        order = rng.permutation(len(paths)).tolist()
        splits["test"][name] = [paths[at] for at in sorted(order[: tests[name]])]
        splits["train"][name] = [paths[at] for at in sorted(order[tests[name] :])]
    return splits


def fifth(n: int) -> int:
    """How many of n images are for testing, of a fifth: at least one where there are two."""
    return max(n // 5, 1 if n > 1 else 0)
