"""Small real image folders, and a session in a private store that counts nothing but remembers what it was told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nmtool.artifact.memo import Memo
from nmtool.artifact.stage import Session


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Told:
    """A reporter that keeps what it hears."""

    lines: list[str] = field(default_factory=list)
    advanced: int = 0

    def info(self, message: str) -> None:
        self.lines.append(message)

    def warning(self, message: str) -> None:
        self.lines.append("warning: " + message)

    @contextlib.contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        def advance(done: int) -> None:
            self.advanced += done

        yield advance


@pytest.fixture
def session(tmp_path: Path, memo: Memo) -> Session:
    return Session(store=tmp_path / "store", memo=memo, report=Told())


@pytest.fixture(scope="session")
def memo(tmp_path_factory: pytest.TempPathFactory) -> Memo:
    """Architecture facts, found out once for all tests."""
    return Memo(tmp_path_factory.mktemp("memo"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 training and 6 test JPEGs in two classes, 40 x 30 pixels of seeded noise."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for split, count in (("train", 12), ("test", 3)):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:03d}.jpg")
    return root
