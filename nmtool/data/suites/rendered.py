"""Rendered SST2: sentences of the Stanford Sentiment Treebank drawn as images, by split and class."""

from __future__ import annotations

from nmtool.data.dataset import Dataset
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.listing import class_folders, image_files
from nmtool.data.suites.samples import files_dataset
from nmtool.errors import InputMissingError

_CLASSES = ("negative", "positive")
_FOLDERS = {"train": "train", "val": "valid", "test": "test"}


def _load(suite: Suite, request: Request) -> Dataset:
    known = {name: number for number, name in enumerate(_CLASSES)}
    splits = {}
    for split, folder in _FOLDERS.items():
        for name in _CLASSES:
            if not (request.root / folder / name).is_dir():
                raise InputMissingError(f"the folder {folder}/{name} of {suite.title} is not there")
        splits[split] = image_files(class_folders(request.root, folder, known, suite), known)
    return files_dataset(suite, request, _CLASSES, splits, inputs=[])


RENDERED_SST2 = Suite(
    name="rendered-sst2",
    title="Rendered SST2",
    group="in-domain",
    kind="images",
    classes=2,
    splits={"train": 6_920, "val": 872, "test": 1_821},
    metric="accuracy",
    source="Radford et al. 2021, from Socher et al. 2013",
    tree="""
rendered-sst2/
  train/
    negative/0.png …
    positive/
  valid/
  test/
""",
    witnesses=("train/negative", "valid/negative", "test/negative"),
    load=_load,
    protocol="train on train, test on test",
)
