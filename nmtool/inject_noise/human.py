"""Labels that people gave: CIFAR-N's files and others, joined by sample id and checked against the clean labels.

Numbers in arrays (.pt, .npz, .npy) are label numbers. Those in tables (.csv, .tsv, .parquet) are names where classes
have all of them as names (folders called "1" to "11"), and label numbers else. Refused: rows without ids and clean
labels that are not as many as the data's, since nothing tells which are meant.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.artifact.format import sha256
from nmtool.artifact.stage import Reporter
from nmtool.errors import DataError, InputMissingError, PermissionDeniedError, UsageError
from nmtool.inject_noise.join import rows_by_id, rows_by_number
from nmtool.inject_noise.names import class_numbers
from nmtool.records import Int, SampleIndex

SUFFIXES = (".pt", ".npz", ".npy", ".csv", ".tsv", ".parquet")
_CLEAN = ("clean_label", "clean")
_SAMPLE = "sample"
READING = 2
"""Version of how cells become labels; 1 took numbers in tables for label numbers, whatever the classes are called."""
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
        raise InputMissingError(
            f"{path} is no file" if path.exists() else f"{path} does not exist", "a file of human labels"
        )
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
    shown = f"{key or 'the array'} of {where}"
    human = _column(columns[key], shown)
    clean_column = _column(columns[clean_key], f"{clean_key} of {where}") if clean_key else human
    if _SAMPLE in columns:
        rows = rows_by_id(index.ids, [str(sample) for sample in columns[_SAMPLE]], where)
    elif not clean_key and len(human) != len(index):
        raise DataError(
            f"{where} has {len(human)} rows, and neither sample ids nor clean labels",
            f"{len(index)}, as split {index.split} of the data",
            "give it a column 'sample' with the ids of the data, or 'clean' with their labels",
        )
    else:
        rows = rows_by_number(index.ids, len(human), where)
    given, labelled = index.labels, index.labels.values >= 0
    human, clean_column = human[rows], clean_column[rows]
    texts = {
        text for column in (human, clean_column) if column.dtype.kind == "U" for text in np.unique(column).tolist()
    }
    noisy = _numbers(human, given.classes, shown, texts)
    if clean_key:
        clean = _numbers(clean_column, given.classes, f"{clean_key} of {where}", texts)
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


def _column(values: Any, where: str) -> Any:
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{where} has shape {list(array.shape)}", "one label a row")
    return array


def _numbers(array: Any, classes: tuple[str, ...], where: str, texts: Iterable[str]) -> Int:
    """The labels as numbers: int64, checked; ``texts`` are those that have to be read alike."""
    if array.dtype.kind == "U":
        names, position = np.unique(array, return_inverse=True)
        return np.array(class_numbers(names.tolist(), classes, where, texts), dtype=np.int64)[position]
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
    result: Int = array.astype(np.int64)
    return result


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
        return {name: _texts(archive[name]) for name in archive.files}


def _npy(data: bytes, file: HumanFile) -> Columns:
    return {"": _texts(np.load(io.BytesIO(data), allow_pickle=False))}


def _texts(array: Any) -> Any:
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


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
    """The cells as texts."""
    if any(cell is None or cell == "" for cell in cells):
        raise DataError(f"column {name!r} of {file.path.name} has an empty cell", "a value in each row")
    # 3.0: where a program writes whole numbers as real ones
    plain = (int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells)
    return np.array([str(cell) for cell in plain], dtype=str)
