"""``python -m tests.bench``: run the benches, print one table (or ``--json``), judge nothing."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.measure import Found, Line, machine, say
from tests.bench.sizes import QUICK, Sizes

BENCHES = (
    "extract",
    "store",
    "memory",
    "heads",
    "step",
    "table14",
    "spectrum",
    "cli",
    "cleansing",
    "labels",
    "finetune",
)
HEADER = ("", "unit", "plain", "nmtool", "ratio", "limit", "share", "noise", "the limit is")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, run each bench in a folder of its own, print."""
    asked = _parser().parse_args(argv)
    sizes = _sizes(asked)
    names = [name for name in BENCHES if not asked.only or name in asked.only]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")  # of the libraries: a mixture that has not converged after 20 rounds, …
    results: dict[str, Found] = {}
    seconds: dict[str, float] = {}
    broken = []
    with tempfile.TemporaryDirectory(prefix="nmtool-bench-", dir=asked.dir) as folder:
        facts = machine(Path(folder))
        if facts["load"][0] > 0.5:
            say(f"load average {facts['load'][0]}: other work here makes the numbers worth less")
        for name in names:
            work = Path(folder) / name
            work.mkdir()
            say(f"{name} …")
            began = time.perf_counter()
            try:
                results[name] = importlib.import_module(f"tests.bench.{name}").bench(sizes, work)
            except Exception:  # what the others found is still worth printing
                traceback.print_exc()
                broken.append(name)
                continue
            finally:
                shutil.rmtree(work, ignore_errors=True)
            seconds[name] = round(time.perf_counter() - began, 1)
            say(f"    {seconds[name]} s")
    facts["load_after"] = [round(value, 2) for value in os.getloadavg()]
    print(_json(facts, sizes, results, seconds) if asked.json else _text(facts, results, seconds))
    if broken:
        sys.exit("broken: " + ", ".join(broken))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHES, metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--quick", action="store_true", help="small sizes: a minute and a half; shares say less")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--dir", help="work below this folder (its disk is what store measures)")
    for field in dataclasses.fields(Sizes):
        default = field.default
        kind = type(default[0]) if isinstance(default, tuple) else type(default)
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=kind,
            nargs="+" if isinstance(default, tuple) else None,
            help=f"default {default}, quick {getattr(QUICK, field.name)}",
        )
    return parser


def _sizes(asked: argparse.Namespace) -> Sizes:
    given = {f.name: getattr(asked, f.name) for f in dataclasses.fields(Sizes) if getattr(asked, f.name) is not None}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return dataclasses.replace(QUICK if asked.quick else Sizes(), **given)


def _json(facts: Mapping[str, Any], sizes: Sizes, results: Mapping[str, Found], seconds: Mapping[str, float]) -> str:
    body = {
        name: {"seconds": seconds[name], "lines": [line.to_json() for line in found.lines], "notes": found.notes}
        for name, found in results.items()
    }
    return json.dumps({"machine": facts, "sizes": dataclasses.asdict(sizes), "benches": body}, indent=2)


def _text(facts: Mapping[str, Any], results: Mapping[str, Found], seconds: Mapping[str, float]) -> str:
    rows = {name: [_cells(line) for line in found.lines] for name, found in results.items()}
    every = [HEADER, *(row for group in rows.values() for row in group)]
    widths = [max(len(row[i]) for row in every) for i in range(len(HEADER))]
    out = [_machine(facts), "", _aligned(HEADER, widths)]
    for name, group in rows.items():
        out += [f"{name} ({seconds[name]:.0f} s)", *(_aligned(row, widths) for row in group)]
        out += [f"  - {note}" for note in results[name].notes]
    out += [
        "",
        *(["one torch thread: step and heads are in seconds of the processor"] if facts["torch_threads"] == 1 else []),
        "ratio: how many times as fast as plain; share: of the limit; noise: slowest round over fastest, minus 1.",
        f"load average {facts['load'][0]} before, {facts['load_after'][0]} after, on {facts['cores']} cores",
    ]
    return "\n".join(out)


def _cells(line: Line) -> tuple[str, ...]:
    ratio, share = line.times(line.plain), line.times(line.limit)
    return (
        "  " + line.what,
        line.unit,
        _number(line.plain),
        _number(line.ours),
        "" if ratio is None else f"{ratio:.2f}",
        _number(line.limit),
        "" if share is None else f"{share:.2f}",
        f"{line.noise:.0%}",
        line.limit_is,
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    cells = [c.ljust(w) if i in (0, 1, 8) else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
    return "  ".join(cells).rstrip()


def _machine(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['torch_threads']} torch threads, {facts['system']}\n"
        f"python {facts['python']}, {versions}\n"
        f"work on {facts['file_system']}, {facts['free_gb']} GB free"
    )


if __name__ == "__main__":
    main()
