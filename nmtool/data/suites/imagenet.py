"""ImageNet-1K as torchvision leaves it (train/WNID, val/WNID) and as Kaggle and the official archives do.

The classes are always the 1,000 WordNet ids in their sorted order, so that labels mean the same in every part of the
set and in its variants. Validation images that lie flat get their labels from Kaggle's LOC_val_solution.csv or from the
development kit (ground truth and meta.mat), never from a guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from nmtool.data import classlists
from nmtool.data.dataset import Dataset
from nmtool.data.matlab import Mat
from nmtool.data.suites.facts import Request, Suite, WrongLayout
from nmtool.data.suites.listing import class_folders, entries, image_files, regular
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.data.suites.tabbed import lines
from nmtool.errors import DataError, InputMissingError

_KAGGLE = "ILSVRC/Data/CLS-LOC"
_SOLUTION = "LOC_val_solution.csv"
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"
_FIELDS = ("ILSVRC2012_ID", "WNID", "num_children")
_KITS = ("ILSVRC2012_devkit_t12", "")
_MOST_BYTES = 64 << 20


def _load(suite: Suite, request: Request) -> Dataset:
    root = request.root / _KAGGLE if (request.root / _KAGGLE).is_dir() else request.root
    known = classlists.numbers()
    splits: dict[str, ImageFiles] = {}
    inputs: list[Path] = []
    if (root / "train").is_dir():
        splits["train"] = image_files(class_folders(root, "train", known, suite), known)
    if (root / "val").is_dir():
        here = entries(root, "val", suite)
        if here.images and here.folders:
            raise DataError(
                f"val of {suite.title} has images ({here.images[0]!r}) and folders ({here.folders[0]!r})",
                "either WNID folders or the images themselves",
            )
        if here.images:
            splits["val"], inputs = _flat(request.root, root, here.images, suite)
        else:
            splits["val"] = image_files(class_folders(root, "val", known, suite), known)
    if not splits:
        raise WrongLayout(f"neither train nor val of {suite.title} is a folder", "at least one of them")
    return files_dataset(suite, replace(request, root=root), classlists.wnids(), splits, inputs=inputs)


def _flat(top: Path, root: Path, images: list[str], suite: Suite) -> tuple[ImageFiles, list[Path]]:
    """The validation images that lie in one folder, with the labels of the annotation, and its files.

    Raises:
        InputMissingError: no annotation, or an image of it that is not there (``files_dataset`` tells).
        DataError: an annotation that is none, or an image that it doesn't know.
    """
    for place in dict.fromkeys((top, root)):
        if (place / _SOLUTION).exists():
            inputs = [place / _SOLUTION]
            truth = dict(_solution(inputs[0]))
            break
        kit = next((place / name for name in _KITS if (place / name / _TRUTH).exists()), None)
        if kit:
            inputs = [kit / _TRUTH, kit / _META]
            truth = _kit(*inputs)
            break
    else:
        raise InputMissingError(
            f"val of {suite.title} has images without class folders, and their labels are not there",
            f"{_SOLUTION}, or ILSVRC2012_devkit_t12/{_TRUTH} and meta.mat",
        )
    strange = [name for name in images if name not in truth]
    if strange:
        raise DataError(f"the image val/{strange[0]} of {suite.title} has no label in {inputs[0].name}", "one for each")
    return ImageFiles(paths=[f"val/{name}" for name in truth], labels=list(truth.values())), inputs


def _solution(path: Path) -> Iterator[tuple[str, int]]:
    """Image and class number of each line of Kaggle's table: ``ILSVRC2012_val_00000001,n01751748 111 108 …``."""
    number, seen = classlists.numbers(), set()
    table = lines(regular(path, path.name, _MOST_BYTES), path.name)
    head = next(table, (1, ""))[1]
    if head.split(",")[:2] != ["ImageId", "PredictionString"]:
        raise DataError(f"{path.name} begins with {head[:80]!r}", "the columns ImageId and PredictionString")
    for at, line in table:
        image, _, boxes = line.partition(",")
        wnid = boxes.split(" ", 1)[0].strip('"')
        if wnid not in number or not image or image in seen:
            raise DataError(f"line {at} of {path.name} is {line[:80]!r}", "an image, once, and a class of ImageNet-1K")
        seen.add(image)
        yield f"{image}.JPEG", number[wnid]


def _kit(truth: Path, meta: Path) -> dict[str, int]:
    """Class numbers by image name, from the development kit."""
    by_id = _synsets(meta)
    out = {}
    for at, line in lines(regular(truth, truth.name, _MOST_BYTES), truth.name):
        if line.strip() not in by_id:
            raise DataError(f"line {at} of {truth.name} is {line[:40]!r}", f"a class id of {meta.name}")
        out[f"ILSVRC2012_val_{at:08d}.JPEG"] = by_id[line.strip()]
    return out


def _synsets(meta: Path) -> dict[str, int]:
    """Class numbers by the development kit's ids, of the synsets without children."""
    number = classlists.numbers()
    rows = Mat(regular(meta, meta.name, _MOST_BYTES), meta.name).records("synsets", _FIELDS)
    out: dict[str, int] = {}
    for kit_id, wnid, children in rows:
        if not all(isinstance(each, np.ndarray) and each.size == 1 for each in (kit_id, children)):
            raise DataError(f"synsets of {meta.name} have no numbers", "one ILSVRC2012_ID and num_children each")
        if children.reshape(-1)[0]:
            continue
        if wnid not in number:
            raise DataError(f"{meta.name} has the class {wnid!r}", "classes of ImageNet-1K")
        key = f"{kit_id.reshape(-1)[0]:.0f}"
        if key in out:
            raise DataError(f"{meta.name} has the class id {key} twice", "each once")
        out[key] = number[wnid]
    return out


IMAGENET = Suite(
    name="imagenet",
    title="ImageNet-1K",
    group="pre-training",
    kind="images",
    classes=classlists.CLASSES,
    splits={"train": 1_281_167, "val": 50_000},
    metric="accuracy",
    source="Russakovsky et al. 2015",
    tree="""
imagenet/
  train/
    n01440764/n01440764_10026.JPEG …
    …
  val/
    n01440764/ILSVRC2012_val_00000293.JPEG …
or, flat:
  val/ILSVRC2012_val_00000001.JPEG …
  LOC_val_solution.csv
  (or ILSVRC2012_devkit_t12/data/ with its ground truth and meta.mat)
or, from Kaggle:
  ILSVRC/Data/CLS-LOC/train, ILSVRC/Data/CLS-LOC/val
  LOC_val_solution.csv
""",
    witnesses=(_KAGGLE, "train", "val"),
    folders=("ImageNet", "imagenet-1k", "ILSVRC2012", "imagenet-object-localization-challenge"),
    load=_load,
    aliases=("imagenet-1k", "ilsvrc2012"),
    note="classes are WordNet ids in sorted order; the test split has no public labels",
    protocol="train on train, test on val; the out-of-domain study tests on the six variants",
)
