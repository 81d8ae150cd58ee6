"""What all tests share: a private cache and store, the real data where it is, and the command line as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell starts what it runs in the background deaf to Ctrl-C, and processes inherit that; tests send it to their own.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _private_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the user's store, cache, hub or colours."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("NMTOOL_CACHE", str(home / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MPLCONFIGDIR", str(home / "mpl"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("NMTOOL_STORE", "NMTOOL_DATA", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return


def shared_data() -> Path:
    """The folder of real data beside the project, or wherever NMTOOL_TEST_DATA says."""
    return Path(os.environ.get("NMTOOL_TEST_DATA", REPOSITORY.parent / "shared" / "data")).resolve()


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``real_data("pacs")``: the folder into which that item of the shared data is unpacked, once a session."""
    source = shared_data()
    if not (source / "prepare.py").is_file():
        pytest.skip(f"no shared data at {source} (set NMTOOL_TEST_DATA)")
    out = tmp_path_factory.getbasetemp() / "shared-data"

    def unpack(name: str) -> Path:
        out.mkdir(exist_ok=True)
        if not (out / f".{name}.done").exists():
            subprocess.run(
                [sys.executable, str(source / "prepare.py"), str(out), name], check=True, capture_output=True
            )
        return out

    return unpack


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """The folder of small pre-trained weights."""
    folder = shared_data() / "weights"
    if not folder.is_dir():
        pytest.skip(f"no weights at {folder} (set NMTOOL_TEST_DATA)")
    return folder


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        body = json.loads(self.out)
        assert isinstance(body, dict)
        return body

    @property
    def path(self) -> Path:
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        return Path(lines[0])


@pytest.fixture
def nmtool(tmp_path: Path) -> Callable[..., Ran]:
    """Run the real command line in a process of its own, in a folder of its own."""

    def run(*argv: object, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 240) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "nmtool", *map(str, argv)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd or tmp_path,
            env={**os.environ, **(env or {})},
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def ok(nmtool: Callable[..., Ran]) -> Callable[..., Ran]:
    """Like ``nmtool``, and the command must succeed."""

    def run(*argv: object, **more: Any) -> Ran:
        ran = nmtool(*argv, **more)
        assert ran.code == 0, f"nmtool {' '.join(map(str, argv))}\nexit {ran.code}\n{ran.err}"
        return ran

    return run
