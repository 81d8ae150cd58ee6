"""Texts through an embeddings service into a feature store: in batches, several at once, and none that is paid twice.

Each answered batch is kept on disk before the next is asked for by its thread, so that a kill costs the requests in
flight and no more; which texts go together is kept, too, so that a resumed run asks for just what is missing, whatever
its own limits are. Equal texts of a chunk are asked for once.

The longest text is asked for first, alone: a service that refuses it says so before anything else is paid.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np

from nmtool.artifact.format import canonical
from nmtool.artifact.stage import Reporter, Staging
from nmtool.data.dataset import Dataset
from nmtool.encoders.openai import KEY_NAME, Client, RefusedError, StoppedAskingError
from nmtool.encoders.openai_plan import is_open
from nmtool.encoders.openai_tokens import token_counter
from nmtool.encoders.resolved import Resolved
from nmtool.errors import DataError, NmtoolError, UnavailableError
from nmtool.extract.answers import Answered, Limits, Part, Pool, asking_threads, joined, put
from nmtool.extract.batches import Job, finished
from nmtool.extract.service import batches_of, census, text_of
from nmtool.extract.write import Chunk, SplitWriter, finish, marked

__all__ = ["Limits", "encode_remote"]

EMPTY = "the text is empty"
NOT_FINITE = "the service gave an embedding that is not finite"
CONNECTIONS = 4  # where --workers does not say
_CHUNKS_AHEAD = 2


def encode_remote(
    staging: Staging,
    dataset: Dataset,
    splits: Sequence[str],
    resolved: Resolved,
    job: Job,
    limits: Limits,
    report: Reporter,
) -> Mapping[str, object]:
    """Ask for all that is missing and write the payload; returns the summary.

    Raises:
        DataError: a text that the service refuses, with ``on_error`` fail; pairs without a separator.
        PermissionDeniedError: the service refuses the key.
        UnavailableError: the service gives no usable answer, or httpx is not installed.
    """
    assert resolved.service is not None
    began, key = time.perf_counter(), limits.secret(KEY_NAME) or ""
    if key and is_open(resolved.service.base_url):
        report.warning(f"the key in ${KEY_NAME} goes unencrypted to another machine: the URL is http, not https")
    client = Client(
        resolved.service,
        resolved.spec.arch,
        key,
        timeout=limits.timeout,
        max_retries=limits.max_retries,
        connections=job.workers or CONNECTIONS,
        tell=report.info,
    )
    asking = Asking(staging, dataset, tuple(splits), resolved, job, limits, client)
    with asking_threads(client, job.workers or CONNECTIONS) as pool:
        known = asking.first(report)
        assert client.dim is not None
        writers = [SplitWriter(staging, dataset.splits[split], client.dim, job.stored_as) for split in splits]
        left = sum(len(range(*w.array.bounds(k))) for w in writers for k in range(w.array.chunks) if not w.is_done(k))
        with report.progress(left, f"asking {client.who}") as advance:
            for part in asking.parts(writers, known, pool):
                asking.write(part, advance)
    counts = finish(staging, writers, dataset.classes, dataset.targets)
    for writer in writers:
        if writer.errors:
            report.warning(marked(writer))
    return asking.summary(counts, left, time.perf_counter() - began, report)


class Asking:
    """One run's questions to a service; what is answered is kept in the staging."""

    def __init__(
        self,
        staging: Staging,
        dataset: Dataset,
        splits: tuple[str, ...],
        resolved: Resolved,
        job: Job,
        limits: Limits,
        client: Client,
    ) -> None:
        assert resolved.service is not None
        self._staging, self._dataset, self._splits = staging, dataset, splits
        self._spec, self._job, self._limits, self._client = resolved.spec, job, limits, client
        self._separator = resolved.service.separator
        self._count, self._by = token_counter(resolved.spec.arch)
        self._most = job.batch_size  # texts a request; less where the service turned out to take less
        self._problem: NmtoolError | None = None  # that made the others stop

    def first(self, report: Reporter) -> dict[tuple[str, int], Answered]:
        """The longest text's embedding, and with it the length of all; the shortest's, too, if the longest is refused.

        Returns:
            By split and row what was asked for.
        """
        kept = self._staging.kept("ask/first")
        places = [(str(s), int(r)) for s, r in json.loads(kept)] if kept else self._ends(report)
        self._staging.keep("ask/first", canonical([list(place) for place in places]))
        known: dict[tuple[str, int], Answered] = {}
        for number, (split, row) in enumerate(places):
            name, texts = f"ask/first-{number}", [text_of(self._dataset, split, row, self._separator)]
            answer = Answered.from_bytes(self._staging.kept(name), 1, None) or self._asked(texts)
            known[split, row] = answer
            if answer.marks.get(0, NOT_FINITE) == NOT_FINITE:
                self._staging.keep(name, answer.to_bytes())
                self._client.dim = int(answer.vectors.shape[1])
                if number == 0 or self._job.on_error == "skip":
                    return known
        split, row = places[0]
        why = known[split, row].marks[0]
        if len(places) > 1 and known[places[1]].marks:
            raise UnavailableError(
                f"{self._client.who} refuses the longest text and the shortest; {why}", "texts it takes"
            )
        raise DataError(
            f"sample {self._dataset.splits[split].ids[row]!r} of split {split} (row {row}), the longest text: {why}",
            "texts that the service takes",
            "shorten it, or --on-error skip keeps the row, marked",
        )

    def _ends(self, report: Reporter) -> list[tuple[str, int]]:
        """Split and row of the longest text and of the shortest; what is going to be asked is told."""
        found = census(self._dataset, self._splits, self._spec.arch, self._separator)
        if found.longest is None or found.shortest is None:
            raise DataError(f"all texts of {', '.join(self._splits)} are empty", "texts")
        cost = "" if self._limits.price is None else f", about {found.tokens / 1e6 * self._limits.price:.4g}"
        report.info(
            f"asking {self._client.who} for {found.texts} embeddings: about {found.tokens} tokens ({found.by}){cost}"
        )
        return list(dict.fromkeys((found.longest, found.shortest)))

    def parts(
        self, writers: Sequence[SplitWriter], known: Mapping[tuple[str, int], Answered], pool: Pool
    ) -> Generator[Part]:
        """Every chunk that is left to do, its batches being asked for; some chunks ahead."""
        flying: deque[Part] = deque()
        for place, writer in enumerate(writers):
            for number in range(writer.array.chunks):
                if writer.is_done(number):
                    continue
                flying.append(self._part(place, writer, number, known, pool))
                if len(flying) > _CHUNKS_AHEAD:
                    yield flying.popleft()
        yield from flying

    def _part(
        self, place: int, writer: SplitWriter, number: int, known: Mapping[tuple[str, int], Answered], pool: Pool
    ) -> Part:
        split, rows = writer.index.split, range(*writer.array.bounds(number))
        texts = [text_of(self._dataset, split, row, self._separator) for row in rows]
        marks = {k: EMPTY for k, text in enumerate(texts) if not text}
        seen: dict[str, int] = {}
        same = {k: first for k, text in enumerate(texts) if text and (first := seen.setdefault(text, k)) != k}
        there = {seen[texts[row - rows.start]]: a for (s, row), a in known.items() if s == split and row in rows}
        folder = f"ask/{place}-{number}"
        wanted = [k for k in seen.values() if k not in there]
        plan = self._plan(folder, wanted, [texts[k] for k in wanted])
        names = [f"{folder}/{b}" for b in range(len(plan))]
        batches = [
            (places, pool.submit(self._answer, name, [texts[k] for k in places], self._client.dim))
            for name, places in zip(names, plan, strict=True)
        ]
        return Part(
            writer=writer,
            number=number,
            marks=marks,
            same=same,
            known=there,
            batches=batches,
            kept=[*names, f"{folder}/plan"],
        )

    def _plan(self, folder: str, places: list[int], texts: Sequence[str]) -> list[list[int]]:
        """Which places are asked for together: as a run before decided, or as this one's limits say."""
        kept = self._staging.kept(f"{folder}/plan")
        if kept is not None:
            plan: list[list[int]] = json.loads(kept)
            if sorted(k for batch in plan for k in batch) == sorted(places):
                return plan
        batches = batches_of(texts, self._count, self._job.batch_size, self._limits.batch_tokens)
        plan = [[places[k] for k in batch] for batch in batches]
        self._staging.keep(f"{folder}/plan", canonical(plan))
        return plan

    def _answer(self, name: str, texts: list[str], dim: int | None) -> Answered:
        """The answer that is kept under ``name``, or one that is asked for now and kept. Runs in threads."""
        kept = Answered.from_bytes(self._staging.kept(name), len(texts), dim)
        if kept is not None:
            return kept
        try:
            answer = self._asked(texts)
        except NmtoolError as problem:
            self._problem = self._problem or problem
            self._client.stop()  # before the next batch is begun
            raise
        self._staging.keep(name, answer.to_bytes())
        return answer

    def _asked(self, texts: list[str]) -> Answered:
        """Ask; a request that is refused is asked in halves, down to the text that is at fault."""
        if len(texts) > self._most:
            return joined([self._asked(texts[at : at + self._most]) for at in range(0, len(texts), self._most)])
        try:
            vectors = self._client.embed(texts).vectors
        except RefusedError as error:
            if len(texts) == 1:
                why = f"the service refuses it ({error})"
                return Answered(vectors=np.full((1, self._client.dim or 1), np.nan, dtype=np.float32), marks={0: why})
            middle = len(texts) // 2
            halves = [self._asked(texts[:middle]), self._asked(texts[middle:])]
            if not any(half.marks for half in halves):  # it were too many, and not one of them
                self._most = max(1, min(self._most, len(texts) - middle))
            return joined(halves)
        strange = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        return Answered(vectors=vectors, marks={int(place): NOT_FINITE for place in strange})

    def write(self, part: Part, advance: Callable[[int], None]) -> None:
        """Wait for a chunk's batches and write it; raises ``DataError`` at once for a marked row that may not be."""
        writer, first = part.writer, part.writer.array.bounds(part.number)[0]
        rows = len(range(*writer.array.bounds(part.number)))
        block = np.full((rows, self._client.dim or 0), np.nan, dtype=np.float32)
        marks = dict(part.marks)
        for place, answer in part.known.items():
            put(block, marks, [place], answer)
        for places, future in part.batches:
            try:
                put(block, marks, places, future.result())
            except StoppedAskingError:
                raise self._problem or UnavailableError("asking was stopped", "", "run it again") from None
            if marks and self._job.on_error == "fail":
                break
            advance(len(places))
        for place, like in part.same.items():
            block[place] = block[like]
            if like in marks:
                marks[place] = marks[like]
        if self._spec.normalize:
            length = np.linalg.norm(block, axis=1, keepdims=True)
            block /= np.maximum(length, np.float32(1e-12))
        chunk: Chunk = finished(writer, part.number, block, {first + k: why for k, why in marks.items()}, self._job)
        writer.write(chunk)
        for name in part.kept:
            self._staging.drop(name)
        advance(rows - sum(len(places) for places, _ in part.batches))

    def summary(self, counts: Mapping[str, object], rows: int, seconds: float, report: Reporter) -> dict[str, object]:
        """Of the run that ends now; requests and tokens of runs that it went on for are not in it."""
        bill, price = self._client.bill, self._limits.price
        cost = None if price is None else round(bill.tokens / 1e6 * price, 6)
        report.info(
            f"{rows} embeddings in {seconds:.1f} s: {bill.requests} requests, {bill.retries} of them repeated, "
            f"{bill.tokens} tokens as the service counts" + ("" if cost is None else f", {cost:g}")
        )
        return {
            "model": self._job.model,
            "arch": self._spec.arch,
            "tower": self._spec.tower,
            "feature": self._spec.feature,
            "normalize": self._spec.normalize,
            "untrained": False,
            "dim": self._client.dim,
            "dtype": self._job.dtype,
            "splits": dict(counts),
            "samples_per_s": round(rows / max(seconds, 1e-9), 1),
            "encoded": rows,
            "batch_size": self._job.batch_size,
            "device": "service",
            "service": {
                "address": self._spec.preparation["service"],
                "answers_as": bill.model,
                "requests": bill.requests,
                "retries": bill.retries,
                "tokens": bill.tokens,
                **({} if cost is None else {"cost": cost}),
            },
        }
