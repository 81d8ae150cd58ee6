"""Answers of an embeddings service on their way into a store: how they are kept, joined and put in place; the threads.

A kept answer that does not fit what is asked counts as none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nmtool.artifact.format import canonical
from nmtool.encoders.openai import Client
from nmtool.extract.write import SplitWriter

_GRACE_S = 5.0  # what is in flight when a run ends is paid: wait so long for it

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How to ask, and how much at once: none of it changes a number.

    Attributes:
        batch_tokens: tokens a request, as far as they can be told beforehand.
        max_retries: how often a request is repeated.
        timeout: seconds for one.
        price: of a million tokens, or None.
        secret: gives the key by the name of its variable.
    """

    batch_tokens: int
    max_retries: int
    timeout: float
    price: float | None
    secret: Callable[[str], str | None] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Some texts' embeddings, float32 [n, D] with NaN in rows that have none, and by place why they have none."""

    vectors: Vectors
    marks: Mapping[int, str]

    def to_bytes(self) -> bytes:
        """For the checkpoint: a line of JSON, then the values, little-endian."""
        head = {"shape": list(self.vectors.shape), "marks": {str(k): v for k, v in self.marks.items()}}
        return canonical(head) + b"\n" + np.ascontiguousarray(self.vectors, dtype="<f4").tobytes()

    @classmethod
    def from_bytes(cls, body: bytes | None, count: int, dim: int | None) -> Answered | None:
        """What was kept, or None where nothing fit to use was."""
        try:
            head, _, values = (body or b"").partition(b"\n")
            found = json.loads(head)
            rows, width = found["shape"]
            vectors = np.frombuffer(values, dtype="<f4").reshape(rows, width).astype(np.float32)
            marks = {int(k): str(v) for k, v in found["marks"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return cls(vectors=vectors, marks=marks) if rows == count and dim in (None, width) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A chunk on its way.

    Attributes:
        writer, number: where it goes.
        marks: by place in the chunk why a row is not asked for.
        same: by place in the chunk the place of the first row with the same text.
        known: embeddings that are there, by place in the chunk.
        batches: places that are asked for together, and their answer.
        kept: names of the checkpoints that it makes needless.
    """

    writer: SplitWriter
    number: int
    marks: dict[int, str]
    same: Mapping[int, int]
    known: Mapping[int, Answered]
    batches: Sequence[tuple[list[int], Future[Answered]]]
    kept: Sequence[str]


def put(block: Vectors, marks: dict[int, str], places: Sequence[int], answer: Answered) -> None:
    """Copy an answer to its places in a block, and its marks."""
    good = [k for k in range(len(places)) if k not in answer.marks]
    block[[places[k] for k in good]] = answer.vectors[good] if good else np.empty((0, block.shape[1]))
    marks |= {places[k]: why for k, why in answer.marks.items()}


def joined(pieces: Sequence[Answered]) -> Answered:
    """Several answers as one."""
    sizes = [len(piece.vectors) for piece in pieces]
    width = max(piece.vectors.shape[1] for piece in pieces)
    vectors = np.full((sum(sizes), width), np.nan, dtype=np.float32)
    marks: dict[int, str] = {}
    start = 0
    for piece, size in zip(pieces, sizes, strict=True):
        good = [k for k in range(size) if k not in piece.marks]
        if good:
            vectors[[start + k for k in good]] = piece.vectors[good]
        marks |= {start + k: why for k, why in piece.marks.items()}
        start += size
    return Answered(vectors=vectors, marks=marks)


@contextmanager
def asking_threads(client: Client, connections: int) -> Iterator[Pool]:
    """Threads that ask. At the end nobody waits for a retry; answers on their way have a moment to come and be kept."""
    pool = Pool(connections)
    try:
        yield pool
    finally:
        client.stop()
        pool.threads.shutdown(wait=False, cancel_futures=True)
        wait(list(pool.futures), timeout=_GRACE_S)
        client.close()


class Pool:
    """Threads, and what they have not answered yet."""

    def __init__(self, threads: int) -> None:
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="nmtool-ask")
        self.futures: set[Future[Answered]] = set()

    def submit(
        self, work: Callable[[str, list[str], int | None], Answered], name: str, texts: list[str], dim: int | None
    ) -> Future[Answered]:
        """Have it done by a thread."""
        future = self.threads.submit(work, name, texts, dim)
        self.futures.add(future)
        future.add_done_callback(self.futures.discard)
        return future
