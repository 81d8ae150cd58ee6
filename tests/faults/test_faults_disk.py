"""P3: a disk that is really full, read-only, not ours: a clean error, nothing visible, and going on afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROWS, DIM = 8000, 768

SMALL_DISK = """
set -u
mount -t tmpfs -o size=12m tmpfs "$DISK" || exit 99
"$PYTHON" -m nmtool extract none "$DATA" -o "$DISK/features" 2> "$LOGS/full.err"
echo $? > "$LOGS/full.code"
ls -A "$DISK" > "$LOGS/full.ls"
find "$DISK" -name '*.tmp' > "$LOGS/full.tmp"
mount -o remount,size=64m "$DISK" || exit 98
"$PYTHON" -m nmtool extract none "$DATA" -o "$DISK/features" --json > "$LOGS/again.json" 2> "$LOGS/again.err"
echo $? > "$LOGS/again.code"
ls -A "$DISK" > "$LOGS/again.ls"
"""


def _can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


@pytest.fixture
def features_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    y = rng.integers(0, 5, ROWS)
    np.savez(tmp_path / "features.npz", X_train=X, y_train=y, X_test=X[:10], y_test=y[:10])
    return tmp_path / "features.npz"


@pytest.mark.skipif(not _can_unshare(), reason="no unprivileged mount namespaces here (unshare -rm)")
def test_a_full_disk_is_74_and_the_work_goes_on_after(features_file: Path, tmp_path: Path, ok: Callable) -> None:
    disk, logs = tmp_path / "disk", tmp_path / "logs"
    disk.mkdir()
    logs.mkdir()
    env = {
        **os.environ,
        "DISK": str(disk),
        "LOGS": str(logs),
        "PYTHON": sys.executable,
        "DATA": f"arrays:{features_file}",
    }
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", SMALL_DISK], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert (logs / "full.code").read_text().strip() == "74", (logs / "full.err").read_text()
    message = (logs / "full.err").read_text()
    assert "No space left" in message
    assert "Traceback" not in message
    assert (logs / "full.ls").read_text().split() == [".nmtool-staging"]
    assert (logs / "full.tmp").read_text() == ""
    assert (logs / "again.code").read_text().strip() == "0", (logs / "again.err").read_text()
    assert "going on" in (logs / "again.err").read_text()
    assert (logs / "again.ls").read_text().split() == ["features"]
    elsewhere = ok("extract", "none", f"arrays:{features_file}", "--json").json
    assert json.loads((logs / "again.json").read_text())["content"] == elsewhere["content"]


def test_a_file_size_limit_is_74(features_file: Path, tmp_path: Path) -> None:
    """EFBIG, as a quota would: the second way a write can find no room."""
    command = (
        f'ulimit -f 2000; trap "" XFSZ; exec "{sys.executable}" -m nmtool extract none "arrays:{features_file}" -o out'
    )
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not _can_unshare(), reason="no unprivileged mount namespaces here (unshare -rm)")
def test_a_read_only_disk_is_74(features_file: Path, tmp_path: Path) -> None:
    script = (
        f"mkdir -p ro && mount -t tmpfs -o ro tmpfs ro && "
        f'"{sys.executable}" -m nmtool extract none "arrays:{features_file}" -o ro/features'
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 74, done.stderr
    assert "Read-only" in done.stderr
    assert "space" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0 and not _can_unshare(), reason="root may write everywhere")
def test_a_folder_that_is_not_ours_is_77(features_file: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    command = [sys.executable, "-m", "nmtool", "extract", "none", f"arrays:{features_file}", "-o", "locked/features"]
    if os.geteuid() == 0:
        # Root is let in everywhere: give up the capability that makes it so.
        if shutil.which("setpriv") is None:
            pytest.skip("root, and no setpriv to be less than that")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *command]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 77, done.stderr
    assert "Traceback" not in done.stderr
