"""Labels that people gave: CIFAR-N's files and others, joined by sample id and checked against the clean labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.artifact.format import sha256
from nmtool.artifact.stage import Reporter
from nmtool.errors import DataError, InputMissingError, PermissionDeniedError, UsageError
from nmtool.inject_noise.join import rows_by_id, rows_by_number
from nmtool.inject_noise.names import class_number
from nmtool.records import Int, SampleIndex

SUFFIXES = (".pt", ".npz", ".npy", ".csv", ".tsv", ".parquet")
_CLEAN = ("clean_label", "clean")
_SAMPLE = "sample"
Columns = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanFile:
    """A file of labels, by content, and which of its columns is meant.

    Attributes:
        path: where it is; in no key.
        key: the column; empty: the only one there is.
        digest: of its bytes.
    """

    path: Path
    key: str
    digest: str


def open_human(text: str) -> HumanFile:
    """``FILE[:KEY]``. A path that exists wins over a colon.

    Raises:
        InputMissingError: no such file.
        UsageError: a kind of file that is not read.
    """
    path, key = Path(text), ""
    if not path.exists() and ":" in text:
        head, _, key = text.rpartition(":")
        path = Path(head)
    if not path.is_file():
        raise InputMissingError(f"{path} does not exist", "a file of human labels")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--human {path.name}", "one of " + ", ".join(SUFFIXES))
    return HumanFile(path=path, key=key, digest=sha256(_bytes(path)))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        raise PermissionDeniedError(f"{path} can't be read", "a file that can") from None


def human_labels(file: HumanFile, index: SampleIndex, report: Reporter) -> Int:
    """int64 [n]: the label of each sample of the data; -1 where the data itself has none.

    Raises:
        DataError: the file does not parse, has no such column, lacks a sample, names an unknown class, or was made for
            other data: its clean labels differ.
    """
    columns = _read(file)
    where = file.path.name
    key = _choose(columns, file)
    clean_key = next((name for name in _CLEAN if name in columns and name != key), "")
    if _SAMPLE in columns:
        samples = [str(sample) for sample in columns[_SAMPLE]]
        rows = rows_by_id(index.ids, samples, where)
    else:
        rows = rows_by_number(index.ids, len(columns[key]), where)
    given, labelled = index.labels, index.labels.values >= 0
    noisy = _numbers(columns[key], given.classes, f"{key or 'the array'} of {where}", rows)
    if clean_key:
        clean = _numbers(columns[clean_key], given.classes, f"{clean_key} of {where}", rows)
        wrong = np.flatnonzero(labelled & (clean != given.values))
        if wrong.size:
            raise DataError(
                f"{clean_key} of {where} differs from the data's labels for {wrong.size} of {len(index)} samples "
                f"(first: {index.ids[int(wrong[0])]!r})",
                "labels made for this data",
                "CIFAR-N's files are in torchvision's order of the training rows",
            )
    else:
        report.warning(f"{where} has no clean labels (clean_label): nothing shows that its rows are those of the data")
    return np.where(labelled, noisy, -1)


def _choose(columns: Columns, file: HumanFile) -> str:
    """The column that is meant."""
    there = [name for name in columns if name not in (*_CLEAN, _SAMPLE)]
    for name in (file.key, f"{file.key}_label"):
        if file.key and name in columns and name != _SAMPLE:
            return name
    shown = ", ".join(there) or "none"
    if file.key:
        raise DataError(f"{file.path.name} has no labels {file.key!r}", f"one of those there: {shown}")
    if len(there) != 1:
        remedy = f"name one: --human {file.path.name}:{there[0]}" if there else ""
        raise DataError(f"{file.path.name} has {len(there)} sorts of labels ({shown})", "one to be named", remedy)
    return there[0]


def _numbers(values: Any, classes: tuple[str, ...], where: str, rows: Int) -> Int:
    """The labels in these rows, as numbers: int64, checked."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{where} has shape {list(array.shape)}", "one label a row")
    array = array[rows]
    if array.dtype.kind in "US":
        return _named(array, classes, where)
    if array.dtype.kind == "f":
        if not np.all(np.isfinite(array) & (array == np.floor(array))):
            bad = int(np.flatnonzero(~(np.isfinite(array) & (array == np.floor(array))))[0])
            raise DataError(f"{where} holds {array[bad]}", "whole numbers or class names")
    elif array.dtype.kind not in "iu":
        raise DataError(f"{where} is of type {array.dtype}", "whole numbers or class names")
    bad_rows = np.flatnonzero((array < 0) | (array >= len(classes)))
    if bad_rows.size:
        raise DataError(
            f"{where} holds the label {array[bad_rows[0]]}", f"0 to {len(classes) - 1}, the classes of the data"
        )
    return array.astype(np.int64)


def _named(array: Any, classes: tuple[str, ...], where: str) -> Int:
    names, position = np.unique(array.astype(str), return_inverse=True)
    numbers = np.array([class_number(name, classes, where) for name in names.tolist()], dtype=np.int64)
    return numbers[position]


def _read(file: HumanFile) -> Columns:
    """The file's columns; nothing in it is ever run."""
    suffix = file.path.suffix.lower()
    if suffix == ".pt":
        from nmtool.encoders.checkpoints import read_saved_arrays

        columns: Columns = read_saved_arrays(file.path, file.digest)
    else:
        data = _bytes(file.path)
        if sha256(data) != file.digest:
            raise DataError(f"{file.path} changed while it was read", "a file at rest", "run it again")
        try:
            columns = {".npz": _npz, ".npy": _npy, ".parquet": _parquet}.get(suffix, _delimited)(data, file)
        except DataError:
            raise
        except Exception as error:  # a damaged archive or table fails in any way it likes
            why = " ".join(str(error).split())[:160] or type(error).__name__
            raise DataError(f"{file.path.name} does not parse ({why})", f"a {suffix} file of labels") from None
    lengths = {name: len(values) for name, values in columns.items() if np.ndim(values)}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {n}" for name, n in lengths.items())
        raise DataError(f"{file.path.name} has columns of different lengths ({shown})", "as many of each")
    return columns


def _npz(data: bytes, file: HumanFile) -> Columns:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _npy(data: bytes, file: HumanFile) -> Columns:
    return {"": np.load(io.BytesIO(data), allow_pickle=False)}


def _parquet(data: bytes, file: HumanFile) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data), use_threads=False)
    return {name: _cells(table.column(name).to_pylist(), name, file) for name in table.column_names}


def _delimited(data: bytes, file: HumanFile) -> Columns:
    delimiter = "\t" if file.path.suffix.lower() == ".tsv" else ","
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=delimiter))
    rows = [row for row in rows if row]
    if not rows or len(set(rows[0])) < len(rows[0]):
        raise DataError(f"{file.path.name} has no line of different column names", "a first line as sample,label")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise DataError(f"line {number} of {file.path.name} has {len(row)} cells", f"{len(rows[0])}")
    cells = list(zip(*rows[1:], strict=True)) or [()] * len(rows[0])
    return {name: _cells(column, name, file) for name, column in zip(rows[0], cells, strict=True)}


def _cells(cells: Sequence[object], name: str, file: HumanFile) -> Any:
    """Numbers where all cells are numbers, else texts; ids stay texts."""
    if any(cell is None or cell == "" for cell in cells):
        raise DataError(f"column {name!r} of {file.path.name} has an empty cell", "a value in each row")
    texts = [str(cell) for cell in cells]
    if name != _SAMPLE and all(text.isascii() and text.lstrip("-").isdigit() and len(text) < 18 for text in texts):
        return np.array([int(text) for text in texts], dtype=np.int64)
    return np.array(texts, dtype=str)
