"""The files a noise type may need, read into arrays over the dataset's classes: maps, groups, matrices."""

from __future__ import annotations

import csv
import difflib
import io
import json
from pathlib import Path

import numpy as np

from nmtool.errors import DataError, InputMissingError
from nmtool.numerics.noise import group_successors
from nmtool.records import Float, Int


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise InputMissingError(f"{path} does not exist", "a file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error})", "a text file") from None


def _class_number(name: object, classes: tuple[str, ...], path: str) -> int:
    """A class by its name, or by its number where no class has that name."""
    text = str(name)
    if text in classes:
        return classes.index(text)
    if text.isdigit() and int(text) < len(classes):
        return int(text)
    near = difflib.get_close_matches(text, classes, n=1)
    raise DataError(
        f"{path} names the class {text!r}", "a class of the data", f"did you mean {near[0]!r}?" if near else ""
    )


def read_map(path: str, classes: tuple[str, ...]) -> Int:
    """int64 [C]: what each class becomes; classes that the file does not name stay themselves."""
    text = _text(path)
    if path.endswith(".json"):
        try:
            pairs = list(json.loads(text).items())
        except (ValueError, AttributeError) as error:
            raise DataError(f"{path} does not parse ({error})", "a JSON object {class: class}") from None
    else:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
        if any(len(row) != 2 for row in rows):
            raise DataError(f"{path} has a line of other than two columns", "lines from,to")
        pairs = [(a.strip(), b.strip()) for a, b in rows if (a.strip(), b.strip()) != ("from", "to")]
    mapping = np.arange(len(classes), dtype=np.int64)
    for source, target in pairs:
        mapping[_class_number(source, classes, path)] = _class_number(target, classes, path)
    if np.array_equal(mapping, np.arange(len(classes))):
        raise DataError(f"{path} maps every class to itself", "at least one class that becomes another")
    return mapping


def read_groups(path: str, classes: tuple[str, ...]) -> Int:
    """int64 [C]: the next class, by ascending label, within each class's group."""
    try:
        body = json.loads(_text(path))
        items = list(body.items())
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} does not parse ({error})", "a JSON object {class: group}") from None
    names = sorted({str(group) for _, group in items})
    groups = np.full(len(classes), -1, dtype=np.int64)
    for name, group in items:
        groups[_class_number(name, classes, path)] = names.index(str(group))
    without = np.flatnonzero(groups < 0)
    if without.size:
        raise DataError(f"{path} gives no group for {classes[int(without[0])]!r}", "a group for each class")
    return group_successors(groups)


def read_matrix(path: str, classes: tuple[str, ...]) -> Float:
    """float64 [C, C] from ``.npy`` or ``.csv``; whether its rows are distributions is checked where it is used."""
    try:
        if path.endswith(".npy"):
            matrix = np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
        else:
            matrix = np.loadtxt(io.StringIO(_text(path)), delimiter=",", ndmin=2)
    except FileNotFoundError:
        raise InputMissingError(f"{path} does not exist", "a matrix file") from None
    except ValueError as error:
        raise DataError(f"{path} does not parse ({error})", "a matrix of numbers, .npy or .csv") from None
    if matrix.shape != (len(classes), len(classes)):
        raise DataError(f"{path} has shape {matrix.shape}", f"({len(classes)}, {len(classes)}), as many as classes")
    return matrix
