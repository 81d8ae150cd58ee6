"""The first half of the in-domain suites: each is read as its miniature was written, and damage is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import indomain_samples as samples
import numpy as np
import pytest
from suite_checks import check_rows, opened, refused

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, StorageError

MEMBERS: dict[str, Callable[[Path], samples.Written]] = {
    **samples.WRITERS,
    "cifar100/coarse": lambda root: samples.write_cifar100(root, coarse=True),
    "fgvcaircraft/family": lambda root: samples.write_aircraft(root, "family"),
    "fgvcaircraft/manufacturer": lambda root: samples.write_aircraft(root, "manufacturer"),
    "dtd/2": lambda root: samples.write_dtd(root, 2),
}


def check_written(dataset: Dataset, written: samples.Written) -> None:
    """Ids, class names and pixels of every split are those that were written."""
    assert set(dataset.splits) == set(written)
    for split, rows in written.items():
        index = dataset.splits[split]
        assert sorted(rows, key=str.encode) == list(index.ids)
        for row, sample in enumerate(index.ids):
            assert dataset.classes[index.labels.values[row]] == rows[sample][0], sample
            np.testing.assert_array_equal(dataset.image(split, row), rows[sample][1])


@pytest.mark.parametrize("name", MEMBERS)
def test_miniature_is_read_as_written(name: str, tmp_path: Path) -> None:
    written = MEMBERS[name](tmp_path)
    dataset = check_rows(f"suite:{name}", tmp_path)
    check_written(dataset, written)
    assert any("is not the whole of" in remark for remark in dataset.remarks)


def test_what_is_remembered_is_what_was_found(tmp_path: Path, tools: Any) -> None:
    written = {name: write(tmp_path / "data") for name, write in MEMBERS.items()}
    tools.age(tmp_path / "data")
    memo = Memo(tmp_path / "memo")
    before = tools.snapshot(tmp_path / "data")
    for name in [*written, *written]:
        dataset = open_dataset(f"suite:{name}", memo=memo, data_root=tmp_path / "data")
        digests = {split: index.digest for split, index in dataset.splits.items()}
        check_written(dataset, written[name])
        bare = opened(f"suite:{name}", tmp_path / "data")
        assert digests == {split: index.digest for split, index in bare.splits.items()}
    assert tools.snapshot(tmp_path / "data") == before, "reading wrote something"


@pytest.mark.parametrize("name", samples.WRITERS)
def test_the_data_root_may_be_the_suites_folder(name: str, tmp_path: Path) -> None:
    samples.WRITERS[name](tmp_path)
    inner = [tmp_path, *sorted(p for p in tmp_path.rglob("*") if p.is_dir())]
    usual = opened(f"suite:{name}", tmp_path).splits["train"]
    base = {"svhn": tmp_path, "dtd": tmp_path / "dtd" / "dtd"}.get(name, inner[1 if len(inner) > 1 else 0])
    assert opened(f"suite:{name}", base).splits["train"].digest == usual.digest


@pytest.mark.parametrize("name", samples.WRITERS)
def test_an_unknown_member_is_refused(name: str, tmp_path: Path) -> None:
    samples.WRITERS[name](tmp_path)
    refused(f"suite:{name}/other", tmp_path, 2, f"no member 'other' of suite:{name}")


@pytest.mark.parametrize("name", samples.WRITERS)
def test_nothing_there_draws_the_tree(name: str, tmp_path: Path) -> None:
    refused(f"suite:{name}", tmp_path, 66, "the official layout, below the data root")


DELETED = {
    "cifar10": ("cifar-10-batches-py/data_batch_3", "data_batch_3"),
    "cifar100": ("cifar-100-python/test", "test"),
    "svhn": ("test_32x32.mat", "test_32x32.mat"),
    "flowers102": ("flowers-102/setid.mat", "setid.mat"),
    "food101": ("food-101/meta/test.txt", "meta/test."),
    "oxfordpet": ("oxford-iiit-pet/annotations/test.txt", "annotations/test.txt"),
    "stanfordcars": ("stanford_cars/cars_test_annos_withlabels.mat", "cars_test_annos_withlabels.mat"),
    "fgvcaircraft": ("fgvc-aircraft-2013b/data/images_variant_test.txt", "data/images_variant_test.txt"),
    "dtd": ("dtd/dtd/labels/val1.txt", "labels/val1.txt"),
}


@pytest.mark.parametrize("name", samples.WRITERS)
def test_a_missing_annotation_file_is_named(name: str, tmp_path: Path) -> None:
    samples.WRITERS[name](tmp_path)
    path, shown = DELETED[name]
    (tmp_path / path).unlink()
    if name == "food101":
        (tmp_path / path).with_suffix(".json").unlink()
    refused(f"suite:{name}", tmp_path, 66, shown, "the official layout, below the data root")


FILES = [name for name in samples.WRITERS if name not in ("cifar10", "cifar100", "svhn")]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_image_is_named(name: str, tmp_path: Path) -> None:
    written = samples.WRITERS[name](tmp_path)
    gone = next(iter(written["test"]))
    (path,) = tmp_path.rglob(f"*/{gone}")
    path.unlink()
    refused(f"suite:{name}", tmp_path, 66, f"1 of {len(written['test'])} image files", gone)


@pytest.mark.parametrize("name", FILES)
def test_an_image_that_is_a_link_is_refused(name: str, tmp_path: Path) -> None:
    written = samples.WRITERS[name](tmp_path / "data")
    linked = next(iter(written["test"]))
    (path,) = (tmp_path / "data").rglob(f"*/{linked}")
    path.rename(tmp_path / "elsewhere.jpg")
    path.symlink_to(tmp_path / "elsewhere.jpg")
    refused(f"suite:{name}", tmp_path / "data", 65, linked, "goes by a link")


NOISE = ("--type", "symmetric", "--ratio", "0.5", "--json")


@pytest.mark.parametrize("name", samples.WRITERS)
def test_injecting_noise_from_the_command_line(name: str, tmp_path: Path, ok: Callable[..., Any]) -> None:
    written = samples.WRITERS[name](tmp_path / "data")
    ran = ok("inject-noise", f"suite:{name}", "--data-root", tmp_path / "data", *NOISE)
    assert ran.json["n"] == len(written["train"])
    again = ok("inject-noise", f"suite:{name}", "--data-root", tmp_path / "data", *NOISE)
    assert again.json["cached"]


# Hostile variants: what is changed, the exit code, and words of the message.


def _append(path: str, line: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with (root / path).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    return change


def _cut(path: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        data = (root / path).read_bytes()
        (root / path).write_bytes(data[: len(data) * 2 // 3])

    return change


def _mat(path: str, **variables: Any) -> Callable[[Path], None]:
    return lambda root: samples.put_mat(root / path, **variables)


def _bytes(path: str, data: bytes) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / path).write_bytes(data)

    return change


IMAGES = np.zeros((32, 32, 3, 4), dtype=np.uint8)
SVHN, FLOWERS, FOOD, PETS = "train_32x32.mat", "flowers-102", "food-101/meta", "oxford-iiit-pet/annotations"
CARS, PLANES, DTD = "stanford_cars/devkit", "fgvc-aircraft-2013b/data", "dtd/dtd/labels"
HOSTILE: dict[str, tuple[str, Callable[[Path], None], tuple[str, ...]]] = {
    "svhn counts disagree": ("svhn", _mat(SVHN, X=IMAGES, y=np.ones((5, 1))), (SVHN, "4 images and 5 labels")),
    "svhn class 0": ("svhn", _mat(SVHN, X=IMAGES, y=np.array([[1], [0], [3], [10]])), (SVHN, "class number 0")),
    "svhn class 11": ("svhn", _mat(SVHN, X=IMAGES, y=np.array([[1], [11], [3], [10]])), (SVHN, "11", "1 to 10")),
    "svhn half a class": ("svhn", _mat(SVHN, X=IMAGES, y=np.array([[1], [1.5], [3], [10]])), (SVHN, "1.5")),
    "svhn full numbers": ("svhn", _mat(SVHN, digitStruct=np.ones((1, 3))), (SVHN, "X of")),
    "svhn other images": ("svhn", _mat(SVHN, X=np.zeros((4, 32, 32, 3), np.uint8), y=np.ones(4)), (SVHN, "u1 [4,")),
    "svhn no labels": ("svhn", _mat(SVHN, X=IMAGES), (SVHN, "'y'")),
    "svhn cut": ("svhn", _cut(SVHN), (SVHN, "damaged")),
    "svhn no mat": ("svhn", _bytes(SVHN, b"<html>404</html>" * 40), (SVHN, "no .mat file")),
    "svhn hdf5": ("svhn", _bytes(SVHN, b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"), (SVHN, "MATLAB 7.3")),
    "flowers label 0": (
        "flowers102",
        _mat(f"{FLOWERS}/imagelabels.mat", labels=np.array([[1, 0, *FLOWER] for FLOWER in [[3] * 8]])),
        ("imagelabels.mat", "class number 0"),
    ),
    "flowers label 103": (
        "flowers102",
        _mat(f"{FLOWERS}/imagelabels.mat", labels=np.array([[103] * 10])),
        ("imagelabels.mat", "103", "1 to 102"),
    ),
    "flowers unknown image": (
        "flowers102",
        _mat(f"{FLOWERS}/setid.mat", trnid=[[1]], valid=[[2]], tstid=[[11]]),
        ("tstid of setid.mat", "11"),
    ),
    "flowers in two splits": (
        "flowers102",
        _mat(f"{FLOWERS}/setid.mat", trnid=[[1, 4]], valid=[[2]], tstid=[[4]]),
        ("image_00004.jpg", "train and in test"),
    ),
    "flowers no test set": (
        "flowers102",
        _mat(f"{FLOWERS}/setid.mat", trnid=[[1, 4]], valid=[[2]]),
        ("setid.mat", "'tstid'"),
    ),
    "flowers labels are text": (
        "flowers102",
        _mat(f"{FLOWERS}/imagelabels.mat", labels="tulip"),
        ("imagelabels.mat", "no array of numbers"),
    ),
    "food unknown class": ("food101", _append(f"{FOOD}/train.txt", "tarte/1"), ("meta/train.txt", "'tarte'")),
    "food no class": ("food101", _append(f"{FOOD}/train.txt", "waffles"), ("meta/train.txt", "'waffles'")),
    "food climbs": ("food101", _append(f"{FOOD}/train.txt", "waffles/../../../x"), ("waffles/../../../x",)),
    "food twice": ("food101", _append(f"{FOOD}/train.txt", "waffles/77"), ("waffles/77", "twice")),
    "food in two splits": ("food101", _append(f"{FOOD}/test.txt", "waffles/77"), ("waffles/77", "train and in test")),
    "food class twice": ("food101", _append(f"{FOOD}/classes.txt", "waffles"), ("classes.txt", "'waffles'")),
    "food no text": ("food101", _bytes(f"{FOOD}/test.txt", b"\xff\xfe\x00"), ("meta/test.txt", "UTF-8")),
    "pets other breed": ("oxfordpet", _append(f"{PETS}/test.txt", "Bombay_1 2 1 1"), ("test.txt", "class 2")),
    "pets a class too many": ("oxfordpet", _append(f"{PETS}/test.txt", "Bombay_1 38 1 1"), ("number 38", "1 to 37")),
    "pets class 0": ("oxfordpet", _append(f"{PETS}/test.txt", "Bombay_1 0 1 1"), ("test.txt, line 4", "number 0")),
    "pets a number of many digits": (
        "oxfordpet",
        _append(f"{PETS}/test.txt", f"Bombay_1 {'9' * 30} 1 1"),
        ("test.txt, line 4", "99999"),
    ),
    "pets no number": ("oxfordpet", _append(f"{PETS}/test.txt", "Bombay_1 cat 1 1"), ("test.txt, line 4", "Bombay_1")),
    "pets climbs": ("oxfordpet", _append(f"{PETS}/test.txt", "../../Bengal_1 4 1 1"), ("../../Bengal_1",)),
    "pets one breed of two classes": (
        "oxfordpet",
        _append(f"{PETS}/test.txt", "Bengal_9 4 1 1"),
        ("'Bengal'", "twice"),
    ),
    "cars class 0": (
        "stanfordcars",
        _mat(f"{CARS}/cars_train_annos.mat", annotations=samples.car_records([("00001.jpg", 1), ("00002.jpg", 0)])),
        ("devkit/cars_train_annos.mat", "class number 0"),
    ),
    "cars unknown class": (
        "stanfordcars",
        _mat(f"{CARS}/cars_train_annos.mat", annotations=samples.car_records([("00001.jpg", 4)])),
        ("devkit/cars_train_annos.mat", "1 to 3"),
    ),
    "cars climbs": (
        "stanfordcars",
        _mat(f"{CARS}/cars_train_annos.mat", annotations=samples.car_records([("../../x.jpg", 1)])),
        ("../../x.jpg", "inside"),
    ),
    "cars absolute": (
        "stanfordcars",
        _mat(f"{CARS}/cars_train_annos.mat", annotations=samples.car_records([("/etc/x.jpg", 1)])),
        ("/etc/x.jpg", "cars_train_annos.mat"),
    ),
    "cars without labels": (
        "stanfordcars",
        _mat(f"{CARS}/cars_train_annos.mat", annotations=np.zeros((1, 2), dtype=[("fname", "O")])),
        ("devkit/cars_train_annos.mat", "'class'"),
    ),
    "cars names are numbers": (
        "stanfordcars",
        _mat(f"{CARS}/cars_meta.mat", class_names=np.arange(3)),
        ("devkit/cars_meta.mat", "no list of texts"),
    ),
    "cars cut": ("stanfordcars", _cut(f"{CARS}/cars_train_annos.mat"), ("devkit/cars_train_annos.mat", "damaged")),
    "aircraft unknown class": (
        "fgvcaircraft",
        _append(f"{PLANES}/images_variant_test.txt", "0034309 DC-3"),
        ("images_variant_test.txt, line 4", "'DC-3'"),
    ),
    "aircraft no class": (
        "fgvcaircraft",
        _append(f"{PLANES}/images_variant_test.txt", "0034309"),
        ("images_variant_test.txt, line 4",),
    ),
    "aircraft trainval is another set": (
        "fgvcaircraft",
        _append(f"{PLANES}/images_variant_trainval.txt", "0900914 F/A-18"),
        ("images_variant_trainval.txt", "train and val"),
    ),
    "aircraft climbs": (
        "fgvcaircraft",
        _append(f"{PLANES}/images_variant_test.txt", "../../../x F/A-18"),
        ("../../../x",),
    ),
    "aircraft class twice": ("fgvcaircraft", _append(f"{PLANES}/variants.txt", "707-320"), ("'707-320'", "twice")),
    "dtd climbs": ("dtd", _append(f"{DTD}/test1.txt", "../../x"), ("labels/test1.txt", "../../x")),
    "dtd other class": (
        "dtd",
        _append(f"{DTD}/test1.txt", "banded/dotted_0002.jpg"),
        ("labels/test1.txt", "dotted_0002"),
    ),
    "dtd in two splits": ("dtd", _append(f"{DTD}/test1.txt", "banded/banded_0002.jpg"), ("banded_0002.jpg", "in test")),
    "dtd dots": ("dtd", _append(f"{DTD}/test1.txt", "../.._1.jpg"), ("../.._1.jpg",)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_variants_are_refused_by_name(case: str, tmp_path: Path) -> None:
    name, change, words = HOSTILE[case]
    samples.WRITERS[name](tmp_path)
    change(tmp_path)
    refused(f"suite:{name}", tmp_path, 65, *words)


def test_extra_digits_are_a_split_where_they_are(tmp_path: Path) -> None:
    written = samples.write_svhn(tmp_path, ("train", "test", "extra"))
    check_written(opened("suite:svhn", tmp_path), written)


def test_ten_is_the_digit_zero(tmp_path: Path) -> None:
    samples.put_mat(tmp_path / "train_32x32.mat", X=IMAGES, y=np.array([[10], [1], [9], [10]], dtype=np.uint8))
    samples.put_mat(tmp_path / "test_32x32.mat", X=IMAGES[..., 0], y=np.uint8(10))
    dataset = opened("suite:svhn", tmp_path)
    assert dataset.splits["train"].labels.values.tolist() == [0, 1, 9, 0]
    assert dataset.splits["test"].labels.values.tolist() == [0]
    assert dataset.image("test", 0).shape == (32, 32, 3)
    assert dataset.classes == tuple("0123456789")


def test_digits_that_change_after_they_were_indexed_are_noticed(tmp_path: Path) -> None:
    samples.write_svhn(tmp_path)
    dataset = opened("suite:svhn", tmp_path)
    samples.put_mat(tmp_path / "train_32x32.mat", X=IMAGES, y=np.ones((4, 1)))
    with pytest.raises(StorageError, match=r"train_32x32\.mat changed"):
        dataset.image("train", 0)


def test_classes_of_food_are_in_the_order_of_their_list(tmp_path: Path) -> None:
    samples.write_food(tmp_path, lists="txt")
    samples.put_text(tmp_path / "food-101/meta/classes.txt", ["waffles", "apple_pie", "ramen", "crème_brulée"])
    dataset = opened("suite:food101", tmp_path)
    assert dataset.classes == ("waffles", "apple_pie", "ramen", "crème_brulée")
    index = dataset.splits["train"]
    assert {dataset.classes[c] for c in index.labels.values} == {"waffles", "apple_pie", "crème_brulée"}


@pytest.mark.parametrize("lists", ["txt", "json"])
def test_either_sort_of_food_lists_will_do(lists: str, tmp_path: Path) -> None:
    written = samples.write_food(tmp_path, lists=lists)
    check_written(opened("suite:food101", tmp_path), written)


@pytest.mark.parametrize("body", [b"[1]", b'{"a": [1]}', b'{"a": 1}', b"[" * 100_000, b"\xff"])
def test_food_lists_of_another_form_are_refused(body: bytes, tmp_path: Path) -> None:
    samples.write_food(tmp_path, lists="json")
    (tmp_path / "food-101/meta/train.json").write_bytes(body)
    refused("suite:food101", tmp_path, 65, "meta/train.json", "no list of images by class")


def test_labels_of_test_cars_may_be_in_the_devkit(tmp_path: Path) -> None:
    written = samples.write_cars(tmp_path)
    base = tmp_path / "stanford_cars"
    (base / "cars_test_annos_withlabels.mat").rename(base / "devkit/cars_test_annos_withlabels.mat")
    check_written(opened("suite:cars", tmp_path), written)


def test_carriage_returns_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    written = samples.write_pets(tmp_path)
    path = tmp_path / "oxford-iiit-pet/annotations/test.txt"
    path.write_bytes(b"#Image CLASS-ID SPECIES BREED\r\n" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    check_written(opened("suite:pets", tmp_path), written)


def test_a_broken_picture_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    samples.write_dtd(tmp_path)
    (tmp_path / "dtd/dtd/images/banded/banded_0002.jpg").write_bytes(b"no picture")
    dataset = opened("suite:dtd", tmp_path)
    (at,) = [
        (split, row)
        for split in ("train", "val", "test")
        for row, sample in enumerate(dataset.splits[split].ids)
        if sample.endswith("banded_0002.jpg")
    ]
    with pytest.raises(DataError, match=r"banded_0002\.jpg"):
        dataset.image(*at)
