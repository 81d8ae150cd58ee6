"""Runs one nmtool command again and again, killing it (-9) after random times, until it is done; prints what happened.

One process imports torch and its friends once and forks each attempt, so that a kill falls into the stage's work and
not into 40 imports. Each attempt is the real command line in a process of its own.

    python killer.py SEED MOST_KILLS LONGEST_S COMMAND…
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def staged(root: Path) -> dict[str, int]:
    """path below the staging → inode, of the files that its journal vouches for."""
    found = {}
    for journal in root.rglob("journal.jsonl"):
        for line in journal.read_bytes().split(b"\n"):
            try:
                path = json.loads(line)["path"]
                found[path] = (journal.parent / path).stat().st_ino
            except (ValueError, KeyError, OSError):
                continue
    return found


def attempt(argv: list[str]) -> int:
    """Fork one attempt; returns its pid."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(os.open("attempts.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
        from nmtool.cli import run

        os._exit(run(argv))
    return pid


def main() -> None:
    """Kill until the command ends by itself; every journalled file must survive the kill untouched."""
    seed, most, longest = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    argv = sys.argv[4:]
    import timm  # noqa: F401
    import torch
    import zarr  # noqa: F401

    torch.set_num_threads(1)
    rng = random.Random(seed)
    kills = kept = rewritten = 0
    while True:
        before = staged(Path.cwd())
        pid = attempt(argv)
        patience = rng.uniform(0.02, longest) if kills < most else 600.0
        deadline = time.monotonic() + patience
        done, status = 0, 0
        while time.monotonic() < deadline and not done:
            done, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.002)
        if not done:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
        after = staged(Path.cwd())
        if after:
            kept += sum(after.get(path) == inode for path, inode in before.items())
            rewritten += sum(path in after and after[path] != inode for path, inode in before.items())
        if done:
            print(
                json.dumps(
                    {"code": os.waitstatus_to_exitcode(status), "kills": kills, "kept": kept, "rewritten": rewritten}
                )
            )
            return


if __name__ == "__main__":
    main()
