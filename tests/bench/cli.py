"""How long the command line takes to say nothing new: ``--help``, and a stage whose artifact is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.bench.measure import Found, Line, in_turns, timed
from tests.bench.sizes import Sizes

STAGE = ("inject-noise", "digits", "--type", "symmetric", "--ratio", "0.2")


def bench(sizes: Sizes, work: Path) -> Found:
    """Milliseconds of wall time, beside the imports of a plain script; the limit is Python itself."""
    env = {**os.environ, "NMTOOL_CACHE": str(work / "cache"), "NMTOOL_STORE": str(work / "store")}

    def start(*argv: str) -> None:
        subprocess.run([sys.executable, *argv], check=True, capture_output=True, cwd=work, env=env)

    start("-m", "nmtool", *STAGE)
    commands = {
        "python": ("-c", "pass"),
        "help": ("-m", "nmtool", "--help"),
        "cached": ("-m", "nmtool", *STAGE),
        "imports": ("-c", "import numpy, torch, timm"),
    }
    for argv in commands.values():
        start(*argv)
    times = in_turns(sizes.cli_runs, {name: timed(lambda argv=argv: start(*argv)) for name, argv in commands.items()})
    lines = [
        Line(
            what=f"{shown}, beside python -c 'import numpy, torch, timm'",
            unit="ms",
            plain=1e3 * times.median("imports"),
            ours=1e3 * times.median(name),
            limit=1e3 * times.median("python"),
            limit_is="python -c pass",
            lower=True,
            noise=times.noise(name, "imports"),
        )
        for name, shown in (("help", "nmtool --help"), ("cached", "nmtool inject-noise digits, cached"))
    ]
    return Found(lines=lines)
