"""What instance noise looks at: raw pixels as CORES, or features; given out by rows, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.artifact.open import Artifact
from nmtool.artifact.stage import Reporter
from nmtool.artifact.typed import read_features
from nmtool.data.dataset import Dataset
from nmtool.errors import DataError
from nmtool.inject_noise.join import rows_by_id
from nmtool.records import Int, TextColumn

RAW, STANDARD = "uint8 pixels", "z-score / sqrt(length)"
_KEEP_BYTES = 512 << 20
"""Pixels up to this many bytes stay in memory; of larger sets the flipped rows are decoded for each draw."""
_BLOCK = 1024


class Pixels:
    """Images as rows of uint8 numbers, height by width by channel, as CORES flattens them; all of one size."""

    def __init__(self, dataset: Dataset, split: str, workers: int, report: Reporter) -> None:
        self._dataset, self._split, self._workers, self._report = dataset, split, workers, report
        self._first = dataset.image(split, 0)
        self.shape: tuple[int, ...] = (len(dataset.splits[split]), self._first.size)
        self._kept: npt.NDArray[np.uint8] | None = None

    def __getitem__(self, rows: Int) -> npt.NDArray[np.uint8]:
        """uint8 [len(rows), L].

        Raises:
            BrokenSample: an image that can't be decoded.
            DataError: an image of another size than the first.
        """
        n, length = self.shape
        if self._kept is None and n * length <= _KEEP_BYTES:
            with self._report.progress(n, "images") as advance:
                kept = np.empty((n, length), dtype=np.uint8)
                for start in range(0, n, _BLOCK):
                    block = np.arange(start, min(start + _BLOCK, n))
                    for row, image in zip(block.tolist(), self._images(block), strict=True):
                        kept[row] = image
                    advance(len(block))
            self._kept = kept
        if self._kept is not None:
            return self._kept[rows]
        return np.stack(list(self._images(rows)))

    def _images(self, rows: Int) -> Iterator[npt.NDArray[np.uint8]]:
        if self._workers == 1:
            yield from map(self._image, rows.tolist())
            return
        with ThreadPoolExecutor(self._workers) as pool:
            yield from pool.map(self._image, rows.tolist())

    def _image(self, row: int) -> npt.NDArray[np.uint8]:
        image = self._dataset.image(self._split, row)
        if image.shape != self._first.shape:
            sample = self._dataset.splits[self._split].ids[row]
            raise DataError(
                f"image {sample!r} is {image.shape[1]} x {image.shape[0]} pixels, "
                f"the first {self._first.shape[1]} x {self._first.shape[0]}",
                "images of one size for noise from raw pixels",
                "extract features, and give --features FEATURES",
            )
        return image.reshape(-1)


class Standardised:
    """Features with zero mean and unit deviation in each dimension, divided by the square root of their length.

    So the scores x·W have unit variance, and the flips are truly random (``perplexity`` near the number of classes).
    """

    def __init__(self, features: npt.NDArray[Any], rows: Int, ids: TextColumn) -> None:
        self._features, self._rows = features, rows
        self._ids = ids
        self.shape: tuple[int, ...] = (len(rows), features.shape[1])
        total, squares, count = np.zeros(self.shape[1]), np.zeros(self.shape[1]), 0
        for block in self._blocks():
            total += block.sum(axis=0)
            count += len(block)
        self._mean = total / max(count, 1)
        for block in self._blocks():
            squares += ((block - self._mean) ** 2).sum(axis=0)
        deviation = np.sqrt(squares / max(count, 1))
        self._scale = np.where(deviation > 0, deviation, 1.0) * np.sqrt(self.shape[1])

    def _blocks(self) -> Iterator[npt.NDArray[np.float64]]:
        """Rows without those that are not finite."""
        for start in range(0, len(self._rows), _BLOCK):
            block = np.asarray(self._features[self._rows[start : start + _BLOCK]], dtype=np.float64)
            yield block[np.isfinite(block).all(axis=1)]

    def __getitem__(self, rows: Int) -> npt.NDArray[np.float64]:
        """float64 [len(rows), L]; raises ``DataError`` where a sample has no features."""
        block = np.asarray(self._features[self._rows[rows]], dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            sample = self._ids[int(rows[bad[0]])]
            raise DataError(
                f"sample {sample!r} has no finite features",
                "features of every sample whose label flips",
                "repair the image, and extract again",
            )
        result: npt.NDArray[np.float64] = (block - self._mean) / self._scale
        return result


def artifact_features(artifact: Artifact, split: str, ids: TextColumn) -> Standardised:
    """Features of an artifact for these samples, joined by id.

    Raises:
        DataError: a sample is not among them.
    """
    table = read_features(artifact, split)
    rows = rows_by_id(ids, table.ids, f"{artifact.path}:{split}")
    return Standardised(table.features, rows, ids)


def own_features(dataset: Dataset, split: str) -> Standardised:
    """The features that the data itself is made of."""
    ids = dataset.splits[split].ids
    return Standardised(dataset.features(split), np.arange(len(ids), dtype=np.int64), ids)
