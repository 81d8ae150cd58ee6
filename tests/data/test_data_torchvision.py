"""``torchvision:NAME``: rows, labels and pixels are torchvision's own, in every dataset that is read."""

from __future__ import annotations

import bz2
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import indomain_samples as samples
import numpy as np
import pytest
import torchvision.datasets
import torchvision_samples as minis
from suite_checks import check_rows, opened, refused

from nmtool.artifact.memo import Memo
from nmtool.data.sources import open_dataset
from nmtool.errors import StorageError, UsageError


@pytest.fixture
def any_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision takes files that are not the official ones, byte for byte."""
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda *_, **__: True)


def rows_of(found: Any) -> Iterator[tuple[int, Any]]:
    """What torchvision gives: label and pixels of each row."""
    for row in range(len(found)):
        image, label = found[row]
        yield -1 if label is None else int(label), np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", minis.CASES)
@pytest.mark.usefixtures("any_md5")
def test_rows_labels_and_pixels_are_torchvisions_own(name: str, tmp_path: Path) -> None:
    write, splits = minis.CASES[name]
    write(tmp_path)
    make = getattr(torchvision.datasets, name.partition("/")[0])
    theirs = {split: list(rows_of(make(str(tmp_path), **args))) for split, args in splits.items()}
    dataset = check_rows(f"torchvision:{name}", tmp_path)
    assert set(dataset.splits) == set(splits)
    for split, wanted in theirs.items():
        index = dataset.splits[split]
        assert len(index) == len(wanted) > 0
        ours = [(int(index.labels.values[row]), dataset.image(split, row)) for row in range(len(index))]
        if index.ids[0] != f"{split}/000000":  # files are in the order of their names: compare them as a set
            wanted, ours = ([*sorted(each, key=lambda row: (row[0], row[1].tobytes()))] for each in (wanted, ours))
        for (label, pixels), (our_label, our_pixels) in zip(wanted, ours, strict=True):
            assert our_label == label
            np.testing.assert_array_equal(our_pixels, pixels)


@pytest.mark.usefixtures("any_md5")
def test_files_are_the_samples_that_their_ids_name(tmp_path: Path) -> None:
    written = samples.write_food(tmp_path)
    dataset = opened("torchvision:Food101", tmp_path)
    for split, rows in written.items():
        index = dataset.splits[split]
        assert list(index.ids) == sorted(rows, key=str.encode)
        for row, sample in enumerate(index.ids):
            assert dataset.classes[index.labels.values[row]] == rows[sample][0]
            np.testing.assert_array_equal(dataset.image(split, row), rows[sample][1])


SUITES = {
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "SVHN": "svhn",
    "Food101": "food101",
    "DTD": "dtd",
    "DTD/2": "dtd/2",
    "StanfordCars": "stanfordcars",
    "FGVCAircraft": "fgvcaircraft",
    "Flowers102": "flowers102",
    "OxfordIIITPet": "oxfordpet",
}


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.usefixtures("any_md5")
def test_the_suite_of_the_same_files_has_the_same_rows(name: str, tmp_path: Path) -> None:
    minis.CASES[name][0](tmp_path)
    ours, theirs = opened(f"suite:{SUITES[name]}", tmp_path), opened(f"torchvision:{name}", tmp_path)
    assert set(theirs.splits) <= set(ours.splits)
    named = name not in ("Flowers102", "OxfordIIITPet")  # torchvision has its own names for these classes
    assert (ours.classes == theirs.classes) == named
    for split, index in theirs.splits.items():
        assert list(index.ids) == list(ours.splits[split].ids)
        np.testing.assert_array_equal(index.labels.values, ours.splits[split].labels.values)
        assert (index.digest == ours.splits[split].digest) == named


@pytest.mark.usefixtures("any_md5")
def test_what_is_remembered_is_what_was_found(tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in minis.CASES if name != "DTD/2"]
    for name in names:
        minis.CASES[name][0](tmp_path / "data" / name.replace("/", "-"))
    tools.age(tmp_path / "data")
    memo = Memo(tmp_path / "memo")
    first = {name: _facts(name, tmp_path, memo) for name in names}
    before = tools.snapshot(tmp_path / "data")
    # what is remembered is enough: torchvision's classes may not even be made
    monkeypatch.setattr("nmtool.data.torchvision.look.class_of", _never)
    assert {name: _facts(name, tmp_path, memo) for name in names} == first
    assert tools.snapshot(tmp_path / "data") == before, "reading wrote something"


def _facts(name: str, tmp_path: Path, memo: Memo) -> Any:
    dataset = open_dataset(f"torchvision:{name}", memo=memo, data_root=tmp_path / "data" / name.replace("/", "-"))
    return dataset.classes, {
        split: (list(index.ids), index.labels.values.tolist(), index.digest) for split, index in dataset.splits.items()
    }


def _never(*_: object) -> None:
    raise AssertionError("torchvision was asked")


def test_images_come_back_after_a_recall(tmp_path: Path, tools: Any) -> None:
    minis.mnist("MNIST")(tmp_path / "data")
    tools.age(tmp_path / "data")
    memo = Memo(tmp_path / "memo")
    cold = open_dataset("torchvision:MNIST", memo=memo, data_root=tmp_path / "data")
    warm = open_dataset("torchvision:MNIST", memo=memo, data_root=tmp_path / "data")
    np.testing.assert_array_equal(cold.image("test", 4), warm.image("test", 4))
    late = open_dataset("torchvision:MNIST", memo=memo, data_root=tmp_path / "data")
    minis.mnist("FashionMNIST")(tmp_path / "other")
    (tmp_path / "other/FashionMNIST/raw/train-images-idx3-ubyte").replace(
        tmp_path / "data/MNIST/raw/train-images-idx3-ubyte"
    )
    with pytest.raises(StorageError, match="MNIST changed"):
        late.image("train", 0)


def test_a_changed_label_file_is_another_dataset(tmp_path: Path, tools: Any) -> None:
    minis.mnist("MNIST")(tmp_path / "data")
    tools.age(tmp_path / "data")
    memo = Memo(tmp_path / "memo")
    before = open_dataset("torchvision:MNIST", memo=memo, data_root=tmp_path / "data")
    digest = before.splits["train"].digest
    minis.put_idx(tmp_path / "data/MNIST/raw/train-labels-idx1-ubyte", np.arange(9, dtype=np.uint8))
    after = open_dataset("torchvision:MNIST", memo=memo, data_root=tmp_path / "data")
    assert after.splits["train"].labels.values.tolist() == list(range(9))
    assert after.splits["train"].digest != digest


@pytest.mark.parametrize("below", ["MNIST", "mnist"])
def test_a_folder_of_the_datasets_name_will_do(below: str, tmp_path: Path) -> None:
    minis.mnist("MNIST")(tmp_path / "a")
    minis.usps(tmp_path / "b" / below.replace("MNIST", "USPS").replace("mnist", "usps"))
    minis.mnist("MNIST")(tmp_path / "c" / "mnist")
    usual = opened("torchvision:MNIST", tmp_path / "a").splits["train"].digest
    assert opened("torchvision:mnist", tmp_path / "c").splits["train"].digest == usual
    assert len(opened("torchvision:USPS", tmp_path / "b").splits["train"]) == 7


@pytest.mark.parametrize("spelt", ["fashionmnist", "Fashion-MNIST", "fashion_mnist"])
def test_case_and_dashes_do_not_matter(spelt: str, tmp_path: Path) -> None:
    minis.mnist("FashionMNIST")(tmp_path)
    assert len(opened(f"torchvision:{spelt}", tmp_path).splits["train"]) == 9


def test_noise_is_injected_from_the_command_line(tmp_path: Path, ok: Callable[..., Any]) -> None:
    minis.mnist("MNIST")(tmp_path / "data")
    call = (
        "inject-noise",
        "torchvision:MNIST",
        "--data-root",
        tmp_path / "data",
        "--type",
        "symmetric",
        "--ratio",
        "0.5",
    )
    ran = ok(*call, "--json")
    assert ran.json["n"] == 9
    assert ok(*call, "--json").json["cached"]


def test_remembered_data_is_opened_without_torch(tmp_path: Path, tools: Any, ok: Callable[..., Any]) -> None:
    minis.mnist("MNIST")(tmp_path / "data")
    samples.write_dtd(tmp_path / "data")
    tools.age(tmp_path / "data")
    code = f"""
import json, sys
from pathlib import Path
from nmtool.artifact.memo import Memo
from nmtool.data.sources import open_dataset
memo, root = Memo(Path({str(tmp_path / "memo")!r})), {str(tmp_path / "data")!r}
out = [
    {{split: index.digest for split, index in open_dataset(uri, memo=memo, data_root=root).splits.items()}}
    for uri in ("torchvision:MNIST", "torchvision:DTD")
]
print(json.dumps([out, sorted({{"torch", "torchvision", "scipy"}} & set(sys.modules))]))
"""
    first, second = (
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    )
    assert first[0] == second[0]
    assert "torch" in first[1]
    assert second[1] == []


# What is refused.


def test_names(tmp_path: Path) -> None:
    refused("torchvision:CIFAR11", tmp_path, 2, "no dataset 'CIFAR11'", "did you mean torchvision:CIFAR10?")
    refused("torchvision:FakeData", tmp_path, 2, "random numbers")
    refused("torchvision:ImageFolder", tmp_path, 2, "folder:DIR")
    refused("torchvision:CIFAR10/coarse", tmp_path, 2, "no member 'coarse'")
    refused("torchvision:EMNIST", tmp_path, 2, "names no part of EMNIST", "letters")
    refused("torchvision:EMNIST/leters", tmp_path, 2, "did you mean torchvision:EMNIST/letters?")
    refused("torchvision:", tmp_path, 2, "no dataset ''")


def test_without_a_data_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data-root"):
        open_dataset("torchvision:MNIST", memo=Memo(None))


def test_a_torchvision_without_the_dataset_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minis.mnist("KMNIST")(tmp_path)
    monkeypatch.delattr("torchvision.datasets.KMNIST")
    refused("torchvision:KMNIST", tmp_path, 2, "has no KMNIST", "did you mean torchvision:")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.write_cars(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    refused("torchvision:StanfordCars", tmp_path, 69, "scipy", "pip install scipy")


@pytest.mark.parametrize("name", minis.CASES)
def test_an_empty_data_root_names_what_is_expected(name: str, tmp_path: Path) -> None:
    refused(f"torchvision:{name}", tmp_path, 66, f"what torchvision's {name.partition('/')[0]} reads there")
    assert list(tmp_path.iterdir()) == [], "torchvision made something"


def test_archives_of_imagenet_are_not_unpacked(tmp_path: Path) -> None:
    for name in ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_val.tar"):
        (tmp_path / name).write_bytes(b"archive")
    minis.folders("train", minis.WNIDS, "{name}_{number}.JPEG")(tmp_path)
    refused("torchvision:ImageNet", tmp_path, 66, "meta.bin")


def test_a_split_that_may_be_missing_is_left_out(tmp_path: Path) -> None:
    minis.imagenet(tmp_path)
    minis.qmnist(tmp_path)
    for path in (tmp_path / "QMNIST/raw").glob("xnist*"):
        path.unlink()
    assert set(opened("torchvision:QMNIST", tmp_path).splits) == {"train", "test"}
    (tmp_path / "val").rename(tmp_path / "other")
    assert set(opened("torchvision:ImageNet", tmp_path).splits) == {"train"}


RAW = "MNIST/raw"
ZEROS = np.zeros((9, 28, 28), dtype=np.uint8)
IDX: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "wrong magic": ("train-images-idx3-ubyte", b"\1\2\3\4" * 100, ("no IDX file",)),
    "fewer labels": ("train-labels-idx1-ubyte", minis.idx(np.zeros(8, np.uint8)), ("9 images", "8 labels")),
    "more labels": ("t10k-labels-idx1-ubyte", minis.idx(np.zeros(6, np.uint8)), ("5 images", "6 labels")),
    "cut": ("train-images-idx3-ubyte", minis.idx(ZEROS)[:-100], ("bytes", "9 x 28 x 28")),
    "too long": ("train-images-idx3-ubyte", minis.idx(ZEROS) + b"more", ("bytes", "9 x 28 x 28")),
    "a huge count": ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, ("bytes",)),
    "cut header": ("train-labels-idx1-ubyte", b"\0\0\x08\x01\0", ("header",)),
    "labels for images": ("train-images-idx3-ubyte", minis.idx(np.zeros(9, np.uint8)), ("1 dimensions",)),
    "floating images": ("train-images-idx3-ubyte", minis.idx(ZEROS.astype(np.float32)), ("type 13",)),
    "compressed": ("train-labels-idx1-ubyte", b"\x1f\x8b\x08\0" + b"\0" * 20, ("compressed", "gunzip")),
    "empty": ("train-labels-idx1-ubyte", b"", ("no IDX file",)),
    "class 10": ("train-labels-idx1-ubyte", minis.idx(np.full(9, 10, np.uint8)), ("class number 10",)),
}


@pytest.mark.parametrize("case", IDX)
def test_damaged_idx_files_are_refused_by_name(case: str, tmp_path: Path) -> None:
    file, data, words = IDX[case]
    minis.mnist("MNIST")(tmp_path)
    (tmp_path / RAW / file).write_bytes(data)
    refused("torchvision:MNIST", tmp_path, 65, "MNIST" if case == "class 10" else f"{RAW}/{file}", *words)


def test_idx_files_that_are_still_compressed(tmp_path: Path) -> None:
    minis.mnist("MNIST")(tmp_path)
    for path in (tmp_path / RAW).iterdir():
        path.rename(path.with_name(path.name + ".gz"))
    refused("torchvision:MNIST", tmp_path, 66, "unpack raw/train-images-idx3-ubyte.gz")


def test_wide_labels_are_counted_too(tmp_path: Path) -> None:
    minis.qmnist(tmp_path)
    minis.put_idx(tmp_path / "QMNIST/raw/qmnist-test-labels-idx2-int", np.zeros((3, 8), dtype=np.int32))
    refused("torchvision:QMNIST", tmp_path, 65, "QMNIST/raw/qmnist-test-labels-idx2-int", "3 labels")


def _text(path: str, *rows: str) -> Callable[[Path], None]:
    return lambda root: samples.put_text(root / path, rows)


def _raw(path: str, data: bytes) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)

    return change


def _gone(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def _cars(*rows: tuple[str, int]) -> Callable[[Path], None]:
    return lambda root: samples.put_mat(
        root / "stanford_cars/devkit/cars_train_annos.mat", annotations=samples.car_records(list(rows))
    )


PETS = "oxford-iiit-pet/annotations"
HOSTILE: dict[str, tuple[str, Callable[[Path], None], int, tuple[str, ...]]] = {
    "md5": ("CIFAR10", lambda root: None, 65, ("CIFAR10", "md5", "suite:cifar10")),
    "md5 of digits": ("SVHN", lambda root: None, 65, ("SVHN", "md5", "suite:svhn")),
    "a batch is missing": ("CIFAR10", _gone("cifar-10-batches-py/data_batch_3"), 66, ("data_batch_3",)),
    "an image is missing": ("Food101", _gone("food-101/images/waffles/1.jpg"), 66, ("images/waffles/1.jpg",)),
    "a list is missing": ("DTD", _gone("dtd/dtd/labels/val1.txt"), 66, ("labels/val1.txt", "dtd/dtd/")),
    "a list of another form": ("DTD", _text("dtd/dtd/labels/val1.txt", "banded"), 65, ("DTD, split val",)),
    "a class that only one split has": (
        "DTD",
        _text("dtd/dtd/labels/val1.txt", "banded/banded_0002.jpg"),
        65,
        ("classes of DTD in split val",),
    ),
    "json that is none": ("Food101", _raw("food-101/meta/test.json", b"{"), 65, ("Food101, split test",)),
    "json of another form": ("Food101", _raw("food-101/meta/test.json", b"[1]"), 65, ("Food101, split test",)),
    "a path that climbs": (
        "Food101",
        _raw(
            "food-101/meta/test.json",
            b'{"apple_pie": ["apple_pie/../../../x"], "waffles": ["waffles/1"], '
            b'"cr\xc3\xa8me_brul\xc3\xa9e": ["cr\xc3\xa8me_brul\xc3\xa9e/12"]}',
        ),
        65,
        ("images/apple_pie/../../../x.jpg",),
    ),
    "an absolute path": ("StanfordCars", _cars(("/etc/x.jpg", 1), ("00002.jpg", 2)), 65, ("/etc/x.jpg", "inside")),
    "class 0": ("StanfordCars", _cars(("00001.jpg", 0), ("00002.jpg", 2)), 65, ("StanfordCars, split train",)),
    "a class too many": ("StanfordCars", _cars(("00001.jpg", 4), ("00002.jpg", 2)), 65, ("class number 3",)),
    "a cut .mat file": (
        "StanfordCars",
        _raw("stanford_cars/devkit/cars_meta.mat", b"MATLAB 5.0"),
        65,
        ("StanfordCars",),
    ),
    "an unknown class": (
        "FGVCAircraft",
        _text("fgvc-aircraft-2013b/data/images_variant_test.txt", "0900914 DC-3"),
        65,
        ("FGVCAircraft, split test", "DC-3"),
    ),
    "a pet without numbers": (
        "OxfordIIITPet",
        _text(f"{PETS}/test.txt", "Bengal_7"),
        65,
        ("OxfordIIITPet, split test",),
    ),
    "a folder that shifts the classes": (
        "RenderedSST2",
        minis.folders("rendered-sst2/train", ("also",), "{number}.png", "PNG"),
        65,
        ("RenderedSST2, split train",),
    ),
    "a file that is no sample": (
        "Caltech101",
        _text("caltech101/101_ObjectCategories/Faces/notes.txt"),
        66,
        ("Faces/image_",),
    ),
    "no bzip2": ("USPS", _raw("usps.t.bz2", b"BZh9" + b"x" * 50), 65, ("usps.t.bz2", "damaged")),
    "too few values": (
        "USPS",
        _raw("usps.bz2", bz2.compress(b"1 1:0.5 2:0.5\n")),
        65,
        ("USPS, split train",),
    ),
    "fewer labels than images": (
        "PCAM",
        lambda root: _short_pcam(root),
        65,
        ("PCAM, split val", "3 images and 2 labels"),
    ),
}


def _short_pcam(root: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    with h5py.File(root / "pcam/camelyonpatch_level_2_split_valid_y.h5", "w") as file:
        file.create_dataset("y", data=np.zeros((2, 1, 1, 1), dtype=np.uint8))


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_variants_are_refused_by_name(case: str, tmp_path: Path) -> None:
    name, change, code, words = HOSTILE[case]
    minis.CASES[name][0](tmp_path)
    change(tmp_path)
    refused(f"torchvision:{name}", tmp_path, code, *words)


@pytest.mark.usefixtures("any_md5")
def test_an_image_that_is_a_link_is_refused(tmp_path: Path) -> None:
    samples.write_dtd(tmp_path / "data")
    path = tmp_path / "data/dtd/dtd/images/banded/banded_0002.jpg"
    path.rename(tmp_path / "elsewhere.jpg")
    path.symlink_to(tmp_path / "elsewhere.jpg")
    refused("torchvision:DTD", tmp_path / "data", 65, "banded_0002.jpg", "goes by a link")


def test_a_dataset_that_is_a_link_as_a_whole_is_read(tmp_path: Path) -> None:
    samples.write_dtd(tmp_path / "disk")
    (tmp_path / "data/dtd").mkdir(parents=True)
    (tmp_path / "data/dtd/dtd").symlink_to(tmp_path / "disk/dtd/dtd")
    usual = opened("torchvision:DTD", tmp_path / "disk")
    assert opened("torchvision:DTD", tmp_path / "data").splits["train"].digest == usual.splits["train"].digest


def test_little_bzip2_that_holds_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minis.usps(tmp_path)
    monkeypatch.setattr("nmtool.data.torchvision.arrays._BZ2_BYTES", 1 << 20)
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(b"1 " * (1 << 20)))
    refused("torchvision:USPS", tmp_path, 65, "usps.bz2 unpacks to over")
