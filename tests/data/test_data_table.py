"""``table:``: manifests in CSV, TSV and Parquet, and what they may not do."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.data.images import BrokenSample
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, InputMissingError, NmtoolError, UsageError

Tree = Callable[..., Path]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write("t.tsv", header, *rows)``: a table beside the folder ``images``, in the format of its suffix."""

    def table(name: str, header: str, *rows: tuple[Any, ...]) -> Path:
        path, names = tmp_path / name, header.split()
        if name.endswith(".parquet"):
            pq.write_table(pa.table({column: [row[k] for row in rows] for k, column in enumerate(names)}), path)
        elif name.endswith(".csv"):
            with path.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([names, *rows])
        else:
            lines = ["\t".join(map(str, row)) for row in [names, *rows]]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return table


def opened(where: object, memo: Memo) -> Dataset:
    return open_dataset(f"table:{where}", memo=memo)


def assert_refused(data: Dataset, kind: type[NmtoolError], said: str) -> None:
    """Neither a digest nor an image is to be had."""
    for ask in (lambda: data.splits["train"].digest, lambda: data.image("train", 0)):
        with pytest.raises(kind, match=said):
            ask()


KINDS = ["t.tsv", "t.csv", "t.parquet"]


@pytest.mark.parametrize("name", KINDS)
def test_images_by_path(tree: Tree, write: Write, nothing: Memo, name: str, tools: Any) -> None:
    tree("b.png", "a.png", "sub/c.png")
    path = write(
        name,
        "path label split",
        ("images/sub/c.png", "dog", "test"),
        ("images/b.png", "dog", "train"),
        ("./images//a.png", "cat", "train"),
    )
    data = opened(path, nothing)
    assert data.kind == "images"
    assert data.classes == ("cat", "dog")
    assert list(data.splits["train"].ids) == ["images/a.png", "images/b.png"]
    assert data.splits["train"].labels.values.tolist() == [0, 1]
    assert data.splits["test"].labels.values.tolist() == [1]
    assert np.array_equal(data.image("train", 0), np.asarray(tools.picture(sum(map(ord, "a.png")))))


def test_a_table_and_a_folder_of_the_same_have_one_digest(tree: Tree, write: Write, nothing: Memo) -> None:
    root = tree("train/b/2.png", "train/a/1.png", "test/a/3.png")
    rows = [(p.relative_to(root), p.parent.name, p.parent.parent.name) for p in root.rglob("*.png")]
    folder = open_dataset(f"folder:{root}", memo=nothing)
    for name in KINDS:
        table = write(f"images/{name}", "path label split", *((str(p), c, s) for p, c, s in rows))
        got = opened(table, nothing)
        assert {k: v.digest for k, v in got.splits.items()} == {k: v.digest for k, v in folder.splits.items()}


def test_images_in_parquet(write: Write, nothing: Memo, tree: Tree, tools: Any) -> None:
    pictures = [tools.picture(k) for k in range(7)]
    path = write("t.parquet", "image label", *((tools.encoded(p), k % 3) for k, p in enumerate(pictures)))
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=2)
    data = opened(path, nothing)
    assert list(data.splits["train"].ids)[-1] == "train/000006"
    assert data.splits["train"].labels.values.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.classes == ("0", "1", "2")
    with ThreadPoolExecutor(6) as pool:
        rows = [k * 3 % 7 for k in range(70)]
        for row, image in zip(rows, pool.map(lambda row: data.image("train", row), rows), strict=True):
            assert np.array_equal(image, np.asarray(pictures[row]))


def test_hugging_face_images_with_paths_have_the_digest_of_the_files(
    tree: Tree, write: Write, nothing: Memo, tools: Any
) -> None:
    root = tree("a/1.png", "b/2.png")
    names = ["b/2.png", "a/1.png"]
    cells = [{"bytes": (root / name).read_bytes(), "path": None} for name in names]
    path = write("t.parquet", "image path label", *zip(cells, names, ["b", "a"], strict=True))
    data = opened(path, nothing)
    assert data.splits["train"].digest == open_dataset(f"folder:{root}", memo=nothing).splits["train"].digest
    assert np.array_equal(data.image("train", 1), np.asarray(tools.picture(sum(map(ord, "b/2.png")))))


def test_an_empty_image_cell_is_a_broken_sample(write: Write, nothing: Memo, tools: Any) -> None:
    path = write("t.parquet", "image label", (tools.encoded(tools.picture(1)), "a"), (None, "b"), (b"junk", "b"))
    data = opened(path, nothing)
    assert data.image("train", 0).shape == (9, 12, 3)
    for row in (1, 2):
        with pytest.raises(BrokenSample, match=f"train/00000{row}"):
            data.image("train", row)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.png", "images/../../x.png", "images/..", "", ".", "//x", "nul\0.png"]
)
def test_paths_that_leave_the_folder_are_refused(write: Write, nothing: Memo, name: str, path: str) -> None:
    with pytest.raises(DataError, match="the path") as caught:
        opened(write(name, "path label", (path, "a")), nothing)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("link", ["file", "folder", "outside"])
def test_links_are_refused(tree: Tree, write: Write, nothing: Memo, tmp_path: Path, link: str) -> None:
    tree("a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "l.png").symlink_to("../images/a.png")
    (tmp_path / "in" / "dir").symlink_to("../images")
    path = {"file": "l.png", "folder": "dir/a.png", "outside": "dir/a.png"}[link]
    data = opened(write("in/t.tsv", "path label", (path, "a")), nothing)
    assert_refused(data, DataError, "goes by a link")


def test_a_fifo_is_refused(write: Write, nothing: Memo, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    assert_refused(opened(write("t.tsv", "path label", ("pipe.png", "a")), nothing), DataError, "is no file")


def test_missing_images_are_named(tree: Tree, write: Write, nothing: Memo) -> None:
    tree("a.png")
    rows = [("images/a.png", "x"), *((f"images/no{k}.png", "x") for k in range(9))]
    data = opened(write("t.tsv", "path label", *rows), nothing)
    assert len(data.splits["train"]) == 10
    assert data.splits["train"].listing.startswith("sha256:")
    assert_refused(data, InputMissingError, r"9 image files .*no0.*no4")


def test_root_names_the_folder_of_the_paths(tree: Tree, write: Write, nothing: Memo) -> None:
    tree("a.png")
    path = write("t.tsv", "file label", ("a.png", "x"))
    data = opened(f"{path}?path=file&root=images", nothing)
    assert list(data.splits["train"].ids) == ["a.png"]
    assert data.image("train", 0).shape == (9, 12, 3)
    for root in ("..", "/tmp", "images/../.."):
        with pytest.raises(DataError, match="root="):
            opened(f"{path}?path=file&root={root}", nothing)


def test_captions(tree: Tree, write: Write, nothing: Memo) -> None:
    tree("a.png", "b.png")
    rows = [("b.png", "one b"), ("a.png", 'an "a'), ("a.png", "a second"), ("a.png", "a third")]
    path = write("t.tsv", "image caption", *rows)
    data = opened(f"{path}?path=image&root=images", nothing)
    assert data.kind == "captions"
    assert data.classes == ()
    assert list(data.splits["train"].ids) == ["a.png#0", "a.png#1", "a.png#2", "b.png"]
    assert [data.caption("train", row) for row in range(4)] == ['an "a', "a second", "a third", "one b"]
    assert data.splits["train"].labels.values.tolist() == [-1] * 4
    assert np.array_equal(data.image("train", 0), data.image("train", 2))
    other = opened(
        f"{write('u.tsv', 'image caption', *rows[:-1], ('a.png', 'changed'))}?path=image&root=images", nothing
    )
    assert other.splits["train"].digest != data.splits["train"].digest


def test_repeated_paths_are_padded_so_that_their_order_is_kept(tree: Tree, write: Write, nothing: Memo) -> None:
    tree("a.png")
    path = write("t.tsv", "path caption", *(("images/a.png", f"caption {k}") for k in range(12)))
    data = opened(path, nothing)
    assert [data.caption("train", row) for row in range(12)] == [f"caption {k}" for k in range(12)]
    assert data.splits["train"].ids[2] == "images/a.png#02"


def test_an_id_that_comes_about_twice_is_refused(tree: Tree, write: Write, nothing: Memo) -> None:
    tree("a", "a#0")
    with pytest.raises(DataError, match="comes about twice"):
        opened(write("t.tsv", "path label", *((f"images/{n}", "x") for n in ("a", "a", "a#0"))), nothing)


def test_nfc_twins_are_refused(tree: Tree, write: Write, nothing: Memo) -> None:
    tree("\u00e9.png", "e\u0301.png")
    with pytest.raises(DataError, match=r"\\xe9.*e\\u0301"):
        opened(write("t.tsv", "path label", ("images/\u00e9.png", "x"), ("images/e\u0301.png", "x")), nothing)


def test_domains_and_splits(write: Write, nothing: Memo) -> None:
    rows = [("x", "photo", "train"), ("y", "art", "train"), ("z", "art", "test")]
    data = opened(write("t.tsv", "text domain split", *rows), nothing)
    assert list(data.splits) == ["art/test", "art/train", "photo/train"]
    bad = write("t.tsv", "text split", ("x", "../up"))
    with pytest.raises(DataError, match="a split named"):
        opened(bad, nothing)


def test_files_as_splits(write: Write, nothing: Memo) -> None:
    a = write("a.tsv", "sentence label", ("x", "b"), ("y", "a"))
    b = write("b=2.csv", "sentence label", ("z", "c"))
    data = open_dataset(f"table:train={a},test={b}?text=sentence", memo=nothing)
    assert data.kind == "text"
    assert data.classes == ("a", "b", "c")
    assert list(data.splits["test"].ids) == ["test/000000"]
    assert data.text("train", 1) == ("y",)
    assert data.splits["test"].labels.values.tolist() == [2]


def test_a_file_with_an_equals_sign_is_one_file(write: Write, nothing: Memo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("lr=1.tsv", "text label", ("x", "b"))
    monkeypatch.chdir(path.parent)
    assert list(opened("lr=1.tsv", nothing).splits) == ["train"]


def test_pairs_of_texts(write: Write, nothing: Memo) -> None:
    path = write("t.tsv", "a b gold", ("x", "y", 1), ("xy", "", 0))
    data = opened(f"{path}?text=a&text_b=b&label=gold", nothing)
    assert data.text("train", 1) == ("xy", "")
    other = opened(f"{write('u.tsv', 'a b gold', ('x', 'y', 1), ('x', 'y', 0))}?text=a&text_b=b&label=gold", nothing)
    assert other.splits["train"].digest != data.splits["train"].digest
    with pytest.raises(DataError, match="no images"):
        data.image("train", 0)


def test_columns_with_odd_names(write: Write, nothing: Memo) -> None:
    path = write("t.tsv", "a&b c=d", ("x", "k"))
    assert opened(f"{path}?text=a%26b&label=c%3Dd", nothing).classes == ("k",)


@pytest.mark.parametrize("name", KINDS)
def test_numbers_are_labels(write: Write, nothing: Memo, name: str) -> None:
    data = opened(write(name, "text label", ("w", 0), ("x", 7), ("y", 2), ("z", -1)), nothing)
    assert data.splits["train"].labels.values.tolist() == [0, 7, 2, -1]
    assert data.classes == tuple("01234567")


def test_a_row_without_label(write: Write, nothing: Memo) -> None:
    data = opened(write("t.parquet", "text label", ("x", 1), ("y", None)), nothing)
    assert data.splits["train"].labels.values.tolist() == [1, -1]
    data = opened(write("t.tsv", "text label", ("x", "b"), ("y", "")), nothing)
    assert data.splits["train"].labels.values.tolist() == [0, -1]


@pytest.mark.parametrize("label", [-2, 1_000_000, 10**17])
def test_labels_out_of_range(write: Write, nothing: Memo, label: int) -> None:
    with pytest.raises(DataError, match=f"row 1: {label}"):
        opened(write("t.tsv", "text label", ("x", 0), ("y", label)), nothing)


def test_real_numbers_are_targets_of_texts(write: Write, nothing: Memo) -> None:
    data = opened(write("t.tsv", "text label", ("x", "5.000"), ("y", "0.25")), nothing)
    assert data.classes == ()
    assert data.splits["train"].labels.values.tolist() == [-1, -1]
    assert data.targets("train").tolist() == [5.0, 0.25]  # type: ignore[attr-defined]
    digest = data.splits["train"].digest
    changed = opened(write("t.tsv", "text label", ("x", "5.000"), ("y", "0.5")), nothing)
    assert changed.splits["train"].digest != digest


def test_real_numbers_are_targets_of_images(tree: Tree, write: Write, nothing: Memo, tmp_path: Path) -> None:
    """In every format, by path or by bytes, and in the digest of their own rows; a caption beside them is ignored."""
    tree("a.png", "b.png", "c.png", "d.png")
    rows = [("images/c.png", 2.0, "train"), ("images/a.png", 0.5, "train"), ("images/d.png", 3.0, "test")]
    rows.append(("images/b.png", float("nan"), "train"))
    digests = set()
    for name in KINDS:
        cells = [(p, "" if label != label and name != "t.parquet" else label, s) for p, label, s in rows]
        data = opened(write(name, "path label split", *cells), nothing)
        assert (data.kind, data.classes, data.remarks) == ("images", (), ())
        assert list(data.splits["train"].ids) == ["images/a.png", "images/b.png", "images/c.png"]
        assert data.splits["train"].labels.values.tolist() == [-1, -1, -1]
        np.testing.assert_array_equal(data.targets("train"), [0.5, np.nan, 2.0])
        np.testing.assert_array_equal(data.targets("test"), [3.0])
        digests.add(data.splits["train"].digest)
    held = [((tmp_path / p).read_bytes(), p, label, s) for p, label, s in rows]
    data = opened(write("i.parquet", "image path label split", *held), nothing)
    digests.add(data.splits["train"].digest)
    captioned = write("u.csv", "path caption label split", *((p, "a word", label, s) for p, label, s in rows))
    digests.add(opened(captioned, nothing).splits["train"].digest)
    assert len(digests) == 1
    # each part with its length: sha256 of the file, and the number as Python writes it
    image = hashlib.sha256((tmp_path / "images" / "a.png").read_bytes()).hexdigest()
    by_hand = hashlib.sha256(f"64:{image}3:0.5".encode()).hexdigest()
    assert next(iter(data.splits["train"].contents())) == by_hand
    others = [(p, 0.75 if p == "images/a.png" else label, s) for p, label, s in rows]
    changed = opened(write("t.csv", "path label split", *others), nothing)
    assert changed.splits["train"].digest not in digests
    assert changed.splits["test"].digest == data.splits["test"].digest
    bare = opened(write("t.csv", "path split", *((p, s) for p, _, s in rows)), nothing)
    assert bare.targets("train") is None
    assert bare.splits["train"].digest not in digests


def test_scores_of_several_tables_and_domains(tree: Tree, write: Write, nothing: Memo) -> None:
    """What is a score in one table is one in all, whole numbers too; a table without labels has none."""
    tree("a.png", "b.png", "c.png", "d.png")
    one = write("one.csv", "path label domain", ("images/b.png", 0.5, "photo"), ("images/a.png", 1, "sketch"))
    two = write("two.csv", "path label domain", ("images/c.png", 3, "photo"))
    three = write("three.csv", "path domain", ("images/d.png", "photo"))
    data = opened(f"train={one},test={two},rest={three}", nothing)
    found = {split: data.targets(split).tolist() for split in data.splits}  # type: ignore[union-attr]
    rest = found.pop("photo/rest")
    assert found == {"photo/train": [0.5], "sketch/train": [1.0], "photo/test": [3.0]}
    assert np.isnan(rest).all()
    assert data.classes == ()


@pytest.mark.parametrize(
    ("column", "cells"), [("path", ("images/a.png", "images/b.png", "images/c.png")), ("text", "xyz")]
)
def test_which_numbers_are_classes(tree: Tree, write: Write, nothing: Memo, column: str, cells: Sequence[str]) -> None:
    """The same for images and for texts: whole numbers are classes, with a decimal point they are scores, and told."""
    tree("a.png", "b.png", "c.png")

    def of(*labels: object, name: str = "t.csv") -> Dataset:
        return opened(write(name, f"{column} label", *zip(cells, labels, strict=True)), nothing)

    whole = of(2, 0, "")
    assert (whole.targets("train"), whole.classes, whole.remarks) == (None, ("0", "1", "2"), ())
    assert whole.splits["train"].labels.values.tolist() == [2, 0, -1]
    for data in (of("2.0", "0.0", ""), of("2", "0", "nan"), of(2.0, 0.0, None, name="t.parquet")):
        assert data.classes == ()
        np.testing.assert_array_equal(data.targets("train"), [2.0, 0.0, np.nan])
        (remark,) = data.remarks
        assert "floating and all whole numbers (2, …): they are taken as real numbers" in remark
    named = of("0.5", "1.5", "n/a")
    assert (named.targets("train"), named.classes) == (None, ("0.5", "1.5", "n/a"))
    (remark,) = named.remarks
    assert "2 different numbers and 'n/a', which is none" in remark
    for data in (of("v1", "v2", "1.5"), of("a", "b", "c"), of(1, 2, "x")):
        assert data.remarks == ()


def test_quotes_are_letters_in_tsv_and_quotes_in_csv(tmp_path: Path, nothing: Memo) -> None:
    tsv, table = tmp_path / "t.tsv", tmp_path / "t.csv"
    tsv.write_bytes(b'text\tlabel\r\n"unbalanced\t1\r\nx, y\x0b\x85\xe2\x80\xa8z\t0\r\n'.replace(b"\x85", b"\xc2\x85"))
    data = opened(tsv, nothing)
    assert [data.text("train", k)[0] for k in (0, 1)] == ['"unbalanced', "x, y\x0b\x85\u2028z"]
    table.write_bytes(b'\xef\xbb\xbftext,label\r\n"a ""b"", c\nd",1\r\n\r\ne,0\r\n')
    data = opened(table, nothing)
    assert [data.text("train", k)[0] for k in (0, 1)] == ['a "b", c\nd', "e"]


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("t.tsv", b"", "no samples|empty"),
        ("t.csv", b"", "empty"),
        ("t.tsv", b"text\tlabel\n", "no rows"),
        ("t.tsv", b"text\tlabel\nx\n", "line 2, has 1 fields"),
        ("t.csv", b"text,label\nx,1\ny,1,2\n", "line 3, has 3 fields"),
        ("t.csv", b'text,label\n"x,1\n', "line 2"),
        ("t.tsv", b"text\tlabel\nx\t1\n\xff\t1\n", "line 3, is no UTF-8"),
        ("t.tsv", b"text\ttext\nx\t1\n", "stands twice"),
        ("t.tsv", b"a\tb\nx\t1\n", "no samples in t.tsv.*'a', 'b'.*text=COLUMN"),
        ("t.tsv", b"image\tcaption\nx\t1\n", "path=image"),
        ("t.parquet", b"", "no sound Parquet"),
        ("t.parquet", b"PAR1" + bytes(200) + b"PAR1", "no sound Parquet"),
    ],
)
def test_tables_that_are_no_tables(tmp_path: Path, nothing: Memo, name: str, body: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(DataError, match=said):
        opened(tmp_path / name, nothing)


def test_a_truncated_parquet_file(write: Write, nothing: Memo) -> None:
    path = write("t.parquet", "text label", *((f"text {k}", k % 4) for k in range(500)))
    data = path.read_bytes()
    for keep in (len(data) // 2, len(data) - 5):
        path.write_bytes(data[:keep])
        with pytest.raises(DataError):
            opened(path, nothing)


@pytest.mark.parametrize(
    ("uri", "kind", "said"),
    [
        ("table:", UsageError, "no file"),
        ("table:x.txt", InputMissingError, "no file"),
        ("table:t.tsv?lable=x", UsageError, "did you mean label"),
        ("table:t.tsv?label", UsageError, "label=COLUMN"),
        ("table:t.tsv?label=a&label=b", UsageError, "each role once"),
        ("table:t.tsv?label=zzz", DataError, "no column 'zzz'"),
        ("table:train=t.tsv,train=t.tsv", UsageError, "each split once"),
        ("table:train=t.tsv?split=label", UsageError, "leave out split"),
        ("table:train=t.tsv,test=none.tsv", InputMissingError, "none.tsv"),
        ("table:t.tsv?image=text", DataError, "can't hold image bytes"),
        ("table:nul\0.tsv", InputMissingError, "no file"),
    ],
)
def test_addresses(
    write: Write, nothing: Memo, monkeypatch: pytest.MonkeyPatch, uri: str, kind: type[NmtoolError], said: str
) -> None:
    monkeypatch.chdir(write("t.tsv", "text label", ("x", 1)).parent)
    with pytest.raises(kind, match=said):
        open_dataset(uri, memo=nothing)


def test_a_file_of_another_sort(tmp_path: Path, nothing: Memo) -> None:
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(UsageError, match=r"\.parquet, \.csv, \.tsv"):
        opened(tmp_path / "t.json", nothing)


def test_tables_of_different_sorts_do_not_join(write: Write, nothing: Memo) -> None:
    a, b = write("a.tsv", "text label", ("x", 1)), write("b.tsv", "text text_b label", ("x", "y", 1))
    with pytest.raises(DataError, match="different columns"):
        open_dataset(f"table:train={a},test={b}", memo=nothing)


def test_a_memo_gives_the_same_and_notices_changes(
    tree: Tree, write: Write, memo: Memo, nothing: Memo, tools: Any
) -> None:
    root = tree("a.png", "b.png")
    path = write("t.tsv", "path label", ("images/a.png", "x"), ("images/b.png", "y"))
    tools.age(path.parent)
    first = opened(path, memo).splits["train"].digest
    assert first == opened(path, memo).splits["train"].digest == opened(path, nothing).splits["train"].digest
    (root / "a.png").write_bytes((root / "b.png").read_bytes())
    second = opened(path, memo).splits["train"].digest
    path.write_text(path.read_text().replace("y", "x"))
    third = opened(path, memo).splits["train"].digest
    assert len({first, second, third}) == 3
    assert third == opened(path, nothing).splits["train"].digest


def test_nothing_is_written_beside_the_table(tree: Tree, write: Write, memo: Memo, tools: Any, tmp_path: Path) -> None:
    root = tree("t/a.png").parent / "images"
    write("images/t.tsv", "path label", ("t/a.png", "x"))
    before = tools.snapshot(root)
    opened(root / "t.tsv", memo).image("train", 0)
    assert tools.snapshot(root) == before


def test_the_digest_is_the_one_written_down(write: Write, nothing: Memo) -> None:
    """The digest of a split, worked out here from its definition: it is public, and other tools may rely on it."""
    data = opened(write("t.tsv", "text label", ("hello", "b"), ("", "a")), nothing)
    contents = [hashlib.sha256(text).hexdigest() for text in (b"5:hello", b"0:")]
    head = b'{"classes":["a","b"],"index":1,"kind":"text"}\n'
    rows = "".join(
        f"train/00000{k}\0{content}\0{label}\n" for k, (content, label) in enumerate(zip(contents, [1, 0], strict=True))
    )
    assert data.splits["train"].digest == "sha256:" + hashlib.sha256(head + rows.encode()).hexdigest()
