"""``hf:`` folders in the official layouts, written with pyarrow alone: rows, roles, ids, layouts."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hf_layouts import (
    CLASSES,
    IMAGE,
    PICTURES,
    dataset_dict,
    edit,
    image_bytes,
    opened,
    pictures,
    repository,
    save,
    text,
)

from nmtool.artifact.memo import Memo
from nmtool.data.images import BrokenSample
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, InputMissingError, UsageError


@pytest.fixture
def twin(tmp_path: Path, tree: Callable[..., Path], tools: Any) -> Callable[..., tuple[Path, Path]]:
    """The same images as a folder, and as ``save_to_disk`` leaves them: in another order, by the file's name only."""

    def make(*names: str) -> tuple[Path, Path]:
        folder, root = tree(*names), tmp_path / "saved"
        splits = sorted({name.split("/")[0] for name in names})
        for split in splits:
            mine = [name for name in names if name.startswith(f"{split}/")]
            random.Random(1).shuffle(mine)
            save(root / split, pictures(tools, *mine), PICTURES, shards=min(2, len(mine)))
        return folder, dataset_dict(root, *splits)

    return make


NAMES = [f"{split}/{name}/{k}.png" for split in ("test", "train") for name in ("cat", "dog") for k in (10, 2, 3, 1)]


def test_a_folder_and_what_was_saved_of_it_are_one(twin: Any, nothing: Memo) -> None:
    folder, saved = twin(*NAMES)
    one, other = open_dataset(f"folder:{folder}", memo=nothing), opened(saved, nothing)
    assert other.kind == "images"
    assert other.classes == one.classes == ("cat", "dog")
    assert list(other.splits) == ["test", "train"]
    assert other.remarks == ()
    for split, index in one.splits.items():
        mine = other.splits[split]
        assert list(mine.ids) == list(index.ids)
        assert mine.labels.values.tolist() == index.labels.values.tolist()
        assert (mine.listing, mine.digest) == (index.listing, index.digest)
        for row in range(len(index)):
            assert np.array_equal(other.image(split, row), one.image(split, row))


def test_one_split_has_no_split_in_its_ids_unless_asked(tree: Any, tmp_path: Path, nothing: Memo, tools: Any) -> None:
    names = ["cat/a.png", "dog/a.png", "dog/b.png"]
    flat = open_dataset(f"folder:{tree(*names)}", memo=nothing)
    deep = open_dataset(f"folder:{tree(*(f'train/{n}' for n in names), root='deep')}", memo=nothing)
    saved = save(tmp_path / "train", pictures(tools, *names), PICTURES)
    assert opened(saved, nothing).splits["train"].digest == flat.splits["train"].digest
    mine = opened(f"{saved}?prefix=train", nothing).splits["train"]
    assert list(mine.ids) == list(deep.splits["train"].ids) == [f"train/{name}" for name in names]


def test_threads_read_single_rows_and_not_whole_files(
    tmp_path: Path, nothing: Memo, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"cat/{k:04d}.png" for k in range(400)]
    saved = save(tmp_path / "train", pictures(tools, *names), PICTURES, shards=3, batch=100)
    data = opened(saved, nothing)
    read, real = [], os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: read.append(n) or real(fd, n, at))
    rows = random.Random(0).choices(range(400), k=800)
    with ThreadPoolExecutor(4) as pool:
        for row, image in zip(rows, pool.map(lambda row: data.image("train", row), rows), strict=True):
            assert np.array_equal(image, np.asarray(tools.picture(sum(map(ord, names[row])))))
    assert 0 < sum(read) < 800 * 2 * max(len(image_bytes(tools, name)) for name in names)


def test_ids_that_would_come_twice_are_paths_or_row_numbers(tmp_path: Path, nothing: Memo, tools: Any) -> None:
    columns = pictures(tools, "cat/1.png", "cat/1.png", "dog/1.png")
    data = opened(save(tmp_path / "train", columns, PICTURES), nothing)
    assert list(data.splits["train"].ids) == [f"train/{k:06d}" for k in range(3)]
    assert "'cat/1.png'" in data.remarks[0]
    cells = [{**cell, "path": f"/there/{k}/é/1.png"} for k, cell in enumerate(columns["image"].to_pylist())]
    again = save(tmp_path / "paths" / "train", {**columns, "image": pa.array(cells, IMAGE)}, PICTURES)
    assert list(opened(again, nothing).splits["train"].ids) == [f"{k}/é/1.png" for k in range(3)]


def test_without_labels_or_paths_ids_are_row_numbers(tmp_path: Path, nothing: Memo, tools: Any) -> None:
    columns = pictures(tools, "cat/1.png", "dog/2.png")
    bare = save(tmp_path / "bare" / "train", {"image": columns["image"]}, {"image": PICTURES["image"]})
    assert list(opened(bare, nothing).splits["train"].ids) == ["train/000000", "train/000001"]
    columns["label"] = pa.array([0, -1])
    half = opened(save(tmp_path / "half" / "train", columns, PICTURES), nothing).splits["train"]
    assert list(half.ids) == ["train/000000", "train/000001"]
    assert half.labels.values.tolist() == [0, -1]
    with pytest.raises(UsageError, match="row numbers"):
        opened(f"{bare}?prefix=train", nothing)


@pytest.mark.parametrize("values", [["b", "a", "é"], [10, 2, 30]])
def test_ids_of_a_column(tmp_path: Path, nothing: Memo, values: list[Any]) -> None:
    columns = {"sentence": ["x", "y", "z"], "label": pa.array([0, 1, 1]), "idx": values}
    data = opened(f"{save(tmp_path / 'train', columns, {'label': CLASSES})}?id=idx", nothing)
    assert list(data.splits["train"].ids) == sorted(map(str, values), key=str.encode)
    order = sorted(range(3), key=lambda k: str(values[k]).encode())
    assert [data.text("train", row) for row in range(3)] == [("xyz"[k],) for k in order]
    assert data.splits["train"].labels.values.tolist() == [[0, 1, 1][k] for k in order]


@pytest.mark.parametrize("values", [["a", "a", "b"], ["a", None, "b"], ["a", "nul\0", "b"], ["é", "é", "b"]])
def test_ids_that_can_be_none_are_refused(tmp_path: Path, nothing: Memo, values: list[Any]) -> None:
    saved = save(tmp_path / "train", {"text": ["x", "y", "z"], "idx": values}, None)
    with pytest.raises(DataError, match=r"twice|empty|NUL|same"):
        opened(f"{saved}?id=idx", nothing)


def test_names_of_files_with_nul_are_refused(tmp_path: Path, nothing: Memo, tools: Any) -> None:
    columns = pictures(tools, "cat/1.png")
    columns["image"] = pa.array([{"bytes": b"", "path": "nul\0.png"}], IMAGE)
    with pytest.raises(DataError, match="NUL"):
        opened(save(tmp_path / "train", columns, PICTURES), nothing)


def test_rows_picked_by_an_index_file(tmp_path: Path, nothing: Memo, tools: Any) -> None:
    """As versions before 1.12 saved what ``select`` and ``shuffle`` made."""
    names = ["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"]
    saved = save(tmp_path / "train", pictures(tools, *names), PICTURES)
    picked = pa.table({"indices": pa.array([3, 0], pa.uint64())})
    with pa.ipc.new_stream(str(saved / "indices.arrow"), picked.schema) as writer:
        writer.write_table(picked)
    edit(saved / "state.json", _indices_data_files=[{"filename": "indices.arrow"}])
    data = opened(saved, nothing)
    assert list(data.splits["train"].ids) == ["cat/0.png", "dog/3.png"]
    assert np.array_equal(data.image("train", 1), np.asarray(tools.picture(sum(map(ord, "dog/3.png")))))
    assert "4" in data.remarks[0]
    with pa.ipc.new_stream(str(saved / "indices.arrow"), picked.schema) as writer:
        writer.write_table(pa.table({"indices": pa.array([3, 4], pa.uint64())}))
    with pytest.raises(DataError, match="picked"):
        opened(saved, nothing)


def test_a_column_may_name_split_and_domain(tmp_path: Path, nothing: Memo, tools: Any) -> None:
    names = ["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"]
    columns = {**pictures(tools, *names), "where": ["photo", "art", "photo", "art"], "fold": ["a", "b", "a", "a"]}
    saved = save(tmp_path / "train", columns, PICTURES)
    data = opened(f"{saved}?domain=where", nothing)
    assert {split: list(index.ids) for split, index in data.splits.items()} == {
        "art/train": ["art/train/cat/1.png", "art/train/dog/3.png"],
        "photo/train": ["photo/train/cat/0.png", "photo/train/dog/2.png"],
    }
    folds = opened(f"{saved}?split=fold", nothing)
    assert {split: len(index) for split, index in folds.splits.items()} == {"a": 3, "b": 1}
    assert np.array_equal(folds.image("b", 0), np.asarray(tools.picture(sum(map(ord, "cat/1.png")))))
    with pytest.raises(DataError, match="a split named"):
        opened(f"{save(tmp_path / 'odd' / 'train', {**columns, 'fold': ['../x'] * 4}, PICTURES)}?split=fold", nothing)


PAIRS = [
    (("sentence",), ()),
    (("sentence1", "sentence2"), ("idx",)),
    (("premise", "hypothesis"), ("text",)),
    (("question", "sentence"), ()),
    (("question1", "question2"), ()),
    (("text",), ("title",)),
    (("headline",), ()),
    (("left", "right"), ()),
]


@pytest.mark.parametrize(("wanted", "others"), PAIRS)
def test_texts_are_found_by_the_names_of_their_columns(
    tmp_path: Path, nothing: Memo, wanted: tuple[str, ...], others: tuple[str, ...]
) -> None:
    columns = {name: [f"{name} {k}" for k in range(3)] for name in (*others, *wanted)}
    data = opened(save(tmp_path / "train", {**columns, "label": pa.array([1, -1, 0])}, {"label": CLASSES}), nothing)
    assert data.kind == "text"
    assert data.text("train", 1) == tuple(f"{name} 1" for name in wanted)
    assert data.splits["train"].labels.values.tolist() == [1, -1, 0]


def test_texts_have_the_digest_of_a_table_of_them(tmp_path: Path, nothing: Memo) -> None:
    for name, cells in {"real": [0.5, 2.25, 4.0], "whole": [0, 2, 1], "names": ["yes", "no", "yes"]}.items():
        columns = {"sentence1": ["a", "b", "é"], "sentence2": ["d", "", "f"], "label": pa.array(cells)}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        saved = opened(save(tmp_path / name / "train", columns, None, shards=2), nothing)
        uri = f"table:{tmp_path / name}.parquet?text=sentence1&text_b=sentence2"
        table = open_dataset(uri, memo=nothing)
        assert saved.classes == table.classes
        assert saved.splits["train"].digest == table.splits["train"].digest
        both = saved.targets("train"), table.targets("train")
        assert both == (None, None) if name != "real" else np.array_equal(*both)


def test_columns_are_mapped(tmp_path: Path, nothing: Memo, tools: Any) -> None:
    columns = pictures(tools, "cat/1.png", "dog/2.png")
    both = {"image": columns["image"], "mask": columns["image"], "fine": columns["label"], "coarse": pa.array([0, 0])}
    features = {**dict.fromkeys(("image", "mask"), PICTURES["image"]), **dict.fromkeys(("fine", "coarse"), CLASSES)}
    saved = save(tmp_path / "train", both, features)
    with pytest.raises(DataError, match=r"'image', 'mask'.*\?image=image"):
        opened(saved, nothing)
    with pytest.raises(DataError, match=r"'fine', 'coarse'.*\?label=fine"):
        opened(f"{saved}?image=mask", nothing)
    data = opened(f"{saved}?image=mask&label=fine", nothing)
    assert data.splits["train"].labels.values.tolist() == [0, 1]
    for query, said in {"image=x": "no column 'x'", "label=image&image=mask": "can't be the label"}.items():
        with pytest.raises(DataError, match=said):
            opened(f"{saved}?{query}", nothing)
    for query, said in {"lable=fine": "did you mean label", "label": "each setting once", "a=b": "no setting"}.items():
        with pytest.raises(UsageError, match=said):
            opened(f"{saved}?{query}", nothing)


def test_captions(tmp_path: Path, nothing: Memo, tools: Any) -> None:
    columns = {"image": pictures(tools, "cat/1.png", "dog/2.png")["image"], "caption": ["a cat", "a dog"]}
    data = opened(save(tmp_path / "train", columns, None), nothing)
    assert data.kind == "captions"
    assert [data.caption("train", row) for row in (0, 1)] == ["a cat", "a dog"]
    pq.write_table(pa.table({**columns, "path": ["train/000000", "train/000001"]}), tmp_path / "t.parquet")
    table = open_dataset(f"table:{tmp_path / 't.parquet'}?image=image", memo=nothing)
    assert data.splits["train"].digest == table.splits["train"].digest
    several = save(tmp_path / "several" / "train", {**columns, "caption": [["a", "b"], ["c"]]}, None)
    with pytest.raises(DataError, match="keep one text a row"):
        opened(several, nothing)


def test_columns_that_say_nothing_are_listed(tmp_path: Path, nothing: Memo) -> None:
    saved = save(tmp_path / "train", {"a": ["x"], "b": ["y"], "c": ["z"], "n": [1]}, None)
    with pytest.raises(DataError, match=r"'a' \(text\), .*'n' \(number\).*hf:…\?text=COLUMN"):
        opened(saved, nothing)
    assert opened(f"{saved}?text=b", nothing).text("train", 0) == ("y",)


@pytest.mark.parametrize("bad", [2, -2, 2**40])
def test_labels_out_of_range_are_refused(tmp_path: Path, nothing: Memo, tools: Any, bad: int) -> None:
    columns = {**pictures(tools, "cat/1.png", "dog/2.png"), "label": pa.array([0, bad])}
    with pytest.raises(DataError, match=rf"column 'label' of split train.*row 1: {bad}"):
        opened(save(tmp_path / "train", columns, PICTURES), nothing)


def test_real_numbers_of_images_have_the_digest_of_a_table_of_them(tmp_path: Path, nothing: Memo, tools: Any) -> None:
    """Such images have no class for an id to begin with: they are numbered, or named by a column."""
    names, scores = ("cat/1.png", "dog/2.png", "cat/3.png"), [0.5, None, -2.0]
    columns = {**pictures(tools, *names), "label": pa.array(scores, pa.float64()), "key": ["c", "a", "b"]}
    saved = opened(save(tmp_path / "saved" / "train", columns, None, shards=2), nothing)
    assert (saved.kind, saved.classes, saved.remarks) == ("images", (), ())
    assert list(saved.splits["train"].ids) == ["train/000000", "train/000001", "train/000002"]
    assert saved.splits["train"].labels.values.tolist() == [-1, -1, -1]
    np.testing.assert_array_equal(saved.targets("train"), [0.5, np.nan, -2.0])
    files = [image_bytes(tools, name) for name in names]
    pq.write_table(pa.table({"image": files, "label": scores}), tmp_path / "t.parquet")
    table = open_dataset(f"table:{tmp_path}/t.parquet", memo=nothing)
    assert saved.splits["train"].digest == table.splits["train"].digest
    keyed = opened(f"{tmp_path}/saved/train?id=key", nothing)
    np.testing.assert_array_equal(keyed.targets("train"), [np.nan, -2.0, 0.5])
    assert np.array_equal(keyed.image("train", 2), saved.image("train", 0))
    changed = save(tmp_path / "changed" / "train", {**columns, "label": pa.array([0.25, None, -2.0])}, None)
    assert opened(changed, nothing).splits["train"].digest != saved.splits["train"].digest
    whole = repository(tmp_path / "hub", {"data/train-0.parquet": {**columns, "label": pa.array([1.0, None, 0.0])}})
    (remark,) = opened(whole, nothing).remarks
    assert "column 'label' are floating and all whole numbers" in remark


def test_withheld_scores_are_remarked_upon(tmp_path: Path, nothing: Memo) -> None:
    for split, scores in {"train": [0.5, 3.0], "test": [-1.0, -1.0]}.items():
        save(tmp_path / split, {"text": ["x", "y"], "label": pa.array(scores)}, None)
    data = opened(dataset_dict(tmp_path, "train", "test"), nothing)
    assert [remark for remark in data.remarks if "split test" in remark]
    assert len(data.remarks) == 1


# Images that are named and not held


@pytest.mark.parametrize("absolute", [False, True])
def test_images_by_path_inside_the_folder(tmp_path: Path, memo: Memo, tools: Any, tree: Any, absolute: bool) -> None:
    names = ["cat/1.png", "dog/2.png"]
    folder = tree(*names)
    cells = [{"bytes": None, "path": str(folder / name) if absolute else name} for name in names]
    save(folder, {"image": pa.array(cells, IMAGE), "label": pa.array([0, 1])}, PICTURES)
    edit(folder / "state.json", _split="train")
    data = opened(folder, memo)
    plain = open_dataset(f"folder:{tree(*names, root='plain')}", memo=memo)
    assert data.splits["train"].digest == plain.splits["train"].digest
    assert np.array_equal(data.image("train", 1), np.asarray(tools.picture(sum(map(ord, "dog/2.png")))))
    tools.age(folder)
    before = opened(folder, memo).splits["train"].digest
    (folder / "dog/2.png").write_bytes(image_bytes(tools, "other"))
    assert opened(folder, memo).splits["train"].digest != before
    (folder / "dog/2.png").unlink()
    for ask in (lambda d: d.splits["train"].digest, lambda d: d.image("train", 0)):
        with pytest.raises(InputMissingError, match=r"1 image files.*dog/2\.png"):
            ask(opened(folder, memo))


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.png", "x/../../secret.png", "link.png", "http://a/b.png"])
def test_image_paths_that_lead_out_are_refused(tmp_path: Path, nothing: Memo, tools: Any, path: str) -> None:
    (tmp_path / "secret.png").write_bytes(image_bytes(tools, "secret"))
    cells = pa.array([{"bytes": None, "path": path}], IMAGE)
    saved = save(tmp_path / "train", {"image": cells, "label": pa.array([0])}, PICTURES)
    (saved / "link.png").symlink_to(tmp_path / "secret.png")
    for ask in (lambda d: d.splits["train"].digest, lambda d: d.image("train", 0)):
        with pytest.raises(DataError, match="the image path"):
            ask(opened(saved, nothing))


def test_a_cell_without_an_image_is_a_broken_sample(tmp_path: Path, nothing: Memo, tools: Any) -> None:
    cells = [{"bytes": image_bytes(tools, "1"), "path": None}, None, {"bytes": b"", "path": None}, {"bytes": b"junk"}]
    columns = {"image": pa.array(cells, IMAGE), "label": pa.array([0, 1, 0, 1])}
    for data in (
        opened(save(tmp_path / "train", columns, PICTURES, batch=3), nothing),
        opened(repository(tmp_path / "repo", {"data/train-00000-of-00001.parquet": columns}), nothing),
    ):
        assert data.image("train", 0).shape == (9, 12, 3)
        for row in (1, 2, 3):
            with pytest.raises(BrokenSample, match=f"train/00000{row}"):
                data.image("train", row)
        assert data.splits["train"].digest.startswith("sha256:")


# Repositories of the hub


LAYOUTS = {
    "data": ("", ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]),
    "hashed": ("", ["data/train-00000-of-00002-ab12.parquet", "data/train-00001-of-00002-cd34.parquet"]),
    "flat": ("", ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]),
    "folder": ("", ["train/0000.parquet", "train/0001.parquet"]),
    "any": ("", ["a.parquet", "b.parquet"]),
    "config": ("?config=cola", ["cola/train-00000-of-00002.parquet", "cola/train-00001-of-00002.parquet"]),
    "converted": ("?config=cola", ["cola/train/0000.parquet", "cola/train/0001.parquet"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_repositories(tmp_path: Path, nothing: Memo, layout: str) -> None:
    query, (first, second) = LAYOUTS[layout]
    root = repository(tmp_path / "repo", {second: text("c"), first: text("a", "b")}, {"label": CLASSES})
    if query:
        repository(root, {"other/train-00000-of-00001.parquet": text("x")})
    data = opened(f"{root}{query}", nothing)
    assert data.classes == ("cat", "dog")
    assert [data.text("train", row) for row in range(3)] == [("a",), ("b",), ("c",)]
    if query:
        with pytest.raises(UsageError, match=r"several configurations: cola, other.*\?config=cola"):
            opened(root, nothing)
        with pytest.raises(UsageError, match="no configuration 'mrpc'"):
            opened(f"{root}?config=mrpc", nothing)


README = """---
license: mit
configs:
- config_name: cola
  data_files:
  - split: train
    path: files/c-*
  - split: test
    path: [files/t.parquet]
  default: true
- config_name: odd
  data_files: "**/o*.parquet"
dataset_info:
- config_name: cola
  features:
  - name: sentence
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': unacceptable
          '1': acceptable
  splits:
  - name: train
    num_examples: 3
---
# cola
"""


def test_a_readme_says_what_is_what(tmp_path: Path, nothing: Memo) -> None:
    members = {"files/c-0.parquet": text("a", "b"), "files/c-1.parquet": text("c"), "files/t.parquet": text("d")}
    root = repository(tmp_path / "repo", {**members, "files/deep/o1.parquet": text("o")})
    (root / "README.md").write_text(README)
    data = opened(root, nothing)
    assert {split: len(index) for split, index in data.splits.items()} == {"test": 1, "train": 3}
    assert data.classes == ("unacceptable", "acceptable")
    assert [data.text("train", row) for row in range(3)] == [("a",), ("b",), ("c",)]
    assert opened(f"{root}?config=odd", nothing).text("train", 0) == ("o",)
    for old, new, said in (
        ("num_examples: 3", "num_examples: 4", "3 rows, and its info counts 4"),
        ("files/c-*", "../c-*", "one inside the folder"),
        ("files/c-*", "/etc/*", "one inside the folder"),
        ("files/c-*", "files/*.csv", "no Parquet file is so called"),
        ("'1': acc", "'2': acc", "a name for each"),
        ("configs:", "configs: [", "YAML"),
    ):
        (root / "README.md").write_text(README.replace(old, new))
        with pytest.raises(DataError, match=said):
            opened(root, nothing)
    (root / "README.md").write_text(README)
    repository(root, {"files/c-0.parquet": text("a", "b")}, {"label": CLASSES})
    with pytest.raises(DataError, match="class names of 'label'"):
        opened(root, nothing)


def test_infos_beside_old_repositories(tmp_path: Path, nothing: Memo) -> None:
    root = repository(tmp_path / "repo", {"data/train-00000-of-00001.parquet": text("a", "b")})
    infos = {"default": {"features": {"label": CLASSES}, "splits": {"train": {"name": "train", "num_examples": 2}}}}
    (root / "dataset_infos.json").write_text(json.dumps(infos))
    assert opened(root, nothing).classes == ("cat", "dog")
    infos["default"]["splits"] = {"train": {"name": "train", "num_examples": 3}}
    (root / "dataset_infos.json").write_text(json.dumps(infos))
    with pytest.raises(DataError, match="split train of repo has 2 rows, and its info counts 3"):
        opened(root, nothing)


def test_snapshots_of_the_hub_are_links_into_its_blobs(tmp_path: Path, nothing: Memo) -> None:
    """As ``hf download`` leaves a dataset in the cache."""
    home = tmp_path / "datasets--user--name"
    blob = repository(home / "blobs", {"0a1b.parquet": text("a")}) / "0a1b.parquet"
    snapshot = home / "snapshots" / "c0ffee"
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "data" / "train-00000-of-00001.parquet").symlink_to(os.path.relpath(blob, snapshot / "data"))
    assert opened(snapshot, nothing).text("train", 0) == ("a",)
    outside = repository(tmp_path, {"secret.parquet": text("s")}) / "secret.parquet"
    (snapshot / "data" / "train-00000-of-00001.parquet").unlink()
    (snapshot / "data" / "train-00000-of-00001.parquet").symlink_to(outside)
    with pytest.raises(DataError, match="a link out of the folder"):
        opened(snapshot, nothing)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("train-00001-of-00003", "part 00001 of 00003 of split train"),
        ("train-00002-of-00003", "part 00002 of 00003 of split train"),
    ],
)
def test_a_part_of_a_repository_that_is_missing(tmp_path: Path, nothing: Memo, gone: str, said: str) -> None:
    root = repository(tmp_path / "repo", {f"data/train-{k:05d}-of-00003.parquet": text("a") for k in range(3)})
    (root / f"data/{gone}.parquet").unlink()
    with pytest.raises(InputMissingError, match=said):
        opened(root, nothing)


def test_parts_that_do_not_belong_together(tmp_path: Path, nothing: Memo) -> None:
    root = repository(tmp_path / "repo", {f"data/train-{k:05d}-of-00002.parquet": text("a") for k in range(2)})
    repository(root, {"data/train-00000-of-00001.parquet": text("x")})
    with pytest.raises(DataError, match="split train"):
        opened(root, nothing)
    (root / "data/train-00000-of-00001.parquet").rename(root / "data/strange.parquet")
    with pytest.raises(DataError, match=r"the split of data/strange\.parquet"):
        opened(root, nothing)


def test_parquet_and_arrow_images_are_the_same(tmp_path: Path, nothing: Memo, tools: Any) -> None:
    names = [f"{name}/{k}.png" for name in ("cat", "dog") for k in range(8)]
    random.Random(3).shuffle(names)
    columns = pictures(tools, *names)
    repo = opened(
        repository(tmp_path / "repo", {"data/train-00000-of-00001.parquet": columns}, PICTURES, group=3), nothing
    )
    saved = opened(save(tmp_path / "train", columns, PICTURES, shards=3), nothing)
    assert repo.splits["train"].digest == saved.splits["train"].digest
    rows = random.Random(4).choices(range(16), k=100)
    with ThreadPoolExecutor(4) as pool:
        for row, image in zip(rows, pool.map(lambda row: repo.image("train", row), rows), strict=True):
            assert np.array_equal(image, saved.image("train", row))
