"""Datasets from what a suite's loader has found: images in files, images in arrays, texts, caption pairs.

A loader works out ids and labels from the official annotations; here they are put in order, checked and indexed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.data import files
from nmtool.data.dataset import Dataset, Indexed
from nmtool.data.images import BrokenSample, decode
from nmtool.data.index import combined, make_splits
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.located import Located, inside
from nmtool.errors import DataError
from nmtool.records import UNLABELLED, Float, Int, SampleIndex, check_split

Pixels = npt.NDArray[np.uint8]


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
        labels = _labels(found.labels, classes, suite, split)
        ids = [inside(path, suite, split) for path in found.paths]
        _equal(len(ids), len(labels), suite, split)
        order = sorted(range(len(ids)), key=ids.__getitem__)
        _once([ids[at] for at in order], suite, split)
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
        question=_question(
            suite, request, inputs, files.listing_digest((s for ids, _ in rows.values() for s in ids), identities)
        ),
        trusted=files.settled(identities) and _settled(inputs),
    )
    return _FilesDataset(
        **_facts(suite, request, classes, indexed, remarks),
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
    rows: dict[str, tuple[list[str], Int]] = {}
    for split, found in splits.items():
        labels = _labels(found.labels, classes, suite, split)
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
        question=_question(suite, request, inputs, ""),
        trusted=_settled(inputs),
    )
    return _ArraysDataset(
        **_facts(suite, request, classes, indexed), readers={split: found.images for split, found in splits.items()}
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
    rows: dict[str, tuple[list[str], Int]] = {}
    for split, found in splits.items():
        labels = _labels(found.labels, classes, suite, split)
        _equal(len(found.texts), len(labels), suite, split)
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
        question=_question(suite, request, inputs, ""),
        trusted=_settled(inputs),
    )
    return _TextDataset(**_facts(suite, request, classes, indexed), held=dict(splits))


def numbered_ids(split: str, n: int) -> list[str]:
    """Row numbers as ids, which sort as the numbers do."""
    width = max(6, len(str(n - 1)))
    return [f"{split}/{row:0{width}d}" for row in range(n)]


def row_digest(image: npt.NDArray[Any]) -> str:
    """Hex sha256 of one row of an array, of its type, shape and little-endian bytes: as ``arrays:`` has it."""
    image = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
    shape = "x".join(str(n) for n in image.shape)
    sha = hashlib.sha256(f"{image.dtype.kind}{image.dtype.itemsize}:{shape}\0".encode())
    sha.update(image.data)
    return sha.hexdigest()


class _FilesDataset(Indexed):
    """Images by path; a file that is no longer the one indexed is refused."""

    def __init__(
        self,
        *,
        located: Mapping[str, Located],
        captions: Mapping[str, list[str]],
        border: int,
        **facts: Any,
    ) -> None:
        super().__init__(**facts)
        self._located, self._captions, self._border = located, captions, border

    def image(self, split: str, row: int) -> Pixels:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        name = self.splits[split].ids[row]
        image = decode(self._located[split].read(row, name), name=name)
        return _without_border(image, self._border, name) if self._border else image

    def caption(self, split: str, row: int) -> str:
        """The caption of sample ``row``."""
        return self._captions[split][row] if self._captions.get(split) else super().caption(split, row)


class _ArraysDataset(Indexed):
    """Images by row of an array."""

    def __init__(self, *, readers: Mapping[str, Callable[[int, int], Pixels]], **facts: Any) -> None:
        super().__init__(**facts)
        self._readers = readers

    def image(self, split: str, row: int) -> Pixels:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        row = range(len(self.splits[split]))[row]
        return np.array(self._readers[split](row, row + 1)[0], dtype=np.uint8)


class _TextDataset(Indexed):
    """Texts by row."""

    def __init__(self, *, held: Mapping[str, Texts], **facts: Any) -> None:
        super().__init__(**facts)
        self._held = held

    def text(self, split: str, row: int) -> tuple[str, ...]:
        """The text, or the pair of texts, of sample ``row``."""
        return tuple(self._held[split].texts[row])

    def targets(self, split: str) -> Float | None:
        """Real-number labels float64 [n], NaN where there is none; None where the labels are classes."""
        return self._held[split].targets


def _without_border(image: Pixels, border: int, name: str) -> Pixels:
    if min(image.shape[:2]) <= 2 * border:
        height, width = image.shape[:2]
        raise BrokenSample(f"{name} is {width} x {height} pixels", f"more than its border of {border} at each side")
    return np.ascontiguousarray(image[border:-border, border:-border])


def _facts(
    suite: Suite,
    request: Request,
    classes: Sequence[str],
    splits: Mapping[str, SampleIndex],
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    return {
        "uri": request.uri,
        "kind": suite.kind,
        "classes": tuple(classes),
        "splits": splits,
        "remarks": (*_remarks(suite, classes, splits), *remarks),
    }


def _remarks(suite: Suite, classes: Sequence[str], splits: Mapping[str, SampleIndex]) -> Iterator[str]:
    """One sentence where sizes, and one where the number of classes, are not the official ones."""
    if suite.classes and len(classes) != suite.classes:
        yield f"suite:{suite.name} has {len(classes)} classes here, officially {suite.classes}"
    odd = [
        f"{split}: {len(index)} samples, officially {suite.splits[split]}"
        for split, index in splits.items()
        if suite.splits.get(split) not in (None, len(index))
    ]
    if odd:
        yield f"suite:{suite.name} is not the whole of {suite.title} ({'; '.join(odd)})"


def _question(suite: Suite, request: Request, inputs: Sequence[Path], listing: str) -> list[object]:
    """What a remembered digest answers: these files, as they are."""
    return [
        "suite",
        suite.name,
        request.member,
        os.fsencode(request.root).hex(),
        [[os.fsencode(path).hex(), *files.identity(path.stat())] for path in inputs],
        listing,
    ]


def _settled(inputs: Sequence[Path]) -> bool:
    return files.settled(files.stacked([files.identity(path.stat()) for path in inputs]))


def _labels(labels: Sequence[int] | Int, classes: Sequence[str], suite: Suite, split: str) -> Int:
    values = np.array(labels, dtype=np.int64).reshape(-1)
    if not len(values):
        raise DataError(f"split {split} of {suite.title} has no samples", "at least one")
    bad = np.flatnonzero((values < UNLABELLED) | (values >= len(classes)))
    if bad.size:
        raise DataError(
            f"{suite.title}, split {split}: sample {int(bad[0])} has the class number {int(values[bad[0]])}",
            f"0 to {len(classes) - 1}",
        )
    return values


def _equal(samples: int, labels: int, suite: Suite, split: str) -> None:
    if samples != labels:
        raise DataError(f"{suite.title}, split {split}: {samples} samples and {labels} labels", "as many of each")


def _once(ids: Sequence[str], suite: Suite, split: str) -> None:
    for one, two in itertools.pairwise(ids):
        if one == two:
            raise DataError(f"{suite.title}, split {split}: {one!r} stands twice", "each sample once")
