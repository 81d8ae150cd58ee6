"""SVHN's cropped digits: MATLAB files of 32 x 32 images; class number 10 is the digit 0."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nmtool.data.dataset import Dataset
from nmtool.data.matlab import Mat
from nmtool.data.suites.annotations import from_one
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageArray, Pixels, array_dataset
from nmtool.errors import DataError

_OPTIONAL = "extra"


def _load(suite: Suite, request: Request) -> Dataset:
    paths = {split: request.root / f"{split}_32x32.mat" for split in suite.splits}
    if not paths[_OPTIONAL].exists():
        del paths[_OPTIONAL]
    return array_dataset(
        suite,
        request,
        [str(digit) for digit in range(10)],
        {split: _digits(path) for split, path in paths.items()},
        inputs=list(paths.values()),
    )


def _digits(path: Path) -> ImageArray:
    mat = Mat(path, path.name)
    found = mat.variables.get("X")
    if found is None or found.type != "u1" or len(found.shape) not in (3, 4) or found.shape[:3] != (32, 32, 3):
        shown = f"{found.type} {list(found.shape)}" if found else "not there"
        raise DataError(f"X of {path.name} is {shown}", "u1 [32, 32, 3, n]: images of the cropped digits")
    n = found.shape[3] if len(found.shape) == 4 else 1
    labels = from_one(mat.numbers("y"), 10, path.name)
    if len(labels) != n:
        raise DataError(f"{path.name} has {n} images and {len(labels)} labels", "as many of each")
    return ImageArray(labels=(labels + 1) % 10, images=_images(mat, n))


def _images(mat: Mat, n: int) -> Callable[[int, int], Pixels]:
    """Reads rows; all images are unpacked when the first is asked for."""
    held: list[Pixels] = []
    lock = threading.Lock()

    def rows(start: int, stop: int) -> Pixels:
        with lock:
            if not held:
                held.append(mat.numbers("X").reshape((32, 32, 3, n), order="F"))
        return np.ascontiguousarray(held[0][..., start:stop].transpose(3, 0, 1, 2))

    return rows


SVHN = Suite(
    name="svhn",
    title="SVHN",
    group="in-domain",
    kind="images",
    classes=10,
    splits={"train": 73_257, "test": 26_032, "extra": 531_131},
    metric="accuracy",
    source="Netzer et al. 2011",
    tree="""
svhn/
  train_32x32.mat
  test_32x32.mat
  extra_32x32.mat                  (if it is there, the split extra)
""",
    witnesses=("train_32x32.mat", "test_32x32.mat"),
    folders=("SVHN",),
    load=_load,
    note="The cropped digits (format 2). Class number 10 in the files is the digit 0, and has the label 0 here.",
)
