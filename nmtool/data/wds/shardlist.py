"""What stands after ``wds:``: the shards, the split that each was said to be, and how their parts are to be read.

Looks at names of files only. A shard that a pattern names and that is not there is an error, never passed over.
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from nmtool.data import files
from nmtool.data.folder import SPLIT_NAMES
from nmtool.data.wds.braces import expand
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.records import check_split

OPTIONS = ("as", "caption", "classes", "image", "label", "split")
_SPLIT = r"[A-Za-z0-9_][A-Za-z0-9._/-]*"
_FORMS = "wds:DIR/{000..127}.tar, wds:train=DIR/{000..127}.tar,test=DIR/test.tar or wds:DIR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One archive: its absolute path, and the split said by the URI or by its name, else empty."""

    path: Path
    split: str
    said: bool

    @property
    def above(self) -> str:
        """The split that its folder is called after, as CLIP_benchmark's are; else empty."""
        name = self.path.parent.name
        return name if name.lower() in SPLIT_NAMES else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A parsed URI: shards in the order of their paths, and options by name."""

    shards: tuple[Shard, ...]
    options: Mapping[str, str]


def parse(where: str, uri: str) -> Address:
    """Read ``PATTERN?option=value&…`` or ``SPLIT=PATTERN,SPLIT=PATTERN?…``; ``%3F`` stands for an odd character.

    Raises:
        UsageError: an unknown option, one twice, braces that do not match.
        InputMissingError: shards that are not there; the first five are named.
        DataError: one shard named twice.
    """
    place, _, query = where.partition("?")
    options: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, sep, value = (unquote(part) for part in pair.partition("="))
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else "as ?label=json:KEY"
            raise UsageError(f"no option {name!r} (in {uri!r})", f"one of {', '.join(OPTIONS)}", hint)
        if not sep or not value or name in options:
            raise UsageError(f"{pair!r} in {uri!r}", f"each option once, as {name}=VALUE")
        options[name] = value
    if not place:
        raise UsageError(f"no shards in {uri!r}", _FORMS)
    split = check_split(options["split"]) if "split" in options else ""
    shards = []
    for said, pattern in _patterns(place, uri):
        if said and split:
            raise UsageError(f"{uri!r} names splits twice", "one of the two", "leave out split=…")
        shards += [_shard(path, said or split) for path in _paths(pattern)]
    _check(shards)
    return Address(shards=tuple(sorted(shards, key=lambda shard: os.fsencode(shard.path))), options=options)


def _patterns(place: str, uri: str) -> list[tuple[str, str]]:
    """(split or empty, pattern) of each part; ``::`` joins patterns of one split, as open_clip writes them."""
    # a file that is really there may have '=' in its path
    if not re.match(rf"{_SPLIT}=", place) or os.path.exists(unquote(place)):  # noqa: PTH110
        return [("", unquote(part)) for part in place.split("::")]
    found: dict[str, str] = {}
    for part in re.split(rf",(?={_SPLIT}=)", place):
        split, _, pattern = part.partition("=")
        if split in found or not pattern:
            raise UsageError(f"{part!r} in {uri!r}", "each split once, as SPLIT=PATTERN")
        found[check_split(split)] = pattern
    return [(split, unquote(part)) for split, pattern in found.items() for part in pattern.split("::")]


def _paths(pattern: str) -> list[Path]:
    """The archives that a pattern, a file or a folder stands for."""
    if not pattern or "\0" in pattern:
        raise UsageError(f"the shards {pattern!r}", _FORMS)
    with contextlib.suppress(RuntimeError):  # "~" of a user who has no home
        pattern = str(Path(pattern).expanduser())
    place = Path(pattern)
    if os.path.exists(place):  # noqa: PTH110 (never raises, whatever stands in the URI)
        return _inside(place) if place.is_dir() else [place.absolute()]
    names = expand(pattern)
    paths, missing = [], []
    for name in names:
        if "*" in name:
            matches = sorted(glob.glob("*".join(glob.escape(part) for part in name.split("*"))))  # noqa: PTH207
        else:
            matches = [name] if os.path.isfile(name) else []  # noqa: PTH113
        paths += [Path(match).absolute() for match in matches]
        missing += [] if matches else [name]
    if missing:
        shown = ", ".join(repr(name[:200]) for name in missing[:5]) + (" …" if len(missing) > 5 else "")
        count = "no shard" if len(names) == 1 else f"{len(missing)} of {len(names)} shards are not there:"
        raise InputMissingError(f"{count} {shown}", "all of the shards named", "check the path after wds:")
    return paths


def _inside(folder: Path) -> list[Path]:
    with files.told(f"the folder {str(folder)!r}"):
        paths = _archives(folder)
        if not paths:
            splits = [each for each in folder.iterdir() if each.name.lower() in SPLIT_NAMES and each.is_dir()]
            paths = [path for split in splits for path in _archives(split)]
    if not paths:
        raise InputMissingError(
            f"no *.tar in the folder {str(folder)!r}",
            "shards directly in it, or in folders called train, test …",
            "name them by a pattern, or write folder:DIR for a folder of images",
        )
    return paths


def _archives(folder: Path) -> list[Path]:
    names = os.listdir(folder)  # noqa: PTH208
    return [folder.absolute() / name for name in names if name.endswith(".tar") and name[0] != "."]


def _shard(path: Path, said: str) -> Shard:
    if said:
        return Shard(path=path, split=said, said=True)
    prefix = re.match(r"[A-Za-z]+", path.name)
    known = prefix is not None and prefix[0].lower() in SPLIT_NAMES
    return Shard(path=path, split=prefix[0] if prefix and known else "", said=False)


def _check(shards: list[Shard]) -> None:
    known: dict[tuple[int, int], Path] = {}
    for shard in shards:
        with contextlib.suppress(OSError):  # told by whoever opens it
            found = shard.path.stat()
            other = known.setdefault((found.st_dev, found.st_ino), shard.path)
            if other is not shard.path:
                raise DataError(f"the shard {str(shard.path)!r} is given twice (also as {str(other)!r})", "each once")
