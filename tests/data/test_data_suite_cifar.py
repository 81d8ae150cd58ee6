"""CIFAR's pickled batches, unpacked or in their archive, and the pickles that are refused: none is ever run."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import indomain_samples as samples
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suite_checks import check_rows, opened, refused

from nmtool.artifact.memo import Memo
from nmtool.data import pickles
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, StorageError

TEN, HUNDRED = "cifar-10-batches-py", "cifar-100-python"


def pack(root: Path, folder: str, *, drop: str = "", more: tuple[str, ...] = ()) -> Path:
    """The folder as the archive that is offered; it is taken away."""
    archive = root / f"{folder.removesuffix('-batches-py').removesuffix('-python')}-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted((root / folder).iterdir()):
            if path.name != drop:
                tar.add(path, f"{folder}/{path.name}")
            path.unlink()
        for name in more:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    (root / folder).rmdir()
    return archive


def test_row_numbers_are_those_of_the_batches_in_order(tmp_path: Path) -> None:
    bodies, _ = samples.cifar_bodies()
    samples.put_pickles(tmp_path / TEN, bodies)
    dataset = opened("suite:cifar10", tmp_path)
    wanted = [label for k in range(1, 6) for label in bodies[f"data_batch_{k}"][b"labels"]]
    assert dataset.splits["train"].labels.values.tolist() == wanted
    assert list(dataset.splits["train"].ids)[:2] == ["train/000000", "train/000001"]
    assert dataset.classes == tuple(samples.TEN)
    # the first 1024 bytes of a row are its red plane
    red = bodies["data_batch_2"][b"data"][1, :1024].reshape(32, 32)
    np.testing.assert_array_equal(dataset.image("train", 5)[..., 0], red)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickle_is_read(protocol: int, tmp_path: Path) -> None:
    bodies, _ = samples.cifar_bodies()
    samples.put_pickles(tmp_path / "a" / TEN, bodies)  # as Python 2 did
    usual = opened("suite:cifar10", tmp_path / "a")
    other = opened("suite:cifar10", _put(tmp_path / "b", bodies, protocol))
    for split in ("train", "test"):
        assert usual.splits[split].digest == other.splits[split].digest


def test_pickles_as_the_official_files_have_them() -> None:
    """The dictionary of names in protocol 0, an array in protocol 2, both of Python 2 and an old numpy."""
    names = b"(dp1\nS'num_vis'\np2\nI3072\nsS'label_names'\np3\n(lp4\nS'airplane'\np5\naS'truck'\np6\nas."
    assert pickles.load(names, "meta") == {b"num_vis": 3072, b"label_names": [b"airplane", b"truck"]}
    array = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06abcdeftb."
    )
    found = pickles.load(array, "batch")
    assert found.dtype == np.uint8
    assert found.tolist() == [[97, 98, 99], [100, 101, 102]]


def _put(root: Path, bodies: dict[str, dict[bytes, Any]], protocol: int) -> Path:
    (root / TEN).mkdir(parents=True)
    for name, body in bodies.items():
        (root / TEN / name).write_bytes(pickle.dumps(body, protocol=protocol))
    return root


@pytest.mark.parametrize(("name", "folder"), [("cifar10", TEN), ("cifar100", HUNDRED), ("cifar100/coarse", HUNDRED)])
def test_the_archive_is_the_same_dataset(name: str, folder: str, tmp_path: Path, tools: Any) -> None:
    samples.WRITERS[name.partition("/")[0]](tmp_path)
    unpacked = opened(f"suite:{name}", tmp_path)
    digests = {split: index.digest for split, index in unpacked.splits.items()}
    image = unpacked.image("train", 3)
    archive = pack(tmp_path, folder)
    packed = check_rows(f"suite:{name}", tmp_path)
    assert {split: index.digest for split, index in packed.splits.items()} == digests
    np.testing.assert_array_equal(packed.image("train", 3), image)
    assert list(tmp_path.iterdir()) == [archive], "the archive was unpacked"


def test_the_folder_goes_before_the_archive(tmp_path: Path) -> None:
    samples.write_cifar10(tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"no archive")
    check_rows("suite:cifar10", tmp_path)


def test_a_batch_that_is_not_in_the_archive_is_named(tmp_path: Path) -> None:
    samples.write_cifar10(tmp_path)
    pack(tmp_path, TEN, drop="data_batch_4")
    refused("suite:cifar10", tmp_path, 66, "no data_batch_4 in cifar-10-python.tar.gz", "cifar-10-batches-py/")


def test_an_archive_that_climbs_or_is_cut_is_refused(tmp_path: Path) -> None:
    samples.write_cifar10(tmp_path)
    archive = pack(tmp_path, TEN, more=("../outside",))
    refused("suite:cifar10", tmp_path, 65, "cifar-10-python.tar.gz", "../outside")
    archive.write_bytes(archive.read_bytes()[:2000])
    refused("suite:cifar10", tmp_path, 65, "cifar-10-python.tar.gz")


def test_arrays_of_the_same_rows_are_the_same_dataset(tmp_path: Path) -> None:
    written = samples.write_cifar10(tmp_path)
    arrays: dict[str, Any] = {
        f"X_{split}": np.stack([pixels for _, pixels in rows.values()]) for split, rows in written.items()
    }
    labels: dict[str, Any] = {
        f"y_{split}": [samples.TEN.index(name) for name, _ in rows.values()] for split, rows in written.items()
    }
    np.savez(tmp_path / "cifar.npz", classes=np.array(samples.TEN), **arrays, **labels)
    theirs = open_dataset(f"arrays:{tmp_path / 'cifar.npz'}", memo=Memo(None))
    ours = opened("suite:cifar10", tmp_path)
    for split in ("train", "test"):
        assert ours.splits[split].digest == theirs.splits[split].digest
        assert list(ours.splits[split].ids) == list(theirs.splits[split].ids)


def test_super_classes_are_a_member(tmp_path: Path) -> None:
    samples.write_cifar100(tmp_path)
    fine, coarse = opened("suite:cifar100", tmp_path), opened("suite:cifar100/coarse", tmp_path)
    assert coarse.classes == tuple(samples.COARSE)
    for split in ("train", "test"):
        ours = [samples.FINE_TO_COARSE[c] for c in fine.splits[split].labels.values]
        assert coarse.splits[split].labels.values.tolist() == ours
        assert list(coarse.splits[split].ids) == list(fine.splits[split].ids)


def test_batches_that_change_after_they_were_indexed_are_noticed(tmp_path: Path, tools: Any) -> None:
    samples.write_cifar10(tmp_path / "data")
    tools.age(tmp_path / "data")
    memo = Memo(tmp_path / "memo")
    open_dataset("suite:cifar10", memo=memo, data_root=tmp_path / "data")
    dataset = open_dataset("suite:cifar10", memo=memo, data_root=tmp_path / "data")
    bodies, _ = samples.cifar_bodies(seed=9)
    samples.put_pickles(tmp_path / "data" / TEN, bodies)
    with pytest.raises(StorageError, match="CIFAR-10 changed"):
        dataset.image("train", 0)


def _batch(**changes: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / TEN / "data_batch_2"
        body = pickle.loads(path.read_bytes(), encoding="bytes")
        body.update({key.encode(): value for key, value in changes.items()})
        path.write_bytes(pickle.dumps({key: value for key, value in body.items() if value is not None}))

    return change


def _raw(data: bytes, name: str = "data_batch_2") -> Callable[[Path], None]:
    return lambda root: [(root / TEN / name).write_bytes(data)].clear()


HOSTILE: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "fewer labels than images": (_batch(labels=[1, 2, 3]), ("data_batch_2", "4 images and 3 labels")),
    "class number out of range": (_batch(labels=[1, 2, 3, 10]), ("CIFAR-10", "class number 10", "0 to 9")),
    "negative class number": (_batch(labels=[1, 2, 3, -1]), ("data_batch_2", "class number -1")),
    "huge class number": (_batch(labels=[1, 2, 3, 2**80]), ("data_batch_2", "class number")),
    "no labels": (_batch(labels=None), ("data_batch_2", "no labels")),
    "labels that are texts": (_batch(labels=["a", "b", "c", "d"]), ("data_batch_2", "no labels")),
    "no images": (_batch(data=None), ("data of data_batch_2",)),
    "images of another type": (_batch(data=np.zeros((4, 3072), dtype=np.int16)), ("data of data_batch_2", "int16")),
    "images of another size": (_batch(data=np.zeros((4, 1024), dtype=np.uint8)), ("data of data_batch_2", "1024")),
    "an array of objects": (_batch(data=np.array([[{}]], dtype=object)), ("data_batch_2", "no pickle of plain arrays")),
    "a list": (_raw(pickle.dumps([1, 2])), ("data_batch_2 holds a list",)),
    "cut": (_raw(pickle.dumps({b"data": b"x" * 500})[:-30]), ("data_batch_2", "no pickle of plain arrays")),
    "empty": (_raw(b""), ("data_batch_2", "no pickle of plain arrays")),
    "no names": (_raw(pickle.dumps({b"label_names": [1]}), "batches.meta"), ("batches.meta", "label_names")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_variants_are_refused_by_name(case: str, tmp_path: Path) -> None:
    samples.write_cifar10(tmp_path)
    change, words = HOSTILE[case]
    change(tmp_path)
    refused("suite:cifar10", tmp_path, 65, *words)


class _Bomb:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._made = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._made


BOMBS: dict[str, Callable[[Path], bytes]] = {
    "a shell": lambda path: pickle.dumps({b"data": _Bomb(os.system, f"touch {path}")}),
    "eval": lambda path: pickle.dumps([_Bomb(eval, f"open({str(path)!r}, 'w')")]),
    "a file": lambda path: pickle.dumps(_Bomb(open, str(path), "w")),
    "a module's attribute": lambda path: b"cnumpy\nload\n(V" + str(path).encode() + b"\ntR.",
    "a dotted name": lambda path: pickle.dumps(1)[:2] + b"\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
    "numpy's array itself": lambda path: pickle.dumps(_Bomb(np.ndarray, (1 << 40,))),
    "another codec": lambda path: pickle.dumps(_Bomb(__import__("_codecs").encode, "abc", "rot13"), protocol=2),
    "an extension": lambda path: b"\x80\x02\x82\x01.",
    "something outside": lambda path: b"Pabc\n.",
    "a function's attributes": lambda path: b"\x80\x02c_codecs\nencode\n}U\x08__name__U\x01xsb.",
    "an object": lambda path: b"\x80\x02cnumpy\ndtype\n)\x81.",
    "an instance": lambda path: b"(U\x02u1inumpy\ndtype\n.",
}


@pytest.mark.parametrize("case", BOMBS)
def test_nothing_in_a_pickle_is_run(case: str, tmp_path: Path) -> None:
    witness = tmp_path / "was-run"
    with pytest.raises(DataError, match="bomb is no pickle of plain arrays"):
        pickles.load(BOMBS[case](witness), "bomb")
    assert not witness.exists()


NESTED = b"\x80\x02" + b"]" * 2000 + b"a" * 1999 + b"."
# each list has the one before it a hundred times: 100^30 elements in ten kilobytes


def laughs(levels: int) -> bytes:
    """Each list has the one before it a hundred times: 100^levels elements in a few kilobytes."""
    return b"\x80\x02]q\x00" + b"".join(b"](" + b"h%c" % k * 100 + b"eq%c" % (k + 1) for k in range(levels)) + b"."


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(b"\x80\x02X\xff\xff\xff\x7fabc.", "", id="a text longer than the file"),
        pytest.param(b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0fabc.", "", id="a text longer than any memory"),
        pytest.param(b"\x80\x05\x96" + b"\xff" * 7 + b"\x0fabc.", "", id="bytes longer than any memory"),
        pytest.param(NESTED, "deep", id="nested"),
        pytest.param(laughs(30), "deep", id="one list in many"),
        pytest.param(pickle.dumps({1, 2}), "a set", id="a set"),
        pytest.param(pickle.dumps(np.zeros(2, dtype=[("a", "O")])), "V8", id="a compound type"),
        pytest.param(pickle.dumps(np.array(["a"])), "U1", id="texts in an array"),
    ],
)
def test_small_files_do_not_take_much(data: bytes, why: str) -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match=why or "no pickle of plain arrays"):
        pickles.load(data, "bomb")
    assert time.monotonic() - start < 5


def test_a_place_far_out_in_the_memo_costs_nothing() -> None:
    """The unpickler in C would reserve gigabytes for it."""
    start = time.monotonic()
    assert pickles.load(b"\x80\x02Kar\xff\xff\xff\x7f.", "far") == ord("a")
    assert time.monotonic() - start < 1


def test_one_list_in_many_is_looked_at_once() -> None:
    start = time.monotonic()
    body = pickles.load(laughs(6), "laughs")
    assert len(body) == 100
    assert body[0] is body[99]
    assert time.monotonic() - start < 1


def test_forged_arrays_are_refused() -> None:
    """A shape larger than the bytes, and a type whose state makes pointers of bytes."""
    good = pickle.dumps(np.arange(6, dtype=np.uint8).reshape(2, 3), protocol=2)
    assert good.count(b"K\x02K\x03") == 1
    for forged in (good.replace(b"K\x02K\x03", b"K\x02K\x09"), good.replace(b"K\x02K\x03", b"K\x02J\xff\xff\xff\xff")):
        with pytest.raises(DataError, match="shape"):
            pickles.load(forged, "forged")
    with pytest.raises(DataError, match="no pickle of plain arrays"):
        pickles.load(good.replace(b"u1", b"O8"), "forged")


ARRAYS = st.sampled_from(["u1", "i4", ">i8", "f4", "?"]).flatmap(
    lambda kind: st.lists(st.integers(0, 1), max_size=12).map(lambda values: np.array(values, dtype=kind))
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.binary(max_size=5) | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(PLAIN, st.integers(3, 5))
def test_plain_things_come_back_as_they_were(body: Any, protocol: int) -> None:
    def same(one: Any, two: Any) -> bool:
        if isinstance(one, np.ndarray):
            return isinstance(two, np.ndarray) and one.dtype == two.dtype and bool(np.array_equal(one, two))
        if isinstance(one, dict):
            return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
        if isinstance(one, list):
            return isinstance(two, list) and len(one) == len(two) and all(map(same, one, two))
        return type(one) is type(two) and bool(one == two)

    assert same(body, pickles.load(pickle.dumps(body, protocol=protocol), "x"))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_pickles_are_refused_or_plain(data: st.DataObject) -> None:
    bodies, _ = samples.cifar_bodies()
    good = bytearray(pickle.dumps({**bodies["batches.meta"], b"data": np.zeros((2, 3), np.uint8)}, protocol=2))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    caught = []
    try:
        pickles.load(bytes(good), "damaged")
    except DataError as error:
        caught = [str(error)]
    assert all("damaged is no pickle" in each for each in caught)
