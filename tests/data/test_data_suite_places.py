"""Where suites are found below the data root: as official archives, torchvision, Kaggle and other tools leave them."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import image_suite_samples as images
import indomain_samples as samples
import pytest
from suite_checks import opened, refused

from nmtool.artifact.memo import Memo
from nmtool.data.sources import open_dataset
from nmtool.errors import NmtoolError


def classes(home: Path, names: tuple[str, ...]) -> None:
    for at, name in enumerate(names):
        for k in range(2):
            images.picture(home / name / f"{name}_{k}.jpg", 10 * at + k)


SATELLITE, TEXTURE, OBJECTS = ("Forest", "River"), ("beach", "forest"), ("ant", "lamp")
FOLDERS = [
    ("eurosat", SATELLITE, "eurosat/2750"),
    ("eurosat", SATELLITE, "eurosat"),
    ("eurosat", SATELLITE, "EuroSAT"),
    ("eurosat", SATELLITE, "eurosat/EuroSAT"),
    ("eurosat", SATELLITE, "2750"),
    ("eurosat", SATELLITE, ""),
    ("resisc45", TEXTURE, "NWPU-RESISC45"),
    ("resisc45", TEXTURE, "nwpu_resisc45"),
    ("resisc45", TEXTURE, "resisc45"),
    ("resisc45", TEXTURE, "resisc45/NWPU-RESISC45"),
    ("resisc45", TEXTURE, ""),
    ("caltech101", OBJECTS, "caltech101/101_ObjectCategories"),
    ("caltech101", OBJECTS, "caltech101/caltech-101/101_ObjectCategories"),
    ("caltech101", OBJECTS, "Caltech-101/101_ObjectCategories"),
    ("caltech101", OBJECTS, "101_ObjectCategories"),
    ("caltech101", OBJECTS, "caltech101"),
    ("caltech101", OBJECTS, ""),
    ("imagenet-r", ("n01484850",), "imagenet-r"),
    ("imagenet-r", ("n01484850",), "ImageNet-R"),
    ("imagenet-r", ("n01484850",), "imagenet-rendition/imagenet-r"),
    ("imagenet-r", ("n01484850",), ""),
    ("imagenet-a", ("n01531178",), "imagenet-a"),
    ("imagenet-a", ("n01531178",), "imagenet-adversarial/imagenet-a"),
    ("imagenet-sketch", ("n01531178",), "imagenet-sketch/sketch"),
    ("imagenet-sketch", ("n01531178",), "ImageNet-Sketch"),
    ("imagenet-sketch", ("n01531178",), "sketch"),
]


@pytest.mark.parametrize(("suite", "names", "folder"), FOLDERS)
def test_folders_of_any_of_the_classes_are_found(
    suite: str, names: tuple[str, ...], folder: str, tmp_path: Path
) -> None:
    classes(tmp_path / folder, names)
    dataset = opened(f"suite:{suite}", tmp_path)
    ids = sorted(sample for index in dataset.splits.values() for sample in index.ids)
    assert ids == sorted(f"{name}/{name}_{k}.jpg" for name in names for k in range(2))  # wherever the folder lies


@pytest.mark.parametrize("name", [name for name in samples.WRITERS if name not in ("svhn", "dtd")])
def test_an_archive_unpacked_in_a_folder_of_the_suites_name_is_found(name: str, tmp_path: Path) -> None:
    written = samples.WRITERS[name](tmp_path / "official")
    (folder,) = (tmp_path / "official").iterdir()
    direct = [index.digest for index in opened(f"suite:{name}", tmp_path / "official").splits.values()]
    (tmp_path / "data" / name.upper()).mkdir(parents=True)
    shutil.move(folder, tmp_path / "data" / name.upper() / folder.name)
    found = opened(f"suite:{name}", tmp_path / "data")
    assert {split: set(index.ids) for split, index in found.splits.items()} == {
        split: set(rows) for split, rows in written.items()
    }
    assert [index.digest for index in found.splits.values()] == direct


def test_the_exact_name_goes_before_others(tmp_path: Path) -> None:
    classes(tmp_path / "EUROSAT", ("SeaLake",))
    classes(tmp_path / "eurosat", SATELLITE)
    assert {each.split("/")[0] for each in opened("suite:eurosat", tmp_path).splits["train"].ids} == set(SATELLITE)


def test_a_part_of_another_suite_is_not_taken_for_it(tmp_path: Path) -> None:
    classes(tmp_path / "imagenet-a", ("n01531178",))
    refused("suite:imagenet-r", tmp_path, 66, "no ImageNet-R", "imagenet-r/", "n01443537/art_0.jpg")


@pytest.mark.parametrize(
    ("name", "meant"), [("cola", "glue/cola"), ("real", "domainnet/real"), ("imagnet", "imagenet")]
)
def test_the_name_of_a_part_leads_to_the_whole(name: str, meant: str, tmp_path: Path) -> None:
    refused(f"suite:{name}", tmp_path, 2, f"did you mean suite:{meant}?")


def test_pets_of_some_breeds_keep_their_official_numbers(tmp_path: Path) -> None:
    home = tmp_path / "oxford-iiit-pet"
    for at, name in enumerate(("Abyssinian_1", "beagle_5", "beagle_6")):
        images.picture(home / "images" / f"{name}.jpg", at)
    samples.put_text(home / "annotations/trainval.txt", ["Abyssinian_1 1 1 1", "beagle_5 5 2 1"])
    samples.put_text(home / "annotations/test.txt", ["beagle_6 5 2 1"])
    dataset = opened("suite:oxfordpet", tmp_path)
    assert dataset.classes == ("Abyssinian", "class 2", "class 3", "class 4", "beagle")
    assert dataset.splits["train"].labels.values.tolist() == [0, 4]
    assert any("2 of 5 classes" in remark for remark in dataset.remarks)


@pytest.fixture
def impatient() -> Iterator[None]:
    """A test that waits for a pipe fails after ten seconds instead of never."""

    def gave_up(*_: Any) -> None:
        raise TimeoutError

    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, gave_up)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


PIPES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("suite:cifar10", samples.write_cifar10, "cifar-10-batches-py/data_batch_3"),
    ("suite:cifar10", samples.write_cifar10, "cifar-10-batches-py/batches.meta"),
    ("suite:svhn", samples.write_svhn, "test_32x32.mat"),
    ("suite:flowers102", samples.write_flowers, "flowers-102/setid.mat"),
    ("suite:stanfordcars", samples.write_cars, "stanford_cars/devkit/cars_meta.mat"),
    ("suite:pcam", images.write_pcam, "pcam/camelyonpatch_level_2_split_test_y.h5"),
    ("suite:dtd", samples.write_dtd, "dtd/dtd/labels/val1.txt"),
    ("suite:food101", lambda root: samples.write_food(root, lists="json"), "food-101/meta/train.json"),
    ("torchvision:dtd", samples.write_dtd, "dtd/dtd/labels/val1.txt"),
    ("torchvision:stanfordcars", samples.write_cars, "stanford_cars/devkit/cars_meta.mat"),
]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("uri", "write", "file"), PIPES)
def test_a_pipe_in_the_place_of_an_annotation_is_not_waited_for(
    uri: str, write: Callable[[Path], Any], file: str, tmp_path: Path
) -> None:
    write(tmp_path)
    (tmp_path / file).unlink()
    os.mkfifo(tmp_path / file)
    with pytest.raises(NmtoolError) as caught:
        open_dataset(uri, memo=Memo(None), data_root=tmp_path)
    assert caught.value.exit_code == 65
    assert Path(file).name in str(caught.value)
