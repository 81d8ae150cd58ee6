"""``wds:``: shards by name, samples by key, labels, splits and class names; what can't be told apart is refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmtool.artifact.memo import Memo
from nmtool.data import tars
from nmtool.data.dataset import Dataset
from nmtool.data.images import BrokenSample
from nmtool.data.sources import open_dataset
from nmtool.data.wds.braces import expand
from nmtool.errors import DataError, InputMissingError, StorageError, UsageError

Write = Callable[..., Path]


@pytest.fixture
def shard(tmp_path: Path, tools: Any) -> Write:
    """``shard("a.tar", {"cat/1.jpg": None, "cat/1.cls": "3"})``: None stands for a picture of the name's own."""

    def make(name: str, members: dict[str, str | bytes | None]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for member, content in members.items():
                body = tools.encoded(tools.picture(sum(map(ord, member)))) if content is None else content
                body = body.encode() if isinstance(body, str) else body
                info = tarfile.TarInfo(member)
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
        return path

    return make


def opened(where: object, memo: Memo | None = None) -> Dataset:
    return open_dataset(f"wds:{where}", memo=memo or Memo(None))


def rows(data: Dataset, split: str = "train") -> dict[str, str | None]:
    """Class name by sample id."""
    index = data.splits[split]
    return {
        sample: data.classes[label] if label >= 0 else None
        for sample, label in zip(index.ids, index.labels.values.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a", ["a"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{000..4..2}", ["000", "002", "004"]),
        ("{2..0}", ["2", "1", "0"]),
        ("x{a,b}y{1..2}", ["xay1", "xay2", "xby1", "xby2"]),
        ("{a,b{1..2},}", ["a", "b1", "b2", ""]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand(pattern) == names


@pytest.mark.parametrize(
    "pattern", ["{", "a}", "{1..", "{x}", "{}", "{a..c}", "{1..3..0}", "{0..999999}", "{0..9999}{0..99}", "{a," * 40]
)
def test_braces_that_say_nothing(pattern: str) -> None:
    with pytest.raises(UsageError):
        expand(pattern)


def test_shards_by_range_glob_folder_and_list(shard: Write, tmp_path: Path) -> None:
    for k in range(3):
        shard(f"d/{k:03d}.tar", {f"{k}.jpg": None, f"{k}.cls": str(k)})
    (tmp_path / "d" / ".hidden.tar").touch()
    for where in ("{000..002}.tar", "{000,001,002}.tar", "*.tar", "", "00{0..1}.tar::" + str(tmp_path / "d/002.tar")):
        data = opened(f"{tmp_path}/d/{where}")
        assert rows(data) == {"0.jpg": "0", "1.jpg": "1", "2.jpg": "2"}
    assert list(opened(f"{tmp_path}/d/001.tar").splits["train"].ids) == ["1.jpg"]


def test_missing_shards_are_counted_and_named(shard: Write, tmp_path: Path) -> None:
    shard("003.tar", {"a.jpg": None})
    with pytest.raises(InputMissingError, match=r"9 of 10 shards are not there: .*000\.tar.*005\.tar' …") as caught:
        opened(f"{tmp_path}/{{000..009}}.tar")
    assert "006.tar" not in str(caught.value)
    assert caught.value.exit_code == 66
    for where in ("nothing.tar", "*.tgz", "none"):
        with pytest.raises(InputMissingError):
            opened(f"{tmp_path}/{where}")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputMissingError, match=r"no \*\.tar"):
        opened(tmp_path / "bare")


def test_splits_by_uri_by_name_by_option_by_ids(shard: Write, tmp_path: Path) -> None:
    a = shard("train-0.tar", {"a.jpg": None, "a.cls": "0"})
    b = shard("val_0.tar", {"a.jpg": None, "a.cls": "1"})
    assert list(opened(f"{tmp_path}/{{train-,val_}}0.tar").splits) == ["train", "val"]
    data = opened(f"one={a},two/x={b}")
    assert list(data.splits) == ["one", "two/x"]
    assert data.classes == ("0", "1")
    assert list(opened(f"{a}?split=other").splits) == ["other"]
    c = shard("c.tar", {"test/cat/a.jpg": None, "train/cat/b.jpg": None})
    assert list(opened(c).splits) == ["test", "train"]
    d = shard("test-1.tar", {"photo/test/cat/a.jpg": None})
    assert list(opened(d).splits) == ["photo/test"]
    e = shard("test-2.tar", {"train/cat/a.jpg": None})
    with pytest.raises(DataError, match=r"'train/cat/a.jpg' in the shard test-2\.tar"):
        opened(e)
    assert list(opened(f"test={e}").splits) == ["test"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?lable=cls", "did you mean label"),
        ("?label", "each option once"),
        ("?label=cls&label=x", "each option once"),
        ("?as=folders", "as=folder"),
        ("?as=folder&label=cls", "one of the two"),
        ("?label=cls&caption=txt", "one of the two"),
        ("?split=a b", "a split named"),
    ],
)
def test_options_that_can_not_be_understood(shard: Write, query: str, said: str) -> None:
    path = shard("a.tar", {"a.jpg": None})
    with pytest.raises((UsageError, DataError), match=said):
        opened(f"{path}{query}")
    with pytest.raises(UsageError, match="names splits twice"):
        opened(f"train={path}?split=test")
    with pytest.raises(UsageError, match="no shards"):
        opened("")


def test_parts_in_any_order_and_what_is_left_out(shard: Write, tools: Any) -> None:
    path = shard(
        "a.tar",
        {
            "b.cls": "1",
            "a.jpg": None,
            "__index__.json": "{}",
            "__meta__/x.jpg": None,
            "._a.jpg": b"litter",
            "x/.hidden/a.jpg": None,
            "__MACOSX/a.jpg": None,
            "README": "none",
            "b.JPG": None,
            "b.depth": "7",
            "a.cls": "0\n",
            "lonely.cls": "1",
        },
    )
    data = opened(path)
    assert rows(data) == {"a.jpg": "0", "b.JPG": "1"}
    assert dict(data.left_out) == {"hidden": 5, "other": 3, "no image": 0}
    assert np.array_equal(data.image("train", 1), np.asarray(tools.picture(sum(map(ord, "b.JPG")))))


def test_one_key_in_two_shards(shard: Write, tmp_path: Path) -> None:
    shard("0.tar", {"x/k.jpg": None})
    shard("1.tar", {"x/k.png": None})
    with pytest.raises(DataError, match=r"'x/k\.jpg' of 0\.tar and 'x/k\.png' of 1\.tar have one key"):
        opened(f"{tmp_path}/{{0,1}}.tar")
    assert len(opened(f"train={tmp_path}/0.tar,test={tmp_path}/1.tar").splits) == 2
    assert len(opened(f"{tmp_path}/{{0,1}}.tar?as=folder").splits["train"]) == 2
    shard("2.tar", {"x/k.jpg": None})
    with pytest.raises(DataError, match=r"of 0\.tar and 'x/k\.jpg' of 2\.tar have one key"):
        opened(f"{tmp_path}/{{0,2}}.tar?as=folder")


def test_one_shard_twice(shard: Write, tmp_path: Path) -> None:
    path = shard("0.tar", {"a.jpg": None})
    os.link(path, tmp_path / "1.tar")
    with pytest.raises(DataError, match=r"1\.tar' is given twice"):
        opened(f"train={path},test={tmp_path}/1.tar")


def test_two_images_or_two_parts_in_a_sample(shard: Write) -> None:
    path = shard("a.tar", {"k.jpg": None, "k.seg.png": None})
    with pytest.raises(DataError, match=r"'k\.jpg' and 'k\.seg\.png' in a\.tar.*\?image=jpg or \?as=folder"):
        opened(path)
    assert list(opened(f"{path}?image=jpg").splits["train"].ids) == ["k.jpg"]
    assert list(opened(f"{path}?image=seg.png").splits["train"].ids) == ["k.seg.png"]
    with pytest.raises(DataError, match="has the image part 'webp'"):
        opened(f"{path}?image=webp")
    with pytest.raises(DataError, match=r"'k\.CLS' and 'k\.cls'"):
        opened(shard("b.tar", {"k.jpg": None, "k.cls": "1", "k.CLS": "2"}))


def test_labels_by_name_and_gaps_and_missing(shard: Write) -> None:
    data = opened(shard("a.tar", {"a.jpg": None, "a.cls": " dog\n", "b.jpg": None, "b.cls": "cat", "c.jpg": None}))
    assert data.classes == ("cat", "dog")
    assert rows(data) == {"a.jpg": "dog", "b.jpg": "cat", "c.jpg": None}
    data = opened(shard("b.tar", {"a.jpg": None, "a.cls": "3", "b.jpg": None, "b.cls": "1"}))
    assert data.classes == ("0", "1", "2", "3")
    assert data.splits["train"].labels.values.tolist() == [3, 1]


def test_labels_in_json(shard: Write) -> None:
    members = {"a.jpg": None, "a.json": '{"label": 1, "kind": "x"}', "b.jpg": None, "b.json": '{"kind": "y", "cls": 0}'}
    path = shard("a.tar", members)
    assert rows(opened(path)) == {"a.jpg": "1", "b.jpg": "0"}
    assert rows(opened(f"{path}?label=json:kind")) == {"a.jpg": "x", "b.jpg": "y"}
    with pytest.raises(DataError, match="has a label 'json:none'"):
        opened(f"{path}?label=json:none")


def test_a_label_part_of_another_name(shard: Write) -> None:
    path = shard("a.tar", {"a.jpg": None, "a.target.txt": "5", "a.cls": "0"})
    assert opened(f"{path}?label=target.txt").splits["train"].labels.values.tolist() == [5]


@pytest.mark.parametrize(
    ("part", "content", "said"),
    [
        ("cls", b"\xff", r"'bad\.cls' in a\.tar is no UTF-8"),
        ("cls", b"", r"'bad\.cls' in a\.tar is empty"),
        ("cls", b"x" * 5000, r"'bad\.cls' in a\.tar has 5000 bytes"),
        ("cls", b"cat", r"the label 'cat' of 'bad\.jpg' among class numbers"),
        ("cls", b"-2", r"out of range \('bad\.jpg': -2\)"),
        ("cls", b"99999999", r"out of range \('bad\.jpg': 99999999\)"),
        ("cls", b"9" * 30, "among class numbers"),
        ("json", b"{", r"'bad\.json' in a\.tar is no JSON"),
        ("json", b"[1]", r"'bad\.json' in a\.tar holds a JSON list"),
        ("json", b"[" * 100_000, r"'bad\.json' in a\.tar is no JSON"),
        ("json", b'{"label": [1]}', r"'label' in 'bad\.json' in a\.tar is \[1\]"),
        ("json", b'{"label": true}', "is True"),
        ("json", b'{"label": 1.5}', r"is 1\.5"),
        ("json", b'{"a": "' + b"x" * (1 << 20) + b'"}', "at most"),
        ("json", b'{"label": 1%s}' % (b"0" * 5000), "no JSON"),
    ],
)
def test_labels_that_can_not_be_read(shard: Write, part: str, content: bytes, said: str) -> None:
    path = shard("a.tar", {"a.jpg": None, "a.cls": "0", "bad.jpg": None, f"bad.{part}": content})
    with pytest.raises(DataError, match=said) as caught:
        opened(path)
    assert caught.value.exit_code == 65


def test_real_numbers_are_no_classes(shard: Write) -> None:
    with pytest.raises(DataError, match=r"real numbers \(such as 0\.5\)"):
        opened(shard("a.tar", {"a.jpg": None, "a.cls": "0.5", "b.jpg": None, "b.cls": "1.5"}))


def test_class_names_beside_the_shards_and_by_option(shard: Write, tmp_path: Path) -> None:
    path = shard("s/a.tar", {"x/a.jpg": None, "x/a.cls": "1", "y/b.jpg": None, "y/b.cls": "0"})
    assert opened(path).classes == ("y", "x")
    (tmp_path / "s" / "classes.txt").write_text("first\nsecond\nthird\n")
    assert opened(path).classes == ("first", "second", "third")
    for body in (["p", "q"], {"p": 0, "q": 1}, {"0": "p", "1": "q"}):
        (tmp_path / "names.json").write_text(json.dumps(body))
        data = opened(f"{path}?classes={tmp_path / 'names.json'}")
        assert rows(data) == {"x/a.jpg": "q", "y/b.jpg": "p"}
    for bad in ("[1]", "{", '{"p": 1}', '["p", "p"]', "[]"):
        (tmp_path / "names.json").write_text(bad)
        with pytest.raises(DataError, match=r"names\.json"):
            opened(f"{path}?classes={tmp_path / 'names.json'}")
    (tmp_path / "s" / "classes.txt").write_text("only\n")
    with pytest.raises(DataError, match=r"'x/a\.jpg': 1"):
        opened(path)
    with pytest.raises(InputMissingError):
        opened(f"{path}?classes={tmp_path / 'none.txt'}")


def test_class_names_above_the_split_folders(shard: Write, tmp_path: Path) -> None:
    """As CLIP_benchmark lays shards out."""
    for split in ("train", "test"):
        shard(f"{split}/0.tar", {"s0.webp": None, "s0.cls": "1", "s1.webp": None, "s1.cls": "0"})
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    data = opened(f"train={tmp_path}/train/{{0..0}}.tar,test={tmp_path}/test/0.tar")
    assert data.classes == ("cat", "dog")
    assert rows(data, "test") == {"s0.webp": "dog", "s1.webp": "cat"}


def test_shards_in_folders_of_splits(shard: Write, tmp_path: Path) -> None:
    """As CLIP_benchmark lays shards out: their names and keys don't say the split, only their folders do."""
    for split, label in (("train", "0"), ("test", "1")):
        shard(f"{split}/0.tar", {"s0.jpg": None, "s0.cls": label})
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    for where in (tmp_path, f"{tmp_path}/{{train,test}}/0.tar"):
        data = opened(where)
        assert {split: rows(data, split) for split in data.splits} == {
            "train": {"s0.jpg": "cat"},
            "test": {"s0.jpg": "dog"},
        }
    assert list(opened(tmp_path / "test" / "0.tar").splits) == ["test"]
    assert list(opened(f"val={tmp_path}/test").splits) == ["val"]
    shard("test/1.tar", {"val/s1.jpg": None, "val/s1.cls": "0"})  # the key says more than the folder
    assert rows(opened(f"{tmp_path}/test"), "val") == {"val/s1.jpg": "cat"}


def test_given_names_order_named_labels(shard: Write, tmp_path: Path) -> None:
    path = shard("a.tar", {"a.jpg": None, "a.cls": "cat", "b.jpg": None, "b.cls": "7"})
    (tmp_path / "n.txt").write_text("zebra\ncat\n7\n")
    data = opened(f"{path}?classes={tmp_path / 'n.txt'}")
    assert data.splits["train"].labels.values.tolist() == [1, 2]
    (tmp_path / "n.txt").write_text("zebra\n")
    with pytest.raises(DataError):
        opened(f"{path}?classes={tmp_path / 'n.txt'}")


def test_folders_that_are_no_classes_do_not_name_them(shard: Write) -> None:
    path = shard("a.tar", {"00/a.jpg": None, "00/a.cls": "1", "00/b.jpg": None, "00/b.cls": "0"})
    assert opened(path).classes == ("0", "1")
    path = shard("b.tar", {"q/r/s/t/a.jpg": None, "q/r/s/t/a.cls": "0", "c.jpg": None, "c.cls": "1"})
    assert rows(opened(path)) == {"c.jpg": "1", "q/r/s/t/a.jpg": "0"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a/1.png", "b/c/1.png"], "different depths"),
        (["1.png", "a/1.png"], "different depths"),
        (["a/b/c/d/1.png"], "4 folders deep"),
        (["train/1.png", "test/2.png"], "name splits, not classes"),
        (["train/photo/cat/1.png", "test/photo/cat/1.png"], "SPLIT/DOMAIN/CLASS"),
        (["my split!/cat/1.png"], "a split named 'my split!'"),
    ],
)
def test_folders_without_labels_that_would_be_guesses(shard: Write, names: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        opened(shard("a.tar", dict.fromkeys(names)))


def test_flat_images_without_labels(shard: Write) -> None:
    data = opened(shard("a.tar", {"1.jpg": None, "0.jpg": None}))
    assert (data.kind, data.classes, rows(data)) == ("images", (), {"0.jpg": None, "1.jpg": None})


PAIRS = {
    "000000001.jpg": None,
    "000000001.txt": "a dog\n",
    "000000001.json": '{"caption": "other", "url": "x", "width": 3}',
    "000000000.jpg": None,
    "000000000.txt": "une été",
    "000000000.json": "not read where there is a text",
}


def test_pairs_as_img2dataset_writes_them(shard: Write) -> None:
    path = shard("00000.tar", PAIRS)
    data = opened(path)
    assert data.kind == "captions"
    assert data.classes == ()
    assert list(data.splits["train"].ids) == ["000000000.jpg", "000000001.jpg"]
    assert [data.caption("train", row) for row in (0, 1)] == ["une été", "a dog"]
    assert data.image("train", 0).shape == (9, 12, 3)
    with pytest.raises(DataError, match="holds captions"):
        data.text("train", 0)


def test_pairs_have_the_digest_of_a_table_of_them(shard: Write, tmp_path: Path, tree: Any, tools: Any) -> None:
    root = tree("000000000.jpg", "000000001.jpg")
    (root / "t.tsv").write_text("path\tcaption\n000000001.jpg\ta dog\n000000000.jpg\tune été\n")
    table = open_dataset(f"table:{root / 't.tsv'}", memo=Memo(None)).splits["train"]
    shards = opened(shard("00000.tar", PAIRS)).splits["train"]
    assert list(table.ids) == list(shards.ids)
    assert table.digest == shards.digest


def test_captions_in_json(shard: Write) -> None:
    path = shard("a.tar", {"a.jpg": None, "a.json": '{"caption": "one", "alt": "two", "n": 3}'})
    assert opened(path).caption("train", 0) == "one"
    assert opened(f"{path}?caption=json:alt").caption("train", 0) == "two"
    with pytest.raises(DataError, match=r"'n' in the text of 'a\.jpg' in a\.tar is int"):
        opened(f"{path}?caption=json:n").caption("train", 0)


def test_captions_and_labels(shard: Write) -> None:
    path = shard("a.tar", {"a.jpg": None, "a.txt": "a cat", "a.cls": "0"})
    assert opened(path).kind == "images"
    assert opened(f"{path}?caption=txt").kind == "captions"
    path = shard("b.tar", {"x/a.jpg": None, "x/a.txt": "a cat", "x/b.jpg": None})
    with pytest.raises(DataError, match=r"1 of 2 images .* no caption .*'x/b\.jpg'"):
        opened(path)
    assert rows(opened(f"{path}?as=folder")) == {"x/a.jpg": "x", "x/b.jpg": "x"}


def test_captions_that_can_not_be_read(shard: Write) -> None:
    data = opened(shard("a.tar", {"a.jpg": None, "a.txt": b"\xff", "b.jpg": None, "b.txt": b"x" * ((1 << 20) + 1)}))
    with pytest.raises(DataError, match=r"'a\.jpg' in a\.tar is no UTF-8"):
        data.caption("train", 0)
    with pytest.raises(DataError, match=r"'b\.jpg' in a\.tar has 1048577 bytes"):
        data.caption("train", 1)


def test_texts(shard: Write) -> None:
    data = opened(shard("a.tar", {"train/1.txt": "good", "train/1.cls": "1", "test/0.txt": "bad", "test/0.cls": "0"}))
    assert data.kind == "text"
    assert list(data.splits) == ["test", "train"]
    assert list(data.splits["train"].ids) == ["train/1"]
    assert data.text("train", 0) == ("good",)
    with pytest.raises(DataError):
        data.image("train", 0)
    again = opened(shard("b.tar", {"train/1.txt": "good", "train/1.cls": "1", "test/0.txt": "bad", "test/0.cls": "0"}))
    assert again.splits["train"].digest == data.splits["train"].digest
    assert data.splits["train"].digest != opened(shard("c.tar", {"train/1.txt": "x"})).splits["train"].digest


def test_texts_without_the_label_asked_for(shard: Write) -> None:
    path = shard("a.tar", {"1.txt": "good"})
    assert opened(path).classes == ()
    with pytest.raises(DataError, match="has a label 'cls'"):
        opened(f"{path}?label=cls")


def test_texts_among_images_are_left_out_and_told(shard: Write) -> None:
    data = opened(shard("a.tar", {"x/a.jpg": None, "x/notes.txt": "no sample"}))
    assert list(data.splits["train"].ids) == ["x/a.jpg"]
    assert data.left_out["no image"] == 1
    assert "1 texts" in data.remarks[0]


def test_no_sample_at_all(shard: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no sample .*1 hidden, 1 other"):
        opened(shard("a.tar", {"readme": "x", ".DS_Store": "x"}))
    path = tmp_path / "empty.tar"
    path.write_bytes(bytes(10240))
    with pytest.raises(DataError, match="no sample"):
        opened(path)
    shard("full.tar", {"a.jpg": None})
    assert len(opened(f"{tmp_path}/{{empty,full}}.tar").splits["train"]) == 1


def test_a_broken_image_is_a_broken_sample(shard: Write) -> None:
    data = opened(shard("a.tar", {"a.jpg": b"no image", "b.jpg": None}))
    with pytest.raises(BrokenSample, match=r"a\.jpg"):
        data.image("train", 0)
    assert data.image("train", 1).shape == (9, 12, 3)


def test_a_shard_that_changes_is_noticed_at_the_next_read(shard: Write) -> None:
    path = shard("a.tar", {"a.jpg": None, "b.jpg": None})
    data = opened(path)
    data.image("train", 0)
    body = path.read_bytes()
    path.write_bytes(body)
    for read in (lambda: data.image("train", 1), lambda: data.splits["train"].digest):
        with pytest.raises(StorageError, match=r"a\.tar changed"):
            read()


def test_a_second_look_reads_no_archive(shard: Write, tmp_path: Path, tools: Any, memo: Memo) -> None:
    members = {f"c{k % 3}/{k}.jpg": None for k in range(9)} | {f"c{k % 3}/{k}.cls": str(k % 3) for k in range(9)}
    path = shard("d/a.tar", members)
    tools.age(path.parent)
    first = opened(path, memo)
    digest = first.splits["train"].digest
    reads: list[str] = []

    def refuse(*_: object) -> Any:
        reads.append("read")
        raise AssertionError("an archive was read")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tars, "index", refuse)
        patch.setattr(tars, "reading", refuse)
        again = opened(path, memo)
        assert again.splits["train"].digest == digest
    assert not reads
    assert rows(again) == rows(first)
    assert again.classes == first.classes == ("c0", "c1", "c2")
    assert dict(again.left_out) == dict(first.left_out)
    assert np.array_equal(again.image("train", 4), first.image("train", 4))
    (path.parent / "classes.txt").write_text("p\nq\nr\n")
    assert opened(path, memo).splits["train"].digest != digest
    (path.parent / "classes.txt").unlink()
    path.write_bytes(path.read_bytes())
    assert opened(path, memo).splits["train"].digest == digest


def test_what_is_remembered_is_of_the_same_parts(shard: Write, tools: Any, memo: Memo) -> None:
    members = {"x/k.jpg": None, "x/k.seg.png": None, "x/k.cls": "2", "x/k.alt": "1", "x/k.txt": "a", "x/k.long": "b"}
    path = shard("d/a.tar", members)
    tools.age(path.parent)
    for _ in range(2):
        data = opened(f"{path}?image=jpg", memo)
        assert (list(data.splits["train"].ids), data.splits["train"].labels.values.tolist()) == (["x/k.jpg"], [2])
        assert list(opened(f"{path}?image=seg.png", memo).splits["train"].ids) == ["x/k.seg.png"]
        assert opened(f"{path}?image=jpg&label=alt", memo).splits["train"].labels.values.tolist() == [1]
        assert opened(f"{path}?image=jpg&caption=txt", memo).caption("train", 0) == "a"
        assert opened(f"{path}?image=jpg&caption=long", memo).caption("train", 0) == "b"
        assert len(opened(f"{path}?as=folder", memo).splits["train"]) == 2
    path = shard("e/a.tar", {"x/k.jpg": None, "x/k.cls": "named"})
    tools.age(path.parent)
    for _ in range(2):
        assert opened(path, memo).classes == ("named",)
        assert opened(f"{path}?as=folder", memo).classes == ("x",)


def test_a_damaged_memory_is_no_memory(shard: Write, tmp_path: Path, tools: Any, memo: Memo) -> None:
    path = shard("d/a.tar", {"a.jpg": None, "a.cls": "0"})
    tools.age(path.parent)
    expected = opened(path, memo).splits["train"].digest
    for entry in [p for p in (tmp_path / "memo").rglob("*") if p.is_file()]:
        body = json.loads(entry.read_bytes())
        body["answer"] = {"ids": "a.jpg", "places": "AAAA", "json": "", "cells": [], "folders": "", "left_out": {}}
        entry.write_text(json.dumps(body))
    assert opened(path, memo).splits["train"].labels.classes == ("0",)
    assert opened(path, Memo(None)).splits["train"].digest == expected


def test_images_from_many_threads(shard: Write, tmp_path: Path, tools: Any) -> None:
    for k in range(20):
        shard(f"d/{k:02d}.tar", {f"{k:02d}.png": None})
    data, wrong = opened(tmp_path / "d"), []
    wanted = [np.asarray(tools.picture(sum(map(ord, f"{k:02d}.png")))) for k in range(20)]

    def work(step: int) -> None:
        for k in range(60):
            row = (k * step) % 20
            if not np.array_equal(data.image("train", row), wanted[row]):
                wrong.append(row)

    threads = [threading.Thread(target=work, args=(step,)) for step in (1, 3, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


NAMES = st.lists(
    st.tuples(
        st.sampled_from(["", "train/", "test/", "photo/train/", "art/test/", "x/", "y/z/"]),
        st.sampled_from(["cat/", "dog/", "été/", "train/", ".git/", ""]),
        st.sampled_from(["a.jpg", "b.png", "c.JPEG", "notes.md", ".hid.jpg", "d.2.gif"]),
    ).map("".join),
    min_size=1,
    max_size=8,
    unique=True,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, cut=st.integers(0, 8), seed=st.integers(0, 9))
def test_an_archived_folder_is_the_folder(
    tmp_path_factory: pytest.TempPathFactory, tools: Any, names: list[str], cut: int, seed: int
) -> None:
    """However it is cut into shards: same splits, ids, labels, classes and digests, or both refused."""
    base = tmp_path_factory.mktemp("pair")
    for name in names:
        path = base / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tools.encoded(tools.picture(seed, (2, 2))) + name.encode())
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    (base / "shards").mkdir()
    for k, part in enumerate((order[:cut], order[cut:])):
        with tarfile.open(base / "shards" / f"{k}.tar", "w") as archive:
            for at in part:
                archive.add(base / "folder" / names[at], names[at])
    results: list[Any] = []
    for uri in (f"folder:{base}/folder", f"wds:{base}/shards?as=folder"):
        try:
            data = open_dataset(uri, memo=Memo(None))
            index = {s: (list(i.ids), i.labels.values.tolist(), i.digest) for s, i in data.splits.items()}
            results.append((data.classes, index))
        except DataError:
            results.append(None)
    if results[0] is None and results[1] is not None:  # images in no folder: unlabelled in an archive
        assert all("/" not in sample for ids, _, _ in results[1][1].values() for sample in ids)
        return
    assert results[0] == results[1]
