"""FGVC-Aircraft: lists of image numbers and names, at three levels: variant, family and manufacturer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nmtool.data.dataset import Dataset
from nmtool.data.suites.annotations import apart, class_list, class_numbers, plain, rows
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.errors import DataError

# Level: file of its names, and how many there are.
_LEVELS = {"variant": ("variants.txt", 100), "family": ("families.txt", 70), "manufacturer": ("manufacturers.txt", 30)}


def _load(suite: Suite, request: Request) -> Dataset:
    level = request.member or "variant"
    data = request.root / "data"
    file, count = _LEVELS[level]
    classes = class_list(data / file, f"data/{file}")
    paths = {split: data / f"images_{level}_{split}.txt" for split in suite.splits}
    number = class_numbers(classes)
    splits = {split: _listed(path, number, file) for split, path in paths.items()}
    apart({split: found for split, found in splits.items() if split != "trainval"}, suite.title)
    halves = sorted([*splits["train"].paths, *splits["val"].paths])
    if halves != sorted(splits["trainval"].paths):
        raise DataError(f"data/{paths['trainval'].name} is not the images of train and val", "both lists together")
    return files_dataset(replace(suite, classes=count), request, classes, splits, inputs=[data / file, *paths.values()])


def _listed(path: Path, number: dict[str, int], names: str) -> ImageFiles:
    """The images of a list: a number of seven digits, a space, a name that may have spaces and slashes."""
    name = f"data/{path.name}"
    images, labels = [], []
    for line, row in rows(path, name):
        image, _, label = row.partition(" ")
        if not label:
            raise DataError(f"{name}, line {line}: {row[:80]!r}", "IMAGE NAME")
        if label not in number:
            raise DataError(f"{name}, line {line}: the class {label[:80]!r}", f"one of data/{names}")
        images.append(f"data/images/{plain(image, name)}.jpg")
        labels.append(number[label])
    return ImageFiles(paths=images, labels=labels)


AIRCRAFT = Suite(
    name="fgvcaircraft",
    title="FGVCAircraft",
    group="in-domain",
    kind="images",
    classes=100,
    splits={"train": 3_334, "val": 3_333, "trainval": 6_667, "test": 3_333},
    metric="mean per class",
    source="Maji et al. 2013",
    tree="""
fgvc-aircraft-2013b/
  data/variants.txt
  data/images_variant_{train,val,trainval,test}.txt
  data/images/0034309.jpg …
(families.txt, images_family_*.txt … for the other levels)
""",
    witnesses=("data/variants.txt", "data/images_variant_train.txt"),
    folders=("fgvc-aircraft-2013b", "fgvc_aircraft"),
    load=_load,
    members=("family", "manufacturer"),
    aliases=("aircraft",),
    note="100 variants; the paper's Table 4 prints 102, a slip of torchvision's early documentation. family (70) and "
    "manufacturer (30) are coarser labels of the same images.",
    protocol="Trained on train and val together, 6,667 images (--train trainval), tested on test.",
)
