"""Clothing1M: a million photographs with labels taken from the text around them, and some with labels given by hand.

``train`` is the noisily labelled set; ``clean_train``, ``val`` and ``test`` are those labelled by hand. Which image has
which label stands in two lists, one of either sort; which images form a split stands in four more.
"""

from __future__ import annotations

from pathlib import Path

from nmtool.data.dataset import Dataset
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.data.suites.tabbed import class_names, keyed, listed
from nmtool.errors import DataError

_NAMES = "category_names_eng.txt"
# split → its images, and the list that has their labels
_SPLITS = {
    "train": ("noisy_train_key_list.txt", "noisy_label_kv.txt"),
    "clean_train": ("clean_train_key_list.txt", "clean_label_kv.txt"),
    "val": ("clean_val_key_list.txt", "clean_label_kv.txt"),
    "test": ("clean_test_key_list.txt", "clean_label_kv.txt"),
}


def _load(suite: Suite, request: Request) -> Dataset:
    # Many keep the lists in a folder of their own.
    home = request.root / "annotations"
    home = home if (home / _NAMES).is_file() else request.root
    classes = class_names(home / _NAMES, _NAMES)
    known = {name: _labels(home / name, name, len(classes)) for name in sorted({each for _, each in _SPLITS.values()})}
    splits = {split: _split(home / keys, keys, known[name], name) for split, (keys, name) in _SPLITS.items()}
    inputs = [home / _NAMES, *(home / name for name in known), *(home / keys for keys, _ in _SPLITS.values())]
    return files_dataset(suite, request, classes, splits, inputs=inputs)


def _labels(path: Path, name: str, classes: int) -> dict[str, int]:
    """Class number by image; raises ``DataError`` where one has two."""
    labels: dict[str, int] = {}
    for image, label in keyed(path, name, classes):
        if labels.setdefault(image, label) != label:
            raise DataError(f"{name} gives {image!r} the classes {labels[image]} and {label}", "one class an image")
    return labels


def _split(path: Path, name: str, labels: dict[str, int], source: str) -> ImageFiles:
    images = listed(path, name)
    missing = [image for image in images if image not in labels]
    if missing:
        raise DataError(
            f"{len(missing)} images of {name} have no label in {source} ({missing[0]!r})", "a label for all"
        )
    return ImageFiles(paths=images, labels=[labels[image] for image in images])


CLOTHING1M = Suite(
    name="clothing1m",
    title="Clothing1M",
    group="noisy labels",
    kind="images",
    classes=14,
    splits={"train": 1_000_000, "clean_train": 47_570, "val": 14_313, "test": 10_526},
    metric="accuracy",
    source="Xiao et al. 2015",
    tree="""
clothing1m/
  category_names_eng.txt         (the lists may also lie in annotations/)
  noisy_label_kv.txt             images/0/0/1234,5678.jpg 3
  clean_label_kv.txt
  noisy_train_key_list.txt       images/0/0/1234,5678.jpg
  clean_train_key_list.txt
  clean_val_key_list.txt
  clean_test_key_list.txt
  images/0/ … images/9/
""",
    witnesses=(_NAMES, f"annotations/{_NAMES}", "noisy_label_kv.txt", "annotations/noisy_label_kv.txt"),
    folders=("Clothing1M", "Clothing-1M", "clothing-1m", "Clothing 1M", "clothing_1m"),
    load=_load,
    note="train has noisy labels (38.5 % are estimated to be wrong), the other splits clean ones; some images have "
    "labels of both sorts.",
    protocol="TURN trains on train, without clean_train, and tests on test (Tables 3 and 6).",
)
