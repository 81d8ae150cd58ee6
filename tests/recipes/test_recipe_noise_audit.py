"""The noise audit's Makefile on small data with CIFAR-100's class names: artifacts, a report, and no second run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nmtool.artifact.open import open_artifact
from nmtool.inject_noise.facts import CIFAR100

AUDIT = Path(__file__).resolve().parents[2] / "recipes" / "noise-audit"


def make(*argv: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-C", str(AUDIT), f"NMTOOL={sys.executable} -m nmtool", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=dict(os.environ))


@pytest.mark.slow
def test_the_audit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = sorted(name for members in CIFAR100.values() for name in members)
    y = np.tile(np.arange(100), 10)
    x = rng.integers(0, 256, (1000, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", X_train=x, y_train=y, classes=names)
    np.save(tmp_path / "counts.npy", np.eye(100, dtype=int) * 5 + 1)
    out = tmp_path / "out"
    argv = (f"DATA=arrays:{tmp_path}/x.npz", f"MATRIX={tmp_path}/counts.npy", f"OUT={out}")
    done = make(*argv)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {path.parent.name: open_artifact(path.parent).manifest.summary for path in out.glob("*/manifest.json")}
    for name in ("symmetric", "pairflip", "super-classes", "consecutive"):
        assert found[name]["flipped"] == 400
    assert found["human-matrix"]["flipped"] == 900  # ten rows a class: one stays, by quota 0.57
    assert len(list(out.glob("nested/*/manifest.json"))) == 9
    table = make(*argv, "table")
    assert "| asymmetric | groups consecutive |" in table.stdout
    assert "Where the flips went" in table.stdout
    assert "inject-noise" not in table.stdout  # nothing was made again
    missing = make(f"OUT={tmp_path}/none")
    assert missing.returncode != 0
    assert "DATA is missing" in missing.stderr
