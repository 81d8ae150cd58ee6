"""Real data: PACS, CIFAR-10, Flickr8k and GLUE, as unpacked from the shared folder; references by other readers."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nmtool.artifact.memo import Memo
from nmtool.data.sources import open_dataset

Real = Callable[[str], Path]


def test_pacs(real_data: Real, nothing: Memo) -> None:
    root = real_data("pacs") / "pacs"
    data = open_dataset(f"folder:{root}", memo=nothing)
    assert list(data.splits) == [f"{d}/{s}" for d in ("art_painting", "cartoon", "photo") for s in ("test", "train")]
    assert data.classes == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    assert sum(len(split) for split in data.splits.values()) == len(list(root.rglob("*.jpg"))) == 3335
    train = data.splits["photo/train"]
    for row in range(0, len(train), 97):
        path = root / train.ids[row]
        assert path.parent.name == data.classes[train.labels.values[row]]
        with Image.open(path) as image:
            assert np.array_equal(data.image("photo/train", row), np.asarray(image.convert("RGB")))


def test_cifar10(real_data: Real, nothing: Memo) -> None:
    path = real_data("cifar10") / "cifar10.npz"
    data = open_dataset(f"arrays:{path}", memo=nothing)
    with np.load(path) as arrays:
        images, labels = arrays["X_test"], arrays["y_test"]
    assert {name: len(split) for name, split in data.splits.items()} == {"test": 2000, "train": 6000}
    assert data.classes[:2] == ("airplane", "automobile")
    assert np.array_equal(data.splits["test"].labels.values, labels)
    for row in (0, 1234, 1999):
        assert np.array_equal(data.image("test", row), images[row])


def test_flickr8k_captions(real_data: Real, nothing: Memo) -> None:
    root = real_data("flickr8k") / "flickr8k"
    data = open_dataset(f"table:{root}/captions.tsv?path=image&root=images", memo=nothing)
    with (root / "captions.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert data.kind == "captions"
    assert {name: len(split) for name, split in data.splits.items()} == {"test": 1000, "train": 8000, "val": 1000}
    wanted = {f"{row['image']}#{row['caption_no']}": row["caption"] for row in rows if row["split"] == "val"}
    ids = data.splits["val"].ids
    assert {sample: data.caption("val", row) for row, sample in enumerate(ids)} == wanted
    with Image.open(root / "images" / ids[0].split("#")[0]) as image:
        assert np.array_equal(data.image("val", 3), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("task", "columns", "classes"),
    [
        ("cola", "text=sentence", ("0", "1")),
        ("rte", "text=sentence1&text_b=sentence2", ("entailment", "not_entailment")),
        ("stsb", "text=sentence1&text_b=sentence2&label=score", ()),
    ],
)
def test_glue(real_data: Real, nothing: Memo, task: str, columns: str, classes: tuple[str, ...]) -> None:
    root = real_data("text") / "text" / task
    data = open_dataset(f"table:train={root}/train.tsv,dev={root}/dev.tsv?{columns}", memo=nothing)
    assert data.kind == "text"
    assert data.classes == classes
    for split in ("train", "dev"):
        lines = (root / f"{split}.tsv").read_bytes().rstrip(b"\n").split(b"\n")
        assert len(data.splits[split]) == len(lines) - 1
        fields = lines[-1].decode().split("\t")
        assert all(text in fields for text in data.text(split, len(lines) - 2))
    targets = data.targets("dev")  # type: ignore[attr-defined]
    assert (targets is None) == bool(classes)
    assert targets is None or 0 <= np.min(targets) < np.max(targets) <= 5


def test_a_manifest_of_real_photographs_has_the_folders_digest(real_data: Real, nothing: Memo, tmp_path: Path) -> None:
    root = real_data("pacs") / "pacs" / "photo"
    folder = open_dataset(f"folder:{root}", memo=nothing)
    local = tmp_path / "photo"
    rows = ["path\tlabel\tsplit"]
    for path in root.rglob("*.jpg"):
        name = path.relative_to(root).as_posix()
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(path.read_bytes())
        rows.append(f"{name}\t{path.parent.name}\t{name.split('/')[0]}")
    (local / "m.tsv").write_text("\n".join(rows))
    table = open_dataset(f"table:{local}/m.tsv", memo=nothing)
    assert {k: v.digest for k, v in table.splits.items()} == {k: v.digest for k, v in folder.splits.items()}


def test_the_definition_of_the_digest_on_real_images(real_data: Real, nothing: Memo) -> None:
    root = real_data("pacs") / "pacs" / "cartoon"
    split = open_dataset(f"folder:{root}", memo=nothing).splits["test"]
    names = ",".join(f'"{name}"' for name in split.labels.classes)
    sha = hashlib.sha256(f'{{"classes":[{names}],"images":1,"index":1,"kind":"images"}}\n'.encode())
    for path in sorted((p for p in (root / "test").rglob("*.jpg")), key=lambda p: p.relative_to(root).as_posix()):
        label = split.labels.classes.index(path.parent.name)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        sha.update(f"{path.relative_to(root).as_posix()}\0{content}\0{label}\n".encode())
    assert split.digest == "sha256:" + sha.hexdigest()


def test_labels_of_images_that_are_real_numbers_are_no_classes(real_data: Real, nothing: Memo, tmp_path: Path) -> None:
    image = next((real_data("pacs") / "pacs" / "photo").rglob("*.jpg"))
    (tmp_path / "a.jpg").write_bytes(image.read_bytes())
    (tmp_path / "t.csv").write_text("path,label\na.jpg,3.75\n")
    dataset = open_dataset(f"table:{tmp_path}/t.csv", memo=nothing)
    assert dataset.classes == ()
    targets = dataset.targets("train")
    assert targets is not None
    assert targets.tolist() == [3.75]
