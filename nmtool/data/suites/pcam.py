"""PatchCamelyon: patches of lymph node tissue in HDF5 files, two a split, one of images and one of labels.

h5py is needed, an optional package. Rows are those of the files; images are read by rows, never a file as a whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nmtool.data.dataset import Dataset
from nmtool.data.hdf5 import Hdf5Array
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageArray, array_dataset
from nmtool.errors import DataError

_SPLITS = {"train": "train", "val": "valid", "test": "test"}
_SIDE = 96
# The files have 0 and 1: whether the middle 32 x 32 pixels show any tumour tissue (Veeling et al. 2018).
_CLASSES = ("no tumor tissue", "tumor tissue")


def _load(suite: Suite, request: Request) -> Dataset:
    splits, inputs = {}, []
    for split, part in _SPLITS.items():
        x, y = (request.root / f"camelyonpatch_level_2_split_{part}_{letter}.h5" for letter in "xy")
        splits[split] = _split(x, y)
        inputs += [x, y]
    return array_dataset(suite, request, _CLASSES, splits, inputs=inputs)


def _split(x: Path, y: Path) -> ImageArray:
    """One split.

    Raises:
        DataError: arrays of another type or shape, or not as many labels as images.
    """
    images, numbers = Hdf5Array(x, "x"), Hdf5Array(y, "y")
    if images.dtype != np.uint8 or images.shape[1:] != (_SIDE, _SIDE, 3):
        raise DataError(f"x of {x.name} is {images.dtype} {list(images.shape)}", f"uint8 [n, {_SIDE}, {_SIDE}, 3]")
    n = images.shape[0]
    if numbers.dtype.kind not in "iu" or numbers.shape not in ((n,), (n, 1, 1, 1)):
        raise DataError(
            f"y of {y.name} is {numbers.dtype} {list(numbers.shape)}", f"whole numbers [{n}, 1, 1, 1], as {x.name} has"
        )
    return ImageArray(labels=numbers.rows(0, n).reshape(-1).astype(np.int64), images=images.rows)


PCAM = Suite(
    name="pcam",
    title="PatchCamelyon",
    group="in-domain",
    kind="images",
    classes=2,
    splits={"train": 262_144, "val": 32_768, "test": 32_768},
    metric="accuracy",
    source="Veeling et al. 2018",
    tree="""
pcam/
  camelyonpatch_level_2_split_train_x.h5     (gunzipped)
  camelyonpatch_level_2_split_train_y.h5
  camelyonpatch_level_2_split_valid_x.h5
  camelyonpatch_level_2_split_valid_y.h5
  camelyonpatch_level_2_split_test_x.h5
  camelyonpatch_level_2_split_test_y.h5
""",
    witnesses=tuple(
        f"camelyonpatch_level_2_split_{part}_{letter}.h5" for part in ("train", "valid", "test") for letter in "xy"
    ),
    folders=("patchcamelyon", "patch_camelyon", "pcamv1"),
    load=_load,
    aliases=("patchcamelyon", "patch-camelyon"),
    note="the paper's Table 4 prints 10 classes, 73,257 and 26,032, which are SVHN's",
    protocol="train on train, test on test; needs h5py",
)
