"""Miniatures of what torchvision reads, beside those of ``indomain_samples``: each writer fills a data root."""

from __future__ import annotations

import bz2
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import indomain_samples as samples
import numpy as np
import numpy.typing as npt
import pytest
from indomain_samples import put_image, put_text


def idx(array: npt.NDArray[Any]) -> bytes:
    """An IDX file: big-endian numbers after a header."""
    code = {"u1": 8, "i4": 12, "f4": 13}[array.dtype.str[1:]]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def put_idx(path: Path, array: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(idx(array))


def digits(seed: int, n: int, classes: int = 10) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, classes, n).astype(np.uint8)


def mnist(name: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for k, (part, n) in enumerate((("train", 9), ("t10k", 5))):
            images, labels = digits(len(name) + k, n)
            put_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", images)
            put_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", labels)

    return write


def emnist(root: Path) -> None:
    for k, part in enumerate(("train", "test")):
        images, labels = digits(30 + k, 6 + k, 26)
        put_idx(root / "EMNIST/raw" / f"emnist-letters-{part}-images-idx3-ubyte", images)
        put_idx(root / "EMNIST/raw" / f"emnist-letters-{part}-labels-idx1-ubyte", labels + 1)


def qmnist(root: Path) -> None:
    for k, part in enumerate(("qmnist-train", "qmnist-test", "xnist")):
        images, labels = digits(40 + k, 6 + k)
        rows = np.arange(8 * len(labels), dtype=np.int32).reshape(-1, 8)
        rows[:, 0] = labels
        put_idx(root / "QMNIST/raw" / f"{part}-images-idx3-ubyte", images)
        put_idx(root / "QMNIST/raw" / f"{part}-labels-idx2-int", rows)


def usps(root: Path) -> None:
    rng = np.random.default_rng(50)
    for name, n in (("usps.bz2", 7), ("usps.t.bz2", 4)):
        rows = [
            f"{k % 10 + 1} " + " ".join(f"{at + 1}:{value:.4f}" for at, value in enumerate(rng.uniform(-1, 1, 256)))
            for k in range(n)
        ]
        root.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bz2.compress("".join(row + "\n" for row in rows).encode()))


def stl10(root: Path) -> None:
    rng = np.random.default_rng(60)
    base = root / "stl10_binary"
    base.mkdir(parents=True)
    for part, n in (("train", 5), ("test", 3), ("unlabeled", 4)):
        (base / f"{part}_X.bin").write_bytes(rng.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8).tobytes())
        if part != "unlabeled":
            (base / f"{part}_y.bin").write_bytes(bytes([k % 10 + 1 for k in range(n)]))
    put_text(
        base / "class_names.txt", ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    )


def semeion(root: Path) -> None:
    rng = np.random.default_rng(70)
    rows = np.zeros((6, 266))
    rows[:, :256] = rng.integers(0, 2, (6, 256))
    rows[np.arange(6), 256 + np.array([3, 0, 9, 9, 1, 4])] = 1
    root.mkdir(parents=True, exist_ok=True)
    np.savetxt(root / "semeion.data", rows, fmt="%.4f")


def fer2013(root: Path) -> None:
    rng = np.random.default_rng(80)
    rows = ["emotion,pixels,Usage"]
    for k, usage in enumerate(("Training", "PublicTest", "Training", "PrivateTest", "Training")):
        rows.append(f"{k + 1},{' '.join(map(str, rng.integers(0, 256, 48 * 48)))},{usage}")
    put_text(root / "fer2013/fer2013.csv", rows)


def pcam(root: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    rng = np.random.default_rng(90)
    (root / "pcam").mkdir(parents=True)
    for part, n in (("train", 6), ("valid", 3), ("test", 4)):
        for axis, array in (
            ("x", rng.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8)),
            ("y", rng.integers(0, 2, (n, 1, 1, 1), dtype=np.uint8)),
        ):
            with h5py.File(root / "pcam" / f"camelyonpatch_level_2_split_{part}_{axis}.h5", "w") as file:
                file.create_dataset(axis, data=array)


def folders(base: str, classes: tuple[str, ...], name: str, kind: str = "JPEG") -> Callable[[Path], None]:
    """``name`` is that of a file, with the class's number and the file's own."""

    def write(root: Path) -> None:
        for c, each in enumerate(classes):
            for k in range(2 + c):
                file = name.format(label=c + 1, number=k + 1, name=each.split("/")[-1])
                put_image(root / base / each / file, 500 + 10 * c + k, kind)

    return write


def caltech101(root: Path) -> None:
    folders("caltech101/101_ObjectCategories", ("BACKGROUND_Google", "Faces", "airplanes"), "image_{number:04d}.jpg")(
        root
    )


def sun397(root: Path) -> None:
    classes = ("/a/abbey", "/a/apse/indoor", "/b/barn")
    put_text(root / "SUN397/ClassName.txt", classes)
    folders("SUN397", tuple(each[1:] for each in classes), "sun_{label}{number}.jpg")(root)


def country211(root: Path) -> None:
    for part in ("train", "valid", "test"):
        folders(f"country211/{part}", ("AD", "DE", "ZW"), part + "_{number}.jpg")(root)


def rendered(root: Path) -> None:
    for part in ("train", "valid", "test"):
        folders(f"rendered-sst2/{part}", ("negative", "positive"), "{label}_{number}.png", "PNG")(root)


WNIDS = ("n01440764", "n02102040", "n03888257")


def imagenet(root: Path) -> None:
    import torch

    for part in ("train", "val"):
        folders(part, WNIDS, "{name}_{number}.JPEG")(root)
    torch.save(({wnid: (f"name {wnid}", "another") for wnid in WNIDS}, list(WNIDS)), root / "meta.bin")


def imagenette(folder: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for part in ("train", "val"):
            folders(f"{folder}/{part}", WNIDS, "{name}_{number}.JPEG")(root)

    return write


def places365(root: Path) -> None:
    put_text(root / "categories_places365.txt", ["/a/airfield 0", "/a/apse/indoor 1", "/b/barn 2"])
    for folder, file, labelled in (
        ("data_256_standard", "places365_train_standard.txt", True),
        ("val_256", "places365_val.txt", True),
        ("test_256", "places365_test.txt", False),
    ):
        names = [f"/{k:08d}.jpg" for k in range(4)]
        put_text(root / file, [f"{name} {k % 3}" if labelled else name for k, name in enumerate(names)])
        for k, name in enumerate(names):
            put_image(root / folder / name[1:], 700 + k)


def writer(write: Callable[[Path], samples.Written]) -> Callable[[Path], None]:
    def only(root: Path) -> None:
        write(root)

    return only


TRAIN_TEST: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}


def by_split(*names: str, **others: str) -> dict[str, dict[str, Any]]:
    return {**{name: {"split": name} for name in names}, **{name: {"split": word} for name, word in others.items()}}


def each(parts: dict[str, dict[str, Any]], **more: Any) -> dict[str, dict[str, Any]]:
    return {split: {**args, **more} for split, args in parts.items()}


# What stands after torchvision:, what writes it, and how torchvision itself is asked for each split.
CASES: dict[str, tuple[Callable[[Path], None], dict[str, dict[str, Any]]]] = {
    "CIFAR10": (writer(samples.write_cifar10), TRAIN_TEST),
    "CIFAR100": (writer(samples.write_cifar100), TRAIN_TEST),
    "MNIST": (mnist("MNIST"), TRAIN_TEST),
    "FashionMNIST": (mnist("FashionMNIST"), TRAIN_TEST),
    "KMNIST": (mnist("KMNIST"), TRAIN_TEST),
    "EMNIST/letters": (emnist, each(TRAIN_TEST, split="letters")),
    "QMNIST": (qmnist, {split: {"what": split} for split in ("train", "test", "nist")}),
    "USPS": (usps, TRAIN_TEST),
    "SVHN": (writer(samples.write_svhn), by_split("train", "test")),
    "STL10": (stl10, by_split("train", "test", "unlabeled")),
    "SEMEION": (semeion, {"train": {"download": False}}),
    "FER2013": (fer2013, by_split("train", "test")),
    "PCAM": (pcam, by_split("train", "val", "test")),
    "Food101": (writer(samples.write_food), by_split("train", "test")),
    "DTD": (writer(samples.write_dtd), by_split("train", "val", "test")),
    "DTD/2": (writer(samples.write_dtd), each(by_split("train", "val", "test"), partition=2)),
    "Flowers102": (writer(samples.write_flowers), by_split("train", "val", "test")),
    "OxfordIIITPet": (writer(samples.write_pets), by_split("test", train="trainval")),
    "StanfordCars": (writer(samples.write_cars), by_split("train", "test")),
    "FGVCAircraft": (writer(samples.write_aircraft), by_split("train", "val", "trainval", "test")),
    "FGVCAircraft/family": (
        writer(samples.write_aircraft),
        each(by_split("train", "val", "trainval", "test"), annotation_level="family"),
    ),
    "Caltech101": (caltech101, {"train": {}}),
    "Caltech256": (
        folders(
            "caltech256/256_ObjectCategories", ("001.ak47", "002.flag", "257.clutter"), "{label:03d}_{number:04d}.jpg"
        ),
        {"train": {}},
    ),
    "EuroSAT": (folders("eurosat/2750", ("AnnualCrop", "Forest"), "{name}_{number}.jpg"), {"train": {}}),
    "SUN397": (sun397, {"train": {}}),
    "Country211": (country211, by_split("train", "test", val="valid")),
    "RenderedSST2": (rendered, by_split("train", "val", "test")),
    "ImageNet": (imagenet, by_split("train", "val")),
    "Imagenette": (imagenette("imagenette2"), by_split("train", "val")),
    "Imagenette/160px": (imagenette("imagenette2-160"), each(by_split("train", "val"), size="160px")),
    "Places365/256": (places365, each(by_split("val", "test", train="train-standard"), small=True)),
}
