"""P15, P16: the eight ways a file can go wrong, for every file of an artifact of every kind that the tests can make."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nmtool.artifact.open import open_artifact, verify
from nmtool.artifact.stage import Session, produce
from nmtool.errors import CorruptError

Mutation = Callable[[Path, Path], bool]


def _flip(file: Path, other: Path) -> bool:
    data = bytearray(file.read_bytes())
    if not data:
        return False
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    return True


def _zero(file: Path, other: Path) -> bool:
    data = file.read_bytes()
    file.write_bytes(bytes(len(data)))
    return any(data)


def _truncate(file: Path, other: Path) -> bool:
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    return bool(data)


def _empty(file: Path, other: Path) -> bool:
    had = file.stat().st_size
    file.write_bytes(b"")
    return had > 0


def _delete(file: Path, other: Path) -> bool:
    file.unlink()
    return True


def _add(file: Path, other: Path) -> bool:
    (file.parent / "stray").write_bytes(b"x")
    return True


def _swap(file: Path, other: Path) -> bool:
    a, b = file.read_bytes(), other.read_bytes()
    file.write_bytes(b)
    other.write_bytes(a)
    return a != b


def _link(file: Path, other: Path) -> bool:
    copy = file.parent.parent / "elsewhere"
    shutil.move(file, copy)
    file.symlink_to(copy)
    return True


MUTATIONS: list[Mutation] = [_flip, _zero, _truncate, _empty, _delete, _add, _swap, _link]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    from nmtool.artifact.arrays import ArrayWriter
    from nmtool.artifact.key import Recipe
    from nmtool.artifact.stage import Staging

    def build(staging: Staging) -> dict[str, object]:
        X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
        writer = ArrayWriter(staging, "features.zarr", "train/features", X.shape, X.dtype, 100)
        for chunk in range(writer.chunks):
            start, stop = writer.bounds(chunk)
            writer.write(chunk, X[start:stop])
        staging.write("classes.json", b'["a","b"]')
        return {}

    store = tmp_path_factory.mktemp("pristine")
    recipe = Recipe(stage="extract", kind="features", epoch=1, config={}, inputs=())
    return produce(Session(store=store), recipe, name="x", config={}, build=build).path


KINDS = ("labels", "backbone", "features", "spectrum", "heads", "audit", "report")


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small artifact of every kind, made by the real command line."""
    place = tmp_path_factory.mktemp("kinds")
    lines = (
        "inject-noise digits --type symmetric --ratio 0.4 -o labels",
        "pretrain digits --split pretrain --arch test_resnet --epochs 1 -o backbone",
        "extract backbone digits --split train,test -o features",
        "spectrum features -o spectrum",
        "tune features --method lp --epochs 2 --labels labels -o heads",
        "audit features:train --labels labels -o audit",
        "report labels backbone features spectrum heads audit -o report",
    )
    for line in lines:
        command = [sys.executable, "-m", "nmtool", *line.split()]
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.__name__.strip("_"))
def test_full_verification_sees_it(every_kind: Path, tmp_path: Path, mutation: Mutation, kind: str) -> None:
    whole = every_kind / kind
    assert open_artifact(whole).manifest.kind == kind
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert len(files) >= 4
    for number, name in enumerate(files):
        copy = tmp_path / f"{number}"
        shutil.copytree(whole, copy)
        for path in copy.rglob("*"):
            path.chmod(0o755)
        if mutation(copy / name, copy / files[(number + 1) % len(files)]):
            with pytest.raises(CorruptError):
                verify(open_artifact(copy), (1, 1))
        shutil.rmtree(copy)


def test_every_flipped_chunk_is_seen_on_read(pristine: Path, tmp_path: Path) -> None:
    """Without any verification, a flip anywhere in array data is an error of the read, never a wrong number."""
    import numpy as np

    from nmtool.artifact.arrays import read_array

    rng = np.random.default_rng(1)
    clean = read_array(open_artifact(pristine), "features.zarr", "train/features")
    assert np.isfinite(clean).all()
    for trial in range(40):
        copy = tmp_path / f"{trial}"
        shutil.copytree(pristine, copy)
        chunk = copy / f"data/features.zarr/train/features/c/{trial % 3}/0"
        chunk.chmod(0o644)
        data = bytearray(chunk.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        chunk.write_bytes(data)
        with pytest.raises(CorruptError):
            read_array(open_artifact(copy), "features.zarr", "train/features")


def test_a_chunk_that_vanishes_after_opening_is_never_fill_values(pristine: Path, tmp_path: Path) -> None:
    from nmtool.artifact.arrays import read_array

    copy = tmp_path / "copy"
    shutil.copytree(pristine, copy)
    artifact = open_artifact(copy)
    (copy / "data/features.zarr/train/features/c/1/0").unlink()
    with pytest.raises(CorruptError):
        read_array(artifact, "features.zarr", "train/features")


@pytest.mark.parametrize("slices", [1, 2, 3, 7, 50])
def test_slices_cover_every_file_once(pristine: Path, slices: int) -> None:
    artifact = open_artifact(pristine)
    assert sum(verify(artifact, (i, slices)).files for i in range(1, slices + 1)) == len(artifact.files)
    seen = [e.path for i in range(1, slices + 1) for e in artifact.files[i - 1 :: slices]]
    assert sorted(seen) == sorted(e.path for e in artifact.files)
