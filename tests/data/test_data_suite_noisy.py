"""``suite:clothing1m`` and ``suite:webvision``: real noisy labels, from the official lists."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from suite_checks import check_rows, opened, refused

GARMENTS = ["T-Shirt", "Shirt", "Down Coat"]
# image → class; the first is in both sorts of labels, with two classes
NOISY = {"images/0/0/1,2.jpg": 0, "images/0/1/3,4&5.jpg": 2, "images/9/9/6,7.jpg": 1, "images/1/1/8,8.jpg": 1}
CLEAN = {"images/0/0/1,2.jpg": 1, "images/2/0/9,9.jpg": 0, "images/3/0/9,1.jpg": 2, "images/4/0/9,2.jpg": 1}
KEYS = {
    "noisy_train": ["images/9/9/6,7.jpg", "images/0/0/1,2.jpg", "images/0/1/3,4&5.jpg"],
    "clean_train": ["images/0/0/1,2.jpg"],
    "clean_val": ["images/2/0/9,9.jpg"],
    "clean_test": ["images/4/0/9,2.jpg", "images/3/0/9,1.jpg"],
}


def picture(path: Path, seed: int) -> None:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())


def lines(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" for row in rows))


def write_clothing(root: Path, lists: str = "") -> Path:
    home = root / "clothing1m"
    for seed, image in enumerate(sorted({*NOISY, *CLEAN})):
        picture(home / image, seed)
    lines(home / lists / "category_names_eng.txt", GARMENTS)
    lines(home / lists / "noisy_label_kv.txt", [f"{image} {label}" for image, label in NOISY.items()])
    lines(home / lists / "clean_label_kv.txt", [f"{image} {label}" for image, label in CLEAN.items()])
    for name, images in KEYS.items():
        lines(home / lists / f"{name}_key_list.txt", images)
    return root


SYNSETS = ["n01440764 tench, Tinca tinca", "n01443537 goldfish, Carassius auratus", "n01484850 great white shark"]
GOOGLE = {"google/q0001/b.jpg": 0, "google/q0001/a.jpg": 0, "google/q0003/c.jpg": 2}
FLICKR = {"flickr/q0002/a.jpg": 1}
VAL = {"val000001.jpg": 2, "val000002.jpg": 0}


def write_webvision(root: Path, synsets: list[str] = SYNSETS, google: dict[str, int] = GOOGLE) -> Path:
    home = root / "webvision"
    for seed, image in enumerate([*google, *FLICKR, *(f"val_images_256/{name}" for name in VAL)]):
        picture(home / image, seed)
    lines(home / "info/synsets.txt", synsets)
    named = {"train_filelist_google": google, "train_filelist_flickr": FLICKR, "val_filelist": VAL}
    for name, images in named.items():
        lines(home / f"info/{name}.txt", [f"{image} {label}" for image, label in images.items()])
    return root


@pytest.mark.parametrize("lists", ["", "annotations"])
def test_clothing_has_noisy_and_clean_splits(tmp_path: Path, lists: str) -> None:
    dataset = check_rows("suite:clothing1m", write_clothing(tmp_path, lists))
    assert dataset.classes == tuple(GARMENTS)
    found = {
        split: dict(zip(index.ids, index.labels.values.tolist(), strict=True))
        for split, index in dataset.splits.items()
    }
    assert found == {
        "train": {image: NOISY[image] for image in KEYS["noisy_train"]},
        "clean_train": {image: CLEAN[image] for image in KEYS["clean_train"]},
        "val": {image: CLEAN[image] for image in KEYS["clean_val"]},
        "test": {image: CLEAN[image] for image in KEYS["clean_test"]},
    }
    assert found["train"]["images/0/0/1,2.jpg"] != found["clean_train"]["images/0/0/1,2.jpg"]
    assert dataset.image("test", 0).shape == (5, 7, 3)
    assert any("officially 1000000" in remark for remark in dataset.remarks)


def test_webvision_is_google_and_flickr(tmp_path: Path) -> None:
    dataset = check_rows("suite:webvision", write_webvision(tmp_path))
    assert dataset.classes == ("n01440764", "n01443537", "n01484850")
    train, val = dataset.splits["train"], dataset.splits["val"]
    assert dict(zip(train.ids, train.labels.values.tolist(), strict=True)) == {**GOOGLE, **FLICKR}
    assert dict(zip(val.ids, val.labels.values.tolist(), strict=True)) == {
        f"val_images_256/{name}": label for name, label in VAL.items()
    }


def test_mini_webvision_is_google_s_first_fifty_classes(tmp_path: Path) -> None:
    synsets = [f"n{k:08d} name {k}" for k in range(60)]
    google = {**GOOGLE, "google/q0050/x.jpg": 49, "google/q0051/y.jpg": 50}
    write_webvision(tmp_path, synsets, google)
    (tmp_path / "webvision/info/train_filelist_flickr.txt").unlink()
    mini = check_rows("suite:webvision/mini", tmp_path)
    assert mini.classes == tuple(f"n{k:08d}" for k in range(50))
    assert set(mini.splits["train"].ids) == {*GOOGLE, "google/q0050/x.jpg"}
    assert len(mini.splits["val"]) == 2
    refused("suite:webvision", tmp_path, 66, "info/train_filelist_flickr.txt is not there", "synsets.txt")


def _append(path: Path, line: str) -> None:
    assert path.is_file()
    path.write_text(path.read_text() + line + "\n")


def _gone(path: Path) -> None:
    path.unlink()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


C, W = "clothing1m", "webvision"
HOSTILE: dict[str, tuple[str, Callable[[Path], object], int, tuple[str, ...]]] = {
    "no class names": (C, lambda r: _gone(r / "category_names_eng.txt"), 66, ("category_names_eng.txt", "images/0/")),
    "no noisy labels": (C, lambda r: _gone(r / "noisy_label_kv.txt"), 66, ("noisy_label_kv.txt is not there",)),
    "no list of test images": (C, lambda r: _gone(r / "clean_test_key_list.txt"), 66, ("clean_test_key_list.txt",)),
    "an image is gone": (C, lambda r: _gone(r / "images/2/0/9,9.jpg"), 66, ("images/2/0/9,9.jpg", "val")),
    "an unknown class": (C, lambda r: _append(r / "clean_label_kv.txt", "images/a.jpg 3"), 65, ("line 5", "number 3")),
    "a class that is no number": (C, lambda r: _append(r / "clean_label_kv.txt", "images/a.jpg x"), 65, ("line 5",)),
    "a negative class": (C, lambda r: _append(r / "noisy_label_kv.txt", "images/a.jpg -1"), 65, ("line 5", "-1")),
    "a line without a class": (C, lambda r: _append(r / "noisy_label_kv.txt", "images/a.jpg"), 65, ("line 5",)),
    "two classes": (C, lambda r: _append(r / "clean_label_kv.txt", "images/4/0/9,2.jpg 2"), 65, ("classes 1 and 2",)),
    "no label": (
        C,
        lambda r: _append(r / "clean_val_key_list.txt", "images/8.jpg"),
        65,
        ("'images/8.jpg'", "1 images"),
    ),
    "an image twice": (
        C,
        lambda r: _append(r / "clean_test_key_list.txt", "images/4/0/9,2.jpg"),
        65,
        ("stands twice", "test"),
    ),
    "a class twice": (C, lambda r: _append(r / "category_names_eng.txt", "Shirt"), 65, ("'Shirt' stands twice",)),
    "a path that climbs": (
        C,
        lambda r: [
            _append(r / n, e) for n, e in (("clean_val_key_list.txt", "../a.jpg"), ("clean_label_kv.txt", "../a.jpg 0"))
        ],
        65,
        ("'../a.jpg'", "inside"),
    ),
    "an absolute path": (
        C,
        lambda r: [
            _append(r / n, e) for n, e in (("clean_val_key_list.txt", "/a.jpg"), ("clean_label_kv.txt", "/a.jpg 0"))
        ],
        65,
        ("'/a.jpg'",),
    ),
    "an empty list": (C, lambda r: (r / "clean_val_key_list.txt").write_text("\n"), 65, ("clean_val_key_list.txt",)),
    "no UTF-8": (C, lambda r: (r / "category_names_eng.txt").write_bytes(b"\xff\n"), 65, ("category_names_eng.txt",)),
    "a pipe in a list's place": (C, lambda r: _pipe(r / "clean_label_kv.txt"), 65, ("clean_label_kv.txt is no file",)),
    "a folder in a list's place": (C, lambda r: _folder(r / "clean_label_kv.txt"), 65, ("clean_label_kv.txt",)),
    "no synsets": (W, lambda r: _gone(r / "info/synsets.txt"), 66, ("info/synsets.txt is not there", "google/q0001")),
    "no list of val": (W, lambda r: _gone(r / "info/val_filelist.txt"), 66, ("info/val_filelist.txt",)),
    "a found image is gone": (W, lambda r: _gone(r / "google/q0001/a.jpg"), 66, ("google/q0001/a.jpg",)),
    "a val image is gone": (
        W,
        lambda r: _gone(r / "val_images_256/val000001.jpg"),
        66,
        ("val_images_256/val000001.jpg",),
    ),
    "a class too high": (W, lambda r: _append(r / "info/val_filelist.txt", "val3.jpg 3"), 65, ("line 3", "0 to 2")),
    "a synset twice": (W, lambda r: _append(r / "info/synsets.txt", "n01443537 again"), 65, ("'n01443537'",)),
    "a list that climbs": (
        W,
        lambda r: _append(r / "info/val_filelist.txt", "../x.jpg 0"),
        65,
        ("val_images_256/../x",),
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_wrong_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    suite, spoil, code, words = HOSTILE[case]
    (write_clothing if suite == C else write_webvision)(tmp_path)
    spoil(tmp_path / suite)
    refused(f"suite:{suite}", tmp_path, code, *words)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_clothing(tmp_path)
    image = tmp_path / "clothing1m" / "images/2/0/9,9.jpg"
    image.rename(tmp_path / "secret.jpg")
    image.symlink_to(tmp_path / "secret.jpg")
    refused("suite:clothing1m", tmp_path, 65, "images/2/0/9,9.jpg", "link")


def test_a_changed_list_is_another_dataset(tmp_path: Path) -> None:
    before = opened("suite:clothing1m", write_clothing(tmp_path)).splits["train"].digest
    path = tmp_path / "clothing1m" / "noisy_label_kv.txt"
    path.write_text(path.read_text().replace("6,7.jpg 1", "6,7.jpg 2"))
    assert opened("suite:clothing1m", tmp_path).splits["train"].digest != before


@pytest.mark.parametrize(
    ("suite", "write", "n"), [("clothing1m", write_clothing, 3), ("webvision/mini", write_webvision, 3)]
)
def test_on_the_command_line(nmtool: Callable, tmp_path: Path, suite: str, write: Callable, n: int) -> None:
    write(tmp_path)
    flip = ("inject-noise", f"suite:{suite}", "--type", "symmetric", "--ratio", "0.5", "--data-root", tmp_path)
    ran = nmtool(*flip, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["n"], ran.json["classes"]) == (n, 3)
    folder = tmp_path / suite.partition("/")[0]
    next(path for path in sorted(folder.rglob("*.txt")) if "label" in path.name or "google" in path.name).unlink()
    ran = nmtool(*flip)
    assert (ran.code, ran.out) == (66, "")
    assert "is not there" in ran.err
    assert "the official layout" in ran.err
