"""Datasets from what a suite's loader has found: images in files, images in arrays, texts, caption pairs.

A loader works out ids and labels from the official annotations; here they are put in order, checked and indexed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.data import files
from nmtool.data.dataset import Dataset
from nmtool.data.ids import numbered_ids
from nmtool.data.index import combined, make_splits
from nmtool.data.suites.checks import check_equal, check_once, facts_of, labels_of, question_of, settled
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.held import ArraysDataset, FilesDataset, Pixels, TextDataset
from nmtool.data.suites.located import Located, inside
from nmtool.records import Float, Int, check_split

__all__ = [
    "ImageArray",
    "ImageFiles",
    "Pixels",
    "Texts",
    "array_dataset",
    "files_dataset",
    "row_digest",
    "text_dataset",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """A split of image files.

    Attributes:
        paths: N paths below the suite's folder, with slashes; they are the sample ids.
        labels: N class numbers, -1 unlabelled.
        captions: N texts, for caption pairs; else empty.
    """

    paths: Sequence[str]
    labels: Sequence[int] | Int
    captions: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageArray:
    """A split of images in an array file.

    Attributes:
        labels: N class numbers.
        images: called with first row and the row after the last: uint8 [rows, H, W, 3]. Safe among threads.
    """

    labels: Sequence[int] | Int
    images: Callable[[int, int], Pixels]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """A split of texts or pairs of texts.

    Attributes:
        texts: N tuples of one or two texts.
        labels: N class numbers, -1 unlabelled.
        targets: N real numbers, for regression; else None.
    """

    texts: Sequence[tuple[str, ...]]
    labels: Sequence[int] | Int
    targets: Float | None = None


def files_dataset(
    suite: Suite,
    request: Request,
    classes: Sequence[str],
    splits: Mapping[str, ImageFiles],
    *,
    inputs: Sequence[Path],
    border: int = 0,
    remarks: Sequence[str] = (),
) -> Dataset:
    """A dataset of image files.

    Args:
        suite, request: as the loader was given them.
        classes: class names in label order.
        splits: what was found, by split.
        inputs: the annotation files that it was read from.
        border: pixels to cut off at each side of every image; part of the samples' identity.
        remarks: sentences of the loader's own for whoever uses the data.

    Raises:
        DataError: labels out of range, a path that leaves the suite's folder or stands twice.
        InputMissingError: image files that are not there.
    """
    rows: dict[str, tuple[list[str], Int]] = {}
    located: dict[str, Located] = {}
    captions: dict[str, list[str]] = {}
    for split, found in splits.items():
        labels = labels_of(found.labels, classes, suite, split)
        ids = [inside(path, suite, split) for path in found.paths]
        check_equal(len(ids), len(labels), suite, split)
        order = sorted(range(len(ids)), key=ids.__getitem__)
        check_once([ids[at] for at in order], suite, split)
        rows[check_split(split)] = [ids[at] for at in order], labels[order]
        located[split] = Located([found.paths[at] for at in order], request.root, suite, split)
        captions[split] = [found.captions[at] for at in order] if found.captions else []
    identities = np.concatenate([located[split].identities for split in rows])

    def contents(split: str) -> Iterator[str]:
        for k, sample in enumerate(rows[split][0]):
            digest = located[split].digest(k, sample)
            if border:
                digest = combined(digest, f"without a border of {border}")
            yield combined(digest, captions[split][k]) if captions[split] else digest

    indexed = make_splits(
        kind=suite.kind,
        classes=tuple(classes),
        rows=rows,
        contents=contents,
        memo=request.memo,
        question=question_of(
            suite, request, inputs, files.listing_digest((s for ids, _ in rows.values() for s in ids), identities)
        ),
        trusted=files.settled(identities) and settled(inputs),
    )
    return FilesDataset(
        **facts_of(suite, request, classes, indexed, remarks),
        border=border,
        located=located,
        captions=captions,
    )


def array_dataset(
    suite: Suite, request: Request, classes: Sequence[str], splits: Mapping[str, ImageArray], *, inputs: Sequence[Path]
) -> Dataset:
    """A dataset of images in arrays; the ids are row numbers, ``train/000012``, as in ``arrays:``.

    Args:
        inputs: the files that hold images and labels.

    Raises:
        DataError: labels out of range.
    """
    rows: dict[str, tuple[Sequence[str], Int]] = {}
    for split, found in splits.items():
        labels = labels_of(found.labels, classes, suite, split)
        rows[check_split(split)] = numbered_ids(split, len(labels)), labels

    def contents(split: str) -> Iterator[str]:
        n, step = len(rows[split][1]), 256
        for start in range(0, n, step):
            for image in splits[split].images(start, min(start + step, n)):
                yield row_digest(image)

    indexed = make_splits(
        kind="images",
        classes=tuple(classes),
        rows=rows,
        contents=contents,
        memo=request.memo,
        question=question_of(suite, request, inputs, ""),
        trusted=settled(inputs),
    )
    return ArraysDataset(
        **facts_of(suite, request, classes, indexed), readers={split: found.images for split, found in splits.items()}
    )


def text_dataset(
    suite: Suite, request: Request, classes: Sequence[str], splits: Mapping[str, Texts], *, inputs: Sequence[Path]
) -> Dataset:
    """A dataset of texts; the ids are row numbers, ``train/000012``, as in ``table:``.

    Args:
        inputs: the files that hold them.

    Raises:
        DataError: labels out of range.
    """
    rows: dict[str, tuple[Sequence[str], Int]] = {}
    for split, found in splits.items():
        labels = labels_of(found.labels, classes, suite, split)
        check_equal(len(found.texts), len(labels), suite, split)
        rows[check_split(split)] = numbered_ids(split, len(labels)), labels

    def contents(split: str) -> Iterator[str]:
        found = splits[split]
        for k, parts in enumerate(found.texts):
            yield combined(*parts, *(() if found.targets is None else (repr(float(found.targets[k])),)))

    indexed = make_splits(
        kind="text",
        classes=tuple(classes),
        rows=rows,
        contents=contents,
        memo=request.memo,
        question=question_of(suite, request, inputs, ""),
        trusted=settled(inputs),
    )
    return TextDataset(
        **facts_of(suite, request, classes, indexed),
        texts={split: found.texts for split, found in splits.items()},
        targets={split: found.targets for split, found in splits.items()},
    )


def row_digest(image: npt.NDArray[Any]) -> str:
    """Hex sha256 of one row of an array, of its type, shape and little-endian bytes: as ``arrays:`` has it."""
    image = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
    shape = "x".join(str(n) for n in image.shape)
    sha = hashlib.sha256(f"{image.dtype.kind}{image.dtype.itemsize}:{shape}\0".encode())
    sha.update(image.data)
    return sha.hexdigest()
