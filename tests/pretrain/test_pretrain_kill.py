"""Killed with -9 between and inside epochs, pre-training goes on and ends with an uninterrupted run's bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nmtool.artifact.open import open_artifact, verify

DRIVER = """
import sys
from pathlib import Path
import torch
from nmtool.artifact.memo import Memo
from nmtool.artifact.stage import Session, Silence
from nmtool.pretrain.config import Config
from nmtool.pretrain.run import run
torch.set_num_threads(1)
class Told(Silence):
    def info(self, message):
        print("info " + message, flush=True)
config = Config(data="digits", split="pretrain", arch="test_resnet", model_kwargs=("drop_rate=0.1",), epochs=3,
                batch_size=64, lr=3e-3, device="cpu", checkpoint_steps=int(sys.argv[3]))
print("path", run(config, Session(store=Path(sys.argv[1]), memo=Memo(Path(sys.argv[2])), report=Told())).path)
"""


def start(store: Path, memo: Path, steps: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", DRIVER, str(store), str(memo), str(steps)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def path_of(out: str) -> Path:
    return Path(next(line[5:] for line in out.splitlines() if line.startswith("path ")))


def kept(store: Path) -> int:
    """When the checkpoint was last written, in ns; 0 where there is none."""
    files = list(store.glob("backbone/.nmtool-staging/*~*/work/checkpoint.safetensors"))
    return max((file.stat().st_mtime_ns for file in files), default=0)


@pytest.mark.slow
def test_killed_runs_end_with_the_same_content(tmp_path: Path) -> None:
    memo, store = tmp_path / "memo", tmp_path / "killed"
    whole = open_artifact(path_of(start(tmp_path / "whole", memo, 0).communicate(timeout=120)[0]))
    for delay in (0.0, 0.08):  # a checkpoint each fifth step of twelve: within epochs mostly
        before = kept(store)
        process = start(store, memo, 5)
        deadline = time.monotonic() + 60
        while kept(store) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was killed at work"
    out = start(store, memo, 5).communicate(timeout=120)[0]
    artifact = open_artifact(path_of(out))
    verify(artifact, (1, 1))
    assert "going on where an interrupted run stopped" in out
    assert artifact.manifest.content == whole.manifest.content


def test_a_hit_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        DRIVER.replace("import torch\n", "").replace("torch.set_num_threads(1)\n", "").replace("epochs=3", "epochs=1")
    )
    code += 'print(sorted({"torch", "timm", "zarr", "sklearn", "torchvision"} & sys.modules.keys()))\n'
    argv = [sys.executable, "-c", code, str(tmp_path / "store"), str(tmp_path / "memo"), "0"]
    runs = [subprocess.run(argv, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert path_of(runs[0]) == path_of(runs[1])
    assert runs[1].splitlines()[-1] == "[]"
