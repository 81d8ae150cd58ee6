"""What each class becomes: from files and from names of the literature, as arrays over the dataset's classes.

Also the other small files a noise type may need: lists of classes, and transition matrices.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np

from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.inject_noise import facts
from nmtool.inject_noise.names import class_numbers, known_as
from nmtool.numerics.noise import group_successors
from nmtool.records import Float, Int

_WNID = re.compile(r"n\d{8}")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputMissingError(f"{path} does not exist", "a file") from None
    except IsADirectoryError:
        raise InputMissingError(f"{path} is a folder", "a file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error})", "a text file") from None


def default_mapping(classes: tuple[str, ...]) -> tuple[str, str] | None:
    """``("--map", "cifar10")`` or ``("--groups", "cifar100")`` where the classes are that data set's; None else."""
    if len(classes) == 10 and known_as(classes, facts.CIFAR10, facts.CIFAR10_SPELLINGS) is not None:
        return "--map", "cifar10"
    fine = [name for members in facts.CIFAR100.values() for name in members]
    if len(classes) == 100 and known_as(classes, fine) is not None:
        return "--groups", "cifar100"
    return None


def mapping_of(
    classes: tuple[str, ...], *, map_: str | None, groups: str | None, related: Int | None
) -> tuple[Int, str]:
    """What each class becomes under ``--map`` or ``--groups``, or under the one that suits the classes.

    Args:
        classes: the data's, in label order.
        map_, groups: as given; a name of the literature or a file.
        related: labels of the only classes that may flip or be flipped to; None: all.

    Returns:
        int64 [C], a class that never flips mapping to itself; and the flag that was chosen for want of one, or "".

    Raises:
        UsageError: neither is given and the classes are not those of CIFAR-10 or CIFAR-100.
        DataError: a file or name that does not fit the classes; nothing would flip.
    """
    chosen = ""
    if map_ is None and groups is None:
        found = default_mapping(classes)
        if found is None:
            raise UsageError("--type asymmetric", "--map or --groups", "only those of CIFAR-10 and CIFAR-100 are known")
        chosen = " ".join(found)
        map_, groups = (found[1], None) if found[0] == "--map" else (None, found[1])
    allowed = np.ones(len(classes), dtype=bool)
    if related is not None:
        allowed = np.isin(np.arange(len(classes)), related)
    if map_ is not None:
        mapping = _cifar10(classes) if map_ == "cifar10" else read_map(map_, classes)
        mapping = np.where(allowed & allowed[mapping], mapping, np.arange(len(classes)))
    else:
        assert groups is not None
        mapping = group_successors(np.where(allowed, groups_of(groups, classes), -1))
    if np.array_equal(mapping, np.arange(len(classes))):
        raise DataError(f"{map_ or groups} maps every class to itself", "at least one class that becomes another")
    return mapping, chosen


def _cifar10(classes: tuple[str, ...]) -> Int:
    """CIFAR-10's map, by class name."""
    label = known_as(classes, facts.CIFAR10, facts.CIFAR10_SPELLINGS)
    if label is None or len(label) != len(facts.CIFAR10):
        shown = ", ".join(classes[:10])
        raise DataError(f"--map cifar10 with the classes {shown}", "CIFAR-10's ten classes by name", "give a file")
    mapping = np.arange(len(classes), dtype=np.int64)
    for source, target in facts.CIFAR10_MAP.items():
        mapping[label[source]] = label[target]
    return mapping


def groups_of(groups: str, classes: tuple[str, ...]) -> Int:
    """int64 [C]: the group of each class, -1 for none; from a name of the literature or a file."""
    name, _, size = groups.partition(":")
    if name == "consecutive":
        if size and not (size.isascii() and size.isdigit() and len(size) < 9 and int(size) > 1):
            raise UsageError(f"--groups {groups}", "consecutive:K with K of 2 or more, as consecutive:5")
        return np.arange(len(classes), dtype=np.int64) // int(size or 5)
    if groups == "cifar100":
        return _cifar100(classes)
    if groups == "imagenet-cifar100":
        return _imagenet(classes)
    return read_groups(groups, classes)


def _cifar100(classes: tuple[str, ...]) -> Int:
    """CIFAR-100's super-classes, by class name; some of its classes will do."""
    label = known_as(classes, [name for members in facts.CIFAR100.values() for name in members])
    if label is None:
        shown = ", ".join(classes[:5])
        raise DataError(f"--groups cifar100 with the classes {shown}, …", "classes of CIFAR-100 by name", "give a file")
    result = np.full(len(classes), -1, dtype=np.int64)
    for group, members in enumerate(facts.CIFAR100.values()):
        for name in members:
            if name in label:
                result[label[name]] = group
    return result


def _imagenet(classes: tuple[str, ...]) -> Int:
    """For ImageNet: the CIFAR-100 super-class that a class is a kind of; most are none's."""
    if not all(_WNID.fullmatch(name) for name in classes):
        raise DataError(
            f"--groups imagenet-cifar100 with the classes {', '.join(classes[:5])}, …",
            "ImageNet's classes by wnid, as n01440764",
            "name the class folders by wnid, or give a file",
        )
    group_of = {
        wnid: group
        for group, members in enumerate(facts.CIFAR100.values())
        for name in members
        for wnid in facts.IMAGENET_OF_CIFAR100.get(name, {})
    }
    return np.array([group_of.get(name, -1) for name in classes], dtype=np.int64)


def read_map(path: str, classes: tuple[str, ...]) -> Int:
    """int64 [C]: what each class becomes; classes that the file does not name stay themselves."""
    text = _text(path)
    if path.endswith(".json"):
        pairs = _pairs(text, path, "a JSON object {class: class}")
    else:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
        if any(len(row) != 2 for row in rows):
            raise DataError(f"{path} has a line of other than two columns", "lines from,to")
        pairs = [(a.strip(), b.strip()) for a, b in rows if (a.strip(), b.strip()) != ("from", "to")]
    mapping = np.arange(len(classes), dtype=np.int64)
    numbers = class_numbers(itertools.chain.from_iterable(pairs), classes, path)
    sources, targets = numbers[::2], numbers[1::2]
    _check_once(sources, classes, f"{path} maps the class {{}} twice", "one class that it becomes")
    mapping[sources] = targets
    return mapping


def _pairs(text: str, path: str, wanted: str) -> list[tuple[object, object]]:
    """Names and values of a JSON object, those that stand there twice, too."""
    try:
        found = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} does not parse ({error})", wanted) from None
    if not isinstance(found, tuple):
        raise DataError(f"{path} holds no JSON object", wanted)
    return list(found)


def _check_once(numbers: list[int], classes: tuple[str, ...], found: str, wanted: str) -> None:
    twice = next((number for number, count in Counter(numbers).items() if count > 1), None)
    if twice is not None:
        raise DataError(found.format(repr(classes[twice])), wanted)


def read_groups(path: str, classes: tuple[str, ...]) -> Int:
    """int64 [C]: the group of each class; -1 where the file says null."""
    items = _pairs(_text(path), path, "a JSON object {class: group}")
    names = {name: number for number, name in enumerate(sorted({str(g) for _, g in items if g is not None}))}
    groups = np.full(len(classes), -2, dtype=np.int64)
    numbers = class_numbers([name for name, _ in items], classes, path)
    _check_once(numbers, classes, f"{path} names the class {{}} twice", "one group for each")
    for number, (_, group) in zip(numbers, items, strict=True):
        groups[number] = -1 if group is None else names[str(group)]
    without = np.flatnonzero(groups == -2)
    if without.size:
        raise DataError(
            f"{path} gives no group for {classes[int(without[0])]!r}", "a group for each class, or null for none"
        )
    return groups


def read_related(path: str, classes: tuple[str, ...]) -> Int:
    """int64 [R], ascending: labels of the classes that a file names, one a line or as a JSON list.

    Raises:
        DataError: it names a class that is none of the data's, or fewer than two.
    """
    text = _text(path)
    if text.lstrip().startswith("["):
        try:
            names = list(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} does not parse ({error})", "a JSON list of classes, or one a line") from None
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    labels = np.unique(np.array(class_numbers(names, classes, path), dtype=np.int64))
    if labels.size < 2:
        raise DataError(f"{path} names {labels.size} of the data's classes", "two or more, to flip between")
    return labels


def read_matrix(path: str, classes: tuple[str, ...]) -> tuple[Float, bool]:
    """float64 [C, C] from ``.npy`` or ``.csv``, and whether it held counts, which are divided by their rows' sums.

    Whole numbers whose rows do not all sum to 1 are counts. Whether the rows of other matrices are distributions is
    checked where they are used.
    """
    try:
        if path.endswith(".npy"):
            stored = np.asarray(np.load(path, allow_pickle=False))
            if stored.dtype.kind == "c":  # as float64 it would lose a part without a word
                raise ValueError("complex numbers")
            matrix = stored.astype(np.float64)
        else:
            matrix = np.loadtxt(io.StringIO(_text(path)), delimiter=",", ndmin=2)
    except InputMissingError:
        raise
    except FileNotFoundError:
        raise InputMissingError(f"{path} does not exist", "a matrix file") from None
    except IsADirectoryError:
        raise InputMissingError(f"{path} is a folder", "a matrix file") from None
    except (ValueError, TypeError, EOFError) as error:
        raise DataError(f"{path} does not parse ({error})", "a matrix of numbers, .npy or .csv") from None
    if matrix.shape != (len(classes), len(classes)):
        raise DataError(f"{path} has shape {matrix.shape}", f"({len(classes)}, {len(classes)}), as many as classes")
    sums = matrix.sum(axis=1)
    counts = bool(np.all(np.isfinite(matrix)) and np.all(matrix >= 0) and np.all(matrix == np.floor(matrix)))
    if not counts or np.all(sums == 1):
        return matrix, False
    empty = np.flatnonzero(sums == 0)
    if empty.size:
        raise DataError(f"row {classes[int(empty[0])]!r} of the counts in {path} is 0", "a count in each row")
    return matrix / sums[:, None], True
