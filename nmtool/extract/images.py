"""Images through an encoder: decoded ahead in threads, batch by batch, each chunk handed on when its last row is in.

Batches begin at the first row of each chunk and a broken image leaves a blank in its batch, so that a resumed run, and
the rows beside a broken one, have the very bits of an uninterrupted, unbroken run. Chunks that are there are not
decoded again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nmtool.data.dataset import Dataset
from nmtool.data.images import BrokenSample
from nmtool.data.index import combined, numbered_content
from nmtool.encoders.device import autocast, keep_freed_memory, one_thread_each, thread_count
from nmtool.encoders.encoder import ImageEncoder, Pixels, TextEncoder
from nmtool.errors import UnavailableError
from nmtool.extract.batches import Clock, Job, finished, pool_of, waited
from nmtool.extract.jpeg import decoding
from nmtool.extract.views import Views
from nmtool.extract.write import Chunk, SplitWriter

AHEAD = 3  # batches being decoded while a GPU encodes one
# Images that go through the encoder at once on a CPU, whatever the batch: a layer's output then fits the caches better,
# and two threads of MobileNetV2 at 224 px hold 1.5 GB instead of 2.8 (8 would hold less, but take other kernels, whose
# last bits differ).
AT_ONCE = 16

# uint8 [1 + views, 3, H, W], blank where broken; why it is; digest of what is broken, if that was read; seconds
Decoded = tuple[torch.Tensor, str, str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Consecutive rows of one chunk that go through the encoder together."""

    writer: SplitWriter
    number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What became of a batch: features float32 [B, D] or, with views, [B, 1 + K, D]; errors by row; seconds."""

    batch: Batch
    features: npt.NDArray[np.float32]
    errors: Mapping[int, str]
    decode_s: float
    encode_s: float


def encoded_chunks(
    dataset: Dataset,
    encoder: ImageEncoder,
    writers: Sequence[SplitWriter],
    job: Job,
    device: torch.device,
    clock: Clock,
    advance: Callable[[int], None],
) -> Generator[tuple[Chunk, SplitWriter]]:
    """Every chunk that is left to do; raises ``DataError`` for a broken image with ``on_error`` fail."""
    work = _on_cpu if device.type == "cpu" else _on_gpu
    splits = [writer.index.split for writer in writers]
    # small pieces of work on a CPU also leave no thread idle for long when the last ones are handed out
    size = min(job.batch_size, AT_ONCE) if device.type == "cpu" else job.batch_size
    with (
        decoding(job.decode, dataset, splits, encoder.pixels),
        contextlib.closing(work(dataset, encoder, plan(writers, size), job, device, clock)) as encoded,
    ):
        yield from _chunks(encoded, job, clock, advance)


def plan(writers: Sequence[SplitWriter], batch_size: int) -> list[Batch]:
    """The batches that are left to do, chunk by chunk."""
    return [
        Batch(writer=writer, number=number, start=row, stop=min(row + batch_size, writer.array.bounds(number)[1]))
        for writer in writers
        for number in range(writer.array.chunks)
        if not writer.is_done(number)
        for row in range(*writer.array.bounds(number), batch_size)
    ]


def decode(dataset: Dataset, pixels: Pixels, split: str, row: int, views: Views | None) -> Decoded:
    """An image as the encoder takes it, and its views; a broken one comes back blank, with the reason."""
    began = time.perf_counter()
    try:
        image = dataset.image(split, row)
        out = pixels.crop(image)[None]
        if views is not None:
            more = views.of(image, dataset.splits[split].ids[row], pixels.size)
            out = torch.cat([out, torch.from_numpy(more)])
        return out, "", "", time.perf_counter() - began
    except BrokenSample as error:
        count = 1 if views is None else 1 + views.count
        content = _content(dataset, split, row, error.content) if error.content else ""
        blank = torch.zeros(count, 3, *pixels.size, dtype=torch.uint8)
        return blank, str(error), content, time.perf_counter() - began


def _content(dataset: Dataset, split: str, row: int, image: str) -> str:
    """The digest of a sample as its split's digest has it: of its image, and of what else the sample is made of."""
    if dataset.kind == "captions":
        return combined(image, dataset.caption(split, row))
    targets = dataset.targets(split)
    return image if targets is None else numbered_content(image, targets[row])


def ready(encoder: ImageEncoder | TextEncoder, job: Job) -> ImageEncoder | TextEncoder:
    """The encoder as the job wants it."""
    return encoder.compiled() if job.compile and isinstance(encoder, ImageEncoder) else encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """Features on their way to the host.

    Attributes:
        parts: for the images, and for each view of them, their [b, D] on the host; not to be read before ``arrived``.
        arrived: what a GPU tells when they are there; None where they are.
        views: whether there are any.
    """

    parts: Sequence[Sequence[torch.Tensor]]
    arrived: torch.cuda.Event | None
    views: bool

    def features(self) -> npt.NDArray[np.float32]:
        """Wait: [B, D], or with K views [B, 1 + K, D]."""
        if self.arrived is not None:
            self.arrived.synchronize()
        every = [np.concatenate([some.numpy() for some in part]) for part in self.parts]
        return np.stack(every, axis=1) if self.views else every[0]


def encode(
    encoder: ImageEncoder, images: Sequence[torch.Tensor], job: Job, device: torch.device
) -> npt.NDArray[np.float32]:
    """Stack, normalise and encode, in float32 or in mixed precision: [B, D], or with K views [B, 1 + K, D].

    The images themselves go through the encoder without the views, so that views change not a bit of their features.
    """
    return launch(encoder, images, job, device).features()


def launch(encoder: ImageEncoder, images: Sequence[torch.Tensor], job: Job, device: torch.device) -> Launched:
    """``encode`` without waiting for a GPU: it works while the next batch is gathered, and the last one is stored.

    Raises:
        UnavailableError: the encoder is to be compiled, and can't be here.
    """
    every = torch.stack(list(images))
    if device.type == "cuda":
        every = every.pin_memory().to(device, non_blocking=True)
    most = min(AT_ONCE, job.batch_size) if device.type == "cpu" else max(job.batch_size, len(every))
    told = _compiling(encoder) if job.compile else contextlib.nullcontext()
    with told, torch.inference_mode(), autocast(device, job.amp):
        parts = [
            [_forward(encoder, some, most if job.compile else 0) for some in torch.split(pixels, most)]
            for pixels in every.unbind(1)
        ]
    arrived = None
    if device.type == "cuda":
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(device))
    return Launched(parts=parts, arrived=arrived, views=job.views is not None)


def _forward(encoder: ImageEncoder, pixels: torch.Tensor, rows: int) -> torch.Tensor:
    """Features float32 [b, D] on the host, or on their way there; filled up with blanks to ``rows`` meanwhile."""
    count = len(pixels)
    if count < rows:  # what is compiled is compiled for one shape
        pixels = torch.cat([pixels, pixels.new_zeros(rows - count, *pixels.shape[1:])])
    # channels last: 1.6 times as fast for convolutions on CPU, and nothing to others
    batch = encoder.pixels.normalise(pixels).contiguous(memory_format=torch.channels_last)
    features = encoder.features(batch)[:count].float()
    return features.to("cpu", non_blocking=True)  # from a GPU into pinned memory


@contextlib.contextmanager
def _compiling(encoder: ImageEncoder) -> Iterator[None]:
    """Tell in words that what runs inside can't be compiled here."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    # it warns of the CUDA toolkit that a CPU has no use for
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        yield
    except TorchDynamoException as error:
        raise UnavailableError(
            f"torch.compile can't compile {encoder.spec.arch}: {str(error).strip().partition(chr(10))[0]}",
            "a C++ compiler, and on CUDA Triton",
            "install them, or leave --compile",
        ) from error


def _warm(encoder: ImageEncoder, job: Job, device: torch.device, clock: Clock) -> None:
    """Compile before threads use it, so that they need not wait for each other."""
    if not job.compile:
        return
    began = time.perf_counter()
    blank = torch.zeros(1, 3, *encoder.pixels.size, dtype=torch.uint8)
    launch(encoder, [blank], dataclasses.replace(job, views=None), device).features()
    clock.compile = time.perf_counter() - began


def _encoded(batch: Batch, decoded: Sequence[Decoded], features: npt.NDArray[np.float32], encode_s: float) -> Encoded:
    batch.writer.contents.update({batch.start + at: d[2] for at, d in enumerate(decoded) if d[2]})
    return Encoded(
        batch=batch,
        features=features,
        errors={batch.start + at: why for at, (_, why, _, _) in enumerate(decoded) if why},
        decode_s=sum(d[3] for d in decoded),
        encode_s=encode_s,
    )


def _on_cpu(
    dataset: Dataset, encoder: ImageEncoder, batches: Sequence[Batch], job: Job, device: torch.device, clock: Clock
) -> Generator[Encoded]:
    """Whole batches in threads, torch using one each: no barriers between cores, and bits that hold for any number."""

    def work(batch: Batch) -> Encoded:
        split = batch.writer.index.split
        rows = range(batch.start, batch.stop)
        decoded = [decode(dataset, encoder.pixels, split, row, job.views) for row in rows]
        began = time.perf_counter()
        features = encode(encoder, [d[0] for d in decoded], job, device)
        return _encoded(batch, decoded, features, time.perf_counter() - began)

    threads = thread_count(job.workers)
    keep_freed_memory()
    with one_thread_each(), pool_of(threads) as pool:
        _warm(encoder, job, device, clock)
        flying: deque[Future[Encoded]] = deque()
        for batch in batches:
            flying.append(pool.submit(work, batch))
            if len(flying) > 2 * threads:
                yield waited(flying.popleft(), clock)
        while flying:
            yield waited(flying.popleft(), clock)


def _on_gpu(
    dataset: Dataset, encoder: ImageEncoder, batches: Sequence[Batch], job: Job, device: torch.device, clock: Clock
) -> Generator[Encoded]:
    """Decoding in threads, some batches ahead; encoding here, one batch ahead of what is handed on."""
    _warm(encoder, job, device, clock)
    with pool_of(thread_count(job.workers)) as pool:
        flying: deque[tuple[Batch, list[Future[Decoded]]]] = deque()
        ahead: tuple[Batch, list[Decoded], Launched, float] | None = None
        left = iter(batches)
        while True:
            while len(flying) <= AHEAD and (batch := next(left, None)) is not None:
                split, rows = batch.writer.index.split, range(batch.start, batch.stop)
                futures = [pool.submit(decode, dataset, encoder.pixels, split, row, job.views) for row in rows]
                flying.append((batch, futures))
            before, ahead = ahead, None
            if flying:
                batch, futures = flying.popleft()
                decoded = [waited(future, clock) for future in futures]
                began = time.perf_counter()
                launched = launch(encoder, [d[0] for d in decoded], job, device)
                ahead = (batch, decoded, launched, time.perf_counter() - began)
            if before is not None:
                began = time.perf_counter()
                features = before[2].features()
                yield _encoded(before[0], before[1], features, before[3] + time.perf_counter() - began)
            elif ahead is None:
                return


def _chunks(
    encoded: Iterator[Encoded], job: Job, clock: Clock, advance: Callable[[int], None]
) -> Iterator[tuple[Chunk, SplitWriter]]:
    """Gather batches; yields each chunk once its last row is in."""
    block = np.empty((0, 0), dtype=np.float32)
    marks: dict[int, str] = {}
    for done in encoded:
        batch, writer = done.batch, done.batch.writer
        first, last = writer.array.bounds(batch.number)
        if batch.start == first:
            block, marks = np.empty((last - first, *done.features.shape[1:]), dtype=np.float32), {}
        marks |= done.errors
        block[batch.start - first : batch.stop - first] = done.features
        clock.decode += done.decode_s
        clock.encode += done.encode_s
        advance(batch.stop - batch.start)
        if batch.stop == last or (marks and job.on_error == "fail"):
            yield finished(writer, batch.number, block, marks, job), writer
