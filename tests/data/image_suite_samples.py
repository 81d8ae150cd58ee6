"""Miniatures of the official layouts of image suites, in the real formats; each writer says what it wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Written = dict[str, dict[str, tuple[str, np.ndarray]]]
"""By split and sample id: class name, and the pixels as Pillow reads them back."""


def pixels(seed: int, height: int = 9, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(path: Path, seed: int, kind: str = "JPEG") -> np.ndarray:
    """Write an image file of its own; its pixels as they are read back."""
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).save(stream, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    return np.asarray(Image.open(io.BytesIO(stream.getvalue())).convert("RGB"))


def class_tree(
    home: Path, counts: dict[str, int], name: Callable[[str, int], str], kind: str = "JPEG"
) -> dict[str, Any]:
    """Image files in class folders: path below ``home`` → class name and pixels."""
    out = {}
    for at, (label, n) in enumerate(counts.items()):
        for k in range(n):
            path = f"{label}/{name(label, k)}"
            out[path] = label, picture(home / path, 100 * at + k, kind)
    return out


# in-domain

CALTECH_COUNTS = {"BACKGROUND_Google": 33, "Faces": 4, "accordion": 1, "yin_yang": 31}


def write_caltech(root: Path) -> dict[str, Any]:
    home = root / "caltech101" / "101_ObjectCategories"
    out = class_tree(home, CALTECH_COUNTS, lambda label, k: f"image_{k + 1:04d}.jpg")
    (home / "BACKGROUND_Google" / "tmp").write_bytes(b"the official archive has this file")
    return out


EUROSAT_COUNTS = {"AnnualCrop": 5, "Forest": 11, "SeaLake": 2, "River": 1}


def write_eurosat(root: Path, folder: str = "eurosat/2750") -> dict[str, Any]:
    return class_tree(root / folder, EUROSAT_COUNTS, lambda label, k: f"{label}_{k + 1}.jpg")


RESISC_COUNTS = {"airplane": 10, "wetland": 3}


def write_resisc(root: Path) -> dict[str, Any]:
    return class_tree(root / "NWPU-RESISC45", RESISC_COUNTS, lambda label, k: f"{label}_{k + 1:03d}.jpg")


def write_rendered(root: Path) -> Written:
    home, out = root / "rendered-sst2", {}
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        found = class_tree(home / folder, {"negative": 2, "positive": 3}, lambda label, k: f"{k}.png", "PNG")
        out[split] = {f"{folder}/{path}": each for path, each in found.items()}
    return out


PCAM_SIZES = {"train": 7, "val": 3, "test": 4}


def write_pcam(root: Path, **options: Any) -> Written:
    import h5py

    home, out = root / "pcam", {}
    home.mkdir(parents=True)
    for at, (split, n) in enumerate(PCAM_SIZES.items()):
        part = "valid" if split == "val" else split
        rng = np.random.default_rng(at)
        images = rng.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 2
        with h5py.File(home / f"camelyonpatch_level_2_split_{part}_x.h5", "w") as file:
            file.create_dataset("x", data=images, **options)
        with h5py.File(home / f"camelyonpatch_level_2_split_{part}_y.h5", "w") as file:
            file.create_dataset("y", data=labels.reshape(n, 1, 1, 1))
        names = ("no tumor tissue", "tumor tissue")
        out[split] = {f"{split}/{k:06d}": (names[labels[k]], images[k]) for k in range(n)}
    return out


# DomainNet

DOMAINNET_CLASSES = {"aircraft_carrier": 0, "airplane": 1, "The_Eiffel_Tower": 309, "zigzag": 344}


def write_domainnet(root: Path, domains: tuple[str, ...] = ("real", "sketch")) -> Written:
    home, out = root / "domainnet", {}
    for d, domain in enumerate(domains):
        for p, (part, n) in enumerate((("train", 3), ("test", 2))):
            found, lines = {}, []
            for name, number in reversed(DOMAINNET_CLASSES.items()):
                for k in range(n):
                    path = f"{domain}/{name}/{domain}_{number + 1:03d}_{k + 10 * p:06d}.jpg"
                    found[path] = name, picture(home / path, 1000 * d + 100 * p + 10 * number + k)
                    lines.append(f"{path} {number}\n")
            (home / f"{domain}_{part}.txt").write_text("".join(lines))
            out[f"{domain}/{part}"] = found
    return out


# the ImageNet family

TENCH, GOLDFISH, GREAT_WHITE, TOILET_TISSUE = "n01440764", "n01443537", "n01484850", "n15075141"
"""Classes 0, 1, 2 and 999 of ImageNet-1K."""


def write_imagenet(root: Path, folder: str = "imagenet") -> Written:
    home = root / folder
    train = class_tree(home / "train", {TENCH: 3, TOILET_TISSUE: 2}, lambda label, k: f"{label}_{k}.JPEG")
    val = class_tree(home / "val", {TENCH: 1, GOLDFISH: 1}, lambda label, k: f"ILSVRC2012_val_{k + 1:08d}.JPEG")
    return {
        split: {f"{split}/{path}": each for path, each in found.items()}
        for split, found in (("train", train), ("val", val))
    }


def write_flat_val(home: Path) -> dict[str, np.ndarray]:
    """Three validation images in one folder."""
    names = [f"ILSVRC2012_val_{k:08d}.JPEG" for k in (1, 2, 3)]
    return {f"val/{name}": picture(home / "val" / name, k) for k, name in enumerate(names)}


def write_solution(path: Path, wnids: list[str]) -> None:
    lines = ["ImageId,PredictionString"]
    lines += [f"ILSVRC2012_val_{k:08d},{wnid} 1 2 30 40 " for k, wnid in enumerate(wnids, 1)]
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")


def write_kit(home: Path, ids: dict[float, str], truth: list[int]) -> None:
    """The development kit: a MATLAB structure array of synsets, a parent among them, and the ground truth."""
    import scipy.io

    kinds = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
        ("children", object),
    ]
    rows = [(number, wnid, "words", "gloss", 0.0, np.zeros((0, 0))) for number, wnid in ids.items()]
    rows.append((1001, "n00001740", "entity", "the top", 2.0, np.array([[1.0, 2.0]])))
    table = np.array(rows, dtype=kinds).reshape(-1, 1)
    (home / "data").mkdir(parents=True)
    scipy.io.savemat(home / "data" / "meta.mat", {"synsets": table})
    (home / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{each}\n" for each in truth))


def write_imagenet_v2(root: Path) -> Written:
    """Folders 2, 10 and 0, which sort as 0, 10, 2 by name."""
    out = {}
    wnids = {"0": TENCH, "2": GREAT_WHITE, "10": "n01530575"}
    for at, part in enumerate(("matched-frequency", "threshold0.7", "top-images")):
        home = root / "imagenetv2" / f"imagenetv2-{part}-format-val"
        found = class_tree(home, {"2": 1, "10": 1, "0": 2 + at}, lambda label, k: f"{k}f{label}.jpeg")
        out[part] = {path: (wnids[label], each) for path, (label, each) in found.items()}
    return out


def write_wnids(root: Path, folder: str, wnids: tuple[str, ...]) -> Written:
    found = class_tree(root / folder, dict.fromkeys(wnids, 2), lambda label, k: f"art_{k}.jpg")
    (root / folder / "README.txt").write_text("as the official archives have it\n")
    return {"test": found}


def write_objectnet(root: Path) -> Written:
    """A category that is one class, one that is three, and one that ImageNet has not."""
    home = root / "objectnet-1.0"
    found = class_tree(home / "images", {"banana": 2, "chair": 1, "squeegee": 1}, lambda label, k: f"{k}a.png", "PNG")
    folders = {"banana": "Banana", "chair": "Chair", "squeegee": "Squeegee"}
    mapped = {"Banana": "banana", "Chair": "barber chair; folding chair; rocking chair, rocker"}
    (home / "mappings").mkdir()
    (home / "mappings" / "folder_to_objectnet_label.json").write_text(json.dumps(folders))
    (home / "mappings" / "objectnet_to_imagenet_1k.json").write_text(json.dumps(mapped))
    wnids = {"banana": "n07753592", "chair": "n02791124"}
    return {"test": {f"images/{path}": (wnids[label], each) for path, (label, each) in found.items() if label in wnids}}


def write_vid(root: Path) -> Written:
    """Two anchors; the frames about them lie there too, and are no samples."""
    home, out = root / "imagenet-vid-robust", {}
    labels, sets = {}, {}
    for video, (classes, wnid) in enumerate((([26], "n01664065"), ([8, 9], "n02085620"))):
        frames = [f"val/ILSVRC2015_val_{video:08d}/{k:06d}.JPEG" for k in range(3)]
        each = {frame: picture(home / frame, 10 * video + k) for k, frame in enumerate(frames)}
        labels.update(dict.fromkeys(frames, classes))
        sets[frames[1]] = [frames[0], frames[2]]
        out[frames[1]] = wnid, each[frames[1]]
    for name, body in (
        ("metadata/pmsets.json", sets),
        ("metadata/labels.json", labels),
        ("misc/imagenet_vid_class_index.json", {"8": ["n02084071", "dog"], "26": ["n01662784", "turtle"]}),
        ("misc/wnid_map.json", {"n02085620": "n02084071", "n01664065": "n01662784"}),
    ):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(json.dumps(body))
    return {"test": out}
