"""P1, P2: kill -9 at any moment leaves no artifact or a whole one; a rerun ends with an uninterrupted run's content."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtool.artifact.open import open_artifact, verify

KILLER = Path(__file__).parent / "killer.py"
KILLS = 20  # in each of the two stages: 40 in all


def killed(folder: Path, seed: int, kills: int, *argv: object) -> dict[str, int]:
    command = [sys.executable, str(KILLER), str(seed), str(kills), *map(str, argv)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["code"] == 0, (folder / "attempts.err").read_text()[-3000:]
    return dict(told)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough small images for some ten chunks."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures")
    X = rng.integers(0, 255, (12_000, 16, 16, 3), dtype=np.uint8)
    np.savez(
        folder / "x.npz", X_train=X, y_train=rng.integers(0, 4, len(X)), X_test=X[:500], y_test=rng.integers(0, 4, 500)
    )
    return folder / "x.npz"


def killed_until(tmp_path: Path, whole: dict[str, Any], seed: int, *argv: object) -> dict[str, int]:
    """Build in fresh places until ``KILLS`` kills have landed; each build ends with ``whole``'s content."""
    total = {"kills": 0, "at_work": 0, "kept": 0, "resumed": 0}
    for build in range(20):
        if total["kills"] >= KILLS:
            break
        arena = tmp_path / f"arena-{build}"
        arena.mkdir()
        told = killed(arena, seed + build, KILLS - total["kills"], *argv, "-o", "out")
        artifact = open_artifact(arena / "out")
        verify(artifact, (1, 1))
        assert artifact.manifest.content == whole["content"]
        assert told["rewritten"] == 0, "a finished chunk was computed again"
        assert sorted(p.name for p in arena.iterdir()) == ["attempts.err", "out"]
        for name in ("kills", "at_work", "kept"):
            total[name] += told[name]
        total["resumed"] += int(artifact.manifest.made["resumed"] > 0)
    assert total["kills"] >= KILLS
    assert total["at_work"] >= KILLS // 2, "most kills found a run that only started"
    assert total["resumed"] > 0
    return total


def test_extract_survives_being_killed(pictures: Path, tmp_path: Path, ok: Callable) -> None:
    argv = ("extract", "timm:test_resnet", f"arrays:{pictures}", "--untrained", "--image-size", "16", "--workers", "1")
    whole = ok(*argv, "-o", "whole", "--json").json
    assert whole["splits"]["train"]["n"] == 12_000
    total = killed_until(tmp_path, whole, 1, *argv)
    assert total["kept"] > 0, "no kill fell between two chunks: nothing was shown"


def test_pretrain_survives_being_killed(tmp_path: Path, ok: Callable) -> None:
    argv = (
        "pretrain",
        "digits",
        "--split",
        "pretrain",
        "--arch",
        "test_resnet",
        "--image-size",
        "32",
        "--epochs",
        "24",
    )
    whole = ok(*argv, "-o", "whole", "--json", env={"OMP_NUM_THREADS": "1"}).json
    killed_until(tmp_path, whole, 2, *argv)
