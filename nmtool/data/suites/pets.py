"""Oxford-IIIT Pet: a list of images with class numbers a split; a file is named after its breed."""

from __future__ import annotations

from pathlib import Path

from nmtool.data.dataset import Dataset
from nmtool.data.suites.annotations import apart, distinct, plain, rows
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.errors import DataError

_LISTS = {"train": "trainval.txt", "test": "test.txt"}
_CLASSES = 37


def _load(suite: Suite, request: Request) -> Dataset:
    paths = {split: request.root / "annotations" / name for split, name in _LISTS.items()}
    breeds: dict[int, str] = {}
    splits = {split: _listed(path, breeds) for split, path in paths.items()}
    apart(splits, suite.title)
    named = [breeds.get(number, f"class {number}") for number in range(1, max(breeds, default=0) + 1)]
    classes = distinct(named, "annotations")
    remarks = []
    if len(breeds) < len(classes):
        remarks.append(f"the lists of suite:{suite.name} name {len(breeds)} of {len(classes)} classes")
    return files_dataset(suite, request, classes, splits, inputs=list(paths.values()), remarks=remarks)


def _listed(path: Path, breeds: dict[int, str]) -> ImageFiles:
    """The images of a list; ``breeds`` takes the name of each class number, and has to agree with it."""
    name = f"annotations/{path.name}"
    images, labels = [], []
    for line, row in rows(path, name):
        if row.startswith("#"):
            continue
        cells = row.split()
        if len(cells) != 4 or not cells[1].isascii() or not cells[1].isdigit():
            raise DataError(
                f"{name}, line {line}: {row[:80]!r}", "IMAGE CLASS SPECIES BREED, three numbers after a name"
            )
        breed, _, number = cells[0].rpartition("_")
        if not breed or not number:
            raise DataError(f"{name}, line {line}: the image {cells[0][:80]!r}", "BREED_NUMBER")
        label = int(cells[1]) if len(cells[1]) < 6 else 0
        if not 1 <= label <= _CLASSES:
            raise DataError(f"{name}, line {line}: the class number {cells[1][:20]}", f"1 to {_CLASSES}")
        if breeds.setdefault(label, breed) != breed:
            raise DataError(f"{name}, line {line}: class {label} is {breed} here", f"{breeds[label]}, as before")
        images.append(f"images/{plain(cells[0], name)}.jpg")
        labels.append(label - 1)
    return ImageFiles(paths=images, labels=labels)


PETS = Suite(
    name="oxfordpet",
    title="OxfordPet",
    group="in-domain",
    kind="images",
    classes=_CLASSES,
    splits={"train": 3_680, "test": 3_669},
    metric="mean per class",
    source="Parkhi et al. 2012",
    tree="""
oxford-iiit-pet/
  annotations/trainval.txt
  annotations/test.txt
  images/Abyssinian_1.jpg …
""",
    witnesses=("annotations/trainval.txt", "annotations/test.txt"),
    folders=("oxford-iiit-pet", "oxford_iiit_pet", "oxford_pets"),
    load=_load,
    aliases=("pets", "pet", "oxford-iiit-pet", "oxfordpets"),
    note="The split train is the official trainval.txt.",
)
