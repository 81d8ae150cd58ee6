"""DTD, describable textures: ten ways of splitting the same images in three; the first is the papers'."""

from __future__ import annotations

from pathlib import Path

from nmtool.data.dataset import Dataset
from nmtool.data.suites.annotations import apart, class_numbers, distinct, plain, rows, together
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.errors import DataError


def _load(suite: Suite, request: Request) -> Dataset:
    fold = request.member or "1"
    paths = {split: request.root / "labels" / f"{split}{fold}.txt" for split in ("train", "val", "test")}
    named = {split: _listed(path) for split, path in paths.items()}
    classes = distinct(sorted({each.partition("/")[0] for found in named.values() for each in found}), "labels")
    number = class_numbers(classes)
    splits = {
        split: ImageFiles(
            paths=[f"images/{each}" for each in found], labels=[number[each.partition("/")[0]] for each in found]
        )
        for split, found in named.items()
    }
    apart(splits, suite.title)
    splits["trainval"] = together(splits, "train", "val")
    return files_dataset(suite, request, classes, splits, inputs=list(paths.values()))


def _listed(path: Path) -> list[str]:
    """Entries ``CLASS/CLASS_NUMBER.jpg`` of a list."""
    name = f"labels/{path.name}"
    found = []
    for line, row in rows(path, name):
        folder, _, file = row.partition("/")
        if not folder or "/" in file or not file.startswith(f"{folder}_"):
            raise DataError(f"{name}, line {line}: {row[:80]!r}", "CLASS/CLASS_NUMBER.jpg")
        found.append(plain(row, name))
    return found


DTD = Suite(
    name="dtd",
    title="DTD",
    group="in-domain",
    kind="images",
    classes=47,
    splits={"train": 1_880, "val": 1_880, "trainval": 3_760, "test": 1_880},
    metric="accuracy",
    source="Cimpoi et al. 2014",
    tree="""
dtd/                               (torchvision: dtd/dtd/)
  labels/train1.txt, labels/val1.txt, labels/test1.txt … train10.txt …
  images/banded/banded_0002.jpg …
""",
    witnesses=("labels/train1.txt", "labels/test1.txt"),
    folders=("dtd/dtd",),
    load=_load,
    members=tuple(str(fold) for fold in range(1, 11)),
    note="The first of ten folds; suite:dtd/2 … suite:dtd/10 are the others.",
    protocol="Trained on train of fold 1, 1,880 images, tested on its test. VTAB trains on train and val.",
)
