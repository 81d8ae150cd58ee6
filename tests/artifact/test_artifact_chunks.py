"""The chunks that are written here are, byte for byte, those that Zarr itself writes; and Zarr reads them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from nmtool.artifact.arrays import ArrayWriter, array_shape, read_array
from nmtool.artifact.key import Recipe
from nmtool.artifact.open import Artifact, open_artifact
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.errors import CorruptError

FILLS = {"f": float("nan"), "i": -1, "b": False, "u": 0}
CASES = [
    ("float32", (10, 3), 4),
    ("float16", (9, 2), 3),
    ("float64", (1, 5), 8),
    ("int64", (7,), 2),
    ("bool", (5,), 2),
    ("uint16", (4, 2, 2), 3),
]


def values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)
    if drawn.dtype.kind == "f":
        drawn.flat[0], drawn.flat[-1] = np.nan, -0.0
    return drawn


def write(folder: Path, array: np.ndarray, rows: int, order: list[int] | None = None) -> Artifact:
    def build(staging: Staging) -> dict[str, object]:
        writer = ArrayWriter(staging, "s.zarr", "train/x", array.shape, array.dtype, rows)
        for chunk in order or range(writer.chunks):
            start, stop = writer.bounds(chunk)
            writer.write(chunk, array[start:stop], note=f"note {chunk}")
            assert writer.is_done(chunk)
            assert writer.note(chunk) == f"note {chunk}"
        return {}

    recipe = Recipe(stage="extract", kind="features", epoch=1, config={"n": str(array.shape)}, inputs=())
    return open_artifact(produce(Session(store=folder), recipe, name="x", config={}, build=build).path)


@pytest.mark.parametrize(("dtype", "shape", "rows"), CASES)
def test_every_byte_is_zarrs_own(tmp_path: Path, dtype: str, shape: tuple[int, ...], rows: int) -> None:
    array = values(dtype, shape)
    artifact = write(tmp_path / "ours", array, rows)
    theirs = zarr.create_array(
        zarr.storage.LocalStore(tmp_path / "theirs"),
        name="train/x",
        shape=shape,
        chunks=(min(rows, shape[0]), *shape[1:]),
        dtype=array.dtype,
        serializer=BytesCodec(endian="little") if array.dtype.itemsize > 1 else BytesCodec(endian=None),
        compressors=[Crc32cCodec()],
        fill_value=FILLS[array.dtype.kind],
        config={"write_empty_chunks": True},
    )
    theirs[...] = array
    ours = artifact.path / "data" / "s.zarr" / "train" / "x"
    root = tmp_path / "theirs" / "train" / "x"
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert len(files) == 1 + -(-shape[0] // min(rows, shape[0]))  # the metadata, and the chunks
    for name in files:
        assert (ours / name).read_bytes() == (root / name).read_bytes()
    read = zarr.open_array(artifact.path / "data" / "s.zarr", path="train/x", mode="r")[...]
    assert np.asarray(read).tobytes() == array.tobytes()


@pytest.mark.parametrize(("dtype", "shape", "rows"), CASES)
def test_any_rows_come_back(tmp_path: Path, dtype: str, shape: tuple[int, ...], rows: int) -> None:
    array = values(dtype, shape)
    artifact = write(tmp_path, array, rows, order=list(range(-(-shape[0] // min(rows, shape[0]))))[::-1])
    for start in range(shape[0] + 1):
        for stop in range(start, shape[0] + 2):
            part = read_array(artifact, "s.zarr", "train/x", start, stop)
            assert part.dtype == array.dtype
            assert part.tobytes() == array[start:stop].tobytes()


@pytest.mark.parametrize("harm", ["flip", "cut", "longer", "gone", "link"])
def test_a_damaged_chunk_is_named(tmp_path: Path, harm: str) -> None:
    artifact = write(tmp_path, values("float32", (10, 3)), 4)
    chunk = artifact.path / "data" / "s.zarr" / "train" / "x" / "c" / "1" / "0"
    body = chunk.read_bytes()
    chunk.unlink()
    if harm == "flip":
        chunk.write_bytes(body[:5] + bytes([body[5] ^ 1]) + body[6:])
    elif harm == "cut":
        chunk.write_bytes(body[:-7])
    elif harm == "longer":
        chunk.write_bytes(body + b"x")
    elif harm == "link":
        chunk.symlink_to("0")
    with pytest.raises(CorruptError, match=r"c/1/0"):
        read_array(artifact, "s.zarr", "train/x")
    assert read_array(artifact, "s.zarr", "train/x", 0, 4).shape == (4, 3)
    assert array_shape(artifact, "s.zarr", "train/x") == ((10, 3), 4)


def test_of_several_damaged_chunks_the_first_is_named(tmp_path: Path) -> None:
    """Whichever thread meets its own first."""
    artifact = write(tmp_path, values("float32", (40, 3)), 2)
    for chunk in (19, 17, 13):
        (artifact.path / "data" / "s.zarr" / "train" / "x" / "c" / str(chunk) / "0").unlink()
    for _ in range(5):
        with pytest.raises(CorruptError, match=r"c/13/0"):
            read_array(artifact, "s.zarr", "train/x")
    assert read_array(artifact, "s.zarr", "train/x", 0, 26).shape == (26, 3)


def test_many_threads_make_one_journal(tmp_path: Path) -> None:
    array = values("float32", (64, 3))

    def build(staging: Staging) -> dict[str, object]:
        writer = ArrayWriter(staging, "s.zarr", "train/x", array.shape, array.dtype, 1)

        def some(first: int) -> None:
            for chunk in range(first, 64, 8):
                writer.write(chunk, array[chunk : chunk + 1])

        threads = [threading.Thread(target=some, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = (staging.path / "journal.jsonl").read_text().splitlines()
        assert sum("/c/" in line for line in lines) == 64
        assert len(set(lines)) == len(lines)
        return {}

    recipe = Recipe(stage="extract", kind="features", epoch=1, config={}, inputs=())
    ref = produce(Session(store=tmp_path), recipe, name="x", config={}, build=build)
    assert read_array(open_artifact(ref.path), "s.zarr", "train/x").tobytes() == array.tobytes()
