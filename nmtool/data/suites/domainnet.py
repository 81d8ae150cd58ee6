"""DomainNet: 345 classes in six domains, each a folder of class folders with two official lists beside it.

Class names and numbers are those of the lists, and all lists that are there have to agree on them. Of the domains those
are read whose lists are there; which are missing is remarked on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nmtool.data.dataset import Dataset
from nmtool.data.index import check_id
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.listing import regular
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.data.suites.tabbed import lines
from nmtool.errors import DataError, InputMissingError

_CLASSES = 345
_LIST_BYTES = 256 << 20
# Lines of the official lists, train and test (Peng et al. 2019; together 409,832 and 176,743). Clipart and painting are
# those of the "cleaned version", which the paper's Table 5 counts.
_SIZES = {
    "clipart": (33_525, 14_604),
    "infograph": (36_023, 15_582),
    "painting": (50_416, 21_850),
    "quickdraw": (120_750, 51_750),
    "real": (120_906, 52_041),
    "sketch": (48_212, 20_916),
}
_PARTS = ("train", "test")

Rows = tuple[list[str], list[int]]


def _load(suite: Suite, request: Request) -> Dataset:
    there = [name for name in _SIZES if any((request.root / _list_name(name, part)).exists() for part in _PARTS)]
    inputs = [request.root / _list_name(domain, part) for domain in there for part in _PARTS]
    names: dict[int, tuple[str, str]] = {}
    rows = {f"{domain}/{part}": _rows(request.root, domain, part, names) for domain in there for part in _PARTS}
    classes = [names[number][0] if number in names else f"class {number}" for number in range(_CLASSES)]
    remarks = []
    if request.member:
        if request.member not in there:
            wanted = " and ".join(_list_name(request.member, part) for part in _PARTS)
            raise InputMissingError(f"the lists of {request.uri} are not there", wanted)
        suite = next(part for part in DOMAINNET_PARTS if part.name == f"{suite.name}/{request.member}")
        rows = {part: rows[f"{request.member}/{part}"] for part in _PARTS}
    elif missing := [domain for domain in _SIZES if domain not in there]:
        remarks.append(f"suite:{suite.name} is here without {', '.join(missing)}")
    if len(names) < _CLASSES:
        remarks.append(f"the lists of suite:{suite.name} name {len(names)} of {_CLASSES} classes")
    splits = {split: ImageFiles(paths=paths, labels=labels) for split, (paths, labels) in rows.items()}
    return files_dataset(suite, request, classes, splits, inputs=inputs, remarks=remarks)


def _list_name(domain: str, part: str) -> str:
    return f"{domain}_{part}.txt"


def _rows(root: Path, domain: str, part: str, names: dict[int, tuple[str, str]]) -> Rows:
    """Paths and class numbers of one list.

    Args:
        names: class names by number, each with the list that gave it first; those of this list are added.

    Raises:
        InputMissingError: no such list.
        DataError: a line that is none, a class number out of range, or one that another class folder has.
    """
    source = _list_name(domain, part)
    numbers = {name: number for number, (name, _) in names.items()}
    paths: list[str] = []
    labels: list[int] = []
    for at, line in lines(regular(root / source, source, _LIST_BYTES), source):
        if not line.strip():
            continue
        image, _, digits = line.rstrip().rpartition(" ")
        folder = image.split("/")
        if len(folder) != 3 or folder[0] != domain or not digits.isascii() or not digits.isdecimal():
            raise DataError(f"line {at} of {source} is {line[:100]!r}", f"{domain}/CLASS/IMAGE and a class number")
        number = int(digits) if len(digits) < 10 else _CLASSES
        if number >= _CLASSES:
            raise DataError(f"line {at} of {source} has the class number {digits[:20]}", f"0 to {_CLASSES - 1}")
        if numbers.get(folder[1]) != number:
            _agree(folder[1], number, numbers, names, f"line {at} of {source}", source)
        paths.append(image)
        labels.append(number)
    return paths, labels


def _agree(
    name: str, number: int, numbers: dict[str, int], names: dict[int, tuple[str, str]], shown: str, source: str
) -> None:
    """Take note of a class that is new; raise where its name or its number is known as another's."""
    if name in numbers:
        known, first = number, names[numbers[name]][1]
        raise DataError(f"{shown} numbers the class {name!r} {known}", f"{numbers[name]}, as in {first}")
    if number in names:
        raise DataError(
            f"{shown} numbers the class {name!r} {number}", f"{names[number][0]!r}, as in {names[number][1]}"
        )
    names[number] = check_id(name, f"class name in {source}"), source
    numbers[name] = number


_TREE = """
domainnet/
  real_train.txt         such as real/aircraft_carrier/real_002_000001.jpg 0
  real_test.txt
  real/aircraft_carrier/real_002_000001.jpg …
  sketch_train.txt
  …                      (at least one of clipart, infograph, painting,
                         quickdraw, real and sketch)
"""

DOMAINNET = Suite(
    name="domainnet",
    title="DomainNet",
    group="out-of-domain",
    kind="images",
    classes=_CLASSES,
    splits={f"{domain}/{part}": n for domain, sizes in _SIZES.items() for part, n in zip(_PARTS, sizes, strict=True)},
    metric="accuracy",
    source="Peng et al. 2019",
    tree=_TREE,
    witnesses=tuple(_list_name(domain, part) for domain in _SIZES for part in _PARTS),
    folders=("DomainNet", "domain_net"),
    load=_load,
    members=tuple(_SIZES),
    note="clipart and painting in the cleaned version, as the paper's sizes have it; the paper leaves infograph and "
    "quickdraw out",
    protocol="train on real/train or sketch/train, test on the test splits of the other three of real, sketch, "
    "painting and clipart",
)

DOMAINNET_PARTS = tuple(
    replace(
        DOMAINNET,
        name=f"domainnet/{domain}",
        title=f"DomainNet {domain.capitalize()}",
        splits=dict(zip(_PARTS, sizes, strict=True)),
        members=(),
        note="not in the paper's tables" if domain in ("infograph", "quickdraw") else "",
        protocol="train and test" if domain in ("real", "sketch") else "test only",
    )
    for domain, sizes in _SIZES.items()
)
"""The domains with facts of their own; opened as members of the whole."""
