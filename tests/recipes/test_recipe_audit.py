"""The audit recipe's Makefile on digits as pictures: artifacts, a report, its tables, and no second run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from nmtool.artifact.open import open_artifact

AUDIT = Path(__file__).resolve().parents[2] / "recipes" / "audit"


def make(*argv: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-C", str(AUDIT), f"NMTOOL={sys.executable} -m nmtool", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=dict(os.environ))


@pytest.mark.slow
def test_the_audit(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    digits = load_digits()
    x = np.repeat((digits.images[:200, :, :, None] * 15.9).astype(np.uint8), 3, axis=3)
    y = digits.target[:200].astype(np.int64)
    np.savez(tmp_path / "x.npz", X_train=x, y_train=y)
    wrong = np.random.default_rng(0).random(200) < 0.3
    np.savez(tmp_path / "h.npz", worse=np.where(wrong, (y + 1) % 10, y), aggre=y)
    out = tmp_path / "out"
    argv = ("MODEL=timm:test_resnet", "FLAGS=--untrained --image-size 32", f"CIFAR10=arrays:{tmp_path}/x.npz")
    argv = (*argv, f"HUMAN={tmp_path}/h.npz", f"OUT={out}", "SETS=c10-worse c10-0.4")
    done = make(*argv)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"report: {out}/report/data/report.html" in done.stdout
    found = {
        path.parent.name: open_artifact(path.parent).manifest.summary for path in out.glob("audit-*/manifest.json")
    }
    assert set(found) == {"audit-c10-worse", "audit-c10-0.4"}
    assert found["audit-c10-0.4"]["noise_ratio_true"] == pytest.approx(0.4, abs=0.02)
    assert found["audit-c10-worse"]["noise_ratio_true"] == wrong.mean()
    again = make(*argv, "table")
    assert "nmtool audit" not in again.stdout
    assert "Views judged by the true labels" in again.stdout
    assert again.stdout.count("| combined | 0.") == 2  # a line a set
    missing = make(f"OUT={tmp_path}/none")
    assert missing.returncode != 0
    assert "MODEL is missing" in missing.stderr
