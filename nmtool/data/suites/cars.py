"""StanfordCars: MATLAB files of file names and class numbers, a folder a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nmtool.data.dataset import Dataset
from nmtool.data.matlab import Mat
from nmtool.data.suites.annotations import distinct, from_one, plain
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.errors import DataError

_WITH_LABELS = "cars_test_annos_withlabels.mat"


def _load(suite: Suite, request: Request) -> Dataset:
    root, devkit = request.root, request.root / "devkit"
    # torchvision wants the labels of the test images beside the devkit, others put them into it
    tested = devkit / _WITH_LABELS if (devkit / _WITH_LABELS).exists() else root / _WITH_LABELS
    inputs = {"meta": devkit / "cars_meta.mat", "train": devkit / "cars_train_annos.mat", "test": tested}
    names = {role: path.relative_to(root).as_posix() for role, path in inputs.items()}
    classes = distinct(Mat(inputs["meta"], names["meta"]).texts("class_names"), names["meta"])
    splits = {split: _annotated(inputs[split], names[split], split, len(classes)) for split in ("train", "test")}
    return files_dataset(suite, request, classes, splits, inputs=list(inputs.values()))


def _annotated(path: Path, name: str, split: str, classes: int) -> ImageFiles:
    found = Mat(path, name).records("annotations", ("fname", "class"))
    if not all(isinstance(file, str) and _is_one(number) for file, number in found):
        raise DataError(
            f"annotations of {name} are no file names with class numbers", "fname and class in every record"
        )
    numbers = np.array([float(number.reshape(-1)[0]) for _, number in found])
    return ImageFiles(
        paths=[f"cars_{split}/{plain(file, name)}" for file, _ in found], labels=from_one(numbers, classes, name)
    )


def _is_one(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size == 1


CARS = Suite(
    name="stanfordcars",
    title="StanfordCars",
    group="in-domain",
    kind="images",
    classes=196,
    splits={"train": 8_144, "test": 8_041},
    metric="accuracy",
    source="Krause et al. 2013",
    tree="""
stanford_cars/
  devkit/cars_meta.mat
  devkit/cars_train_annos.mat
  cars_test_annos_withlabels.mat   (or in devkit/)
  cars_train/00001.jpg …
  cars_test/00001.jpg …
""",
    witnesses=("devkit/cars_meta.mat", "devkit/cars_train_annos.mat"),
    folders=("stanford_cars", "cars"),
    load=_load,
    aliases=("cars",),
    note="The devkit's own cars_test_annos.mat has no labels; cars_test_annos_withlabels.mat has.",
)
