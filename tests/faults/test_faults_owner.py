"""P6, at its edge: a run that stops between making its staging folder and saying whose it is: killed, and alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtool.artifact.open import open_artifact, verify

ARGV = ("extract", "none", "arrays:x.npz", "-o", "out")
# The real command line, stopped by a signal to itself when its folder is there and its name is not: before the name's
# first byte, or between its last byte and its rename. Where locks are to fail, flock lets everybody through.
RUNNER = """
import fcntl, os, sys
from nmtool.artifact import stage
where, sign, locks = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if locks == "noop":
    fcntl.flock = lambda fd, how: None
put, rename = stage._put, os.rename

def stop():
    stage._put, os.rename = put, rename
    os.kill(os.getpid(), sign)

def putting(root, path, *parts):
    if path == "owner.json" and where == "mkdir":
        stop()
    return put(root, path, *parts)

def renaming(source, target):
    if str(target).endswith("owner.json") and where == "rename":
        stop()
    return rename(source, target)

stage._put, os.rename = putting, renaming
from nmtool.cli import run
sys.exit(run(sys.argv[4:]))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with some ready-made features in it."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", X_train=rng.normal(size=(50, 4)).astype(np.float32), y_train=np.arange(50) % 2)
    return tmp_path


def started(place: Path, where: str, sign: signal.Signals, locks: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", RUNNER, where, str(int(sign)), locks, *ARGV]
    return subprocess.Popen(
        argv, cwd=place, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def staged(place: Path) -> list[Path]:
    return [path for path in place.glob(".nmtool-staging/*") if path.is_dir()]


@pytest.mark.parametrize("where", ["mkdir", "rename"])
def test_killed_before_it_said_whose_folder_it_is(place: Path, ok: Callable[..., Any], where: str) -> None:
    run = started(place, where, signal.SIGKILL, "flock")
    _, err = run.communicate(timeout=120)
    assert run.returncode == -signal.SIGKILL, err
    (left,) = staged(place)
    assert [p.name.split(".")[0] + p.suffix for p in left.iterdir()] == ([] if where == "mkdir" else ["owner.tmp"])
    assert ok(*ARGV).out == "out\n"
    verify(open_artifact(place / "out"), (1, 1))
    assert sorted(p.name for p in place.iterdir()) == ["out", "x.npz"]


@pytest.mark.parametrize("where", ["mkdir", "rename"])
def test_a_slow_run_whose_folder_was_taken_makes_another(place: Path, ok: Callable[..., Any], where: str) -> None:
    """Without working locks: it sleeps there while another run clears its folder and ends; awake, it returns theirs."""
    run = started(place, where, signal.SIGSTOP, "noop")
    try:
        pid, status = os.waitpid(run.pid, os.WUNTRACED)
        assert (pid, os.WIFSTOPPED(status)) == (run.pid, True)
        (theirs,) = staged(place)
        first = ok(*ARGV, "--json").json
        assert not theirs.exists()
        os.kill(run.pid, signal.SIGCONT)
        out, err = run.communicate(timeout=120)
    finally:
        run.kill()
        run.communicate()
    assert (run.returncode, out) == (0, "out\n"), err
    assert open_artifact(place / "out").manifest.content == first["content"]
    assert sorted(p.name for p in place.iterdir()) == ["out", "x.npz"]


def test_what_holds_more_than_a_name_is_not_touched(place: Path, ok: Callable[..., Any]) -> None:
    """A folder without an owner that holds anything else is nobody's to remove."""
    run = started(place, "mkdir", signal.SIGKILL, "flock")
    run.communicate(timeout=120)
    (left,) = staged(place)
    (left / "notes.txt").write_text("mine")
    ok(*ARGV)
    assert [p.name for p in left.iterdir()] == ["notes.txt"]
    assert (left / "notes.txt").read_text() == "mine"
