"""CIFAR-10 and CIFAR-100 in the "python version": pickled batches of 32 x 32 images.

Rows stand in the order of the batches, so that row numbers are those of torchvision and of the CIFAR-N labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nmtool.data import files, pickles
from nmtool.data.dataset import Dataset
from nmtool.data.index import check_id
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageArray, Pixels, array_dataset
from nmtool.errors import DataError
from nmtool.records import Int


def _load10(suite: Suite, request: Request) -> Dataset:
    return _load(
        suite,
        request,
        {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]},
        labels=b"labels",
        meta=("batches.meta", b"label_names"),
    )


def _load100(suite: Suite, request: Request) -> Dataset:
    return _load(
        suite,
        request,
        {"train": ["train"], "test": ["test"]},
        labels=b"fine_labels",
        meta=("meta", b"fine_label_names"),
    )


def _load(
    suite: Suite, request: Request, batches: dict[str, list[str]], *, labels: bytes, meta: tuple[str, bytes]
) -> Dataset:
    root = request.root
    names = _body(root / meta[0]).get(meta[1])
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{meta[0]} of {suite.title} has no {meta[1].decode()}", "a list of class names")
    classes = [check_id(name.decode("utf-8", "replace"), "class name") for name in names]
    splits = {}
    for split, parts in batches.items():
        read = [_batch(root / part, labels) for part in parts]
        images = np.concatenate([pixels for pixels, _ in read])
        splits[split] = ImageArray(labels=np.concatenate([each for _, each in read]), images=_rows(images))
    inputs = [root / meta[0], *(root / part for parts in batches.values() for part in parts)]
    return array_dataset(suite, request, classes, splits, inputs=inputs)


def _rows(images: Pixels) -> Any:
    return lambda start, stop: images[start:stop]


def _body(path: Path) -> dict[Any, Any]:
    with files.told(path.name):
        data = path.read_bytes()
    body = pickles.load(data, path.name)
    if not isinstance(body, dict):
        raise DataError(f"{path.name} holds a {type(body).__name__}", "a dictionary, as CIFAR's batches")
    return body


def _batch(path: Path, key: bytes) -> tuple[Pixels, Int]:
    """Images uint8 [n, 32, 32, 3] and labels [n] of one batch."""
    body = _body(path)
    data, labels = body.get(b"data"), body.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        shown = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"data of {path.name} is {shown}", "uint8 [n, 3072]")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{path.name} has no {key.decode()}", "a list of class numbers")
    if len(labels) != len(data):
        raise DataError(f"{path.name} has {len(data)} images and {len(labels)} labels", "as many of each")
    images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, np.array(labels, dtype=np.int64)


CIFAR10 = Suite(
    name="cifar10",
    title="CIFAR-10",
    group="in-domain",
    kind="images",
    classes=10,
    splits={"train": 50_000, "test": 10_000},
    metric="accuracy",
    source="Krizhevsky 2009",
    tree="""
cifar-10-batches-py/
  batches.meta
  data_batch_1 … data_batch_5
  test_batch
""",
    witnesses=("batches.meta", "data_batch_1", "test_batch"),
    folders=("cifar-10-batches-py", "cifar10/cifar-10-batches-py"),
    load=_load10,
)

CIFAR100 = Suite(
    name="cifar100",
    title="CIFAR-100",
    group="in-domain",
    kind="images",
    classes=100,
    splits={"train": 50_000, "test": 10_000},
    metric="accuracy",
    source="Krizhevsky 2009",
    tree="""
cifar-100-python/
  meta
  train
  test
""",
    witnesses=("meta",),
    folders=("cifar-100-python", "cifar100/cifar-100-python"),
    load=_load100,
)
