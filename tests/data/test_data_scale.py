"""Data sets of millions of rows: compact columns, digests worked out on demand, and nothing read that is not asked for.

The oracles here are the plain definitions, in plain Python, on small data; the columns have to say the same.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import textwrap
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nmtool.data.delimited
import nmtool.records
from nmtool.artifact.memo import Memo
from nmtool.data.delimited import Delimited
from nmtool.data.ids import names_of_paths, numbered_ids, ordered_ids, plain_paths
from nmtool.data.index import make_splits
from nmtool.data.labels import CodedCells, classes_of, real_numbers
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, InputMissingError, StorageError
from nmtool.records import Labels, SampleIndex, TextColumn

Tree = Callable[..., Path]

# Anything that has a UTF-8; with NULs, and often short and alike.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=6) | st.text("ab/é\0", max_size=3)
TEXTS = st.lists(TEXT, max_size=12)
ZEROS = "sha256:" + "0" * 64


def index_of(ids: Sequence[str], labels: Sequence[int], classes: tuple[str, ...], **more: Any) -> SampleIndex:
    values = Labels(values=np.array(labels, dtype=np.int64), classes=classes)
    return SampleIndex(split="train", ids=ids, labels=values, **{"digest": ZEROS, **more})


# ---------------------------------------------------------------- the column of texts


@settings(deadline=None)
@given(TEXTS, st.integers(-15, 15), st.integers(-15, 15), st.integers(-3, 3).filter(bool))
def test_a_column_of_texts_is_a_list_of_them(texts: list[str], a: int, b: int, step: int) -> None:
    column = TextColumn.of(texts)
    assert column == texts
    assert list(column) == texts
    assert list(reversed(column)) == texts[::-1]
    assert len(column) == len(texts)
    assert column[a:b] == texts[a:b]
    assert column[a:b:step] == texts[a:b:step]
    assert [column[k] for k in range(-len(texts), len(texts))] == texts + texts
    assert all(text in column and column.index(text) == texts.index(text) for text in texts)
    for outside in (len(texts), -len(texts) - 1):
        with pytest.raises(IndexError):
            column[outside]
    assert column != [*texts, "more"]
    assert column == TextColumn.of(iter(texts))


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.data())
def test_columns_join_take_and_go_through_arrow(parts: list[list[str]], data: st.DataObject) -> None:
    texts = [text for part in parts for text in part]
    column = TextColumn.joined([TextColumn.of(part) for part in parts])
    assert column == texts
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=8)) if texts else []
    assert column.take(rows) == [texts[row] for row in rows]
    assert column.to_arrow().to_pylist() == texts
    for array in (
        pa.array(texts, pa.string()),
        pa.array(texts, pa.large_string()).slice(len(texts) // 2),
        pa.chunked_array([pa.array(part, pa.string()) for part in parts], pa.string()),
        pa.chunked_array([pa.array(part, pa.string()).dictionary_encode() for part in parts]),
    ):
        assert TextColumn.from_arrow(array) == array.to_pylist()


def test_a_column_shares_arrows_memory_and_can_not_be_written() -> None:
    array = pa.array(["a", "bc"], pa.large_string())
    column = TextColumn.from_arrow(array)
    assert column.data.ctypes.data == array.buffers()[2].address
    assert column.to_arrow().buffers()[2].address == array.buffers()[2].address
    with pytest.raises(ValueError, match="read-only"):
        column.data[0] = 0
    with pytest.raises(FrozenInstanceError):
        column.data = column.data  # type: ignore[misc]
    with pytest.raises(ValueError, match="nulls"):
        TextColumn.from_arrow(pa.array(["a", None]))
    bad = pa.LargeStringArray.from_buffers(1, pa.py_buffer(np.array([0, 1])), pa.py_buffer(b"\xff"))
    with pytest.raises(ValueError, match="UTF"):
        TextColumn.from_arrow(bad)
    with pytest.raises(UnicodeEncodeError):
        TextColumn.of(["\ud800"])


@pytest.mark.parametrize("few", [0, 1 << 30])
@settings(deadline=None)
@given(texts=TEXTS)
def test_order_is_that_of_the_bytes(few: int, texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nmtool.records, "_FEW", few)
        for each in (texts, sorted(texts), sorted(set(texts))):
            raw = [text.encode() for text in each]
            wanted = next((k for k in range(1, len(raw)) if raw[k] <= raw[k - 1]), -1)
            assert TextColumn.of(each).first_out_of_order() == wanted


# ---------------------------------------------------------------- the index


@pytest.mark.parametrize("few", [0, 1 << 30])
@pytest.mark.parametrize(
    ("ids", "bad"), [(["a", "a"], "a"), (["b", "a"], "a"), (["", "a"], ""), (["a", "c", "b"], "b")]
)
def test_ids_have_to_rise(ids: list[str], bad: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nmtool.records, "_FEW", few)
    with pytest.raises(DataError, match=f"sample id {bad!r} in split train"):
        index_of(ids, [0] * len(ids), ("x",))


def test_an_index_is_frozen_and_takes_a_digest_as_it_is() -> None:
    index = index_of(["a", "b"], [0, 1], ("x", "y"))
    assert index.digest == ZEROS
    for name in ("split", "ids", "_known"):
        with pytest.raises(AttributeError):
            setattr(index, name, "other")
    with pytest.raises(DataError, match="digest"):
        index_of(["a"], [0], ("x",), digest="md5:1")
    with pytest.raises(DataError, match="digest"):
        index_of(["a"], [0], ("x",), digest=lambda: "md5:1").digest  # noqa: B018


def test_a_digest_is_worked_out_once_among_threads_and_again_after_an_error() -> None:
    began, calls = threading.Barrier(6), []

    def work() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise DataError("the first time fails")
        return ZEROS

    index = index_of(["a"], [0], ("x",), digest=work)
    with pytest.raises(DataError, match="first time"):
        index.digest  # noqa: B018

    def read(_: int) -> str:
        began.wait()
        return index.digest

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(read, range(6))) == {ZEROS}
    assert len(calls) == 2


def listing_of(kind: str, classes: Sequence[str], ids: Sequence[str], labels: Sequence[int]) -> str:
    """From the definition in ``SampleIndex.listing``."""
    head = {"classes": list(classes), "kind": kind, "listing": 1, "n": len(ids)}
    body = json.dumps(head, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    body += b"".join(len(sample.encode()).to_bytes(8, "little") for sample in ids)
    body += "".join(ids).encode() + b"".join(label.to_bytes(8, "little", signed=True) for label in labels)
    return "sha256:" + hashlib.sha256(body).hexdigest()


def digest_of(
    kind: str, classes: Sequence[str], ids: Sequence[str], labels: Sequence[int], contents: Sequence[str]
) -> str:
    """From the definition in ``nmtool.data.index``."""
    head: dict[str, object] = {"classes": list(classes), "index": 1, "kind": kind}
    if kind in ("images", "captions"):
        from nmtool.data.images import POLICY

        head["images"] = POLICY
    sha = hashlib.sha256(json.dumps(head, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
    for row in zip(ids, contents, labels, strict=True):
        sha.update("{}\0{}\0{}\n".format(*row).encode())
    return "sha256:" + sha.hexdigest()


def part(body: bytes) -> bytes:
    return b"%d:%s" % (len(body), body)


@settings(deadline=None)
@given(st.sets(TEXT.filter(lambda t: t and "\0" not in t), min_size=1, max_size=9), st.data())
def test_listing_and_digest_are_as_written_down(names: set[str], data: st.DataObject) -> None:
    ids, classes = sorted(names), ("ä", "b")
    labels = data.draw(st.lists(st.integers(-1, 1), min_size=len(ids), max_size=len(ids)))
    contents = [hashlib.sha256(sample.encode()).hexdigest() for sample in ids]
    index = make_splits(
        kind="features",
        classes=classes,
        rows={"train": (ids, np.array(labels))},
        contents=lambda split: contents,
        memo=Memo(None),
        question=None,
        trusted=False,
    )["train"]
    assert index.listing == listing_of("features", classes, ids, labels)
    assert index.digest == digest_of("features", classes, ids, labels, contents)


def test_a_memo_is_asked_once_and_only_by_a_digest(tmp_path: Path) -> None:
    memo, asked = Memo(tmp_path), []

    def made(trusted: bool) -> dict[str, SampleIndex]:
        def contents(split: str) -> list[str]:
            asked.append(split)
            return ["0" * 64] * 2

        def question() -> object:
            asked.append("question")
            return ["q"]

        return make_splits(
            kind="images",
            classes=("x",),
            rows={split: (["a", "b"], np.zeros(2, np.int64)) for split in ("test", "train")},
            contents=contents,
            memo=memo,
            question=question,
            trusted=lambda: trusted,
        )

    untrusted, first, second = made(False), made(True), made(True)
    assert len({split.listing for index in (untrusted, first, second) for split in index.values()}) == 1
    assert asked == []
    assert untrusted["train"].digest == first["train"].digest == second["train"].digest
    assert asked == ["question", "train", "question", "train", "question"]
    assert second["test"].digest == second["test"].digest
    assert asked[5:] == ["test"]


# ---------------------------------------------------------------- the same from all sources


def test_sources_with_the_same_samples_have_one_listing_and_one_digest(tree: Tree, nothing: Memo) -> None:
    names = ["train/b/2.png", "train/a/é.png", "train/a/1.png", "test/a/3.png"]
    root = tree(*names)
    cells = [(name, name.split("/")[1], name.split("/")[0]) for name in names]
    lines = [("path", "label", "split"), *cells]
    (root / "t.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    (root / "t.csv").write_text("".join(",".join(line) + "\r\n" for line in lines))
    (root / "q.csv").write_text("".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in lines))
    columns = dict(zip(lines[0], map(list, zip(*cells, strict=True)), strict=True))
    pq.write_table(pa.table(columns), root / "t.parquet", row_group_size=2)
    coded = {name: pa.array(column).dictionary_encode() for name, column in columns.items()}
    pq.write_table(pa.table(coded), root / "d.parquet")
    uris = [f"folder:{root}", *(f"table:{root}/{n}" for n in ("t.tsv", "t.csv", "q.csv", "t.parquet", "d.parquet"))]
    found = [open_dataset(uri, memo=nothing) for uri in uris]
    for data in found:
        for split in ("test", "train"):
            index = data.splits[split]
            ids = sorted(name for name in names if name.startswith(split))
            labels = ["ab".index(name.split("/")[1]) for name in ids]
            contents = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in ids]
            assert index.ids == ids
            assert index.listing == listing_of("images", "ab", ids, labels)
            assert index.digest == digest_of("images", "ab", ids, labels, contents)


def test_the_digests_of_captions_texts_and_features_are_the_ones_written_down(tree: Tree, nothing: Memo) -> None:
    root = tree("a.png", "b.png")
    rows = [("b.png", "one"), ("a.png", "zwei é"), ("a.png", "")]
    (root / "c.tsv").write_text("path\tcaption\n" + "".join(f"{path}\t{text}\n" for path, text in rows))
    index = open_dataset(f"table:{root}/c.tsv", memo=nothing).splits["train"]
    ids = ["a.png#0", "a.png#1", "b.png"]
    contents = []
    for path, text in (rows[1], rows[2], rows[0]):
        image = hashlib.sha256((root / path).read_bytes()).hexdigest().encode()
        contents.append(hashlib.sha256(part(image) + part(text.encode())).hexdigest())
    assert index.digest == digest_of("captions", (), ids, [-1] * 3, contents)
    assert index.listing == listing_of("captions", (), ids, [-1] * 3)
    (root / "s.tsv").write_text("text\ttext_b\tlabel\nx\ty\t0.5\nxy\t\t2\n")
    index = open_dataset(f"table:{root}/s.tsv", memo=nothing).splits["train"]
    bodies = [part(b"x") + part(b"y") + part(b"0.5"), part(b"xy") + part(b"") + part(b"2.0")]
    contents = [hashlib.sha256(body).hexdigest() for body in bodies]
    assert index.digest == digest_of("text", (), ["train/000000", "train/000001"], [-1, -1], contents)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(root / "x.npz", X_train=x, y_train=np.array([1, 0]))
    index = open_dataset(f"arrays:{root}/x.npz", memo=nothing).splits["train"]
    contents = [hashlib.sha256(b"f4:3\0" + row.astype("<f4").tobytes()).hexdigest() for row in x]
    assert index.digest == digest_of("features", "01", ["train/000000", "train/000001"], [1, 0], contents)


# ---------------------------------------------------------------- nothing is read before it is asked for


def damage(path: Path, column: str) -> None:
    """Overwrite a Parquet column's pages."""
    chunk = next(c for c in map(pq.read_metadata(path).row_group(0).column, range(9)) if c.path_in_schema == column)
    start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
    body = bytearray(path.read_bytes())
    body[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(body)


def test_captions_and_images_are_not_read_for_ids(tmp_path: Path, nothing: Memo) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"path": ["b.png", "a.png"], "caption": ["one", "two"]})
    pq.write_table(table, path)
    whole = open_dataset(f"table:{path}", memo=nothing)  # no image is there
    listing = whole.splits["train"].listing
    assert listing == listing_of("captions", (), ["a.png", "b.png"], [-1, -1])
    assert whole.caption("train", 0) == "two"
    with pytest.raises(InputMissingError, match=r"2 image files of t\.parquet are not there"):
        whole.splits["train"].digest  # noqa: B018
    damage(path, "caption")
    damaged = open_dataset(f"table:{path}", memo=nothing)
    assert damaged.splits["train"].listing == listing
    with pytest.raises(DataError, match=r"t\.parquet is no sound Parquet file"):
        damaged.caption("train", 0)
    damage(path, "path")
    with pytest.raises(DataError, match=r"t\.parquet is no sound Parquet file"):
        open_dataset(f"table:{path}", memo=nothing)


@pytest.mark.parametrize("column", ["text", "text_b"])
def test_texts_are_not_read_for_ids_and_labels(tmp_path: Path, nothing: Memo, column: str) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["x", "y"], "text_b": ["v", "w"], "label": ["b", "a"]}), path)
    damage(path, column)
    data = open_dataset(f"table:{path}", memo=nothing)
    assert data.splits["train"].listing == listing_of("text", "ab", ["train/000000", "train/000001"], [1, 0])
    for ask in (lambda: data.text("train", 0), lambda: data.splits["train"].digest):
        with pytest.raises(DataError, match=r"t\.parquet is no sound Parquet file"):
            ask()


@pytest.mark.parametrize(
    ("cells", "said"), [(["x", None], "row 1 of column 'caption' .* is None"), ([5, 6], "row 0 .* is 5")]
)
def test_captions_that_are_none_are_refused_when_they_are_read(
    tree: Tree, nothing: Memo, cells: list[object], said: str
) -> None:
    root = tree("a.png", "b.png")
    pq.write_table(pa.table({"path": ["a.png", "b.png"], "caption": cells}), root / "t.parquet")
    data = open_dataset(f"table:{root}/t.parquet", memo=nothing)
    assert data.splits["train"].listing.startswith("sha256:")
    for ask in (lambda: data.caption("train", 0), lambda: data.splits["train"].digest):
        with pytest.raises(DataError, match=said):
            ask()


def test_a_table_that_changed_gives_no_captions_and_no_digest(tree: Tree, nothing: Memo) -> None:
    root = tree("a.png")
    path = root / "t.tsv"
    path.write_text("path\tcaption\na.png\tone\n")
    data = open_dataset(f"table:{path}", memo=nothing)
    listing = data.splits["train"].listing
    path.write_text("path\tcaption\na.png\tother\n")
    for ask in (lambda: data.caption("train", 0), lambda: data.splits["train"].digest):
        with pytest.raises(DataError, match=r"t\.tsv changed after it was indexed"):
            ask()
    assert data.splits["train"].listing == listing


def test_a_table_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, nothing: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("text\tlabel\nx\ta\n")
    read = Delimited.columns

    def meanwhile(self: Delimited, *given: Any) -> Any:
        found = read(self, *given)
        path.write_text("text\tlabel\nx\tb\ny\tb\n")
        return found

    monkeypatch.setattr(Delimited, "columns", meanwhile)
    with pytest.raises(DataError, match=r"t\.tsv changed"):
        open_dataset(f"table:{path}", memo=nothing)


@pytest.mark.timeout(30)
def test_what_took_a_listed_images_place_is_not_waited_for(tree: Tree, nothing: Memo) -> None:
    root = tree("a/1.png", "a/2.png")
    data = open_dataset(f"folder:{root}", memo=nothing)
    (root / "a/2.png").unlink()
    os.mkfifo(root / "a/2.png")
    with pytest.raises(StorageError, match=r"a/2\.png changed"):
        data.image("train", 1)
    with pytest.raises(DataError, match=r"a/2\.png changed"):
        data.splits["train"].digest  # noqa: B018


def test_a_folder_and_an_array_are_listed_without_their_contents(tree: Tree, nothing: Memo, tmp_path: Path) -> None:
    root = tree("a/1.png", "b/2.png")
    folder = open_dataset(f"folder:{root}", memo=nothing)
    np.savez(tmp_path / "x.npz", X_train=np.zeros((2, 4, 4), np.uint8), y_train=np.array([0, 1]))
    arrays = open_dataset(f"arrays:{tmp_path}/x.npz", memo=nothing)
    (root / "b/2.png").unlink()
    (tmp_path / "x.npz").unlink()
    assert folder.splits["train"].listing == listing_of("images", "ab", ["a/1.png", "b/2.png"], [0, 1])
    assert arrays.splits["train"].listing == listing_of("images", "01", ["train/000000", "train/000001"], [0, 1])
    with pytest.raises(DataError, match=r"b/2\.png changed"):
        folder.splits["train"].digest  # noqa: B018
    with pytest.raises(InputMissingError, match=r"x\.npz"):
        arrays.splits["train"].digest  # noqa: B018


def test_a_listing_is_of_ids_labels_and_classes_alone(tree: Tree, nothing: Memo) -> None:
    root = tree("t/a/1.png", "t/b/2.png")
    before = open_dataset(f"folder:{root}", memo=nothing).splits["t"]
    same = before.listing, before.digest
    (root / "t/a/1.png").write_bytes((root / "t/b/2.png").read_bytes())
    after = open_dataset(f"folder:{root}", memo=nothing).splits["t"]
    assert after.listing == same[0]
    assert after.digest != same[1]
    (root / "t/0").mkdir()
    assert open_dataset(f"folder:{root}", memo=nothing).splits["t"].listing != same[0]


# ---------------------------------------------------------------- ids of many rows


@pytest.mark.parametrize("n", [1, 10, 11, 1_000_001])
def test_numbered_ids(n: int) -> None:
    ids = numbered_ids("photo/train", n)
    width = max(6, len(str(n - 1)))
    for row in {0, n // 2, n - 1}:
        assert ids[row] == f"photo/train/{row:0{width}d}"
    assert len(ids) == n
    assert ids.first_out_of_order() == -1


def plainly(paths: Sequence[str]) -> dict[str, int] | None:
    """Sample id to row, by the rule in ``nmtool.data.table``; None where it is refused."""
    names = [unicodedata.normalize("NFC", path) for path in paths]
    if len(set(names)) != len(set(paths)):
        return None
    total, seen, out = Counter(names), Counter[str](), {}
    for row, name in enumerate(names):
        width = len(str(total[name] - 1))
        sample = f"{name}#{seen[name]:0{width}d}" if total[name] > 1 else name
        if sample in out:
            return None
        seen[name] += 1
        out[sample] = row
    return out


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 99, 100, 101, 1000])
def test_a_path_of_many_rows_has_as_many_digits_as_it_needs(n: int) -> None:
    ids, rows = ordered_ids(TextColumn.of(["b", *["a"] * n]))
    wanted = plainly(["b", *["a"] * n])
    assert wanted is not None
    assert dict(zip(ids, rows.tolist(), strict=True)) == wanted
    assert list(ids) == list(dict(sorted(wanted.items())))


PATHS = st.lists(st.text("ab!#0é1\u0301e", min_size=1, max_size=3), min_size=1, max_size=30)


@settings(deadline=None)
@given(PATHS | st.lists(st.sampled_from(["a", "a!", "a#", "b"]), min_size=1, max_size=130))
def test_ids_of_paths_are_as_the_rule_says(paths: list[str]) -> None:
    wanted = plainly(paths)
    if wanted is None:
        with pytest.raises(DataError, match=r"same in Unicode's NFC|comes about twice"):
            ordered_ids(names_of_paths(TextColumn.of(paths)))
        return
    ids, rows = ordered_ids(names_of_paths(TextColumn.of(paths)))
    assert ids == sorted(wanted)
    assert rows.tolist() == [wanted[sample] for sample in ids]


@settings(deadline=None)
@example(["a/", "é", "a//b", ".a", "a/./b", "", "/a"])
@given(st.lists(st.text("a./\0é", max_size=6), max_size=12))
def test_paths_are_made_plain_and_most_need_no_look(paths: list[str]) -> None:
    asked = []

    def plain(path: str) -> str:
        asked.append(path)
        return "nul" if "\0" in path else "/".join(PurePosixPath(path).parts) or "empty"

    got = list(plain_paths(TextColumn.of(paths), plain))
    looked_at = set(asked)
    assert got == [plain(path) for path in paths]
    assert not any(path.strip("aé") == "" and path for path in looked_at)


# ---------------------------------------------------------------- TSV and CSV in blocks

CELLS = 'aé,"\t\r\n\0 '


def tsv_plainly(text: str) -> list[list[str]] | None:
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    rows = [line.removesuffix("\r").split("\t") for line in lines]
    return rows if rows and all(len(row) == len(rows[0]) for row in rows) else None


def csv_plainly(text: str) -> list[list[str]] | None:
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error:
        return None
    return rows if rows and all(len(row) == len(rows[0]) for row in rows) else None


def lines_of(separator: str) -> st.SearchStrategy[str]:
    """Mostly two fields a line, so that most files are tables."""
    field = st.text("aé \0", max_size=3) | st.sampled_from(['"a,\tb"', '"a""\nb"', 'a"', "", "\r"])
    line = st.tuples(field, field).map(separator.join) | st.sampled_from(["", "a", "a" + separator])
    return st.lists(st.tuples(line, st.sampled_from(["\n", "\r\n"])).map("".join), max_size=8).map("".join)


@pytest.mark.parametrize("tsv", [True, False], ids=["tsv", "csv"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
@settings(deadline=None)
@given(data=st.data(), block=st.integers(1, 40))
def test_text_tables_in_blocks_are_as_the_plain_reader_has_them(
    tsv: bool, bom: bytes, data: st.DataObject, block: int
) -> None:
    text = data.draw(st.text(CELLS, max_size=25) | lines_of("\t" if tsv else ","))
    wanted = (tsv_plainly if tsv else csv_plainly)(text)
    stream, reader = io.BytesIO(bom + text.encode()), Delimited(name="t", tsv=tsv)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nmtool.data.delimited, "_BLOCK", block)
        patch.setattr(nmtool.data.delimited, "_ROWS", 2)
        if wanted is None:
            with pytest.raises(DataError):
                reader.columns(stream, (names := reader.header(stream)), names[:1])
            return
        names = reader.header(stream)
        assert names == wanted[0]
        places = [k for k, name in enumerate(names) if names.index(name) == k]
        rows, columns = reader.columns(stream, names, [names[k] for k in places])
    assert rows == len(wanted) - 1
    for k, column in zip(places, columns, strict=True):
        assert column == [row[k] for row in wanted[1:]]


@pytest.mark.parametrize("block", [3, 1 << 20])
@pytest.mark.parametrize(
    ("name", "body", "line"),
    [
        ("t.tsv", b"text\tlabel\nx\t1\n\ny\t2\n", "line 3, has 1 fields"),
        ("t.csv", b"text,label\nx,1\n\n\ny,1,2\n", "line 5, has 3 fields"),
        ("t.csv", b'text,label\n"x\n",1\n\ny\n', "line 5, has 1 fields"),
        ("t.csv", b'text,label\nx,1\n"y"z,1\n', "line 3: "),
        ("t.csv", b"text,label\nx,1\ny\rz,1\n", "line 3"),
        ("t.csv", b"text,label\n\xc3\xa9,1\n\xff,2\n", "line 3, is no UTF-8"),
        ("t.csv", b'text,label\n"a\nb",1\n\xff,2\n', "line 4, is no UTF-8"),
        ("t.csv", b"text,label\n" + b"x" * 140_000 + b",1\n", "line 2: field larger"),
    ],
)
def test_errors_name_the_line(
    tmp_path: Path, nothing: Memo, monkeypatch: pytest.MonkeyPatch, name: str, body: bytes, line: str, block: int
) -> None:
    monkeypatch.setattr(nmtool.data.delimited, "_BLOCK", block)
    (tmp_path / name).write_bytes(body)
    with pytest.raises(DataError, match=line):
        open_dataset(f"table:{tmp_path / name}", memo=nothing)


# ---------------------------------------------------------------- label cells

CELL = st.none() | st.sampled_from(["", "1", "-1", "b", "e\u0301", "é", 0, 2, True, 0.5, "0.5", -0.0, 0.0])


@settings(deadline=None)
@example([0.0, -0.0, True])
@example([0, 0.0, 2])
@example([True, 1, "1"])
@given(st.lists(CELL, min_size=1, max_size=9))
def test_coded_cells_give_the_labels_of_the_cells(cells: list[Any]) -> None:
    coded = CodedCells.joined([CodedCells.of(cells[:3]), CodedCells.of(cells[3:])])
    assert list(map(repr, coded)) == list(map(repr, cells))
    real = real_numbers(coded)
    whole = [c for c in cells if c not in (None, "") and not (isinstance(c, int) or c in ("1", "-1"))]
    if not whole or any(c in ("b", "e\u0301", "é") for c in whole):
        assert real is None
        values, classes = classes_of(coded, "cells")
        for cell, value in zip(cells, values.tolist(), strict=True):
            if whole:
                wanted = (
                    ""
                    if cell in (None, "") and not isinstance(cell, float)
                    else unicodedata.normalize("NFC", str(cell))
                )
                assert (classes[value] if value >= 0 else "") == wanted
            else:
                assert value == (-1 if cell in (None, "") else int(cell))
    else:
        assert real is not None
        wanted_reals = [float("nan") if c is None or c == "" else float(c) for c in cells]
        assert list(map(repr, real.tolist())) == list(map(repr, wanted_reals))


# ---------------------------------------------------------------- memory

PAIRS = textwrap.dedent("""
    import sys
    import numpy as np
    import pyarrow.compute, pyarrow.parquet
    from nmtool.artifact import typed
    from nmtool.artifact.memo import Memo
    from nmtool.data import delimited, ids, images, table
    from nmtool.data.sources import open_dataset
    from nmtool.records import NoisyLabels

    def peak():  # MiB; not ru_maxrss, which holds what the process that started this one had
        return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

    before = peak()
    index = open_dataset(sys.argv[1], memo=Memo(None)).splits["train"]
    index.listing
    clean = np.arange(len(index))
    noisy = np.roll(clean, 1)
    typed.labels_bytes(NoisyLabels(samples=index.ids, split="train", clean=clean, noisy=noisy, classes=()))
    print(len(index), index.ids[0], peak() - before)
""")


@pytest.mark.parametrize("name", ["t.parquet", "t.tsv"])
def test_captions_take_no_memory_until_they_are_asked_for(tmp_path: Path, name: str) -> None:
    """200,000 pairs with captions of 2,000 bytes: 400 MB, of which ids, labels and the table of labels need little."""
    rows = 200_000
    names = [f"images/{k * 7919 % rows:06d}.jpg" for k in range(rows)]
    caption = "a long caption about very little; " * 60
    if name == "t.parquet":
        columns = {"path": names, "caption": pa.repeat(caption, rows)}
        pq.write_table(pa.table(columns), tmp_path / name, use_dictionary=False, compression="zstd")
    else:
        with (tmp_path / name).open("w") as stream:
            stream.write("path\tcaption\n")
            stream.writelines(f"{path}\t{caption}\n" for path in names)
    done = subprocess.run(
        [sys.executable, "-c", PAIRS, f"table:{tmp_path / name}"], capture_output=True, text=True, check=True
    )
    found, first, grown = done.stdout.split()
    assert (int(found), first) == (rows, "images/000000.jpg")
    # the ids have 5 MB, the columns of labels 7; the rest is blocks, Arrow's pool and zstd, whatever the captions
    assert int(grown) < 220, f"{grown} MiB"
