"""Killed with -9 at several moments, extraction goes on chunk by chunk and ends with an uninterrupted run's content."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nmtool.artifact.open import open_artifact, verify

# Many small chunks, so that there are many moments; each run, killed or not, has the same.
DRIVER = """
import sys
from pathlib import Path
import torch
import nmtool.extract.write as write
from nmtool.artifact.memo import Memo
from nmtool.artifact.stage import Session
from nmtool.extract.config import Config
from nmtool.extract.run import run
torch.set_num_threads(1)
write.MOST_ROWS = 64
config = Config(model="timm:test_resnet", data="digits", split=("train", "test", "pretrain"), untrained=True,
                image_size=48, batch_size=16, workers=2, on_error="skip")
print(run(config, Session(store=Path(sys.argv[1]), memo=Memo(Path(sys.argv[2])))).path)
"""


def chunks(store: Path) -> dict[str, tuple[int, int]]:
    """Journalled chunk files of the one staging folder: inode and time of last change of content."""
    out = {}
    for journal in store.glob("features/.nmtool-staging/*~*/journal.jsonl"):
        for line in journal.read_bytes().split(b"\n")[:-1]:
            path = json.loads(line)["path"]
            if "/features/c/" in path and (journal.parent / path).exists():
                stat = (journal.parent / path).stat()
                out[path] = (stat.st_ino, stat.st_mtime_ns)
    return out


def start(store: Path, memo: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(store), str(memo)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_runs_end_with_the_same_content(tmp_path: Path) -> None:
    memo = tmp_path / "memo"
    whole = start(tmp_path / "whole", memo)
    wanted = open_artifact(Path(whole.communicate(timeout=120)[0].strip()))
    store = tmp_path / "killed"
    total = sum("/features/c/" in entry.path for entry in wanted.files)
    for moment in (1, total // 2):
        before = len(chunks(store))
        process = start(store, memo)
        deadline = time.monotonic() + 60
        while len(chunks(store)) < max(moment, before + 1) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was killed at work"
    done = chunks(store)
    assert total // 2 <= len(done) < total
    last = start(store, memo)
    artifact = open_artifact(Path(last.communicate(timeout=120)[0].strip()))
    verify(artifact, (1, 1))
    assert artifact.manifest.content == wanted.manifest.content
    assert artifact.manifest.made["resumed"] > 0
    for path, (inode, changed) in done.items():
        stat = (artifact.path / path).stat()
        assert (stat.st_ino, stat.st_mtime_ns) == (inode, changed), f"{path} was made again"
    assert artifact.manifest.summary["encoded"] < sum(s["n"] for s in artifact.manifest.summary["splits"].values())


def test_a_hit_imports_nothing_heavy(tmp_path: Path) -> None:
    code = DRIVER.replace("import torch\n", "").replace("torch.set_num_threads(1)\n", "")
    code = code.replace("import nmtool.extract.write as write\n", "").replace("write.MOST_ROWS = 64\n", "")
    code = code.replace('("train", "test", "pretrain")', '("test",)')
    code += 'print(sorted({"torch", "timm", "zarr", "sklearn", "torchvision"} & sys.modules.keys()))\n'
    argv = [sys.executable, "-c", code, str(tmp_path / "store"), str(tmp_path / "memo")]
    first = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    began = time.monotonic()
    again = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert time.monotonic() - began < 5
    assert again == [first[0], "[]"]
    assert "torch" in first[1]
