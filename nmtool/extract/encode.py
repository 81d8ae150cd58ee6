"""Images through an encoder into a feature store: decode ahead in threads, encode, write behind; memory is bounded.

Batches begin at the first row of each chunk and a broken image leaves a blank in its batch, so that a resumed run, and
the rows beside a broken one, have the very bits of an uninterrupted, unbroken run. Chunks that are there are not
decoded again.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from nmtool.artifact.stage import Reporter, Staging
from nmtool.data.dataset import Dataset
from nmtool.data.images import BrokenSample
from nmtool.encoders.device import choose_device, one_thread_each, thread_count
from nmtool.encoders.resolve import Resolved
from nmtool.encoders.timm import Encoder, Pixels, load
from nmtool.errors import DataError
from nmtool.extract.write import Behind, Chunk, SplitWriter, finish, stored

NOT_FINITE = "the encoder gave a feature that is not finite"
AHEAD = 3  # batches being decoded while a GPU encodes one

T = TypeVar("T")
Decoded = tuple[torch.Tensor, str, float]  # uint8 [3, H, W], blank where broken; why it is broken; seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How to encode.

    Attributes:
        dtype: float32, float16 (stored so) or bfloat16 (computed so).
        on_error: fail or skip.
        batch_size: images a forward pass.
        device: auto, cpu, cuda or cuda:N.
        workers: decoding threads, 0: as many as there are cores.
        model: the model as the user named it, for the summary.
    """

    dtype: str
    on_error: str
    batch_size: int
    device: str
    workers: int
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Consecutive rows of one chunk that go through the encoder together."""

    writer: SplitWriter
    number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What became of a batch: features float32 [B, D], by row why it failed, and seconds decoding and encoding."""

    batch: Batch
    features: npt.NDArray[np.float32]
    errors: Mapping[int, str]
    decode_s: float
    encode_s: float


@dataclass(slots=True)
class Clock:
    """Seconds: decoding and encoding summed over threads; the main thread's wait for either."""

    decode: float = 0.0
    encode: float = 0.0
    wait: float = 0.0


def encode_splits(
    staging: Staging, dataset: Dataset, splits: Sequence[str], resolved: Resolved, job: Job, report: Reporter
) -> Mapping[str, object]:
    """Encode all splits and write the payload; returns the summary.

    Raises:
        DataError: a sample that can't be read with ``on_error`` fail, all of a split broken, float16 overflow.
        UnavailableError: the device is not there.
    """
    device = choose_device(job.device)
    encoder = load(resolved, device)
    dtype = "float16" if job.dtype == "float16" else "float32"
    writers = [SplitWriter(staging, dataset.splits[split], resolved.spec.dim, dtype) for split in splits]
    batches = plan(writers, job.batch_size)
    rows = sum(batch.stop - batch.start for batch in batches)
    clock = Clock()
    began = time.perf_counter()
    with Behind() as behind, report.progress(rows, f"encoding with {resolved.spec.arch}") as advance:
        work = _on_cpu if device.type == "cpu" else _on_gpu
        with contextlib.closing(work(dataset, encoder, batches, job, device, clock)) as encoded:
            for chunk, writer in _chunks(encoded, dtype, job.on_error, clock, advance):
                behind.put(writer, chunk)
    counts = finish(staging, writers, dataset.classes)
    seconds = time.perf_counter() - began
    _warn(writers, report)
    return _summary(resolved, job, counts, rows, seconds, clock, behind, report, device)


def plan(writers: Sequence[SplitWriter], batch_size: int) -> list[Batch]:
    """The batches that are left to do, chunk by chunk."""
    return [
        Batch(writer=writer, number=number, start=row, stop=min(row + batch_size, writer.array.bounds(number)[1]))
        for writer in writers
        for number in range(writer.array.chunks)
        if not writer.is_done(number)
        for row in range(*writer.array.bounds(number), batch_size)
    ]


def _decode(dataset: Dataset, pixels: Pixels, split: str, row: int) -> Decoded:
    began = time.perf_counter()
    try:
        return pixels.crop(dataset.image(split, row)), "", time.perf_counter() - began
    except BrokenSample as error:
        return torch.zeros(3, *pixels.size, dtype=torch.uint8), str(error), time.perf_counter() - began


def _encode(encoder: Encoder, batch: Batch, decoded: Sequence[Decoded], job: Job, device: torch.device) -> Encoded:
    """Stack, normalise and encode; in float32, or with bfloat16 autocast."""
    began = time.perf_counter()
    pixels = torch.stack([image for image, _, _ in decoded])
    if device.type == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=job.dtype == "bfloat16"):
        # channels last: 1.6 times as fast for convolutions on CPU, and nothing to others
        images = encoder.pixels.normalise(pixels).contiguous(memory_format=torch.channels_last)
        features = encoder.features(images).float().cpu().numpy()
    return Encoded(
        batch=batch,
        features=features,
        errors={batch.start + at: why for at, (_, why, _) in enumerate(decoded) if why},
        decode_s=sum(seconds for _, _, seconds in decoded),
        encode_s=time.perf_counter() - began,
    )


def _on_cpu(
    dataset: Dataset, encoder: Encoder, batches: Sequence[Batch], job: Job, device: torch.device, clock: Clock
) -> Generator[Encoded]:
    """Whole batches in threads, torch using one each: no barriers between cores, and bits that hold for any number."""

    def work(batch: Batch) -> Encoded:
        split = batch.writer.index.split
        decoded = [_decode(dataset, encoder.pixels, split, row) for row in range(batch.start, batch.stop)]
        return _encode(encoder, batch, decoded, job, device)

    threads = thread_count(job.workers)
    with one_thread_each(), _pool(threads) as pool:
        flying: deque[Future[Encoded]] = deque()
        for batch in batches:
            flying.append(pool.submit(work, batch))
            if len(flying) > 2 * threads:
                yield _waited(flying.popleft(), clock)
        while flying:
            yield _waited(flying.popleft(), clock)


def _on_gpu(
    dataset: Dataset, encoder: Encoder, batches: Sequence[Batch], job: Job, device: torch.device, clock: Clock
) -> Generator[Encoded]:
    """Decoding in threads, some batches ahead; encoding here."""
    with _pool(thread_count(job.workers)) as pool:
        flying: deque[tuple[Batch, list[Future[Decoded]]]] = deque()
        left = iter(batches)
        while True:
            while len(flying) <= AHEAD and (batch := next(left, None)) is not None:
                split, rows = batch.writer.index.split, range(batch.start, batch.stop)
                flying.append((batch, [pool.submit(_decode, dataset, encoder.pixels, split, row) for row in rows]))
            if not flying:
                return
            batch, futures = flying.popleft()
            decoded = [_waited(future, clock) for future in futures]
            yield _encode(encoder, batch, decoded, job, device)


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that are told to drop what is not begun when their user stops."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="nmtool-extract")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _waited(future: Future[T], clock: Clock) -> T:
    began = time.perf_counter()
    try:
        return future.result()
    finally:
        clock.wait += time.perf_counter() - began


def _chunks(
    encoded: Iterator[Encoded], dtype: str, on_error: str, clock: Clock, advance: Callable[[int], None]
) -> Iterator[tuple[Chunk, SplitWriter]]:
    """Gather batches; yields each chunk once its last row is in. Raises ``DataError`` for what ``on_error`` forbids."""
    block = np.empty((0, 0), dtype=np.float32)
    marks: dict[int, str] = {}
    for done in encoded:
        batch, index = done.batch, done.batch.writer.index
        if done.errors and on_error == "fail":
            row = min(done.errors)
            raise DataError(
                f"sample {index.ids[row]!r} of split {index.split} (row {row}) can't be read: {done.errors[row]}",
                "",
                "mend it, or --on-error skip keeps the row, marked",
            )
        first, last = batch.writer.array.bounds(batch.number)
        if batch.start == first:
            block, marks = np.empty((last - first, done.features.shape[1]), dtype=np.float32), {}
        strange = np.flatnonzero(~np.isfinite(done.features).all(axis=1)) + batch.start
        marks |= {int(row): NOT_FINITE for row in strange} | dict(done.errors)
        block[batch.start - first : batch.stop - first] = done.features
        clock.decode += done.decode_s
        clock.encode += done.encode_s
        advance(batch.stop - batch.start)
        if batch.stop == last:
            block[[row - first for row in marks]] = np.nan
            where = f"rows {first} to {last - 1} of split {index.split}"
            yield Chunk(number=batch.number, features=stored(block, dtype, where), errors=marks), batch.writer


def _warn(writers: Sequence[SplitWriter], report: Reporter) -> None:
    for writer in writers:
        if writer.errors:
            strange = sum(why == NOT_FINITE for why in writer.errors.values())
            note = f", {strange} of them for features that are not finite" if strange else ""
            rows = f"{len(writer.errors)} of {len(writer.index)} rows"
            report.warning(f"split {writer.index.split}: {rows} are marked and hold no features{note}")


def _summary(
    resolved: Resolved,
    job: Job,
    counts: Mapping[str, object],
    rows: int,
    seconds: float,
    clock: Clock,
    behind: Behind,
    report: Reporter,
    device: torch.device,
) -> dict[str, object]:
    # on a GPU encoding runs beside decoding, and only what it waits for counts; on a CPU they share the threads
    decoding = clock.decode if device.type == "cpu" else clock.wait
    spent = {"decoding": decoding, "encoding": clock.encode, "writing": behind.blocked_s}
    bottleneck = max(spent, key=lambda name: spent[name])
    rate = rows / max(seconds, 1e-9)
    report.info(
        f"encoded {rows} samples in {seconds:.1f} s ({rate:.0f} a second) on {device.type}; most of the work is"
        f" {bottleneck}: {clock.decode:.1f} s decoding and {clock.encode:.1f} s encoding (summed over threads),"
        f" {behind.write_s:.1f} s writing"
    )
    return {
        "model": job.model,
        "arch": resolved.spec.arch,
        "untrained": resolved.spec.untrained,
        "dim": resolved.spec.dim,
        "dtype": job.dtype,
        "splits": counts,
        "samples_per_s": round(rate, 1),
        "encoded": rows,
        "batch_size": job.batch_size,
        "device": device.type,
        "spent_s": {
            "decode": round(clock.decode, 3),
            "encode": round(clock.encode, 3),
            "write": round(behind.write_s, 3),
            "wait": round(clock.wait + behind.blocked_s, 3),
        },
        "bottleneck": bottleneck,
    }
