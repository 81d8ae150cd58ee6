"""A session in a private store that keeps what it is told, and labels artifacts made of a dataset's own labels."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from nmtool.artifact.key import Recipe
from nmtool.artifact.memo import Memo
from nmtool.artifact.stage import Session, Silence, Staging, produce
from nmtool.artifact.typed import parquet_bytes, write_classes
from nmtool.data.sources import open_dataset


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Told(Silence):
    """A reporter that keeps what it hears."""

    lines: list[str] = field(default_factory=list)

    def info(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="session")
def memo(tmp_path_factory: pytest.TempPathFactory) -> Memo:
    """Architecture facts, found out once for all tests."""
    return Memo(tmp_path_factory.mktemp("memo"))


@pytest.fixture
def session(tmp_path: Path, memo: Memo) -> Session:
    return Session(store=tmp_path / "store", memo=memo, report=Told())


@pytest.fixture
def make_labels(tmp_path: Path) -> Callable[..., Path]:
    """``make_labels(change, split=…)``: a labels artifact of the digits whose noisy labels ``change(clean)`` gives."""

    def make(change: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]], split: str = "pretrain") -> Path:
        index = open_dataset("digits", memo=Memo(None)).splits[split]
        clean = np.array(index.labels.values)
        noisy = change(clean.copy())

        def build(staging: Staging) -> dict[str, object]:
            columns = {
                "row": np.arange(len(clean)),
                "sample": list(index.ids),
                "split": [split] * len(clean),
                "clean": clean,
                "noisy": noisy,
                "flipped": clean != noisy,
            }
            staging.write("labels.parquet", parquet_bytes(columns))
            matrix = io.BytesIO()
            np.save(matrix, np.eye(10))
            staging.write("transition.npy", matrix.getvalue())
            write_classes(staging, index.labels.classes)
            return {}

        asked = {"split": split, "noisy": noisy.tolist()}
        recipe = Recipe(stage="inject-noise", kind="labels", epoch=1, config=asked, inputs=())
        return produce(Session(store=tmp_path / "labels"), recipe, name="noise", config={}, build=build).path

    return make
