"""Arrays in HDF5 files, and the ways in which such a file may lead out of itself."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest

from nmtool.data.hdf5 import Hdf5Array
from nmtool.errors import DataError, InputMissingError, UnavailableError

h5py = pytest.importorskip("h5py")

ROWS = np.arange(60, dtype=np.uint8).reshape(10, 6)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out["x"] = ROWS
    return tmp_path / "a.h5"


def test_rows_are_those_of_the_array(file: Path) -> None:
    array = Hdf5Array(file, "x")
    assert (array.shape, array.dtype) == ((10, 6), np.uint8)
    np.testing.assert_array_equal(array.rows(3, 7), ROWS[3:7])


def test_many_threads_at_once(file: Path) -> None:
    array, wrong = Hdf5Array(file, "x"), []

    def read(at: int) -> None:
        for _ in range(50):
            if not np.array_equal(array.rows(at, at + 1)[0], ROWS[at]):
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _child(array: Hdf5Array, queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    queue.put(array.rows(9, 10).tolist())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork among threads, of the test runner's own
def test_forked_process_opens_its_own(file: Path) -> None:
    array = Hdf5Array(file, "x")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_child, args=(array, queue))
    process.start()
    assert queue.get(timeout=60) == ROWS[9:10].tolist()
    process.join()
    np.testing.assert_array_equal(array.rows(0, 1), ROWS[:1])


def refused(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        Hdf5Array(path, "x")
    for word in words:
        assert word in str(caught.value)


def test_no_such_array(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out["z"] = ROWS
    refused(tmp_path / "a.h5", "a.h5", "'x'", "'z'")


def test_group_in_its_place(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out.create_group("x")
    refused(tmp_path / "a.h5", "a group")


def test_link_into_another_file(file: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "b.h5", "w") as out:
        out["x"] = h5py.ExternalLink(str(file), "x")
    refused(tmp_path / "b.h5", "is a link")


def test_link_within_the_file(file: Path) -> None:
    with h5py.File(file, "a") as out:
        out.move("x", "y")
        out["x"] = h5py.SoftLink("/y")
    refused(file, "is a link")


def test_array_whose_bytes_lie_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(60))
    with h5py.File(tmp_path / "b.h5", "w") as out:
        out.create_dataset("x", shape=(10, 6), dtype="u1", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    refused(tmp_path / "b.h5", "stored in other files")


def test_array_put_together_from_other_files(file: Path, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout(shape=(10, 6), dtype="u1")
    layout[:] = h5py.VirtualSource(str(file), "x", shape=(10, 6))
    with h5py.File(tmp_path / "b.h5", "w") as out:
        out.create_virtual_dataset("x", layout)
    refused(tmp_path / "b.h5", "stored in other files")


def test_array_of_objects(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "b.h5", "w") as out:
        out.create_dataset("x", data=["a", "b"], dtype=h5py.string_dtype())
    refused(tmp_path / "b.h5", "object")


def test_chunks_that_unpack_to_too_much(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "b.h5", "w") as out:
        out.create_dataset("x", shape=(1 << 12, 1 << 19), dtype="u1", chunks=(1 << 12, 1 << 19), compression="gzip")
    refused(tmp_path / "b.h5", "chunks of (4096, 524288)")


def test_damaged_file(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])
    refused(file, "a.h5", "no sound HDF5 file")


def test_no_hdf5_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"something else" * 100)
    refused(tmp_path / "a.h5", "a.h5", "no sound HDF5 file")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"gone\.h5"):
        Hdf5Array(tmp_path / "gone.h5", "x")


def test_without_h5py(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UnavailableError, match=r"pip install 'nmtool\[suites\]'"):
        Hdf5Array(file, "x")
