"""What encoders of images and of texts share: the job, the clock, threads, and finished chunks with their marks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nmtool.errors import DataError
from nmtool.extract.views import Views
from nmtool.extract.write import Chunk, SplitWriter, stored

NOT_FINITE = "the encoder gave a feature that is not finite"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How to encode.

    Attributes:
        dtype: float32, float16 (stored so) or bfloat16 (computed so, and stored as float32).
        on_error: fail or skip.
        batch_size: samples a forward pass.
        device: auto, cpu, cuda or cuda:N.
        workers: decoding threads, 0: as many as there are cores.
        model: the model as the user named it, for the summary.
        views: augmented views that are encoded beside each image, or None.
        decode: who decodes JPEG files: ``cpu`` (Pillow), ``cuda``.
        amp: mixed precision of the encoder: none, bf16 (also where dtype is bfloat16) or fp16.
        compile: whether the encoder is compiled; all its batches are of one shape then.
    """

    dtype: str
    on_error: str
    batch_size: int
    device: str
    workers: int
    model: str
    views: Views | None = None
    decode: str = "cpu"
    amp: str = "none"
    compile: bool = False

    @property
    def stored_as(self) -> str:
        """The type on disk."""
        return "float16" if self.dtype == "float16" else "float32"


@dataclass(slots=True)
class Clock:
    """Seconds: decoding (or tokenizing) and encoding, summed over threads; the main thread's wait; compiling."""

    decode: float = 0.0
    encode: float = 0.0
    wait: float = 0.0
    compile: float = 0.0


def shares(seconds: float, decode_s: float, encode_s: float, blocked_s: float) -> dict[str, float]:
    """Where the seconds of a run went; they add up to it.

    Args:
        seconds: from the first sample to the last.
        decode_s, encode_s: of those, as the one who does the work saw it: on a CPU the mean of the threads, which do
            both; else the main thread, which does one of them and waits for the other.
        blocked_s: while the main thread waited for the disk; it counts as far as nobody worked meanwhile.
    """
    decode_s = min(decode_s, seconds)
    encode_s = min(encode_s, seconds - decode_s)
    write_s = min(blocked_s, seconds - decode_s - encode_s)
    return {"decode": decode_s, "encode": encode_s, "write": write_s, "wait": seconds - decode_s - encode_s - write_s}


def finished(
    writer: SplitWriter, number: int, block: npt.NDArray[np.float32], marks: Mapping[int, str], job: Job
) -> Chunk:
    """A chunk ready to be written: rows that are marked or not finite become NaN.

    Args:
        writer, number: where it goes.
        block: its features, float32 [rows, D], or with K views [rows, 1 + K, D]; changed in place.
        marks: by row of the split why it has no feature.

    Raises:
        DataError: a marked row with ``on_error`` fail, or a value that does not fit the stored type.
    """
    index = writer.index
    if marks and job.on_error == "fail":
        row = min(marks)
        raise DataError(
            f"sample {index.ids[row]!r} of split {index.split} (row {row}) can't be read: {marks[row]}",
            "",
            "mend it, or --on-error skip keeps the row, marked",
        )
    first, last = writer.array.bounds(number)
    strange = np.flatnonzero(~np.isfinite(block).all(axis=tuple(range(1, block.ndim)))) + first
    every = {int(row): NOT_FINITE for row in strange} | dict(marks)
    block[[row - first for row in every]] = np.nan
    where = f"rows {first} to {last - 1} of split {index.split}"
    if block.ndim == 2:
        return Chunk(number=number, features=stored(block, job.stored_as, where), errors=every)
    clean, views = (stored(part, job.stored_as, where) for part in (block[:, 0], block[:, 1:]))
    return Chunk(number=number, features=clean, errors=every, views=views)


@contextlib.contextmanager
def pool_of(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that are told to drop what is not begun when their user stops."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="nmtool-extract")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def waited(future: Future[T], clock: Clock) -> T:
    """The future's result; the wait is clocked."""
    began = time.perf_counter()
    try:
        return future.result()
    finally:
        clock.wait += time.perf_counter() - began
