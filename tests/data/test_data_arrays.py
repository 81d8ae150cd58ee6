"""``arrays:``: images and features from npz files, by rows."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtool.artifact.memo import Memo
from nmtool.data import npz as npz_module
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, InputMissingError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 5, 4, 3), dtype=np.uint8)
FEATURES = RNG.normal(size=(20, 6)).astype(np.float32)
LABELS = np.arange(20) % 3
SCORES = RNG.normal(size=20)

Save = Callable[..., Path]


@pytest.fixture(params=["stored", "compressed"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    """Write an npz file, either by rows or compressed."""

    def write(**arrays: Any) -> Path:
        path = tmp_path / "x.npz"
        (np.savez if request.param == "stored" else np.savez_compressed)(path, **arrays)
        return path

    return write


def opened(path: Path, memo: Memo) -> Dataset:
    return open_dataset(f"arrays:{path}", memo=memo)


def test_images(save: Save, nothing: Memo) -> None:
    data = opened(
        save(X_train=IMAGES, y_train=LABELS, X_test=IMAGES[:2], classes=np.array(["a", "b", "c", "d"])), nothing
    )
    assert data.kind == "images"
    assert data.classes == ("a", "b", "c", "d")
    assert list(data.splits) == ["test", "train"]
    assert data.splits["train"].ids[12] == "train/000012"
    assert np.array_equal(data.splits["train"].labels.values, LABELS)
    assert data.splits["test"].labels.values.tolist() == [-1, -1]
    with ThreadPoolExecutor(6) as pool:
        for row, image in enumerate(pool.map(lambda row: data.image("train", row), range(20))):
            assert np.array_equal(image, IMAGES[row])
            image[:] = 0  # the caller's own
    assert np.array_equal(data.image("train", 0), IMAGES[0])
    with pytest.raises(DataError, match="no features"):
        data.features("train")
    with pytest.raises(IndexError):
        data.image("train", 20)
    with pytest.raises(KeyError):
        data.image("val", 0)


@pytest.mark.parametrize("shape", [(20, 5, 4), (20, 5, 4, 1)])
def test_grey_images(save: Save, nothing: Memo, shape: tuple[int, ...]) -> None:
    grey = IMAGES[..., 0].reshape(shape)
    got = opened(save(X_train=grey), nothing).image("train", 3)
    assert np.array_equal(got, np.repeat(IMAGES[3, ..., :1], 3, axis=2))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_features(save: Save, nothing: Memo, dtype: str) -> None:
    values = FEATURES.astype(dtype)
    values[3, 1] = np.nan
    path = save(X_train=values, y_train=LABELS.astype(np.uint8))
    data = opened(path, nothing)
    assert data.kind == "features"
    assert data.classes == ("0", "1", "2")
    got = data.features("train")
    assert got.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(got, values, equal_nan=True)
    with pytest.raises(DataError, match="no images"):
        data.image("train", 0)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f8"])
@pytest.mark.parametrize("X", [FEATURES, IMAGES], ids=["features", "images"])
def test_labels_that_are_real_numbers(save: Save, nothing: Memo, X: Any, dtype: str) -> None:
    scores = SCORES.astype(dtype)
    scores[[2, 3]] = np.nan, np.inf
    data = opened(save(X_train=X, y_train=scores, X_test=X[:3]), nothing)
    assert data.classes == ()
    assert data.remarks == ()
    found = data.targets("train")
    assert found is not None
    assert found.dtype == np.float64
    assert np.array_equal(found, scores.astype(np.float64), equal_nan=True)
    assert np.isnan(data.targets("test")).all()  # type: ignore[arg-type]
    assert set(data.splits["train"].labels.values.tolist()) == {-1}


def test_classes_are_no_real_numbers(save: Save, nothing: Memo) -> None:
    assert opened(save(X_train=FEATURES, y_train=LABELS), nothing).targets("train") is None


def test_whole_numbers_that_are_floating_are_real_numbers_and_that_is_told(save: Save, nothing: Memo) -> None:
    """The type decides, as in a Parquet column: else a score that happened to be whole would change the task."""
    data = opened(save(X_train=FEATURES, y_train=LABELS.astype(np.float32)), nothing)
    assert np.array_equal(data.targets("train"), LABELS)  # type: ignore[arg-type]
    (said,) = data.remarks
    assert "all whole numbers (0, …): they are taken as real numbers; if they are classes, save them as int" in said


def test_the_digest_changes_with_a_score(tmp_path: Path, nothing: Memo) -> None:
    digests = []
    other, lost = SCORES.copy(), SCORES.copy()
    other[7] += 1e-12
    lost[7] = np.nan
    for k, y in enumerate((SCORES, other, lost, SCORES.astype(">f8"), LABELS, None)):
        np.savez(tmp_path / f"{k}.npz", X_train=FEATURES, **({} if y is None else {"y_train": y}))
        digests.append(opened(tmp_path / f"{k}.npz", nothing).splits["train"].digest)
    assert digests[0] == digests[3]
    assert len(set(digests)) == 5


def test_fortran_order_is_another_layout_of_the_same(tmp_path: Path, nothing: Memo) -> None:
    np.savez(tmp_path / "c.npz", X_train=FEATURES)
    np.savez(tmp_path / "f.npz", X_train=np.asfortranarray(FEATURES))
    np.savez(tmp_path / "b.npz", X_train=FEATURES.astype(">f4"))
    np.savez_compressed(tmp_path / "z.npz", X_train=FEATURES)
    sets = [opened(tmp_path / f"{name}.npz", nothing) for name in "cfbz"]
    assert len({data.splits["train"].digest for data in sets}) == 1
    assert all(np.array_equal(data.features("train"), FEATURES) for data in sets)


def test_domains(save: Save, nothing: Memo) -> None:
    data = opened(save(**{"X_photo/train": IMAGES, "y_photo/train": LABELS}), nothing)
    assert data.splits["photo/train"].ids[1] == "photo/train/000001"


def test_the_digest_changes_with_a_pixel_a_label_a_class(tmp_path: Path, nothing: Memo) -> None:
    other = IMAGES.copy()
    other[19, 4, 3, 2] ^= 1
    labels = LABELS.copy()
    labels[0] = 2
    variants = [
        {"X_train": IMAGES, "y_train": LABELS},
        {"X_train": other, "y_train": LABELS},
        {"X_train": IMAGES, "y_train": labels},
        {"X_train": IMAGES, "y_train": LABELS, "classes": np.array(["a", "b", "c"])},
        {"X_train": IMAGES[:19], "y_train": LABELS[:19]},
        {"X_train": IMAGES.reshape(20, 4, 5, 3), "y_train": LABELS},
    ]
    digests = set()
    for k, arrays in enumerate(variants):
        np.savez(tmp_path / f"{k}.npz", **arrays)
        digests.add(opened(tmp_path / f"{k}.npz", nothing).splits["train"].digest)
    assert len(digests) == len(variants)
    np.savez(tmp_path / "else.npz", y_train=LABELS.astype(np.int32), X_train=IMAGES, extra=np.zeros(3))
    assert opened(tmp_path / "else.npz", nothing).splits["train"].digest in digests


@pytest.mark.parametrize("names", [["dog", "cat", "cat"], ["ö", "o\u0308", "a"]])
def test_labels_by_name(save: Save, nothing: Memo, names: list[str]) -> None:
    import unicodedata

    data = opened(save(X_train=IMAGES[:3], y_train=np.array(names)), nothing)
    wanted = [unicodedata.normalize("NFC", name) for name in names]
    assert [data.classes[k] for k in data.splits["train"].labels.values] == wanted
    assert list(data.classes) == sorted(set(wanted))


def test_labels_by_name_follow_the_classes_given(save: Save, nothing: Memo) -> None:
    arrays = {
        "X_train": IMAGES[:2],
        "y_train": np.array(["cat", "dog"]),
        "X_test": IMAGES[:1],
        "y_test": np.array(["cat"]),
    }
    data = opened(save(**arrays, classes=np.array(["dog", "ape", "cat"])), nothing)
    assert data.splits["train"].labels.values.tolist() == [2, 0]
    assert data.splits["test"].labels.values.tolist() == [2]
    with pytest.raises(DataError, match=r"not among the classes.*cat"):
        opened(save(**arrays, classes=np.array(["dog", "ape"])), nothing)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": IMAGES}, "no array X_.*images.*X_train"),
        ({"X_train": IMAGES, "y_test": LABELS}, "y_test and no X_test"),
        ({"X_train": IMAGES, "y_train": LABELS[:5]}, r"shape \[5\].*\[20\]"),
        ({"X_train": IMAGES, "y_train": LABELS.reshape(20, 1)}, "shape"),
        ({"X_train": IMAGES, "y_train": LABELS.astype(complex)}, "complex128.*whole numbers"),
        ({"X_train": IMAGES, "y_train": LABELS > 0}, "bool.*whole numbers"),
        (
            {"X_train": FEATURES, "y_train": SCORES, "X_test": FEATURES, "y_test": LABELS},
            r"one sort \(y_test: int64, y_train: float64\).*y_test.astype",
        ),
        ({"X_train": FEATURES, "y_train": SCORES.astype(np.longdouble)}, 'one sort.*y_train.astype."float64"'),
        (
            {"X_train": FEATURES, "y_train": SCORES, "classes": np.array(["a", "b"])},
            "has classes and labels that are",
        ),
        ({"X_train": FEATURES, "y_train": SCORES[:5]}, r"shape \[5\].*\[20\]"),
        ({"X_train": IMAGES, "y_train": LABELS - 2}, r"7 labels out of range \(row 0: -2"),
        ({"X_train": IMAGES, "y_train": LABELS, "classes": np.array(["a", "b"])}, "row 2: 2.*0 to 1"),
        ({"X_train": IMAGES, "y_train": np.full(20, 2**64 - 1, np.uint64)}, "out of range"),
        ({"X_train": IMAGES, "y_train": np.full(20, 10**12)}, "out of range"),
        ({"X_train": IMAGES, "y_train": LABELS, "classes": np.array(["a", "b", "a"])}, "stands twice"),
        ({"X_train": IMAGES, "classes": np.arange(3)}, "a list of names"),
        ({"X_train": IMAGES.transpose(0, 3, 1, 2)}, "transpose"),
        ({"X_train": IMAGES.astype(np.float32)}, "uint8"),
        ({"X_train": FEATURES.astype(int)}, "floating"),
        ({"X_train": IMAGES[:0]}, "n > 0"),
        ({"X_train": np.float32(1)}, "floating"),
        ({"X_train": FEATURES, "X_test": FEATURES[:, :3]}, "different sorts"),
        ({"X_train": FEATURES, "X_test": IMAGES}, "different sorts"),
        ({"X_a b": FEATURES}, "a split named"),
        ({"X_train": np.array([{}, []], dtype=object)}, "Python objects"),
        ({"X_train": IMAGES, "y_train": np.array(["a"] * 20, dtype=object)}, "Python objects"),
    ],
)
def test_unfit_arrays(save: Save, nothing: Memo, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        opened(save(**arrays), nothing)
    assert caught.value.exit_code == 65


def test_no_code_runs_from_a_pickle(tmp_path: Path, nothing: Memo) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "x.npz", X_train=np.array([Trap()], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        opened(tmp_path / "x.npz", nothing)
    assert not (tmp_path / "sprung").exists()


def test_a_header_that_lies_takes_no_memory(tmp_path: Path, nothing: Memo) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 32, 32, 3)})
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
            archive.writestr("X_train.npy", stream.getvalue() + bytes(100))
        with pytest.raises(DataError, match=r"says .* and has 100 bytes"):
            opened(tmp_path / "x.npz", nothing)


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00", b"\x80\x04K\x01."])
def test_files_that_are_no_npz(tmp_path: Path, nothing: Memo, body: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(body)
    with pytest.raises(DataError, match="no sound npz"):
        opened(tmp_path / "x.npz", nothing)


def test_a_truncated_file(save: Save, nothing: Memo) -> None:
    path = save(X_train=IMAGES, y_train=LABELS)
    data = path.read_bytes()
    for keep in (10, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:keep])
        with pytest.raises(DataError, match="npz"):
            opened(path, nothing)


def test_damaged_bytes_give_data_or_a_data_error(save: Save, nothing: Memo) -> None:
    path = save(X_train=IMAGES, y_train=LABELS)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        try:
            opened(path, nothing).image("train", 19)
            outcomes.add("read")
        except DataError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_a_file_that_is_not_there(tmp_path: Path, nothing: Memo) -> None:
    for uri in (f"arrays:{tmp_path}/none.npz", "arrays:", f"arrays:{tmp_path}"):
        with pytest.raises(InputMissingError) as caught:
            open_dataset(uri, memo=nothing)
        assert caught.value.exit_code == 66


def test_a_repeated_call_reads_no_samples(
    save: Save, memo: Memo, nothing: Memo, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(X_train=IMAGES, y_train=LABELS)
    tools.age(path.parent)
    first = opened(path, memo)
    asked: list[str] = []
    blocks = npz_module.Npz.blocks
    monkeypatch.setattr(npz_module.Npz, "blocks", lambda self, key: asked.append(key) or blocks(self, key))
    again = opened(path, memo)
    assert not asked
    assert again.splits["train"].digest == first.splits["train"].digest == opened(path, nothing).splits["train"].digest
    assert asked
    assert np.array_equal(again.image("train", 5), IMAGES[5])


def test_a_file_that_changed_after_it_was_indexed(tmp_path: Path, nothing: Memo) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, X_train=FEATURES)
    data = opened(path, nothing)
    np.savez(path, X_train=FEATURES + 1)
    with pytest.raises(DataError, match="changed"):
        data.features("train")


@pytest.mark.parametrize("uri", ["arrays:{}.npz", "table:{}.parquet", "table:{}.csv"])
def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path: Path, uri: str) -> None:
    where = uri.format(tmp_path / "x")
    os.mkfifo(where.partition(":")[2])
    with pytest.raises(DataError, match="is no file"):
        open_dataset(where, memo=Memo(None))
