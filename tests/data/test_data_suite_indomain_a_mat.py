"""The reader of .mat files: the same values as scipy's, and nothing but refusals for damaged and forged ones."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from indomain_samples import car_records

from nmtool.data.matlab import Mat
from nmtool.errors import DataError, InputMissingError, StorageError

NUMBERS = {
    "images": np.random.default_rng(0).integers(0, 256, (4, 5, 3, 7), dtype=np.uint8),
    "bytes": np.array([[1, 2, 200]], dtype=np.uint8),
    "signed": np.array([[-1], [2]], dtype=np.int16),
    "wide": np.array([[2**40]], dtype=np.int64),
    "single": np.array([[0.5, -3.25]], dtype=np.float32),
    "double": np.arange(6.0).reshape(2, 3),
    "one": np.array([[7.0]]),
    "none": np.zeros((0, 3)),
}


def cells(*texts: str) -> Any:
    out = np.empty((1, len(texts)), dtype=object)
    out[0] = texts
    return out


def save(path: Path, *, packed: bool = True, **variables: Any) -> Path:
    scipy.io.savemat(path, variables, do_compression=packed)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_numbers_are_those_that_scipy_reads(packed: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "a.mat", packed=packed, **NUMBERS)
    theirs, ours = scipy.io.loadmat(path), Mat(path, "a.mat")
    assert set(ours.variables) == set(NUMBERS)
    for key in NUMBERS:
        found = ours.numbers(key)
        assert found.dtype == theirs[key].dtype
        assert found.shape == theirs[key].shape == ours.variables[key].shape
        np.testing.assert_array_equal(found, theirs[key])


@pytest.mark.parametrize("packed", [False, True])
def test_texts_and_records(packed: bool, tmp_path: Path) -> None:
    names = ["a", "Übung 2", "smart fortwo Convertible 2012", "日本", ""]
    path = save(
        tmp_path / "a.mat", packed=packed, names=cells(*names), annotations=car_records([("1.jpg", 3), ("2.jpg", 7)])
    )
    mat = Mat(path, "a.mat")
    assert mat.texts("names") == names
    rows = mat.records("annotations", ("fname", "class"))
    assert [(file, number.item()) for file, number in rows] == [("1.jpg", 3), ("2.jpg", 7)]


def test_whole_numbers_stored_small_have_their_own_type_again(tmp_path: Path) -> None:
    """MATLAB stores doubles that are whole as bytes."""
    body = _matrix(b"x", 6, (1, 3), _element(2, bytes([1, 2, 3])))
    (tmp_path / "a.mat").write_bytes(_file(body))
    found = Mat(tmp_path / "a.mat", "a.mat").numbers("x")
    assert found.dtype == np.float64
    assert found.tolist() == [[1, 2, 3]] == scipy.io.loadmat(tmp_path / "a.mat")["x"].tolist()


def test_big_endian_files(tmp_path: Path) -> None:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    parts = (
        struct.pack(">IIII", 6, 8, 12, 0),
        struct.pack(">IIii", 5, 8, 1, 2),
        struct.pack(">HHc3x", 1, 1, b"x"),
        struct.pack(">IIii", 5, 8, -3, 70_000),
    )
    body = b"".join(parts)
    (tmp_path / "a.mat").write_bytes(head + struct.pack(">II", 14, len(body)) + body)
    assert Mat(tmp_path / "a.mat", "a.mat").numbers("x").tolist() == [[-3, 70_000]]


def _element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)


def _matrix(name: bytes, kind: int, shape: tuple[int, int], contents: bytes, flags: int = 0) -> bytes:
    head = _element(6, struct.pack("<II", kind | flags, 0)) + _element(5, struct.pack("<ii", *shape))
    return _element(14, head + _element(1, name) + contents)


def _file(*bodies: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(bodies)


def _nested(levels: int) -> bytes:
    inner = _matrix(b"", 6, (0, 0), _element(9, b""))
    for _ in range(levels):
        inner = _matrix(b"", 1, (1, 1), inner)
    return _matrix(b"x", 1, (1, 1), inner)


def _packed(body: bytes) -> bytes:
    data = zlib.compress(body)
    return struct.pack("<II", 15, len(data)) + data


ONE = _element(9, struct.pack("<d", 1.0))
FORGED = {
    "empty": (b"", "no .mat file"),
    "a web page": (b"<html>" * 50, "no .mat file"),
    "level 7.3": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM", "MATLAB 7.3"),
    "cut": (_file(_matrix(b"x", 6, (1, 1), ONE))[:-9], "cut"),
    "cut within a tag": (_file(_matrix(b"x", 6, (1, 1), ONE)) + b"abc", "ends within a tag"),
    "two of one name": (_file(_matrix(b"x", 6, (1, 1), ONE), _matrix(b"x", 6, (1, 1), ONE)), "stands twice"),
    "more than there is": (_file(_matrix(b"x", 6, (1 << 30, 1 << 30), ONE)), "shape"),
    "a negative shape": (_file(_matrix(b"x", 6, (-1, -8), ONE)), "shape"),
    "cells without contents": (_file(_matrix(b"x", 1, (1 << 30, 1), b"")), "without its contents"),
    "records without names": (_file(_matrix(b"x", 2, (1, 1), _element(5, b"\0" * 4) + _element(1, b""))), "names"),
    "nested": (_file(_nested(3000)), "containers in one another"),
    "nested and compressed": (_file(_packed(_nested(3000))), "containers in one another"),
    "an object": (_file(_matrix(b"x", 3, (1, 1), ONE)), "class 3"),
    "sparse": (_file(_matrix(b"x", 5, (1, 1), ONE)), "class 5"),
    "complex": (_file(_matrix(b"x", 6, (1, 1), ONE + ONE, flags=0x0800)), "class 6"),
    "no deflate": (_file(struct.pack("<II", 15, 8) + b"notzlib!"), "damaged"),
    "a bomb": (_file(_packed(_matrix(b"x", 9, (1, 1), _element(2, bytes(50_000_000))))), "over"),
    "an element beyond the end": (_file(_matrix(b"x", 6, (1, 1), struct.pack("<II", 9, 1 << 31))), "beyond"),
    "a text that is none": (_file(_matrix(b"x", 4, (1, 2), _element(16, b"\xff\xff"))), "no Unicode"),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_files_are_refused(case: str, tmp_path: Path) -> None:
    data, why = FORGED[case]
    (tmp_path / "a.mat").write_bytes(data)
    start = time.monotonic()
    with pytest.raises(DataError, match=why) as caught:
        Mat(tmp_path / "a.mat", "sub/a.mat").numbers("x")
    assert "sub/a.mat" in str(caught.value)
    assert time.monotonic() - start < 2


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"a\.mat"):
        Mat(tmp_path / "a.mat", "a.mat")
    mat = Mat(save(tmp_path / "a.mat", x=[[1]], names=cells("a"), rows=car_records([("1.jpg", 1)])), "a.mat")
    with pytest.raises(DataError, match=r"no variable 'y' \(it has names, rows, x\)"):
        mat.numbers("y")
    for read in (mat.texts, lambda key: mat.records(key, ("fname",))):
        with pytest.raises(DataError, match=r"x of a\.mat is no list"):
            read("x")
    with pytest.raises(DataError, match=r"names of a\.mat is no array"):
        mat.numbers("names")
    with pytest.raises(DataError, match="no field 'other'"):
        mat.records("rows", ("other",))


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    mat = Mat(save(tmp_path / "a.mat", x=[[1]]), "a.mat")
    save(tmp_path / "a.mat", x=[[1, 2]])
    with pytest.raises(StorageError, match=r"a\.mat changed"):
        mat.numbers("x")


GOOD: dict[bool, bytes] = {}


@settings(deadline=None, max_examples=300)
@given(st.data(), st.booleans())
def test_damage_gives_values_or_refusals(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, packed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.mat"
    if packed not in GOOD:
        save(path, packed=packed, x=[[1, 2]], names=cells("a", "bc"), rows=car_records([("1.jpg", 1)]))
        GOOD[packed] = path.read_bytes()
    body = bytearray(GOOD[packed])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(100, len(body) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(body[: data.draw(st.integers(len(body) // 2, len(body)))])
    try:
        mat = Mat(path, "damaged.mat")
        for key in mat.variables:
            for read in (mat.numbers, mat.texts, lambda key: mat.records(key, ("fname",))):
                _value_or_refusal(read, key)
    except DataError as error:
        refusal = str(error)
    else:
        refusal = "damaged.mat"
    assert "damaged.mat" in refusal


def _value_or_refusal(read: Any, key: str) -> None:
    try:
        value = read(key)
    except DataError as error:
        value = str(error)
    assert isinstance(value, (np.ndarray, list, str))
