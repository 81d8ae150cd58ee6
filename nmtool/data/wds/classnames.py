"""Class names in the order of the class numbers, from a file beside WebDataset shards or one that the user names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nmtool.data import files
from nmtool.data.folder import SPLIT_NAMES
from nmtool.data.index import check_id
from nmtool.data.labels import MAX_CLASSES
from nmtool.data.wds.shardlist import Shard
from nmtool.errors import DataError

_BESIDE = ("classes.txt", "classes.json", "classnames.txt")
_CLASSES_BYTES = 64 << 20


def class_names(asked: str, shards: Sequence[Shard]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names that the user gave, names in a file beside the shards); empty where there are none.

    Args:
        asked: path of a file of class names, a line each, or a JSON list or object {name: number}; or empty.
        shards: beside which ``classes.txt``, ``classes.json`` or ``classnames.txt`` is looked for.

    Raises:
        InputMissingError: the file asked for is not there.
        DataError: it holds no class names; or two files beside the shards differ.
    """
    if asked:
        return _read_names(files.place(asked, "file", "classes=")[0]), ()
    found: dict[Path, tuple[str, ...]] = {}
    for folder in sorted({shard.path.parent for shard in shards}):
        # as CLIP_benchmark lays shards out: DIR/classnames.txt, DIR/test/0.tar
        places = [folder, folder.parent] if folder.name.lower() in SPLIT_NAMES else [folder]
        path = next((each / name for each in places for name in _BESIDE if (each / name).is_file()), None)
        if path is not None and path not in found:
            found[path] = _read_names(path)
    if len(set(found.values())) > 1:
        shown = " and ".join(repr(str(path)) for path in list(found)[:2])
        raise DataError(f"{shown} hold different class names", "one list", "say which: ?classes=FILE")
    return (), next(iter(found.values()), ())


def _read_names(path: Path) -> tuple[str, ...]:
    name = path.name
    files.regular(path, f"the class names {name}")
    with files.told(f"the class names {name}"), path.open("rb") as stream:
        data = stream.read(_CLASSES_BYTES + 1)
    wrong = DataError(f"{name} holds no class names", "a name a line, or a JSON list or {name: number}", "mend it")
    if len(data) > _CLASSES_BYTES:
        raise wrong
    try:
        text = data.decode("utf-8-sig")
        names = _json_names(text) if path.suffix.lower() == ".json" else [line.strip() for line in text.splitlines()]
    except (ValueError, TypeError, RecursionError):
        raise wrong from None
    while names and not names[-1]:
        names.pop()
    if not names or len(names) > MAX_CLASSES or not all(names):
        raise wrong
    checked = tuple(check_id(each, "class name") for each in names)
    if len(set(checked)) != len(checked):
        twice = next(each for each in checked if checked.count(each) > 1)
        raise DataError(f"the class {twice!r} stands twice in {name}", "each class once")
    return checked


def _json_names(text: str) -> list[str]:
    body = json.loads(text)
    if isinstance(body, dict):
        pairs = [(number, key) if isinstance(number, int) else (int(key), number) for key, number in body.items()]
        if sorted(number for number, _ in pairs) != list(range(len(pairs))):
            raise ValueError
        body = [each for _, each in sorted(pairs)]
    if not isinstance(body, list) or not all(isinstance(each, str) for each in body):
        raise ValueError
    return body
