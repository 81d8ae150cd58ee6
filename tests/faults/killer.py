"""Runs one nmtool command again and again, killing it (-9) at random moments, until it is done; prints what happened.

One process imports torch and its friends once and forks each attempt, so that a kill falls into the stage's work and
not into 40 imports. Each attempt is the real command line in a process of its own.

Moments follow the work and not the clock, so that they are the same on any machine under any load: an attempt is killed
a while after the N-th sign of its work (a line of the journal, a checkpoint), N and the while drawn anew each time, the
while up to the time between two signs; or, one attempt in five, early, before its first sign mostly.

    python killer.py SEED MOST_KILLS COMMAND…
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

EARLY = 0.2  # share of the kills that wait for no sign
EARLY_S = 0.3
SIGNS = 2  # most signs of work that a kill waits for
LOOK_S = 0.003


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


def signs(root: Path) -> frozenset[tuple[str, int, int]]:
    """What changes with each piece of work that is kept: journals and checkpoints with their sizes and times."""
    found = set()
    for pattern in ("*/journal*.jsonl", "*/work/*"):
        try:
            files = list(root.glob(f".nmtool-staging/{pattern}"))
        except FileNotFoundError:  # a staging was renamed while it was looked through; the next look sees it
            continue
        for file in files:
            try:
                stat = file.stat()
            except FileNotFoundError:
                continue
            # a staging that is taken over has another name; an empty journal says nothing
            if not file.name.endswith(".tmp") and stat.st_size:
                found.add((file.name, stat.st_size, stat.st_mtime_ns))
    return frozenset(found)


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


class Clock:
    """When an attempt is killed: see the module's docstring."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._between = 0.05  # seconds between two signs, learned as they come

    def wait(self, pid: int) -> tuple[bool, int, bool]:
        """Wait for the moment, or for the attempt's end; returns whether it has ended, its status, and if it worked."""
        rng, early = self._rng, self._rng.random() < EARLY
        wanted = 0 if early else rng.randint(1, SIGNS)
        share = rng.random()
        last, at = signs(Path.cwd()), time.monotonic()
        seen, moment = 0, at + share * EARLY_S if early else None
        while moment is None or time.monotonic() < moment:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return True, status, seen > 0
            now = signs(Path.cwd())
            if now != last:
                if seen:
                    self._between = (self._between + min(2.0, time.monotonic() - at)) / 2
                seen, last, at = seen + 1, now, time.monotonic()
                if seen == wanted:
                    moment = at + share * self._between
            time.sleep(LOOK_S)
        return False, 0, seen > 0


def main() -> None:
    """Kill until the command ends by itself; every journalled file must survive the kill untouched."""
    seed, most = int(sys.argv[1]), int(sys.argv[2])
    argv = sys.argv[3:]
    import timm  # noqa: F401
    import torch
    import zarr  # noqa: F401

    torch.set_num_threads(1)
    clock = Clock(random.Random(seed))
    told = dict.fromkeys(("kills", "at_work", "kept", "rewritten"), 0)
    while True:
        before = staged(Path.cwd())
        pid = attempt(argv)
        if told["kills"] < most:
            done, status, worked = clock.wait(pid)
        else:
            (_, status), done, worked = os.waitpid(pid, 0), True, True
        if not done:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            told["kills"] += 1
            told["at_work"] += worked
        after = staged(Path.cwd())
        if after:
            told["kept"] += sum(after.get(path) == inode for path, inode in before.items())
            told["rewritten"] += sum(path in after and after[path] != inode for path, inode in before.items())
        if done:
            print(json.dumps({"code": os.waitstatus_to_exitcode(status), **told}))
            return


if __name__ == "__main__":
    main()
