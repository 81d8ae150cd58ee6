"""Texts through an encoder: tokenized a chunk at a time, batched with texts of like length, handed on in row order.

The batches of a chunk depend on the chunk alone, so that a resumed run has the very bits of an uninterrupted one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from nmtool.data.dataset import Dataset
from nmtool.encoders.device import autocast, keep_freed_memory, one_thread_each, thread_count
from nmtool.encoders.encoder import TextEncoder, Tokens
from nmtool.extract.batches import Clock, Job, finished, pool_of, waited
from nmtool.extract.write import Chunk, SplitWriter

NO_TOKENS = "the text has no tokens"
_CHUNKS_AHEAD = 2  # being encoded while the next is tokenized

Encoded = tuple[npt.NDArray[np.float32], float]  # features [B, D]; seconds


@dataclass(slots=True)
class Cut:
    """How many texts were longer than the encoder takes, by split."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, split: str, tokens: Sequence[Tokens]) -> None:
        """Count those of a chunk."""
        self.counts[split] = self.counts.get(split, 0) + sum(t.cut for t in tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A chunk on its way: where it goes, by row why it has no feature, and its batches as rows of the chunk."""

    writer: SplitWriter
    number: int
    marks: dict[int, str]
    batches: list[tuple[list[int], Future[Encoded]]]


def encoded_chunks(
    dataset: Dataset,
    encoder: TextEncoder,
    writers: Sequence[SplitWriter],
    job: Job,
    device: torch.device,
    clock: Clock,
    advance: Callable[[int], None],
    cut: Cut | None,
) -> Generator[tuple[Chunk, SplitWriter]]:
    """Every chunk that is left to do; texts of those that are done are counted, too, where ``cut`` is to be known.

    Raises:
        DataError: a text without tokens with ``on_error`` fail, or pairs that the model has no encoding of.
    """

    def work(tokens: list[Tokens]) -> Encoded:
        began = time.perf_counter()
        return encode_texts(encoder, tokens, job, device), time.perf_counter() - began

    # one thread feeds a GPU; on a CPU whole batches run beside each other, each in one thread
    threads = thread_count(job.workers) if device.type == "cpu" else 1
    if device.type == "cpu":
        keep_freed_memory()
    with one_thread_each(), pool_of(threads) as pool:
        flying: deque[Part] = deque()
        for writer in writers:
            for number in range(writer.array.chunks):
                if cut is None and writer.is_done(number):
                    continue
                began = time.perf_counter()
                rows = range(*writer.array.bounds(number))
                tokens = encoder.tokenizer.tokens(texts_of(dataset, writer.index.split, rows))
                if cut is not None:
                    cut.add(writer.index.split, tokens)
                clock.decode += time.perf_counter() - began
                if writer.is_done(number):
                    continue
                parts = [
                    (places, pool.submit(work, [tokens[k] for k in places]))
                    for places in batches_of([t.length for t in tokens], job.batch_size)
                ]
                marks = {row: NO_TOKENS for row, t in zip(rows, tokens, strict=True) if t.length == 0}
                flying.append(Part(writer=writer, number=number, marks=marks, batches=parts))
                if len(flying) > _CHUNKS_AHEAD:
                    yield _gathered(flying.popleft(), encoder.spec.dim, job, clock, advance)
        while flying:
            yield _gathered(flying.popleft(), encoder.spec.dim, job, clock, advance)


def batches_of(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Places of a chunk that are encoded together: like lengths side by side, the longest first; none of length 0."""
    order = sorted((k for k, length in enumerate(lengths) if length), key=lambda k: (-lengths[k], k))
    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]


def encode_texts(
    encoder: TextEncoder, tokens: Sequence[Tokens], job: Job, device: torch.device
) -> npt.NDArray[np.float32]:
    """A batch through the encoder, in float32 or in mixed precision: [B, D]."""
    with torch.inference_mode(), autocast(device, job.amp):
        features: npt.NDArray[np.float32] = (
            encoder.features(encoder.tokenizer.batch(tokens, device)).float().cpu().numpy()
        )
    return features


def texts_of(dataset: Dataset, split: str, rows: Sequence[int]) -> list[tuple[str, ...]]:
    """The texts, or pairs of texts, of some rows."""
    if dataset.kind == "captions":
        return [(dataset.caption(split, row),) for row in rows]
    return [dataset.text(split, row) for row in rows]


def _gathered(
    part: Part, dim: int, job: Job, clock: Clock, advance: Callable[[int], None]
) -> tuple[Chunk, SplitWriter]:
    first, last = part.writer.array.bounds(part.number)
    block = np.full((last - first, dim), np.nan, dtype=np.float32)
    for places, future in part.batches:
        features, seconds = waited(future, clock)
        block[places] = features
        clock.encode += seconds
        advance(len(places))
    advance(len(part.marks))
    return finished(part.writer, part.number, block, part.marks, job), part.writer
