"""Row-addressed writing of a feature store: row i is sample i for ever, broken or not.

Chunks are written behind the encoder by a few threads and a short queue: each hashes, writes and waits for the disk,
and one alone would be slower than most disks. The marks of a chunk (which rows failed, and why) are journalled with
it. Knows nothing of models.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.artifact import arrays, typed
from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.stage import Staging
from nmtool.errors import DataError
from nmtool.records import Float, SampleIndex

# 8 MiB of a short feature is tens of thousands of rows: too much to lose to a kill. 4096 rows bound what is done again.
MOST_ROWS = 4096
# Hashing and the disk's answer overlap; with 2 cores more than four gained nothing (864 to 1,457 MB/s from 1 to 4).
WRITERS = 4
Block = npt.NDArray[np.floating[Any]]


def chunk_rows(dim: int, dtype: npt.DTypeLike) -> int:
    """Rows a chunk: about 8 MiB, at most 4096."""
    return min(arrays.rows_per_chunk(dim, dtype), MOST_ROWS)


def stored(block: npt.NDArray[Any], dtype: npt.DTypeLike, where: str) -> Block:
    """A block in its stored type; raises ``DataError`` where a finite value does not fit (float16 ends at 65504)."""
    with np.errstate(over="ignore"):
        out: Block = block.astype(dtype)
    if np.any(np.isinf(out) & np.isfinite(block)):
        peak = float(np.abs(block[np.isfinite(block)]).max())
        name = np.dtype(dtype).name
        raise DataError(
            f"a feature of {peak:.6g} in {where}",
            f"values that fit {name}",
            "scale the features" if name == "float32" else "take --dtype float32",
        )
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some consecutive rows, ready to be written.

    Attributes:
        number: of the chunk.
        features: [rows, D].
        errors: by row why it failed.
        views: [rows, K, D], or None.
    """

    number: int
    features: Block
    errors: Mapping[int, str]
    views: Block | None = None


class SplitWriter:
    """The feature array of one split: which chunks are there, and the marks of each.

    Attributes:
        errors: by row why it failed, of the chunks that are there.
        contents: by row the hex sha256 of a sample that failed, where it is known; set before its chunk is written.

    Args:
        staging: where the run works.
        index: the split's rows.
        dim: length of a feature vector.
        dtype: stored type, float32 or float16.
        views: how many augmented views stand beside each feature. Their chunks have the rows of the features' chunks,
            so that a chunk of either is worked out, and found done, together with the other.
    """

    def __init__(self, staging: Staging, index: SampleIndex, dim: int, dtype: str, views: int = 0) -> None:
        self._staging, self.index = staging, index
        rows = chunk_rows(dim, dtype)
        self.array = arrays.ArrayWriter(
            staging, typed.STORE, f"{index.split}/features", (len(index), dim), np.dtype(dtype), rows
        )
        self.views: arrays.ArrayWriter | None = None
        if views:
            shape, name = (len(index), views, dim), f"{index.split}/{typed.VIEWS}"
            self.views = arrays.ArrayWriter(staging, typed.STORE, name, shape, np.dtype(dtype), rows)
        self.errors: dict[int, str] = {}
        self.contents: dict[int, str] = {}
        self._ready: set[int] = set()
        self._not_mine: set[int] = set()
        self.look_again()

    def look_again(self) -> None:
        """Learn which chunks are there, and their marks, from the staging."""
        self._ready = {
            number
            for number in range(self.array.chunks)
            if self.array.is_done(number) and (self.views is None or self.views.is_done(number))
        }
        for number in self._ready:
            for row, mark in json.loads(self.array.note(number) or "{}").items():
                why, content = (mark, "") if isinstance(mark, str) else mark
                self.errors[int(row)] = why
                self.contents |= {int(row): content} if content else {}

    def is_done(self, number: int) -> bool:
        """Whether a chunk and its marks were written by an earlier run of this recipe, or are for another rank."""
        return number in self._ready or number in self._not_mine

    def keep_to(self, chunks: Collection[int]) -> None:
        """Leave all but these chunks to other ranks."""
        self._not_mine = set(range(self.array.chunks)) - set(chunks)

    def write(self, chunk: Chunk) -> None:
        """Write a chunk and its marks."""
        if self.views is not None:
            assert chunk.views is not None
            self.views.write(chunk.number, chunk.views)
        marks = {str(row): [why, self.contents.get(row, "")] for row, why in chunk.errors.items()}
        self.array.write(chunk.number, chunk.features, canonical(marks).decode() if marks else "")
        self.errors.update(chunk.errors)

    def finish(self, targets: Float | None) -> npt.NDArray[np.bool_]:
        """Write the labels and marks of the split, and labels that are real numbers; returns ``ok``, bool [n].

        Raises:
            DataError: no row at all could be used.
        """
        n = len(self.index)
        ok = np.ones(n, dtype=bool)
        ok[list(self.errors)] = False
        if not ok.any():
            first = self.errors[min(self.errors)]
            raise DataError(f"none of the {n} samples of split {self.index.split} could be used (first: {first})")
        columns: dict[str, npt.NDArray[Any]] = {"labels": self.index.labels.values, "ok": ok}
        if targets is not None:
            columns[typed.TARGETS] = targets
        for name, values in columns.items():
            path = f"{self.index.split}/{name}"
            writer = arrays.ArrayWriter(
                self._staging, typed.STORE, path, (n,), values.dtype, arrays.rows_per_chunk(1, values.dtype)
            )
            for number in range(writer.chunks):
                start, stop = writer.bounds(number)
                note = sha256(values[start:stop].tobytes())
                if not writer.is_done(number) or writer.note(number) != note:  # marks may have changed meanwhile
                    writer.write(number, values[start:stop], note)
        return ok


def marked(writer: SplitWriter, note: str = "") -> str:
    """Which rows of a split failed, in words: how many, the ids of the first, and where all are listed.

    Args:
        writer: of the split.
        note: what there is to say of them.
    """
    failed = sorted(writer.errors)
    ids = ", ".join(repr(writer.index.ids[row]) for row in failed[:3]) + (", …" if len(failed) > 3 else "")
    return (
        f"split {writer.index.split}: {len(failed)} of {len(writer.index)} rows are marked and hold no features{note}: "
        f"{ids}; {typed.SAMPLES_TABLE} has all, and why"
    )


@dataclass(slots=True)
class Behind:
    """Writes chunks in threads while the next ones are encoded; at most two wait. A context manager.

    Attributes:
        write_s: seconds spent writing, summed over the threads.
        blocked_s: seconds that the caller waited for them.
    """

    write_s: float = 0.0
    blocked_s: float = 0.0
    _queue: queue.Queue[tuple[SplitWriter, Chunk] | None] = field(default_factory=lambda: queue.Queue(maxsize=2))
    _problem: BaseException | None = None
    _threads: list[threading.Thread] = field(default_factory=list)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Behind:
        self._threads = [threading.Thread(target=self._work, name="nmtool-writer", daemon=True) for _ in range(WRITERS)]
        for thread in self._threads:
            thread.start()
        return self

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            began = time.perf_counter()
            problem: BaseException | None = None
            try:
                if self._problem is None:  # after a failure only the queue is emptied, so that nobody waits for ever
                    item[0].write(item[1])
            except BaseException as error:
                problem = error
            with self._guard:
                self._problem = self._problem or problem
                self.write_s += time.perf_counter() - began

    def put(self, writer: SplitWriter, chunk: Chunk) -> None:
        """Hand over a chunk; raises what a thread met."""
        began = time.perf_counter()
        if self._problem is not None:
            raise self._problem
        self._queue.put((writer, chunk))
        self.blocked_s += time.perf_counter() - began

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until everything handed over is written, also when the caller failed: it is work done."""
        began = time.perf_counter()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self.blocked_s += time.perf_counter() - began
        if self._problem is not None and error is None:
            raise self._problem


def finish(
    staging: Staging,
    writers: Sequence[SplitWriter],
    classes: Sequence[str],
    targets: Callable[[str], Float | None],
) -> dict[str, object]:
    """Write labels, marks, ``samples.parquet``, ``classes.json`` and, where needed, ``failed.json``: chunks are there.

    Args:
        staging: where the run works.
        writers: of every split.
        classes: class names.
        targets: labels that are real numbers, by split; None for classes.

    Returns:
        By split: rows ``n``, ``classes`` it may have, rows ``skipped``, and its ``digest``.
    """
    ok = [writer.finish(targets(writer.index.split)) for writer in writers]
    indexes = [writer.index for writer in writers]
    columns: dict[str, Any] = {
        "row": np.concatenate([np.arange(len(index), dtype=np.int64) for index in indexes]),
        "sample": [sample for index in indexes for sample in index.ids],
        "split": [index.split for index in indexes for _ in index.ids],
        "label": np.concatenate([index.labels.values for index in indexes]),
        "ok": np.concatenate(ok),
        "error": [writer.errors.get(row, "") for writer in writers for row in range(len(writer.index))],
    }
    staging.write(typed.SAMPLES_TABLE, typed.parquet_bytes(columns))
    failed = {w.index.split: {str(r): w.contents[r] for r in sorted(w.contents) if r in w.errors} for w in writers}
    if any(failed.values()):  # so that a mended sample can be told from changed data
        staging.write(typed.FAILED, canonical({split: rows for split, rows in failed.items() if rows}))
    typed.write_classes(staging, classes)
    return {
        writer.index.split: {
            "n": len(writer.index),
            "classes": len(writer.index.labels.classes),
            "skipped": len(writer.errors),
            "digest": writer.index.digest,
        }
        for writer in writers
    }
