"""Columns of the files that Hugging Face keeps texts in: Parquet shards, and what ``save_to_disk`` writes.

Shards are counted by their names (``train-00000-of-00002.parquet``): a missing one is refused, not skipped.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nmtool.data import files
from nmtool.data.suites.facts import WrongLayout
from nmtool.errors import DataError, InputMissingError

# Without it a stream that was cut between two batches reads as one with fewer rows.
_END = b"\xff\xff\xff\xff\0\0\0\0"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def shards(folder: Path, split: str) -> list[Path]:
    """The Parquet files of a split, in order; none where there is none.

    Raises:
        InputMissingError: one of those that their names count is not there.
    """
    form = re.compile(rf"{re.escape(split)}-(\d{{5}})-of-(\d{{5}})\.parquet")
    named = [found for path in folder.glob(f"{split}-*.parquet") if (found := form.fullmatch(path.name))]
    if not named:
        return []
    of = max(found[2] for found in named)
    wanted = [folder / f"{split}-{k:05d}-of-{of}.parquet" for k in range(int(of))]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise InputMissingError(f"{folder.name}/{missing[0].name} is not there", f"all {int(of)} shards of {split}")
    return wanted


def parquet(paths: Sequence[Path], columns: Sequence[str]) -> list[list[Any]]:
    """Cells by column, of all files together.

    Raises:
        WrongLayout: a file has no such column.
        DataError: it is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    out: list[list[Any]] = [[] for _ in columns]
    for path in paths:
        name = f"{path.parent.name}/{path.name}"
        with _sound(name), pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            _check(file.schema_arrow.names, columns, name)
            # Without threads: a process that ends while Arrow's pool is still starting is aborted.
            table = file.read(columns=list(columns), use_threads=False)
        for cells, column in zip(out, columns, strict=True):
            cells += table.column(column).to_pylist()
    return out


def saved(folder: Path, columns: Sequence[str]) -> tuple[list[list[Any]], list[Path]]:
    """Cells by column of a dataset that ``save_to_disk`` wrote, and the files they were read from.

    Raises:
        InputMissingError: a file that its ``state.json`` names is not there.
        WrongLayout: it has no such column.
        DataError: it is damaged, or its rows are chosen by an index file.
    """
    import pyarrow
    import pyarrow.ipc

    paths = _data_files(folder)
    out: list[list[Any]] = [[] for _ in columns]
    for path in paths[1:]:
        name = f"{folder.name}/{path.name}"
        with _sound(name), pyarrow.OSFile(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
            _check(stream.schema.names, columns, name)
            table = stream.read_all()
            source.seek(source.size() - len(_END))
            if source.read() != _END:
                raise DataError(f"{name} has no end mark: it was cut", "the whole file", "fetch it again")
        for cells, column in zip(out, columns, strict=True):
            cells += table.column(column).to_pylist()
    return out, paths


def _data_files(folder: Path) -> list[Path]:
    """``state.json`` and the Arrow files that it names."""
    name = f"{folder.name}/state.json"
    with files.told(name):
        body = (folder / "state.json").read_bytes()
    try:
        state = json.loads(body)
        named = [each["filename"] for each in state["_data_files"]]
        chosen = state.get("_indices_data_files") or state.get("_indices_files")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{name} does not say which files hold the data", "what save_to_disk writes") from None
    if chosen:
        raise DataError(f"{name} picks rows by an index file", "all rows in their order", "save it flattened")
    for each in named:
        if not isinstance(each, str) or not _PLAIN.fullmatch(each):
            raise DataError(f"{name} names the file {each!r}", "a file beside it")
    if not named:
        raise DataError(f"{name} names no file", "the files that hold the data")
    return [folder / "state.json", *(folder / each for each in named)]


def _check(names: Sequence[str], columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in names]
    if missing:
        raise WrongLayout(f"{name} has no column {missing[0]!r} (it has {', '.join(names)})", "the official columns")


@contextlib.contextmanager
def _sound(name: str) -> Iterator[None]:
    """Tell what Arrow finds wrong with a file from what the operating system does."""
    import pyarrow

    with files.told(name):
        try:
            yield
        except DataError:
            raise
        except (pyarrow.ArrowException, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(f"{name} can't be read ({str(error)[:200]})", "a sound file", "fetch it again") from None
