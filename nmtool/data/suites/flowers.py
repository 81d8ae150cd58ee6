"""Flowers102: images by number, with MATLAB files of the labels and of the numbers of each split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from nmtool.data.dataset import Dataset
from nmtool.data.matlab import Mat
from nmtool.data.suites.annotations import apart, from_one, together
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.errors import DataError

_CLASSES = 102
_SETS = {"train": "trnid", "val": "valid", "test": "tstid"}


def _load(suite: Suite, request: Request) -> Dataset:
    inputs = [request.root / "imagelabels.mat", request.root / "setid.mat"]
    labels = from_one(Mat(inputs[0], inputs[0].name).numbers("labels"), _CLASSES, inputs[0].name)
    splits = {split: _numbered(inputs[1], key, labels) for split, key in _SETS.items()}
    apart(splits, suite.title)
    splits["trainval"] = together(splits, "train", "val")
    classes = [str(number) for number in range(1, _CLASSES + 1)]
    return files_dataset(suite, request, classes, splits, inputs=inputs)


def _numbered(path: Path, key: str, labels: npt.NDArray[Any]) -> ImageFiles:
    """The images whose numbers, from 1, are in a variable."""
    numbers = from_one(Mat(path, path.name).numbers(key), len(labels), f"{key} of {path.name}")
    if not len(numbers):
        raise DataError(f"{key} of {path.name} is empty", "numbers of images")
    return ImageFiles(paths=[f"jpg/image_{number + 1:05d}.jpg" for number in numbers.tolist()], labels=labels[numbers])


FLOWERS102 = Suite(
    name="flowers102",
    title="Flowers102",
    group="in-domain",
    kind="images",
    classes=_CLASSES,
    splits={"train": 1_020, "val": 1_020, "trainval": 2_040, "test": 6_149},
    metric="mean per class",
    source="Nilsback and Zisserman 2008",
    tree="""
flowers-102/
  imagelabels.mat
  setid.mat
  jpg/image_00001.jpg …
""",
    witnesses=("imagelabels.mat", "setid.mat"),
    folders=("flowers-102", "102flowers", "oxford_flowers102", "oxford_flowers"),
    load=_load,
    aliases=("flowers", "oxford_flowers102"),
    note="The official files number the classes and do not name them: the class names are 1 to 102.",
    protocol="Trained on train and val together, 2,040 images (--train trainval), tested on test.",
)
