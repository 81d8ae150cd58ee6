"""``suite:yfcc15m`` and ``suite:cc12m``: what img2dataset leaves behind, as shards or as files, is caption pairs."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from suite_checks import check_rows, opened, refused

# key → caption, by shard; a key that is not here was not downloaded
PAIRS = [
    {"000000000": "a dog, running", "000000002": "Ünïcode \u201cquoted\u201d"},
    {"000010000": "", "000010001": "two\nlines"},
    {"000020003": "last"},
]
SUITES = ("yfcc15m", "cc12m")


def jpeg(key: str) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(int(key)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def table_of(pairs: dict[str, str], path: Path) -> None:
    """The metadata beside a shard: a row an address, downloaded or not."""
    keys = [*pairs, "999999999"]
    body = {
        "url": [f"http://x/{key}" for key in keys],
        "key": keys,
        "caption": [pairs[key] or None for key in pairs] + ["gone"],
        "status": ["success"] * len(pairs) + ["failed_to_download"],
    }
    pa.parquet.write_table(pa.table(body), path)


def write_shards(root: Path, suite: str) -> Path:
    folder = root / suite
    folder.mkdir(parents=True)
    for number, pairs in enumerate(PAIRS):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as archive:
            for key, caption in pairs.items():
                about = json.dumps({"caption": caption, "key": key, "status": "success", "width": 8})
                for ending, data in ((".jpg", jpeg(key)), (".json", about.encode()), (".txt", caption.encode())):
                    member = tarfile.TarInfo(key + ending)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        table_of(pairs, folder / f"{number:05d}.parquet")
    return root


def write_files(root: Path, suite: str) -> Path:
    folder = root / suite
    for number, pairs in enumerate(PAIRS):
        (folder / f"{number:05d}").mkdir(parents=True)
        for key, caption in pairs.items():
            (folder / f"{number:05d}" / f"{key}.jpg").write_bytes(jpeg(key))
            (folder / f"{number:05d}" / f"{key}.txt").write_text(caption)
        table_of(pairs, folder / f"{number:05d}.parquet")
    return root


def captions_of(dataset: Any) -> list[str]:
    return [dataset.caption("train", row) for row in range(len(dataset.splits["train"]))]


EXPECTED = [caption for pairs in PAIRS for caption in pairs.values()]


@pytest.mark.parametrize("suite", SUITES)
def test_shards_are_read_in_place(tmp_path: Path, suite: str) -> None:
    dataset = check_rows(f"suite:{suite}", write_shards(tmp_path, suite))
    assert (dataset.kind, set(dataset.splits), dataset.classes) == ("captions", {"train"}, ())
    assert captions_of(dataset) == EXPECTED
    assert dataset.image("train", 0).shape == (6, 8, 3)
    assert dataset.remarks == ()


@pytest.mark.parametrize("suite", SUITES)
def test_folders_of_files_are_read_by_their_metadata(tmp_path: Path, suite: str) -> None:
    dataset = check_rows(f"suite:{suite}", write_files(tmp_path, suite))
    assert (dataset.kind, set(dataset.splits), dataset.classes) == ("captions", {"train"}, ())
    assert captions_of(dataset) == EXPECTED
    ids = list(dataset.splits["train"].ids)
    assert ids == [f"{k:05d}/{key}.jpg" for k, pairs in enumerate(PAIRS) for key in pairs]
    shards = opened(f"suite:{suite}", write_shards(tmp_path / "b", suite))
    for row in range(len(ids)):
        assert np.array_equal(dataset.image("train", row), shards.image("train", row))


@pytest.mark.parametrize("names", [["000000", "000001"], ["00007"], ["cc12m-train-0003"]])
def test_shards_of_other_numbers_are_found(tmp_path: Path, names: list[str]) -> None:
    folder = write_shards(tmp_path, "cc12m") / "cc12m"
    for path, name in zip(sorted(folder.glob("*.tar")), names, strict=False):
        path.rename(folder / f"{name}.tar_")
    for path in [*folder.glob("*.tar"), *folder.glob("*.parquet")]:
        path.unlink()
    for path in folder.glob("*.tar_"):
        path.rename(path.with_suffix(".tar"))
    expected = [caption for pairs in PAIRS[: len(names)] for caption in pairs.values()]
    assert captions_of(opened("suite:cc12m", tmp_path)) == expected


def test_other_encodings_are_found(tmp_path: Path) -> None:
    folder = write_files(tmp_path, "cc12m") / "cc12m"
    for path in folder.glob("0000?/*.jpg"):
        path.rename(path.with_suffix(".png"))
    assert all(name.endswith(".png") for name in opened("suite:cc12m", tmp_path).splits["train"].ids)


HOSTILE: dict[str, tuple[str, Callable[[Path], object], int, tuple[str, ...]]] = {
    "a shard between is gone": (
        "tar",
        lambda r: [(r / f"00001.{e}").unlink() for e in ("tar", "parquet")],
        66,
        ("00001",),
    ),
    "the last shard is gone": (
        "tar",
        lambda r: (r / "00002.tar").unlink(),
        66,
        ("00002.tar is not there", "00000.tar"),
    ),
    "a shard was cut": ("tar", lambda r: _cut(r / "00001.tar"), 65, ("00001.tar",)),
    "a shard climbs": ("tar", lambda r: _add(r / "00002.tar", "../evil.jpg", jpeg("7")), 65, ("00002.tar", "evil")),
    "a shard of texts": ("tar", lambda r: _only_texts(r), 65, ("hold text",)),
    "the metadata has no keys": (
        "files",
        lambda r: _table(r, {"url": ["x"], "caption": ["y"]}),
        65,
        ("'key'", "00001"),
    ),
    "a key that climbs": (
        "files",
        lambda r: _table(r, {"key": ["../0"], "caption": ["y"], "status": ["success"]}),
        65,
        ("00001.parquet, row 0", "../0"),
    ),
    "a caption that is a number": (
        "files",
        lambda r: _table(r, {"key": ["000010000"], "caption": [3], "status": ["success"]}),
        65,
        ("00001.parquet, row 0", "text"),
    ),
    "an image is gone": ("files", lambda r: (r / "00001/000010001.jpg").unlink(), 66, ("00001/000010001.jpg",)),
    "the metadata was cut": ("files", lambda r: _cut(r / "00001.parquet"), 65, ("00001.parquet",)),
    "a folder is gone": ("files", lambda r: (r / "00001").rename(r / "away"), 66, ("the folder 00001",)),
    "the first metadata is gone": ("files", lambda r: (r / "00000.parquet").unlink(), 66, ("00000.parquet",)),
    "the last metadata is gone": ("files", lambda r: (r / "00002.parquet").unlink(), 66, ("00002.parquet",)),
    "the last folder is gone": ("files", lambda r: (r / "00002").rename(r / "away"), 66, ("the folder 00002",)),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _table(root: Path, body: dict[str, list[Any]]) -> None:
    pa.parquet.write_table(pa.table(body), root / "00001.parquet")


def _add(path: Path, name: str, data: bytes) -> None:
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def _only_texts(root: Path) -> None:
    for path in root.glob("*.tar"):
        path.unlink()
        _add(path, f"{path.stem}.txt", b"a text")


@pytest.mark.parametrize("case", HOSTILE)
def test_wrong_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    form, spoil, code, words = HOSTILE[case]
    root = (write_shards if form == "tar" else write_files)(tmp_path, "cc12m")
    spoil(root / "cc12m")
    refused("suite:cc12m", root, code, *words)


@pytest.mark.parametrize(("suite", "listed"), [("cc12m", "cc12m.tsv"), ("yfcc15m", "yfcc100m_subset_data.tsv")])
def test_a_list_alone_has_no_images(tmp_path: Path, suite: str, listed: str) -> None:
    (tmp_path / suite).mkdir()
    (tmp_path / suite / listed).write_text("http://x/1\ta dog\n")
    refused(f"suite:{suite}", tmp_path, 66, listed, "img2dataset", "00000.tar")


def test_captions_are_swapped_on_the_command_line(nmtool: Callable, tmp_path: Path) -> None:
    write_shards(tmp_path, "yfcc15m")
    swap = ("inject-noise", "suite:yfcc15m", "--type", "captions", "--ratio", "0.4", "--data-root", tmp_path)
    ran = nmtool(*swap, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["n"], ran.json["flipped"]) == (5, 2)
    (tmp_path / "yfcc15m" / "00002.tar").unlink()
    ran = nmtool(*swap)
    assert (ran.code, ran.out) == (66, "")
    assert "00002.tar is not there" in ran.err
    assert "00001.tar" in ran.err
