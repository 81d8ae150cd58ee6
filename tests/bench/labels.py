"""Fifteen million caption pairs to a table of noisy labels, beside a plain pyarrow script; seconds and peak memory.

Each contender is a process of its own, imports counted: it reads ids from a Parquet table whose rows are in no order,
sorts them, swaps a tenth of the captions, and writes ``labels.parquet``. nmtool also digests the listing, checks the
paths, and validates every id.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np

from nmtool.records import TextColumn
from tests.bench.measure import Found, Line, Times
from tests.bench.sizes import Sizes

_GROUP = 1 << 20

SWAP = """
    rng = np.random.default_rng(0)
    clean = np.arange(n)
    noisy = clean.copy()
    rows = np.sort(rng.choice(n, n // 10, replace=False))
    noisy[rows] = np.roll(rows, 1)
"""

PLAIN = """
    import sys
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = pq.read_table(sys.argv[1], columns=["path"]).sort_by("path").column("path")
    n = len(ids)
    {swap}
    split = pa.array(["train"]).take(pa.array(np.zeros(n, np.int8)))
    columns = {{"row": clean, "sample": ids, "split": split, "clean": clean, "noisy": noisy, "flipped": clean != noisy}}
    pq.write_table(pa.table(columns), sys.argv[2], compression="zstd")
"""

OURS = """
    import sys
    import numpy as np
    from nmtool.artifact.memo import Memo
    from nmtool.artifact.typed import labels_bytes
    from nmtool.data.sources import open_dataset
    from nmtool.records import NoisyLabels

    index = open_dataset("table:" + sys.argv[1], memo=Memo(None)).splits["train"]
    index.listing
    n = len(index)
    {swap}
    labels = NoisyLabels(samples=index.ids, split="train", clean=clean, noisy=noisy, classes=())
    with open(sys.argv[2], "wb") as stream:
        stream.write(labels_bytes(labels))
"""

END = """
    # not ru_maxrss: that holds what the process that started this one had
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def bench(sizes: Sizes, work: Path) -> Found:
    """Seconds and GiB of each; fewer are better."""
    source, rows = work / "pairs.parquet", sizes.caption_pairs
    _make(source, rows)
    seconds: dict[str, list[float]] = {"plain": [], "nmtool": []}
    memory: dict[str, list[float]] = {"plain": [], "nmtool": []}
    for _ in range(sizes.rounds):
        for name, code in (("plain", PLAIN), ("nmtool", OURS)):
            took, peak = _run(code, source, work / f"{name}.parquet")
            seconds[name].append(took)
            memory[name].append(peak)
    found = [
        Line(
            what=f"{rows:,} caption pairs to labels.parquet, {what}",
            unit=unit,
            plain=times.median("plain"),
            ours=times.median("nmtool"),
            limit=limit,
            limit_is=f"issue 3: {limit:.0f} {unit} at 15,000,000",
            lower=True,
            noise=times.noise("plain", "nmtool"),
        )
        for what, unit, times, limit in (
            ("time", "s", Times(seconds=seconds), 60.0),
            ("peak memory", "GiB", Times(seconds=memory), 4.0),
        )
    ]
    return Found(lines=found, notes=["both tables hold " + ("the same" if _same(work) else "OTHER") + " rows"])


def _run(code: str, source: Path, out: Path) -> tuple[float, float]:
    text = textwrap.dedent(code.format(swap=SWAP.strip()) + END)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", text, str(source), str(out)], capture_output=True, check=True)
    return time.perf_counter() - began, int(done.stdout) / 2**20


def _same(work: Path) -> bool:
    import pyarrow.parquet as pq

    return bool(pq.read_table(work / "plain.parquet").equals(pq.read_table(work / "nmtool.parquet")))


def _make(path: Path, rows: int) -> None:
    """Pairs of a path and a caption, some 100 bytes a row, in no order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    numbers = rng.permutation(rows)
    schema = pa.schema([("path", pa.string()), ("caption", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _GROUP):
            part = numbers[start : start + _GROUP]
            names = TextColumn.of(f"yfcc15m/{n % 1000:03d}/{n:09d}.jpg" for n in part.tolist())
            captions = TextColumn.of(
                f"a photograph, number {n}, of a dog on the beach at dusk" for n in part[::-1].tolist()
            )
            writer.write_table(pa.table([c.to_arrow().cast(pa.string()) for c in (names, captions)], schema=schema))
