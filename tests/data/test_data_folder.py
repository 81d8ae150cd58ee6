"""``folder:``: layouts, identity, and the names that file systems allow."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.data.images import BrokenSample
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, InputMissingError, StorageError, UsageError

Tree = Callable[..., Path]


def opened(root: Path, memo: Memo) -> Dataset:
    return open_dataset(f"folder:{root}", memo=memo)


def digests(root: Path, memo: Memo) -> dict[str, str]:
    return {name: split.digest for name, split in opened(root, memo).splits.items()}


def test_classes_alone_make_the_split_train(tree: Tree, nothing: Memo) -> None:
    data = opened(tree("dog/b.png", "cat/a.png", "dog/a.png"), nothing)
    assert data.kind == "images"
    assert list(data.splits) == ["train"]
    assert list(data.splits["train"].ids) == ["cat/a.png", "dog/a.png", "dog/b.png"]
    assert data.splits["train"].labels.values.tolist() == [0, 1, 1]
    assert data.classes == data.splits["train"].labels.classes == ("cat", "dog")


def test_splits_share_their_classes(tree: Tree, nothing: Memo) -> None:
    data = opened(tree("train/dog/1.png", "train/cat/1.png", "test/dog/1.png", "test/ant/1.png"), nothing)
    assert list(data.splits) == ["test", "train"]
    assert data.classes == ("ant", "cat", "dog")
    assert data.splits["train"].labels.values.tolist() == [1, 2]
    assert data.splits["test"].labels.values.tolist() == [0, 2]


def test_domains(tree: Tree, nothing: Memo) -> None:
    data = opened(tree("photo/train/dog/1.png", "photo/test/dog/2.png", "art/train/dog/1.png"), nothing)
    assert list(data.splits) == ["art/train", "photo/test", "photo/train"]
    assert list(data.splits["photo/test"].ids) == ["photo/test/dog/2.png"]


def test_pixels_are_those_of_the_row(tree: Tree, nothing: Memo, tools: Any) -> None:
    names = ["train/a/1.png", "train/a/10.png", "train/a/2.png", "train/b/0.png"]
    data = opened(tree(*names), nothing)
    for row, name in enumerate(data.splits["train"].ids):
        assert np.array_equal(data.image("train", row), np.asarray(tools.picture(sum(map(ord, name)))))


def test_what_is_left_out_is_counted(tree: Tree, nothing: Memo) -> None:
    root = tree("a/1.png", "a/.hidden.png", ".git/x/2.png", "a/Thumbs.db", "__MACOSX/a/1.png")
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / "scan.tif").write_bytes(b"II*\0")
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "link.png").symlink_to("1.png")
    (root / "loop").symlink_to(".", target_is_directory=True)
    data = opened(root, nothing)
    assert list(data.splits["train"].ids) == ["a/1.png"]
    assert data.classes == ("a",)
    assert dict(data.left_out) == {"hidden": 4, "links": 2, "other": 3}


def test_the_folder_itself_may_be_a_link(tree: Tree, nothing: Memo, tmp_path: Path) -> None:
    root = tree("a/1.png")
    (tmp_path / "alias").symlink_to(root)
    assert digests(tmp_path / "alias", nothing) == digests(root, nothing)


def test_an_empty_class_folder_is_a_class(tree: Tree, nothing: Memo) -> None:
    root = tree("train/cat/1.png", "test/cat/1.png")
    (root / "train" / "ape").mkdir()
    (root / "train" / "cat" / "deeper").mkdir()
    data = opened(root, nothing)
    assert data.classes == ("ape", "cat")
    assert data.splits["test"].labels.values.tolist() == [1]


def test_one_image(tree: Tree, nothing: Memo) -> None:
    data = opened(tree("cat/1.JPG"), nothing)
    assert len(data.splits["train"]) == 1


def test_no_image_shows_the_layouts(tmp_path: Path, nothing: Memo) -> None:
    (tmp_path / "d" / "cat").mkdir(parents=True)
    (tmp_path / "d" / "cat" / "a.txt").touch()
    with pytest.raises(DataError, match=r"1 other.*DIR/DOMAIN/SPLIT/CLASS/image") as caught:
        opened(tmp_path / "d", nothing)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("what", ["", "nowhere", "file"])
def test_a_folder_that_is_not_there(tmp_path: Path, nothing: Memo, what: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputMissingError) as caught:
        open_dataset(f"folder:{tmp_path / what if what else ''}", memo=nothing)
    assert caught.value.exit_code == 66


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a/1.png", "b/c/1.png"], "different depths"),
        (["1.png"], "0 folders deep"),
        (["1.png", "a/1.png"], "different depths"),
        (["a/b/c/d/1.png"], "4 folders deep"),
        (["train/1.png", "test/2.png"], "name splits, not classes"),
        (["train/photo/cat/1.png", "test/photo/cat/1.png"], "SPLIT/DOMAIN/CLASS"),
        (["my split!/cat/1.png"], "a split named 'my split!'"),
    ],
)
def test_layouts_that_would_be_guesses_are_refused(tree: Tree, nothing: Memo, names: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        opened(tree(*names), nothing)


def test_a_class_may_be_called_train_among_others(tree: Tree, nothing: Memo) -> None:
    assert opened(tree("train/1.png", "plane/1.png"), nothing).classes == ("plane", "train")


STRANGE = ["<script>alert(1)<", "=cmd()", "[red]x[", "a b", "-rf", "ключ", "a\nb", "%s{}", "train", "\x1b[31m", "ß"]


def test_class_names_are_data(tree: Tree, nothing: Memo) -> None:
    data = opened(tree(*(f"test/{name}/1.png" for name in STRANGE)), nothing)
    assert data.classes == tuple(sorted(STRANGE, key=str.encode))
    assert [data.classes[k] for k in data.splits["test"].labels.values] == [
        sample.split("/")[1] for sample in data.splits["test"].ids
    ]


def test_names_are_nfc_and_in_the_order_of_their_bytes(tree: Tree, nothing: Memo) -> None:
    decomposed = unicodedata.normalize("NFD", "é")
    data = opened(
        tree(f"caf{decomposed}/1.png", f"cafz/{decomposed}.png", "cafz/\U0001f600.png", "cafz/\uffee.png"), nothing
    )
    ids = list(data.splits["train"].ids)
    assert ids == sorted(ids, key=str.encode)
    assert ids[-1] == "café/1.png"
    assert data.classes == ("cafz", "café")
    assert data.image("train", 3).shape == (9, 12, 3)


@pytest.mark.parametrize("pattern", ["a/{}.png", "{}/1.png"])
def test_nfc_twins_are_refused_and_both_named(tree: Tree, nothing: Memo, pattern: str) -> None:
    root = tree(pattern.format("\u00e9"), pattern.format("e\u0301"))
    with pytest.raises(DataError, match=r"e\\u0301.*\\xe9"):
        opened(root, nothing)


@pytest.mark.parametrize("name", [b"a/\xff.png", b"\xff/1.png"])
def test_a_name_that_is_no_utf8_is_refused_with_its_repr(tree: Tree, nothing: Memo, name: bytes) -> None:
    root = tree("a/1.png")
    path = os.fsencode(root) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(b"x")
    with pytest.raises(DataError, match=r"\\udcff"):
        opened(root, nothing)


def test_the_digest_holds_content_and_not_circumstance(tree: Tree, nothing: Memo, tmp_path: Path, tools: Any) -> None:
    names = ["train/b/2.png", "train/a/1.png", "test/a/3.png"]
    root = tree(*names)
    before = digests(root, nothing)
    for name in names:
        tools.retime(root / name, 1_000_000_000)
    assert digests(root, nothing) == before
    moved = tmp_path / "else where"
    root.rename(moved)
    assert digests(moved, nothing) == before
    assert digests(tree(*reversed(names), root="again"), nothing) == before
    (moved / "train" / "a" / ".DS_Store").touch()
    assert digests(moved, nothing) == before


def test_the_digest_changes_with_a_byte_a_label_a_name_a_class(tree: Tree, nothing: Memo) -> None:
    root = tree("train/a/1.png", "train/b/2.png", "test/a/3.png")
    seen = [digests(root, nothing)["train"]]

    def again() -> None:
        seen.append(digests(root, nothing)["train"])

    path = root / "train/a/1.png"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    again()
    path.write_bytes(data)
    path.rename(root / "train/b/1.png")
    again()
    (root / "train/b/1.png").rename(root / "train/a/1a.png")
    again()
    (root / "train/a/1a.png").rename(path)
    (root / "test/c").mkdir()
    again()
    assert len(set(seen)) == len(seen)
    (root / "test/c").rmdir()
    assert digests(root, nothing)["train"] == seen[0]


def test_the_digest_is_the_same_in_other_processes(tree: Tree, nothing: Memo) -> None:
    root = tree(*(f"{c}/{k}.png" for c in "zyxé" for k in range(5)))
    expected = digests(root, nothing)["train"]
    code = (
        "import sys; from nmtool.artifact.memo import Memo; from nmtool.data.sources import open_dataset\n"
        "print(open_dataset(sys.argv[1], memo=Memo(None)).splits['train'].digest)"
    )
    for seed, language in (("0", "C"), ("77", "C.UTF-8")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": language}
        done = subprocess.run([sys.executable, "-c", code, f"folder:{root}"], env=env, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr


def test_a_memo_gives_the_same_and_notices_every_change(tree: Tree, memo: Memo, nothing: Memo, tools: Any) -> None:
    root = tree("a/1.png", "b/2.png")
    tools.age(root)
    assert digests(root, memo) == digests(root, memo) == digests(root, nothing)
    path = root / "a" / "1.png"
    stat, data = path.stat(), path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 255]) + data[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same mtime: only the ctime tells
    assert digests(root, memo) == digests(root, nothing)


def test_a_repeated_call_reads_no_image(tree: Tree, memo: Memo, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree("a/1.png", "b/2.png")
    tools.age(root)
    first = digests(root, memo)
    reads: list[int] = []
    read = os.read

    def counted(descriptor: int, size: int) -> bytes:
        reads.append(size)
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", counted)
    assert digests(root, memo) == first
    assert not reads
    assert digests(root, Memo(None)) == first
    assert reads  # the probe does see them


def test_young_files_are_not_trusted(tree: Tree, memo: Memo, tmp_path: Path) -> None:
    digests(tree("a/1.png"), memo)
    assert not list((tmp_path / "memo").rglob("*"))


def test_a_file_that_changed_or_went_after_it_was_indexed_is_no_broken_sample(
    tree: Tree, nothing: Memo, tools: Any
) -> None:
    root = tree("a/1.png", "a/2.png", "a/3.png", "a/4.png")
    looked_at, listed = opened(root, nothing), opened(root, nothing)
    assert looked_at.splits["train"].digest.startswith("sha256:")
    (root / "a/1.png").write_bytes(tools.encoded(tools.picture(99, (50, 50))))
    (root / "a/2.png").unlink()
    (root / "a/3.png").unlink()
    (root / "a/3.png").symlink_to("4.png")
    # of what was only listed, no bytes were ever known: only what went is refused
    for data, rows in ((looked_at, (0, 1, 2)), (listed, (1, 2))):
        for row in rows:
            with pytest.raises(StorageError, match=f"a/{row + 1}.png changed after it was indexed") as caught:
                data.image("train", row)
            assert str(root) not in str(caught.value)
        assert data.image("train", 3).shape == (9, 12, 3)
    with pytest.raises(DataError, match=r"a/2\.png changed"):
        listed.splits["train"].digest  # noqa: B018


def test_a_broken_image_has_its_row_and_digest(tree: Tree, nothing: Memo) -> None:
    root = tree("a/1.png", "a/2.png", "a/3.png")
    path = root / "a/2.png"
    path.write_bytes(path.read_bytes()[:60])
    data = opened(root, nothing)
    assert len(data.splits["train"]) == 3
    with pytest.raises(BrokenSample, match=r"a/2\.png"):
        data.image("train", 1)
    assert data.image("train", 2).shape == (9, 12, 3)


def test_nothing_is_written_into_the_data(tree: Tree, memo: Memo, tools: Any) -> None:
    root = tree("train/a/1.png", "test/a/2.png")
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tools.snapshot(root)
    data = opened(root, memo)
    data.image("train", 0)
    data.image("test", 0)
    assert tools.snapshot(root) == before


def test_other_kinds_of_content_are_refused(tree: Tree, nothing: Memo) -> None:
    data = opened(tree("a/1.png"), nothing)
    for ask in (lambda: data.features("train"), lambda: data.caption("train", 0), lambda: data.text("train", 0)):
        with pytest.raises(DataError, match="holds images"):
            ask()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("fodler:x", "did you mean folder"),
        ("s3://bucket", "folder:DIR"),
        ("", "folder:DIR"),
        ("digits:x", "digits, with nothing after it"),
    ],
)
def test_unknown_schemes(nothing: Memo, uri: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_dataset(uri, memo=nothing)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "hint"), [("d", "folder:"), ("x.tsv", "table:"), ("x.npz", "arrays:"), ("x", "say")])
def test_a_plain_path_gets_a_hint(tmp_path: Path, nothing: Memo, name: str, hint: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / name).mkdir(exist_ok=True) if name == "d" else (tmp_path / name).touch()
    with pytest.raises(UsageError, match=hint):
        open_dataset(str(tmp_path / name), memo=nothing)


def test_opening_data_imports_nothing_heavy(tree: Tree) -> None:
    root = tree("a/1.png")
    (root.parent / "t.tsv").write_text("path\tlabel\nimages/a/1.png\tx\n")
    np.savez(root.parent / "x.npz", X_train=np.zeros((2, 4, 4, 3), np.uint8))
    plain = [f"folder:{root}", f"arrays:{root.parent}/x.npz", "digits"]
    code = (
        "import sys; from nmtool.artifact.memo import Memo; from nmtool.data.sources import open_dataset\n"
        "for uri in sys.argv[1:]: open_dataset(uri, memo=Memo(None))\n"
        "print(sorted({'PIL','pyarrow','sklearn','torch','zarr','timm','scipy'} & set(sys.modules)))"
    )
    for uris, needed in ((plain, []), ([f"table:{root.parent}/t.tsv"], ["pyarrow"])):
        done = subprocess.run([sys.executable, "-c", code, *uris], capture_output=True, text=True)
        assert done.stdout.strip() == str(needed), done.stderr


def test_a_folder_that_may_not_be_read(tree: Tree) -> None:
    root = tree("a/1.png")
    (root / "a").chmod(0)
    code = """
import os, sys
import nmtool.data.arrays, nmtool.data.folder
from nmtool.artifact.memo import Memo
from nmtool.data.sources import open_dataset
from nmtool.errors import PermissionDeniedError
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.seteuid(65534)  # the superuser may read everything
try:
    open_dataset(sys.argv[2], memo=Memo(None))
except PermissionDeniedError as error:
    sys.exit(error.exit_code)
"""
    root.chmod(0o755)
    try:
        for place, uri in ((root, "folder:."), (root.parent, f"folder:{root}/a/b"), (root, "arrays:a/x.npz")):
            done = subprocess.run([sys.executable, "-c", code, place, uri], capture_output=True, text=True)
            assert done.returncode == 77, done.stderr
    finally:
        (root / "a").chmod(0o755)


def test_links_and_odd_files_are_told_and_hidden_ones_are_not(tree: Tree, nothing: Memo) -> None:
    root = tree("cat/a.png", "dog/a.png")
    (root / "cat/.DS_Store").write_bytes(b"")
    assert opened(root, nothing).remarks == ()
    (root / "cat/b.png").symlink_to(root / "cat/a.png")
    (root / "cat/notes.txt").write_text("x")
    (root / "cat/scan.tiff").write_text("x")
    (told,) = opened(root, nothing).remarks
    assert "1 links" in told
    assert "2 entries without an image suffix" in told
