"""Ready-made features into a feature store, without an encoder. Refuses, or marks, rows that are not finite."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.artifact.stage import Reporter, Staging
from nmtool.data.dataset import Dataset
from nmtool.errors import DataError
from nmtool.extract.write import Behind, Chunk, SplitWriter, finish, marked, stored
from nmtool.records import SampleIndex

NOT_FINITE = "the features given are not finite"


def ingest_splits(
    staging: Staging, dataset: Dataset, splits: tuple[str, ...], dtype: str, on_error: str, report: Reporter
) -> Mapping[str, object]:
    """Write the features of all splits as they are; returns the summary.

    Raises:
        DataError: rows that are not finite with ``on_error`` fail, splits whose vectors differ in length, values that
            do not fit the stored type.
    """
    began = time.perf_counter()
    writers: list[SplitWriter] = []
    dim = 0
    with Behind() as behind:
        for split in splits:
            features = dataset.features(split)
            if writers and dim != features.shape[1]:
                raise DataError(f"split {split} has features of length {features.shape[1]}", f"{dim} as the others")
            dim = int(features.shape[1])
            bad = _bad_rows(features, dataset.splits[split], on_error)
            writers.append(SplitWriter(staging, dataset.splits[split], dim, dtype))
            _put(behind, writers[-1], features, bad, dtype)
    counts = finish(staging, writers, dataset.classes, dataset.targets)
    for writer in writers:
        if writer.errors:
            report.warning(marked(writer))
    total = sum(len(writer.index) for writer in writers)
    seconds = time.perf_counter() - began
    report.info(f"took in {total} rows of {dim} features in {seconds:.1f} s")
    return {
        "model": "none",
        "untrained": False,
        "dim": dim,
        "dtype": dtype,
        "splits": counts,
        "samples_per_s": round(total / max(seconds, 1e-9), 1),
    }


def _bad_rows(features: npt.NDArray[np.floating[Any]], index: SampleIndex, on_error: str) -> npt.NDArray[np.intp]:
    """Rows that are not finite; raises ``DataError`` where they are not to be kept, marked."""
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size and on_error == "fail":
        raise DataError(
            f"{bad.size} of {len(index)} rows of split {index.split} are not finite (first {index.ids[int(bad[0])]!r})",
            "finite features",
            "--on-error skip keeps such rows, marked",
        )
    return bad


def _put(
    behind: Behind,
    writer: SplitWriter,
    features: npt.NDArray[np.floating[Any]],
    bad: npt.NDArray[np.intp],
    dtype: str,
) -> None:
    for number in range(writer.array.chunks):
        if writer.is_done(number):
            continue
        start, stop = writer.array.bounds(number)
        broken = [int(row) for row in bad if start <= row < stop]
        block = stored(features[start:stop], dtype, f"split {writer.index.split}")
        block[[row - start for row in broken]] = np.nan
        behind.put(writer, Chunk(number=number, features=block, errors=dict.fromkeys(broken, NOT_FINITE)))
