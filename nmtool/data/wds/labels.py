"""Splits, labels and class names of samples in WebDataset shards, from what the shards say and from the ids' folders.

The folders in ids are read as ``folder:`` reads folders: CLASS/x.jpg, SPLIT/CLASS/x.jpg or DOMAIN/SPLIT/CLASS/x.jpg.
Where the samples bring labels of their own, folders that do not fit that are no error. Reads nothing; refuses labels
that mix numbers and names, and folders of which a class could only be guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nmtool.data.folder import SPLIT_NAMES
from nmtool.data.labels import MAX_CLASSES, names_of
from nmtool.data.wds.shardlist import Shard
from nmtool.data.wds.texts import Cell
from nmtool.errors import DataError, UsageError
from nmtool.records import UNLABELLED, Int, check_split

_LAYOUTS = "CLASS/image.jpg, SPLIT/CLASS/image.jpg or DOMAIN/SPLIT/CLASS/image.jpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What the shards say of N samples.

    Attributes:
        ids: sample ids.
        cells: labels as they stand in the shards.
        shard: int64 [N]: which shard each is in.
        shards: the shards.
        folders: all folders in all shards.
        kind: ``images``, ``captions`` or ``text``.
        uri: for messages.
    """

    ids: Sequence[str]
    cells: Sequence[Cell]
    shard: Int
    shards: Sequence[Shard]
    folders: frozenset[str]
    kind: str
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """Where N samples belong: split names, int64 [N] which of them, int64 [N] labels, and the class names."""

    splits: tuple[str, ...]
    split: Int
    labels: Int
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """The distinct folders that ids stand in: their names, and int64 [N] which of them each sample is in."""

    names: tuple[str, ...]
    code: Int


def sort_out(samples: Samples, named: tuple[str, ...], beside: tuple[str, ...]) -> Sorting:
    """Find every sample's split and label.

    Args:
        samples: what the shards say.
        named: class names that the user gave; they hold for numbers and names.
        beside: class names in a file beside the shards; they hold for numbers. Empty where there is none.

    Raises:
        DataError: labels out of range, not among the class names, real numbers, or numbers and names mixed; folders
            that can't be told apart; a shard called after one split with a sample of another.
    """
    folders = _folders(samples.ids)
    n = len(samples.ids)
    if samples.kind != "captions" and any(cell is not None for cell in samples.cells):
        labels, classes, fitting = _own_labels(samples, folders, named, beside)
        inner = _layout_splits(folders) if fitting else [_known_split(name) for name in folders.names]
    elif samples.kind == "images" and folders.names != ("",):
        depth = _depth(folders.names)
        classes = named or tuple(
            sorted({name.rpartition("/")[2] for name in samples.folders if name.count("/") == depth - 1})
        )
        labels = _numbers_of([name.rpartition("/")[2] for name in folders.names], classes, samples.uri)[folders.code]
        inner = _layout_splits(folders)
    else:
        labels, classes = np.full(n, UNLABELLED, dtype=np.int64), ()
        inner = [_known_split(name) for name in folders.names]
    split, splits = _splits(samples, folders, inner)
    return Sorting(splits=splits, split=split, labels=labels, classes=classes)


def _folders(ids: Sequence[str]) -> Folders:
    place: dict[str, int] = {}
    code = np.fromiter((place.setdefault(each.rpartition("/")[0], len(place)) for each in ids), np.int64, len(ids))
    return Folders(names=tuple(place), code=code)


def _own_labels(
    samples: Samples, folders: Folders, named: tuple[str, ...], beside: tuple[str, ...]
) -> tuple[Int, tuple[str, ...], bool]:
    """Labels and class names from the samples' own labels, and whether the folders are the classes, one each."""
    place: dict[Cell, int] = {}
    code = np.fromiter((place.setdefault(cell, len(place)) for cell in samples.cells), np.int64, len(samples.cells))
    cells = list(place)
    numbers = [UNLABELLED if cell is None else _whole(cell) for cell in cells]
    texts = ["" if cell is None else str(cell) for cell in cells]
    if named and all(text in set(named) for text in texts if text):
        labels = _numbers_of(texts, named, samples.uri)[code]
        return labels, named, _fit(labels, folders)
    if all(number is None for number, cell in zip(numbers, cells, strict=True) if cell is not None):
        if all(_is_real(text) for text in texts if text):
            shown = next(text for text in texts if text)
            raise DataError(
                f"labels that are real numbers (such as {shown}) in {samples.uri}", "class numbers or names"
            )
        names = named or tuple(sorted(text for text in texts if text))
        labels = _numbers_of(texts, names, samples.uri)[code]
        return labels, names, _fit(labels, folders)
    if any(number is None for number in numbers):
        odd = next(k for k, number in enumerate(numbers) if number is None)
        row = int(np.flatnonzero(code == odd)[0])
        raise DataError(
            f"the label {texts[odd]!r} of {samples.ids[row]!r} among class numbers",
            "all numbers or all names",
            "mend it, or name the classes by ?classes=FILE",
        )
    given = named or beside
    top = len(given) or MAX_CLASSES
    small = np.array([UNLABELLED - 1 if not UNLABELLED <= (k or 0) < top else k for k in numbers], dtype=np.int64)
    labels = small[code]
    bad = np.flatnonzero(labels < UNLABELLED)
    if len(bad):
        shown = ", ".join(f"{samples.ids[row]!r}: {samples.cells[row]}" for row in bad[:5])
        raise DataError(f"{len(bad)} labels out of range ({shown})", f"-1 (unlabelled) or 0 to {top - 1}")
    fitting = _fit(labels, folders)
    return labels, given or (_names_by_folder(labels, folders) if fitting else None) or names_of(labels), fitting


def _whole(cell: Cell) -> int | None:
    if isinstance(cell, int):
        return cell
    digits = (cell or "").removeprefix("-").removeprefix("+")
    return int(cell or "") if digits.isascii() and digits.isdigit() and len(digits) < 19 else None


def _is_real(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers_of(names: Sequence[str], classes: tuple[str, ...], uri: str) -> Int:
    """Place of each name among the classes; -1 for an empty one."""
    place = {name: k for k, name in enumerate(classes)}
    strange = sorted({name for name in names if name and name not in place})
    if strange:
        raise DataError(f"labels of {uri} not among the class names: {strange[:5]}", f"some of {list(classes[:5])} …")
    return np.array([place[name] if name else UNLABELLED for name in names], dtype=np.int64)


def _pairs(labels: Int, folders: Folders) -> list[tuple[int, str]]:
    """Each label with each class folder that it occurs in."""
    labelled = labels >= 0
    found = np.unique(np.stack([labels[labelled], folders.code[labelled]]), axis=1).T.tolist()
    return sorted({(label, folders.names[code].rpartition("/")[2]) for label, code in found})


def _fit(labels: Int, folders: Folders) -> bool:
    """Whether the last folders are the classes: one folder a label, one label a folder, in a layout of ``folder:``."""
    pairs = _pairs(labels, folders)
    try:
        _depth(folders.names)
    except DataError:
        return False
    return len({label for label, _ in pairs}) == len({name for _, name in pairs}) == len(pairs)


def _names_by_folder(labels: Int, folders: Folders) -> tuple[str, ...] | None:
    """Class names by the folders; a label that no sample has is called by its number."""
    known: Mapping[int, str] = dict(_pairs(labels, folders))
    names = tuple(known.get(label, str(label)) for label in range(max(known, default=-1) + 1))
    return names if len(set(names)) == len(names) else None


def _depth(above: Sequence[str]) -> int:
    """How many folders stand above every image, 1 to 3, by the rules of ``folder:``; raises ``DataError``."""
    example = {name.count("/") + 1 if name else 0: name for name in sorted(above, reverse=True)}
    depth = min(example)
    hint = "?label=… names the part with the label"
    if len(example) > 1:
        shown = " and ".join(repr(f"{example[d]}/…") for d in sorted(example)[:2])
        raise DataError(f"images in folders of different depths: {shown}", f"one layout: {_LAYOUTS}", hint)
    if not 1 <= depth <= 3:
        raise DataError(f"images {depth} folders deep, in {example[depth]!r}", _LAYOUTS, hint)
    tops = {name.split("/", 1)[0] for name in above}
    if depth != 2 and all(top.lower() in SPLIT_NAMES for top in tops):
        if depth == 1:
            shown = ", ".join(sorted(tops))
            raise DataError(f"images directly in {shown}: these name splits, not classes", _LAYOUTS, hint)
        if not {name.split("/")[1].lower() for name in above} <= SPLIT_NAMES:
            raise DataError(f"folders SPLIT/DOMAIN/CLASS, as {above[0]!r}", "DOMAIN/SPLIT/CLASS", "swap the two levels")
    return depth


def _layout_splits(folders: Folders) -> list[str]:
    """The split of each folder where the last level is the class; empty where nothing stands above it."""
    return [name.rpartition("/")[0] for name in folders.names]


def _known_split(folder: str) -> str:
    """The split that a folder's path names, SPLIT/… or DOMAIN/SPLIT/…; empty where it names none."""
    parts = folder.split("/")
    if parts[0].lower() in SPLIT_NAMES:
        return parts[0]
    return "/".join(parts[:2]) if len(parts) > 1 and parts[1].lower() in SPLIT_NAMES else ""


def _splits(samples: Samples, folders: Folders, inner: Sequence[str]) -> tuple[Int, tuple[str, ...]]:
    """Each sample's split: what the URI says, else the shard's name, else the ids' folders, else the shard's folder.

    Where none says anything it is ``train``.
    """
    place: dict[str, int] = {}
    both = samples.shard * len(folders.names) + folders.code
    each, back = np.unique(both, return_inverse=True)
    codes = np.zeros(len(each), dtype=np.int64)
    for k, number in enumerate(each.tolist()):
        shard, split = samples.shards[number // len(folders.names)], inner[number % len(folders.names)]
        last = split.rpartition("/")[2].lower()
        if shard.split and (shard.said or last != shard.split.lower()):
            if not shard.said and last in SPLIT_NAMES:
                row = int(np.flatnonzero(both == number)[0])
                raise DataError(
                    f"{samples.ids[row]!r} in the shard {shard.path.name}",
                    "one split, in the shard's name and in the sample's",
                    "say which: ?split=NAME or SPLIT=SHARDS",
                )
            split = shard.split
        codes[k] = place.setdefault(check_split(split or shard.above or "train"), len(place))
    return codes[back.reshape(-1)], tuple(place)


def check_options(options: Mapping[str, str], uri: str) -> None:
    """Raises ``UsageError`` for options that make no sense together."""
    if "as" in options and options["as"] != "folder":
        raise UsageError(f"as={options['as']} in {uri!r}", "as=folder, or nothing")
    clash = [name for name in ("image", "label", "caption") if name in options and "as" in options]
    if clash or ("label" in options and "caption" in options):
        pair = f"as=folder and {clash[0]}=…" if clash else "label=… and caption=…"
        raise UsageError(f"{pair} in {uri!r}", "one of the two")
