"""Human labels: CIFAR-N's files in every form, joined by sample id, checked against the clean labels; hostile files."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nmtool.artifact.open import open_artifact
from nmtool.artifact.typed import parquet_bytes, read_labels

Unpack = Callable[[str], Path]


@pytest.fixture(scope="module")
def root(real_data: Unpack) -> Path:
    return real_data("cifar10")


@pytest.fixture
def small(tmp_path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """Twelve samples of three classes, with labels that differ for five of them."""
    y = np.arange(12) % 3
    worse = y.copy()
    worse[[1, 4, 5, 9, 11]] = (worse[[1, 4, 5, 9, 11]] + 1) % 3
    np.savez(
        tmp_path / "x.npz", X_train=np.zeros((12, 1), np.float32), y_train=y, classes=np.array(["ant", "bee", "cat"])
    )
    return "arrays:x.npz", y, worse


def noisy_of(path: Path) -> list[int]:
    return read_labels(open_artifact(path)).noisy.tolist()


def test_cifar10n_joins_at_its_published_rates(ok: Callable, root: Path, tmp_path: Path) -> None:
    file, data = root / "cifar10n.npz", f"arrays:{root}/cifar10.npz"
    labels = np.load(file)
    for key, rate in (("worse", 0.4178), ("aggre", 0.0933)):
        body = ok("inject-noise", data, "--type", "human", "--human", f"{file}:{key}", "--json").json
        assert round(body["ratio"], 4) == rate
        assert (body["ratio_requested"], body["seed"]) == (None, None)
        assert noisy_of(tmp_path / body["artifact"]) == labels[key].tolist()
        assert "perplexity" not in body["concentration"]


def test_the_official_form(ok: Callable, nmtool: Callable, root: Path, tmp_path: Path) -> None:
    """A .pt as UCSC-REAL publishes it: a dictionary of int64 arrays over the 50,000 rows, by an older numpy."""
    labels, rng = np.load(root / "cifar10n.npz"), np.random.default_rng(0)
    rest = rng.integers(0, 10, 44_000)  # the data here are the first 6,000 rows: a part of the file's will do
    names = {"clean": "clean_label", "aggre": "aggre_label", "worse": "worse_label", "random1": "random_label1"}
    torch.save({new: np.concatenate([labels[old], rest]) for old, new in names.items()}, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "CIFAR-10_human.pt", "w") as old:
        for member in new.infolist():
            old.writestr(member.filename, new.read(member).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in (tmp_path / "CIFAR-10_human.pt").read_bytes()
    data = f"arrays:{root}/cifar10.npz"
    for file in ("new.pt", "CIFAR-10_human.pt"):
        for key in ("worse_label", "worse"):
            body = ok("inject-noise", data, "--type", "human", "--human", f"{file}:{key}", "--json").json
            assert body["flipped"] == 2_507
            assert noisy_of(tmp_path / body["artifact"]) == labels["worse"].tolist()
    ran = nmtool("inject-noise", data, "--type", "human", "--human", "new.pt:worst")
    assert (ran.code, "aggre_label, worse_label, random_label1" in ran.err) == (65, True), ran.err
    ran = nmtool("inject-noise", data, "--type", "human", "--human", "new.pt")
    assert (ran.code, "name one" in ran.err) == (65, True), ran.err


def test_other_forms_say_the_same(ok: Callable, small: tuple, tmp_path: Path) -> None:
    data, y, worse = small
    names = np.array(["ant", "bee", "cat"])
    order = np.random.default_rng(1).permutation(12)
    ids = [f"train/{row:06d}" for row in order]
    np.savez(tmp_path / "a.npz", clean=y, worse=worse)
    np.save(tmp_path / "a.npy", worse)
    np.save(tmp_path / "float.npy", worse.astype(np.float64))
    torch.save({"clean_label": torch.tensor(y), "noisy_label": torch.tensor(worse)}, tmp_path / "a.pt")
    torch.save({"noisy_label": worse.tolist()}, tmp_path / "list.pt", _use_new_zipfile_serialization=False)
    lines = [f"{i},{names[worse[r]]},{y[r]}" for i, r in zip(ids, order, strict=True)]
    (tmp_path / "a.csv").write_text("sample,worse,clean\n" + "\n".join(lines) + "\n")
    (tmp_path / "a.tsv").write_text("worse\n" + "".join(f"{label}\n" for label in worse))
    (tmp_path / "a.parquet").write_bytes(
        parquet_bytes({"sample": ids, "worse": worse[order], "clean": names[y[order]]})
    )
    for file in ("a.npz:worse", "a.npz", "a.npy", "float.npy", "a.pt", "list.pt", "a.csv:worse", "a.tsv", "a.parquet"):
        ran = ok("inject-noise", data, "--type", "human", "--human", file, "--json")
        assert noisy_of(tmp_path / ran.json["artifact"]) == worse.tolist(), file
        unchecked = file in ("a.npy", "float.npy", "list.pt", "a.tsv")
        assert ("no clean labels" in ran.err) == unchecked, ran.err
        assert ok("inject-noise", data, "--type", "human", "--human", file, "--json").json["cached"]


def test_the_unlabelled_stay_so(ok: Callable, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X_train=np.zeros((4, 1), np.float32), y_train=[0, -1, 1, 1], classes=["a", "b"])
    np.savez(tmp_path / "h.npz", worse=[1, 1, 1, 0], clean=[0, 0, 1, 1])
    body = ok("inject-noise", "arrays:x.npz", "--type", "human", "--human", "h.npz", "--json").json
    assert noisy_of(tmp_path / body["artifact"]) == [1, -1, 1, 0]
    assert (body["n"], body["flipped"]) == (3, 2)


def write(folder: Path, name: str, y: np.ndarray, worse: np.ndarray) -> str:
    """A file that must be refused, by the name of what is wrong with it; returns the operand."""
    path = folder / name
    ids = [f"train/{row:06d}" for row in range(12)]
    table = "sample,worse\n" + "".join(f"{i},{w}\n" for i, w in zip(ids, worse, strict=True))
    if name == "other-clean.npz":
        np.savez(path, clean=np.roll(y, 1), worse=worse)
    elif name == "short.npz":
        np.savez(path, clean=y[:11], worse=worse[:11])
    elif name == "lengths.npz":
        np.savez(path, clean=y, worse=worse[:11])
    elif name == "square.npy":
        np.save(path, np.zeros((12, 2), int))
    elif name == "range.npy":
        np.save(path, np.where(np.arange(12) == 7, 3, worse))
    elif name == "negative.npy":
        np.save(path, np.where(np.arange(12) == 7, -1, worse))
    elif name == "nan.npy":
        np.save(path, np.where(np.arange(12) == 7, np.nan, worse))
    elif name == "half.npy":
        np.save(path, worse + 0.5)
    elif name == "objects.npy":
        np.save(path, np.array([{}] * 12, dtype=object), allow_pickle=True)
    elif name == "cut.npz":
        np.savez(path, worse=worse)
        path.write_bytes(path.read_bytes()[:-60])
    elif name == "unknown.csv":
        path.write_text(table.replace("000003,0", "000003,antt"))
    elif name == "twice.csv":
        path.write_text(table.replace("train/000003", "train/000004"))
    elif name == "missing.csv":
        path.write_text(table.replace("train/000003", "train/000099"))
    elif name == "ragged.csv":
        path.write_text(table + "train/000012\n")
    elif name == "hole.csv":
        path.write_text(table.replace("000003,0", "000003,"))
    elif name == "empty.csv":
        path.write_text("")
    elif name == "latin.csv":
        path.write_bytes(b"sample,worse\n\xff,1\n")
    elif name == "cut.parquet":
        path.write_bytes(parquet_bytes({"worse": worse})[:-9])
    elif name == "list.pt":
        torch.save([1, 2], path)
    elif name == "objects.pt":
        torch.save({"worse": np.array([{}] * 12, dtype=object)}, path)
    elif name == "text.pt":
        path.write_text("worse")
    elif name == "cut.pt":
        torch.save({"worse": worse}, path)
        path.write_bytes(path.read_bytes()[:-40])
    return name


WRONG = {
    "other-clean.npz": "torchvision's order",
    "short.npz": "train/000011",
    "lengths.npz": "different lengths",
    "square.npy": "one label a row",
    "range.npy": "label 3",
    "negative.npy": "label -1",
    "nan.npy": "nan",
    "half.npy": "whole numbers",
    "objects.npy": "objects.npy",
    "cut.npz": "cut.npz",
    "unknown.csv": "did you mean 'ant'",
    "twice.csv": "train/000004",
    "missing.csv": "train/000003",
    "ragged.csv": "line 14",
    "hole.csv": "empty cell",
    "empty.csv": "column names",
    "latin.csv": "latin.csv",
    "cut.parquet": "cut.parquet",
    "list.pt": "a list",
    "objects.pt": "objects.pt",
    "text.pt": "text.pt",
    "cut.pt": "cut.pt",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused_by_name(nmtool: Callable, small: tuple, tmp_path: Path, name: str) -> None:
    data, y, worse = small
    operand = write(tmp_path, name, y, worse)
    ran = nmtool("inject-noise", data, "--type", "human", "--human", operand)
    assert ran.code == 65, ran.err
    assert WRONG[name] in ran.err, ran.err
    assert "Traceback" not in ran.err
    assert not list(tmp_path.glob("nmruns/labels/*"))


class Bomb:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.sentinel}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain", "npz", "npy"])
def test_a_pickle_bomb_does_not_go_off(nmtool: Callable, small: tuple, tmp_path: Path, how: str) -> None:
    sentinel = tmp_path / "gone-off"
    body = {"worse_label": Bomb(sentinel), "clean_label": np.zeros(12, int)}
    path = tmp_path / ("bomb." + {"npz": "npz", "npy": "npy"}.get(how, "pt"))
    if how == "plain":
        path.write_bytes(pickle.dumps(body))
    elif how == "npy":
        np.save(path, np.array([Bomb(sentinel)] * 12, dtype=object), allow_pickle=True)
    elif how == "npz":
        np.savez(path, worse_label=np.array([Bomb(sentinel)] * 12, dtype=object))
    else:
        torch.save(body, path, _use_new_zipfile_serialization=how == "zip")
    ran = nmtool("inject-noise", small[0], "--type", "human", "--human", f"{path.name}:worse_label")
    assert ran.code == 65, ran.err
    assert not sentinel.exists()
    assert "Traceback" not in ran.err
    if how in ("zip", "legacy"):
        assert "posix.system" in ran.err


def test_ids_that_are_no_numbers_need_a_sample_column(nmtool: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + "".join(f"s{i}\t{'ab'[i % 2]}\n" for i in range(4)))
    from PIL import Image

    for name in ("a/one.png", "b/two.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "set" / name)
    np.save(tmp_path / "h.npy", [0, 1])
    ran = nmtool("inject-noise", "folder:set", "--type", "human", "--human", "h.npy")
    assert (ran.code, "column 'sample'" in ran.err) == (65, True), ran.err
    for name in ("missing.pt", "missing.pt:key"):
        assert nmtool("inject-noise", "folder:set", "--type", "human", "--human", name).code == 66
    (tmp_path / "h.json").write_text("{}")
    assert nmtool("inject-noise", "folder:set", "--type", "human", "--human", "h.json").code == 2


def test_an_array_archive_that_is_none(nmtool: Callable, small: tuple, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("worse.npy", b"not an array")
    (tmp_path / "h.npz").write_bytes(buffer.getvalue())
    ran = nmtool("inject-noise", small[0], "--type", "human", "--human", "h.npz:worse")
    assert (ran.code, "h.npz" in ran.err, "Traceback" in ran.err) == (65, True, False), ran.err


def folder_of(root: Path, names: list[str]) -> list[str]:
    """Two images a class; returns their ids."""
    from PIL import Image

    ids = [f"{name}/{k}.png" for name in names for k in range(2)]
    for sample in ids:
        (root / sample).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / sample)
    return ids


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("names", [[str(k) for k in range(12)], ["01", "02", "03"], ["3", "5", "10"]])
def test_classes_called_by_numbers_are_joined_by_name(
    ok: Callable, nmtool: Callable, tmp_path: Path, names: list[str], suffix: str
) -> None:
    """Folders 0 to 11 are sorted as text, so that label 2 is class 10: the names in a table are no label numbers."""
    ids = folder_of(tmp_path / "set", names)
    clean = [sample.split("/")[0] for sample in ids]
    given = [names[(names.index(name) + 1) % len(names)] if k % 3 == 0 else name for k, name in enumerate(clean)]
    columns: dict[str, list] = {"sample": ids, "clean": clean, "label": given}
    path = tmp_path / f"h{suffix}"
    if suffix == ".parquet":
        if names[0] != "01":  # as pandas would write them
            columns |= {"clean": [int(name) for name in clean], "label": [float(name) for name in given]}
        path.write_bytes(parquet_bytes(columns))
    else:
        lines = [columns.keys(), *zip(*columns.values(), strict=True)]
        path.write_text("".join(("," if suffix == ".csv" else "\t").join(line) + "\n" for line in lines))
    body = ok("inject-noise", "folder:set", "--type", "human", "--human", path.name, "--json").json
    labels = read_labels(open_artifact(tmp_path / body["artifact"]))
    assert {s: labels.classes[k] for s, k in zip(labels.samples, labels.noisy, strict=True)} == dict(
        zip(ids, given, strict=True)
    )
    # an array of the same numbers holds label numbers
    rows = [labels.classes.index(name) for name in given]
    np.savez(tmp_path / "h.npz", sample=np.array(ids), label=rows)
    body = ok("inject-noise", "folder:set", "--type", "human", "--human", "h.npz", "--json").json
    assert [labels.classes[k] for k in noisy_of(tmp_path / body["artifact"])] == [
        dict(zip(ids, given, strict=True))[sample] for sample in labels.samples
    ]


def test_label_numbers_in_a_table_stay_label_numbers(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    ids = folder_of(tmp_path / "set", ["1", "2", "10"])  # in the order 1, 10, 2
    (tmp_path / "h.csv").write_text("sample,label\n" + "".join(f"{s},{k % 3}\n" for k, s in enumerate(ids)))
    body = ok("inject-noise", "folder:set", "--type", "human", "--human", "h.csv", "--json").json
    labels = read_labels(open_artifact(tmp_path / body["artifact"]))
    assert {s: int(k) for s, k in zip(labels.samples, labels.noisy, strict=True)} == {
        s: k % 3 for k, s in enumerate(ids)
    }
    (tmp_path / "h.csv").write_text("sample,label\n" + "".join(f"{s},{k}\n" for k, s in enumerate(ids)))
    ran = nmtool("inject-noise", "folder:set", "--type", "human", "--human", "h.csv")
    assert (ran.code, "the label 3" in ran.err) == (65, True), ran.err


def test_rows_of_other_data_are_not_taken_by_number(
    ok: Callable, nmtool: Callable, small: tuple, tmp_path: Path
) -> None:
    """More rows than the data has, no ids, nothing to check against: another split's file would pass unseen."""
    data, y, worse = small
    np.save(tmp_path / "h.npy", np.append(worse, [0]))
    ran = nmtool("inject-noise", data, "--type", "human", "--human", "h.npy")
    assert (ran.code, "13 rows" in ran.err, "'sample'" in ran.err) == (65, True, True), ran.err
    np.savez(tmp_path / "h.npz", worse=np.append(worse, [0]), clean=np.append(y, [0]))
    assert ok("inject-noise", data, "--type", "human", "--human", "h.npz", "--json").json["flipped"] == 5


def test_arrays_of_other_forms(ok: Callable, nmtool: Callable, small: tuple, tmp_path: Path) -> None:
    data, _, worse = small
    np.save(tmp_path / "point.npy", np.int64(1))
    np.savez(tmp_path / "point.npz", worse=np.int64(1), clean=np.int64(1))
    for operand in ("point.npy", "point.npz:worse"):
        ran = nmtool("inject-noise", data, "--type", "human", "--human", operand)
        assert (ran.code, "one label a row" in ran.err, "Traceback" in ran.err) == (65, True, False), ran.err
    names = np.array(["ant", "bee", "cat"])[worse].astype("S")  # bytes, as older numpy and HDF5 tools write texts
    ids = np.array([f"train/{row:06d}" for row in range(12)], dtype="S")
    np.savez(tmp_path / "bytes.npz", sample=ids[::-1], worse=names[::-1])
    body = ok("inject-noise", data, "--type", "human", "--human", "bytes.npz", "--json").json
    assert noisy_of(tmp_path / body["artifact"]) == worse.tolist()
    ran = nmtool("inject-noise", data, "--type", "human", "--human", ".")
    assert (ran.code, "is no file" in ran.err) == (66, True), ran.err
