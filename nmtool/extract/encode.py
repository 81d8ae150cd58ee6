"""Samples through an encoder into a feature store: prepare ahead, encode, write behind; memory is bounded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence

import torch

from nmtool.artifact.stage import Reporter, Staging
from nmtool.data.dataset import Dataset
from nmtool.encoders.device import choose_device, thread_count
from nmtool.encoders.encoder import ImageEncoder, load
from nmtool.encoders.resolved import Resolved
from nmtool.extract import images, texts
from nmtool.extract.batches import NOT_FINITE, Clock, Job, shares
from nmtool.extract.ranks import Crew
from nmtool.extract.write import Behind, SplitWriter, finish, marked

__all__ = ["Job", "encode_splits"]


def encode_splits(
    staging: Staging,
    dataset: Dataset,
    splits: Sequence[str],
    resolved: Resolved,
    job: Job,
    report: Reporter,
    crew: Crew,
) -> Mapping[str, object]:
    """Encode all splits, or this rank's share of them, and write the payload; returns the summary.

    Raises:
        DataError: a sample that can't be read with ``on_error`` fail, all of a split broken, float16 overflow.
        UnavailableError: the device or the encoder's package is not there.
    """
    device = _device_of(choose_device(job.device), job, crew)
    if job.compile:
        report.info("the encoder is compiled with its first batch, which takes a while")
    encoder = images.ready(load(resolved, device), job)
    count = job.views.count if job.views else 0
    dim, stored_as = resolved.spec.dim, job.stored_as
    writers = [SplitWriter(staging, dataset.splits[split], dim, stored_as, count) for split in splits]
    rows = _rows_left(writers)  # of all ranks, where this one leads
    crew.begin(staging, writers)
    own = _rows_left(writers)
    clock, cut = Clock(), texts.Cut()
    began = time.perf_counter()
    with Behind() as behind, report.progress(own, f"encoding with {resolved.spec.arch}") as advance:
        if isinstance(encoder, ImageEncoder):
            chunks = images.encoded_chunks(dataset, encoder, writers, job, device, clock, advance)
        else:
            chunks = texts.encoded_chunks(
                dataset, encoder, writers, job, device, clock, advance, cut if crew.leads else None
            )
        with contextlib.closing(chunks):
            for chunk, writer in chunks:
                behind.put(writer, chunk)
    crew.end(staging, writers)
    if not crew.leads:
        return {}
    encoded = time.perf_counter()
    counts = finish(staging, writers, dataset.classes, dataset.targets)
    behind.blocked_s += time.perf_counter() - encoded
    seconds = time.perf_counter() - began
    _warn(writers, cut, resolved, report)
    for split, count in cut.counts.items():
        counts[split] = {**_table(counts[split]), "truncated": count}
    return _summary(resolved, job, counts, rows, own, seconds, clock, behind, report, device, crew)


def _device_of(device: torch.device, job: Job, crew: Crew) -> torch.device:
    """Each rank of a machine has a GPU of its own, unless one is named."""
    if device.type != "cuda" or crew.world == 1 or ":" in job.device:
        return device
    return torch.device("cuda", crew.local % torch.cuda.device_count())


def _table(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def _rows_left(writers: Sequence[SplitWriter]) -> int:
    left = 0
    for writer in writers:
        for number in range(writer.array.chunks):
            start, stop = writer.array.bounds(number)
            left += 0 if writer.is_done(number) else stop - start
    return left


def _warn(writers: Sequence[SplitWriter], cut: texts.Cut, resolved: Resolved, report: Reporter) -> None:
    for writer in writers:
        if writer.errors:
            strange = sum(why == NOT_FINITE for why in writer.errors.values())
            note = f", {strange} of them for features that are not finite" if strange else ""
            report.warning(marked(writer, note))
        if count := cut.counts.get(writer.index.split, 0):
            longest = resolved.spec.preparation.get("max_length")
            report.warning(
                f"split {writer.index.split}: {count} of {len(writer.index)} texts are longer than {longest} tokens; "
                "their ends were cut off"
            )


def _summary(
    resolved: Resolved,
    job: Job,
    counts: Mapping[str, object],
    rows: int,
    own: int,
    seconds: float,
    clock: Clock,
    behind: Behind,
    report: Reporter,
    device: torch.device,
    crew: Crew,
) -> dict[str, object]:
    spec = resolved.spec
    if spec.tower == "text":  # tokens are made here, encoded in threads
        decode_s, encode_s = clock.decode, clock.wait
    elif device.type == "cpu":  # each thread does both
        threads = thread_count(job.workers)
        decode_s, encode_s = clock.decode / threads, clock.encode / threads
    else:  # decoded in threads, encoded here
        decode_s, encode_s = clock.wait, clock.encode
    compile_s = min(clock.compile, seconds)
    spent = shares(seconds - compile_s, decode_s, encode_s, behind.blocked_s)
    verbs = {"decode": "tokenizing" if spec.tower == "text" else "decoding", "encode": "encoding", "write": "writing"}
    if job.compile:
        spent, verbs = {"compile": compile_s, **spent}, {"compile": "compiling", **verbs}
    bottleneck = verbs[max(verbs, key=lambda name: spent[name])]
    rate = rows / max(seconds, 1e-9)
    report.info(
        f"encoded {rows} samples in {seconds:.1f} s ({rate:.0f} a second) on {device.type}: "
        + ", ".join(f"{spent[name]:.1f} s {verb}" for name, verb in verbs.items())
        + f", {spent['wait']:.1f} s waiting otherwise; the bottleneck is {bottleneck}"
    )
    return {
        "model": job.model,
        "arch": spec.arch,
        "tower": spec.tower,
        "feature": spec.feature,
        "normalize": spec.normalize,
        "untrained": spec.untrained,
        "dim": spec.dim,
        "dtype": job.dtype,
        **({"amp": job.amp} if job.amp != "none" and job.dtype != "bfloat16" else {}),
        **({"compile": True} if job.compile else {}),
        "splits": counts,
        **({"views": job.views.to_json()} if job.views else {}),
        "samples_per_s": round(rate, 1),
        "encoded": rows,
        **({"ranks": crew.world, "encoded_by_rank_0": own} if crew.world > 1 else {}),
        "batch_size": job.batch_size,
        "device": device.type,
        "spent_s": {name: round(value, 3) for name, value in spent.items()},
        "bottleneck": bottleneck,
    }
