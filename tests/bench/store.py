"""Writing and reading a feature store beside ``np.save`` and ``np.load`` of the same bytes, fsync in both."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.artifact.arrays import read_array
from nmtool.artifact.key import Recipe
from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.artifact.typed import STORE
from nmtool.extract.write import Behind, Chunk, SplitWriter
from nmtool.records import Labels, SampleIndex
from tests.bench import plain
from tests.bench.measure import Contender, Found, Line, in_turns, timed
from tests.bench.sizes import Sizes

DIM = 768
NAME = "train/features"


def bench(sizes: Sizes, work: Path) -> Found:
    """Bytes a second; the limit is the fastest round of the bare bytes, by write(2) and read(2)."""
    values = np.random.default_rng(0).random((sizes.store_mb * 1_000_000 // (4 * DIM), DIM), dtype=np.float32)
    disk = _Disk(values, work)
    writes = {"raw": disk.raw_write, "plain": disk.plain_write, "nmtool": disk.our_write}
    reads = {"raw": disk.raw_read, "plain": lambda: np.load(disk.file), "nmtool": disk.our_read}
    written = in_turns(sizes.rounds, {name: disk.writing(work) for name, work in writes.items()})
    disk.our_write()
    disk.plain_write()
    disk.raw_write()
    read = in_turns(sizes.rounds, {name: timed(work) for name, work in reads.items()})
    megabytes = values.nbytes / 1e6
    lines = [
        Line(
            what=f"{verb} {megabytes:.0f} MB of float32, beside {rival}",
            unit="MB/s",
            plain=times.rate("plain", megabytes),
            ours=times.rate("nmtool", megabytes),
            limit=megabytes / min(*times.seconds["raw"], *times.seconds["plain"]),
            limit_is=limit,
            noise=times.noise("plain", "nmtool", "raw"),
        )
        for verb, rival, times, limit in (
            ("write", "np.save", written, "write(2) or np.save, fastest"),
            ("read back", "np.load", read, "read(2) of cached pages, fastest"),
        )
    ]
    same = np.array_equal(disk.our_read(), values) and np.array_equal(np.load(disk.file), values)
    note = "nmtool also hashes (sha256) and checks (crc32c) every byte; what comes back is "
    return Found(lines=lines, notes=[note + ("the same bytes" if same else "OTHER bytes")])


class _Disk:
    """The same array in three files."""

    def __init__(self, values: Any, work: Path) -> None:
        self.values, self.store = values, work / "store"
        self.file, self.raw = work / "plain.npy", work / "raw.bin"
        self.buffer = bytearray(values.nbytes)
        labels = Labels(values=np.zeros(len(values), dtype=np.int64), classes=("a",))
        ids = [f"train/{row:08d}" for row in range(len(values))]
        self.index = SampleIndex(split="train", ids=ids, labels=labels, digest="sha256:" + "0" * 64)

    def writing(self, write: Any) -> Contender:
        """A contender that begins on a disk without the files of the round before, and with nothing left to write."""

        def run() -> float:
            self._remove()
            os.sync()  # what removing takes of the journal is nobody's
            began = time.perf_counter()
            write()
            return time.perf_counter() - began

        return run

    def _remove(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        self.file.unlink(missing_ok=True)
        self.raw.unlink(missing_ok=True)

    def raw_write(self) -> None:
        with self.raw.open("wb", buffering=0) as stream:
            view = memoryview(self.values).cast("B")
            for start in range(0, len(view), 8 << 20):
                stream.write(view[start : start + (8 << 20)])
            os.fsync(stream.fileno())

    def raw_read(self) -> None:
        with self.raw.open("rb", buffering=0) as stream:
            view = memoryview(self.buffer)
            while view and (count := stream.readinto(view)):
                view = view[count:]

    def plain_write(self) -> None:
        plain.save(self.file, self.values)

    def our_write(self) -> None:
        recipe = Recipe(stage="extract", kind="features", epoch=1, config={"bench": "store"}, inputs=())
        produce(Session(store=self.store), recipe, name="bench", config={}, build=self._build)

    def _build(self, staging: Staging) -> dict[str, object]:
        with Behind() as behind:
            writer = SplitWriter(staging, self.index, DIM, "float32")
            for number in range(writer.array.chunks):
                start, stop = writer.array.bounds(number)
                behind.put(writer, Chunk(number=number, features=self.values[start:stop], errors={}))
        return {}

    def our_read(self) -> Any:
        (path,) = self.store.glob("features/bench-*")
        return read_array(open_artifact(path), STORE, NAME)
