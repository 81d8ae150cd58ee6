"""P27: the demo's Makefile makes a report; a second call does nothing; a touched input remakes its descendants only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nmtool.artifact.open import open_artifact, verify

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "demo"


def make(out: Path) -> str:
    command = ["make", "-C", str(DEMO), f"OUT={out}", f"NMTOOL={sys.executable} -m nmtool", "SEEDS=0", "NOISE=00 30"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = make(out)
    assert f"report: {out}/report/data/report.html" in first
    for manifest in out.glob("*/manifest.json"):
        verify(open_artifact(manifest.parent), (1, 1))
    rows = open_artifact(out / "heads-noisy-00").manifest.summary["results"]
    id_accuracy = {row["method"]: row["accuracy"] for row in rows if row["role"] == "id"}
    assert set(id_accuracy) == {"lp", "mlp", "nmtune", "turn"}
    # Ten classes: all are far better than chance on clean digits of the same kind, from 40 % wrong labels.
    assert min(id_accuracy.values()) > 0.3
    assert id_accuracy["turn"] > id_accuracy["lp"]
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}

    again = make(out)
    assert "==" not in again
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == stamps

    os.utime(out / "features-30/manifest.json")
    third = make(out)
    remade = [line for line in third.splitlines() if line.startswith(str(out))]
    assert sorted(Path(line).name for line in remade) == ["heads-30", "heads-noisy-30", "report", "spectrum"]
    changed = [p for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp]
    # All were cache hits: a refreshed manifest is all that make needs, and no payload is written again.
    assert {p.name for p in changed} == {"manifest.json"}
