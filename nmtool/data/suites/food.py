"""Food-101: lists of images in text (or JSON), a folder a class."""

from __future__ import annotations

import json
from pathlib import Path

from nmtool.data import files
from nmtool.data.dataset import Dataset
from nmtool.data.suites.annotations import apart, class_list, class_numbers, distinct, plain, rows
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.errors import DataError

_BYTES = 64 << 20


def _load(suite: Suite, request: Request) -> Dataset:
    meta = request.root / "meta"
    lists = {split: _list(meta, split) for split in suite.splits}
    named = {split: _named(path) for split, path in lists.items()}
    names = meta / "classes.txt"
    if names.exists():
        inputs, classes = [names], class_list(names, "meta/classes.txt")
    else:
        inputs = []
        classes = distinct(sorted({entry.partition("/")[0] for found in named.values() for entry in found}), "meta")
    number = class_numbers(classes)
    splits = {split: _images(found, number, f"meta/{lists[split].name}") for split, found in named.items()}
    apart(splits, suite.title)
    return files_dataset(suite, request, classes, splits, inputs=[*inputs, *lists.values()])


def _list(meta: Path, split: str) -> Path:
    """The list of a split: the text where there is one, else the JSON that holds the same."""
    text, other = meta / f"{split}.txt", meta / f"{split}.json"
    return other if other.exists() and not text.exists() else text


def _named(path: Path) -> list[str]:
    """Entries ``CLASS/NUMBER`` of a list."""
    name = f"meta/{path.name}"
    if path.suffix == ".txt":
        return [line for _, line in rows(path, name)]
    size = files.regular(path, name).st_size
    with files.told(name):
        body = path.read_bytes() if size <= _BYTES else b""
    try:
        found = json.loads(body)
        entries = [entry for of_class in found.values() for entry in of_class]
    except (ValueError, AttributeError, TypeError, RecursionError):
        entries = [None]
    if not all(isinstance(entry, str) for entry in entries):
        raise DataError(f"{name} is no list of images by class", 'JSON {"CLASS": ["CLASS/NUMBER", …], …}')
    return entries


def _images(found: list[str], number: dict[str, int], name: str) -> ImageFiles:
    labels = []
    for at, entry in enumerate(found, 1):
        folder, slash, rest = entry.partition("/")
        if not slash or not rest:
            raise DataError(f"{name}, entry {at}: {entry[:80]!r}", "CLASS/NUMBER")
        if folder not in number:
            raise DataError(f"{name}, entry {at}: the class {folder[:80]!r}", "one of meta/classes.txt")
        plain(entry, name)
        labels.append(number[folder])
    return ImageFiles(paths=[f"images/{entry}.jpg" for entry in found], labels=labels)


FOOD101 = Suite(
    name="food101",
    title="Food101",
    group="in-domain",
    kind="images",
    classes=101,
    splits={"train": 75_750, "test": 25_250},
    metric="accuracy",
    source="Bossard et al. 2014",
    tree="""
food-101/
  meta/classes.txt
  meta/train.txt, meta/test.txt    (or train.json, test.json)
  images/apple_pie/1005649.jpg …
""",
    witnesses=("meta/classes.txt", "meta/train.txt", "meta/train.json"),
    folders=("food-101",),
    load=_load,
    aliases=("food",),
    note="The paper cites Caltech-101's authors for it.",
)
