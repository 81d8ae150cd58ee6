"""Miniatures of official layouts: CIFAR, SVHN, Flowers102, Food101, Oxford-IIIT Pet, StanfordCars, Aircraft, DTD.

Each writer makes the folder below a data root where torchvision, too, looks for it, and returns what it wrote: by
split, sample ids with the name of the class and the pixels that Pillow itself reads back.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.io
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Written = dict[str, dict[str, tuple[str, Pixels]]]


def put_image(path: Path, seed: int, kind: str = "JPEG") -> Pixels:
    """Write a picture unlike that of another seed; returns its pixels as decoded."""
    rng = np.random.default_rng(seed)
    height, width = 9 + seed % 4, 12 + seed % 3
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(stream, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def put_text(path: Path, rows: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def put_mat(path: Path, **variables: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables, do_compression=True)


def numbered(split: str, rows: Iterable[tuple[str, Pixels]]) -> dict[str, tuple[str, Pixels]]:
    return {f"{split}/{row:06d}": each for row, each in enumerate(rows)}


TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COARSE = ["aquatic_mammals", "fish", "flowers"]
FINE = ["aster", "beaver", "cod", "dolphin", "eel"]
FINE_TO_COARSE = [2, 0, 1, 0, 1]


def cifar_bodies(seed: int = 0) -> tuple[dict[str, dict[bytes, Any]], Written]:
    """The batches of CIFAR-10 by file name, four images each, and what is in them."""
    rng = np.random.default_rng(seed)
    bodies: dict[str, dict[bytes, Any]] = {"batches.meta": {b"label_names": [n.encode() for n in TEN]}}
    rows: dict[str, list[tuple[str, Pixels]]] = {"train": [], "test": []}
    for split, parts in (("train", [f"data_batch_{k}" for k in range(1, 6)]), ("test", ["test_batch"])):
        for part in parts:
            planes = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
            labels = [int(each) for each in rng.integers(0, 10, 4)]
            bodies[part] = {b"batch_label": part.encode(), b"labels": labels, b"data": planes.reshape(4, 3072)}
            rows[split] += [(TEN[c], image.transpose(1, 2, 0)) for c, image in zip(labels, planes, strict=True)]
    return bodies, {split: numbered(split, found) for split, found in rows.items()}


class _Pickler2(pickle._Pickler):
    """Writes bytes as Python 2 wrote its texts, which is how CIFAR's batches are."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)


def _save_text(self: Any, text: bytes) -> None:
    head = b"U" + bytes([len(text)]) if len(text) < 256 else b"T" + struct.pack("<i", len(text))
    self.write(head + text)
    self.memoize(text)


_Pickler2.dispatch[bytes] = _save_text


def pickled2(body: Any) -> bytes:
    """A pickle as Python 2 would have written it."""
    stream = io.BytesIO()
    _Pickler2(stream, protocol=2).dump(body)
    return stream.getvalue()


def put_pickles(folder: Path, bodies: dict[str, dict[bytes, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in bodies.items():
        (folder / name).write_bytes(pickled2(body))


def write_cifar10(root: Path) -> Written:
    bodies, written = cifar_bodies()
    put_pickles(root / "cifar-10-batches-py", bodies)
    return written


def write_cifar100(root: Path, *, coarse: bool = False) -> Written:
    rng = np.random.default_rng(1)
    bodies: dict[str, dict[bytes, Any]] = {
        "meta": {
            b"fine_label_names": [n.encode() for n in FINE],
            b"coarse_label_names": [n.encode() for n in COARSE],
        }
    }
    written: Written = {}
    for split, n in (("train", 7), ("test", 5)):
        planes = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        fine = [(3 * k + n) % 5 for k in range(n)]
        bodies[split] = {
            b"fine_labels": fine,
            b"coarse_labels": [FINE_TO_COARSE[k] for k in fine],
            b"data": planes.reshape(n, 3072),
        }
        names = [COARSE[FINE_TO_COARSE[k]] if coarse else FINE[k] for k in fine]
        written[split] = numbered(split, [(c, p.transpose(1, 2, 0)) for c, p in zip(names, planes, strict=True)])
    put_pickles(root / "cifar-100-python", bodies)
    return written


def write_svhn(root: Path, splits: tuple[str, ...] = ("train", "test")) -> Written:
    rng = np.random.default_rng(2)
    written: Written = {}
    for split in splits:
        n = 5 + len(split)
        images = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        numbers = np.array([[k % 10 + 1] for k in range(n)], dtype=np.uint8)
        put_mat(root / f"{split}_32x32.mat", X=images, y=numbers)
        written[split] = numbered(split, [(str((k % 10 + 1) % 10), images[..., k]) for k in range(n)])
    return written


FLOWER_SETS = {"train": [7, 2, 4], "val": [1, 9], "test": [3, 5, 6, 8, 10]}
FLOWER_LABELS = [1, 5, 102, 5, 1, 77, 102, 5, 1, 77]


def write_flowers(root: Path) -> Written:
    base = root / "flowers-102"
    pixels = {k: put_image(base / f"jpg/image_{k:05d}.jpg", 100 + k) for k in range(1, 11)}
    put_mat(base / "imagelabels.mat", labels=np.array([FLOWER_LABELS], dtype=np.uint8))
    keys = {"train": "trnid", "val": "valid", "test": "tstid"}
    put_mat(base / "setid.mat", **{keys[s]: np.array([ids], dtype=np.uint16) for s, ids in FLOWER_SETS.items()})
    sets = {**FLOWER_SETS, "trainval": FLOWER_SETS["train"] + FLOWER_SETS["val"]}
    return {
        split: {f"jpg/image_{k:05d}.jpg": (str(FLOWER_LABELS[k - 1]), pixels[k]) for k in ids}
        for split, ids in sets.items()
    }


FOOD = {
    "train": ["apple_pie/1005649", "apple_pie/23", "waffles/77", "crème_brulée/3"],
    "test": ["waffles/1", "crème_brulée/12", "apple_pie/9"],
}


def write_food(root: Path, *, lists: str = "both") -> Written:
    """``lists``: ``txt``, ``json`` or ``both``."""
    base = root / "food-101"
    written: Written = {}
    classes = sorted({entry.split("/")[0] for of_split in FOOD.values() for entry in of_split})
    for number, (split, entries) in enumerate(FOOD.items()):
        if lists != "json":
            put_text(base / f"meta/{split}.txt", entries)
        if lists != "txt":
            by_class = {name: [e for e in entries if e.startswith(f"{name}/")] for name in classes}
            (base / "meta").mkdir(parents=True, exist_ok=True)
            (base / f"meta/{split}.json").write_text(json.dumps(by_class))
        written[split] = {
            f"images/{entry}.jpg": (entry.split("/")[0], put_image(base / f"images/{entry}.jpg", 200 + 10 * number + k))
            for k, entry in enumerate(entries)
        }
    if lists != "json":
        put_text(base / "meta/classes.txt", classes)
    return written


PETS = {
    "train": [("Abyssinian_1", 1), ("american_bulldog_12", 2), ("Bengal_3", 3), ("Abyssinian_10", 1)],
    "test": [("american_bulldog_100", 2), ("Bengal_7", 3), ("Abyssinian_2", 1)],
}


def write_pets(root: Path) -> Written:
    base = root / "oxford-iiit-pet"
    written: Written = {}
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        put_text(base / "annotations" / file, [f"{image} {number} 1 1" for image, number in PETS[split]])
        written[split] = {
            f"images/{image}.jpg": (
                image.rpartition("_")[0],
                put_image(base / f"images/{image}.jpg", sum(image.encode())),
            )
            for image, _ in PETS[split]
        }
    return written


CARS = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012"]
CAR_SETS = {"train": [2, 1, 3, 3], "test": [1, 3, 2]}


def car_records(rows: list[tuple[str, int]]) -> npt.NDArray[Any]:
    """A struct array as the devkit has it."""
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    out = np.zeros((1, len(rows)), dtype=[(field, "O") for field in fields])
    for k, (file, number) in enumerate(rows):
        out[0, k] = (np.uint8(3), np.uint8(4), np.uint16(500), np.uint16(300), np.uint8(number), file)
    return out


def write_cars(root: Path) -> Written:
    base = root / "stanford_cars"
    names = np.empty((1, len(CARS)), dtype=object)
    names[0] = CARS
    put_mat(base / "devkit/cars_meta.mat", class_names=names)
    written: Written = {}
    places = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for split, numbers in CAR_SETS.items():
        rows = [(f"{k + 1:05d}.jpg", number) for k, number in enumerate(numbers)]
        put_mat(base / places[split], annotations=car_records(rows))
        written[split] = {
            f"cars_{split}/{file}": (
                CARS[number - 1],
                put_image(base / f"cars_{split}/{file}", 300 + 50 * (split == "test") + k),
            )
            for k, (file, number) in enumerate(rows)
        }
    return written


PLANES = {
    "variant": ["707-320", "F/A-18", "Cessna 172"],
    "family": ["Boeing 707", "Cessna 172", "F/A-18"],
    "manufacturer": ["Boeing", "Cessna"],
}
_OF_VARIANT = {
    "family": {"707-320": "Boeing 707", "F/A-18": "F/A-18", "Cessna 172": "Cessna 172"},
    "manufacturer": {"707-320": "Boeing", "F/A-18": "Boeing", "Cessna 172": "Cessna"},
}
PLANE_SETS = {
    "train": [("1025794", "707-320"), ("0034309", "F/A-18")],
    "val": [("0481847", "Cessna 172"), ("1340192", "707-320")],
    "test": [("0900914", "F/A-18"), ("1057995", "707-320"), ("0062765", "Cessna 172")],
}


def write_aircraft(root: Path, level: str = "variant") -> Written:
    """All levels are written; ``level`` is the one whose names are returned."""
    data = root / "fgvc-aircraft-2013b" / "data"
    sets = {**PLANE_SETS, "trainval": PLANE_SETS["val"] + PLANE_SETS["train"]}
    files = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
    for each, file in files.items():
        put_text(data / file, PLANES[each])
        for split, rows in sets.items():
            names = [(image, _OF_VARIANT.get(each, {}).get(variant, variant)) for image, variant in rows]
            put_text(data / f"images_{each}_{split}.txt", [f"{image} {name}" for image, name in names])
    return {
        split: {
            f"data/images/{image}.jpg": (
                _OF_VARIANT.get(level, {}).get(variant, variant),
                put_image(data / f"images/{image}.jpg", int(image)),
            )
            for image, variant in rows
        }
        for split, rows in sets.items()
    }


TEXTURES = ["banded", "dotted", "zigzagged"]


def write_dtd(root: Path, fold: int = 1, folds: int = 2) -> Written:
    """``folds`` are written; ``fold`` is the one that is returned."""
    base = root / "dtd" / "dtd"
    pixels = {
        f"{name}/{name}_{k:04d}.jpg": put_image(base / f"images/{name}/{name}_{k:04d}.jpg", 400 + 10 * c + k)
        for c, name in enumerate(TEXTURES)
        for k in (2, 5, 60)
    }
    written: Written = {}
    for each in range(1, folds + 1):
        for part, split in enumerate(("train", "val", "test")):
            entries = [e for k, e in enumerate(pixels) if (k + each) % 3 == part]
            put_text(base / f"labels/{split}{each}.txt", entries)
            if each == fold:
                written[split] = {f"images/{e}": (e.split("/")[0], pixels[e]) for e in entries}
    written["trainval"] = {**written["train"], **written["val"]}
    return written


WRITERS: dict[str, Callable[[Path], Written]] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "flowers102": write_flowers,
    "food101": write_food,
    "oxfordpet": write_pets,
    "stanfordcars": write_cars,
    "fgvcaircraft": write_aircraft,
    "dtd": write_dtd,
}
