"""Small image files and folders of them, made with Pillow."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nmtool.artifact.memo import Memo


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(seed: int, size: tuple[int, int] = (12, 9)) -> Image.Image:
    """An RGB picture unlike that of another seed."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """``tree("train/cat/a.png", …)``: a folder ``images`` with one PNG a name; a name has its own picture."""

    def make(*names: str, root: str = "images") -> Path:
        for name in names:
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(sum(map(ord, name)))))
        return tmp_path / root

    return make


@pytest.fixture
def memo(tmp_path: Path) -> Memo:
    return Memo(tmp_path / "memo")


@pytest.fixture
def nothing() -> Memo:
    """A memo that remembers nothing: every digest is worked out."""
    return Memo(None)


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Names, sizes, times and bytes of all under ``root``, folders too."""
    out: dict[str, tuple[object, ...]] = {}
    for path in sorted([root, *root.rglob("*")]):
        stat = path.lstat()
        body = path.read_bytes() if path.is_file() else b""
        out[str(path)] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, body)
    return out


def age(root: Path) -> None:
    """Wait until the newest file under ``root`` is old enough for its times to be trusted."""
    newest = max(max(p.lstat().st_ctime, p.lstat().st_mtime) for p in [root, *root.rglob("*")] if p.is_file())
    time.sleep(max(0.0, newest + 2.1 - time.time()))


def retime(path: Path, seconds: float) -> None:
    """Set a file's modification time."""
    os.utime(path, (seconds, seconds))


class Tools:
    """What the tests of this folder share beside the fixtures."""

    encoded = staticmethod(encoded)
    picture = staticmethod(picture)
    snapshot = staticmethod(snapshot)
    age = staticmethod(age)
    retime = staticmethod(retime)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools
