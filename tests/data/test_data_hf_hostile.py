"""``hf:`` folders that are damaged, malicious or something else: refused by name, and never a crash."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hf_layouts import (
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
from nmtool.data.dataset import Dataset
from nmtool.errors import DataError, InputMissingError, NmtoolError

# Damage and malice


@pytest.fixture
def saved(tmp_path: Path, tools: Any) -> Path:
    names = [f"{name}/{k}.png" for name in ("cat", "dog") for k in range(3)]
    return save(tmp_path / "train", pictures(tools, *names), PICTURES, shards=2)


def everything(data: Dataset) -> None:
    for split, index in data.splits.items():
        assert index.digest
        for row in range(len(index)):
            data.image(split, row)


def test_truncated_arrow_files(saved: Path, nothing: Memo) -> None:
    path = saved / "data-00001-of-00002.arrow"
    body = path.read_bytes()
    for length in (*range(0, len(body), 97), len(body) - 8, len(body) - 1):
        path.write_bytes(body[:length])
        with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow is no sound Arrow file"):
            opened(saved, nothing)


def test_flipped_bytes_are_told_or_harmless(saved: Path, nothing: Memo) -> None:
    """No byte of an Arrow file makes a crash or a traceback."""
    path = saved / "data-00000-of-00002.arrow"
    body, rng = path.read_bytes(), random.Random(7)
    told = 0
    for place in [*range(0, 1200, 3), *(rng.randrange(len(body)) for _ in range(200))]:
        wrong = bytearray(body)
        wrong[place] ^= 1 << rng.randrange(8)
        path.write_bytes(wrong)
        try:
            everything(opened(saved, nothing))
        except NmtoolError:
            told += 1
    assert told > 20


@pytest.mark.parametrize("name", ["../x.arrow", "/etc/passwd", "sub/x.arrow", ".hidden", "", None, 3, "nul\0", "a\n"])
def test_names_in_state_that_lead_out(saved: Path, nothing: Memo, name: object) -> None:
    (saved.parent / "x.arrow").write_bytes((saved / "data-00000-of-00002.arrow").read_bytes())
    edit(saved / "state.json", _data_files=[{"filename": name}])
    with pytest.raises(DataError, match=r"state\.json names"):
        opened(saved, nothing)
    dataset_dict(saved.parent, name)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"dataset_dict\.json names"):
        opened(saved.parent, nothing)


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"a": 1}', '{"_data_files": 3}', "[" * 100_000, "\xff"])
def test_junk_for_json(saved: Path, nothing: Memo, body: str) -> None:
    (saved / "state.json").write_text(body, encoding="latin-1")
    with pytest.raises(DataError, match=r"state\.json"):
        opened(saved, nothing)


@pytest.mark.parametrize(
    "info", [{"features": 3}, {"features": {"label": {"_type": "ClassLabel"}}}, {"splits": 3}, {"splits": {"train": 1}}]
)
def test_junk_for_infos(saved: Path, nothing: Memo, info: dict[str, Any]) -> None:
    (saved / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"dataset_info\.json|class names"):
        opened(saved, nothing)


@pytest.mark.parametrize("names", [["cat", "cat"], ["cat", ""], ["cat", "n\0"], ["cat", 3], [], {"0": "cat"}])
def test_junk_for_class_names(saved: Path, nothing: Memo, names: Any) -> None:
    features = {**PICTURES, "label": {"_type": "ClassLabel", "names": names}}
    (saved / "dataset_info.json").write_text(json.dumps({"features": features}))
    with pytest.raises(DataError, match=r"twice|class name|NUL"):
        opened(saved, nothing)


def test_files_that_are_missing(saved: Path, nothing: Memo, tools: Any) -> None:
    (saved / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputMissingError, match=r"data-00001-of-00002\.arrow is not there"):
        opened(saved, nothing)
    dataset_dict(saved.parent, "train", "test")
    save(saved, pictures(tools, "cat/1.png"), PICTURES)
    with pytest.raises(InputMissingError, match=r"test/state\.json"):
        opened(saved.parent, nothing)


def test_an_empty_split(saved: Path, nothing: Memo, tools: Any) -> None:
    save(saved.parent / "test", pictures(tools, "cat/1.png"), PICTURES)
    empty = {name: column[:0] for name, column in pictures(tools, "cat/1.png").items()}
    save(saved.parent / "test", empty, PICTURES)
    with pytest.raises(DataError, match="split test is empty"):
        opened(dataset_dict(saved.parent, "train", "test"), nothing)


def test_splits_of_other_columns(saved: Path, nothing: Memo, tools: Any) -> None:
    other = {**PICTURES, "label": {"_type": "ClassLabel", "names": ["dog", "cat"]}}
    save(saved.parent / "test", pictures(tools, "cat/1.png"), other)
    dataset_dict(saved.parent, "train", "test")
    with pytest.raises(DataError, match=r"column 'label' is not the same in .*train.*test"):
        opened(saved.parent, nothing)
    save(saved.parent / "test", {"image": pictures(tools, "cat/1.png")["image"]}, {"image": PICTURES["image"]})
    with pytest.raises(DataError, match="different columns"):
        opened(saved.parent, nothing)


@pytest.mark.parametrize("kind", ["compressed", "dictionary", "file"])
def test_arrow_that_datasets_does_not_write(tmp_path: Path, nothing: Memo, kind: str) -> None:
    saved = save(tmp_path / "train", text("a", "b"), None)
    table = pa.table({"sentence": pa.array(["a", "b"]).dictionary_encode()} if kind == "dictionary" else text("a"))
    path = str(saved / "data-00000-of-00001.arrow")
    options = pa.ipc.IpcWriteOptions(compression="zstd") if kind == "compressed" else None
    with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(path, table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow"):
        opened(saved, nothing)


def test_a_file_that_changes_meanwhile_is_noticed(saved: Path, nothing: Memo, tools: Any) -> None:
    data = opened(saved, nothing)
    path = saved / "data-00000-of-00002.arrow"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match="changed after it was indexed"):
        everything(data)


def test_a_remembered_digest_and_what_makes_it_forgotten(
    saved: Path, memo: Memo, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.age(saved)
    first = opened(saved, memo).splits["train"].digest
    read, real = [], os.pread
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda fd, n, at: read.append(n) or real(fd, n, at))
        assert opened(saved, memo).splits["train"].digest == first
    assert 0 < max(read) < len(image_bytes(tools, "cat/0.png")) * 3
    images = sum(len(image_bytes(tools, f"{name}/{k}.png")) for name in ("cat", "dog") for k in range(3))
    assert sum(read) - sum(n for n in read if n > 1000) < images
    other = pictures(tools, *(f"{name}/{k}.png" for name in ("cat", "dog") for k in range(3, 6)))
    save(saved, other, PICTURES, shards=2)
    assert opened(saved, memo).splits["train"].digest != first


# Folders that are something else


@pytest.mark.parametrize(
    ("name", "said"),
    [("a/1.png", "write folder:"), ("a.csv", "write table:"), ("000.tar", "write wds:"), ("x.txt", "check the path")],
)
def test_other_folders(tmp_path: Path, nothing: Memo, name: str, said: str) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=said):
        opened(tmp_path / "data", nothing)
    with pytest.raises(InputMissingError, match="is a file"):
        opened(path, nothing)
    with pytest.raises(InputMissingError, match="no folder"):
        opened(tmp_path / "nothing", nothing)


def test_reading_a_folder_needs_no_package(saved: Path) -> None:
    code = (
        "import sys; from nmtool.artifact.memo import Memo; from nmtool.data.sources import open_dataset;"
        f"d = open_dataset('hf:{saved}', memo=Memo(None)); d.splits['train'].digest; d.image('train', 0);"
        "print({'datasets', 'torch', 'fsspec', 'huggingface_hub'} & {m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_from_the_command_line(saved: Path, ok: Callable[..., Any], nmtool: Callable[..., Any]) -> None:
    args = ("--type", "symmetric", "--ratio", "0.5", "--json")
    assert ok("inject-noise", f"hf:{saved}", *args).json["n"] == 6
    (saved / "state.json").write_text("{")
    ran = nmtool("inject-noise", f"hf:{saved}", *args)
    assert ran.code == 65
    assert "state.json is no JSON" in ran.err
    assert "Traceback" not in ran.err


def test_scattered_parquet_images_are_remarked_upon(
    tmp_path: Path, nothing: Memo, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups are read whole: in another order than the stored one that is many times the file."""
    from nmtool.data.hf import store

    monkeypatch.setattr(store, "HELD", 1000)
    names = [f"cat/{k:03d}.png" for k in range(40)]
    member = "data/train-00000-of-00001.parquet"
    ordered = repository(tmp_path / "ordered", {member: pictures(tools, *names)}, PICTURES, group=20)
    assert opened(ordered, nothing).remarks == ()
    mixed = [name for pair in zip(names[:20], names[20:], strict=True) for name in pair]
    other = repository(tmp_path / "other", {member: pictures(tools, *mixed)}, PICTURES, group=5)
    random.Random(0).shuffle(mixed)
    shuffled = repository(tmp_path / "shuffled", {member: pictures(tools, *mixed)}, PICTURES, group=10)
    assert "scattered" in opened(shuffled, nothing).remarks[0]
    assert opened(other, nothing).remarks == ()


_FLIP = """
import random, sys
from pathlib import Path
from nmtool.artifact.memo import Memo
from nmtool.data.sources import open_dataset
from nmtool.errors import NmtoolError
path = Path(sys.argv[1])
body, rng, told = path.read_bytes(), random.Random(11), 0
for _ in range(300):
    wrong = bytearray(body)
    for _ in range(rng.randrange(1, 4)):
        wrong[rng.randrange(len(body) // 2, len(body))] ^= 1 << rng.randrange(8)
    path.write_bytes(wrong)
    try:
        data = open_dataset(f"hf:{path.parent.parent}", memo=Memo(None))
        for split, index in data.splits.items():
            index.digest
            for row in range(min(len(index), 20)):
                data.image(split, row)
    except NmtoolError:
        told += 1
print(told)
"""


def test_flipped_bytes_of_parquet_files_end_no_process(tmp_path: Path, tools: Any) -> None:
    """In a process of its own: pyarrow ends it for some footers, if their statistics are looked at."""
    names = [f"cat/{k}.png" for k in range(20)]
    root = repository(tmp_path / "repo", {"data/train-00000-of-00001.parquet": pictures(tools, *names)}, PICTURES, 7)
    done = subprocess.run(
        [sys.executable, "-c", _FLIP, str(root / "data/train-00000-of-00001.parquet")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_parquet_images_are_read_once_for_a_digest_and_then_never(
    tmp_path: Path, memo: Memo, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nmtool.data.hf.parquet import ParquetShard

    member = "data/train-00000-of-00001.parquet"
    root = repository(tmp_path / "repo", {member: pictures(tools, "cat/1.png", "dog/2.png")}, PICTURES)
    tools.age(root)
    passes, real = [], ParquetShard.cells
    monkeypatch.setattr(ParquetShard, "cells", lambda self, leaf: passes.append(leaf) or real(self, leaf))
    first = opened(root, memo).splits["train"].digest
    assert passes == [("image", "bytes")]
    assert opened(root, memo).splits["train"].digest == first
    assert len(passes) == 1
