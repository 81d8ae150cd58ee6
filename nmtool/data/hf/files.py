"""Which files make up which split of a Hugging Face dataset on disk, in which order, and what it says of itself.

Three layouts, told by what lies in the folder:

- what ``save_to_disk`` writes: ``state.json`` beside the Arrow files it names, or ``dataset_dict.json`` above a folder
  a split;
- what ``load_dataset`` keeps in its cache: ``dataset_info.json`` beside ``NAME-SPLIT.arrow``;
- a repository of the hub: Parquet files (``repository``).

A name in a file of the folder leads nowhere out of it. Reads JSON and YAML, no samples.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmtool.data import files
from nmtool.data.images import SUFFIXES
from nmtool.errors import DataError, InputMissingError, UsageError

STATE, INFO, DICT, INFOS = "state.json", "dataset_info.json", "dataset_dict.json", "dataset_infos.json"
LAYOUTS = "state.json or dataset_dict.json (save_to_disk), Parquet files (a repository of the hub)"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*")
_SPLIT = re.compile(r"\w+(\.\w+)*")
_CAP = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One split as it is stored.

    Attributes:
        paths: its files, in order; all Arrow streams or all Parquet.
        picked: Arrow files of the row numbers that were picked from them, in order; none for all rows.
        rows: the number of rows it is said to have; -1 where nobody says.
        surely: another number of rows is an error, and no sign of rows picked before it was saved.
        features: the features as ``datasets`` writes them in JSON, by column; empty where nobody says.
    """

    paths: tuple[Path, ...]
    picked: tuple[Path, ...] = ()
    rows: int = -1
    surely: bool = False
    features: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A dataset on disk.

    Attributes:
        root: the folder; messages name files by their paths below it.
        splits: what is stored, by split.
        about: the files that were read to find out.
    """

    root: Path
    splits: Mapping[str, Stored]
    about: tuple[Path, ...]

    def name(self, path: Path) -> str:
        """What messages call a file."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name


def find(root: Path, config: str) -> Layout:
    """The layout of the folder ``root``.

    Args:
        root: absolute.
        config: the configuration asked for; empty for the only one, or the default.

    Raises:
        InputMissingError: a file that another names is not there.
        UsageError: it has several configurations, or none of this name.
        DataError: none of the layouts, a damaged JSON file, or a name in one that leads out of the folder.
    """
    from nmtool.data.hf import repository

    if (root / DICT).is_file() or (root / STATE).is_file() or ((root / INFO).is_file() and _cached(root)):
        if config:
            raise UsageError(f"config={config} for {root.name!r}, which has no configurations", "", "leave it out")
        if (root / DICT).is_file():
            return _dict(root)
        return _one(root) if (root / STATE).is_file() else _prepared(root)
    found = repository.find(root, config)
    if found is None:
        raise _strange(root)
    return found


def _dict(root: Path) -> Layout:
    named = read_json(root / DICT, DICT).get("splits")
    if not isinstance(named, list) or not named:
        raise DataError(f"{DICT} names no splits", "splits, as save_to_disk writes them", "save it again")
    splits, about = {}, [root / DICT]
    for split in named:
        folder = inside(root, split, DICT)
        if not (folder / STATE).is_file():
            raise InputMissingError(f"{split}/{STATE} is not there", f"all splits that {DICT} names", "copy it whole")
        splits[split], read, _ = _saved(folder, f"{split}/")
        about += read
    return Layout(root=root, splits=splits, about=tuple(about))


def _one(root: Path) -> Layout:
    stored, about, split = _saved(root, "")
    # a part of a split is called train[:10%], and several train+test
    name = re.sub(r"\[.*\]$", "", split)
    return Layout(root=root, splits={name if _SPLIT.fullmatch(name) else "train": stored}, about=tuple(about))


def _saved(folder: Path, above: str) -> tuple[Stored, list[Path], str]:
    """What ``save_to_disk`` wrote for one split, the files read for it, and the split's own name."""
    name = f"{above}{STATE}"
    state = read_json(folder / STATE, name)
    paths = _listed(folder, state.get("_data_files"), name)
    if not paths:
        raise DataError(f"{name} names no file", "the files that hold the data", "save it again")
    # versions before 1.12 kept what select() and shuffle() picked beside the data
    picked = _listed(folder, state.get("_indices_data_files") or state.get("_indices_files") or [], name)
    about, info = [folder / STATE], {}
    if (folder / INFO).is_file():
        about.append(folder / INFO)
        info = read_json(folder / INFO, f"{above}{INFO}")
    split = str(state.get("_split") or "")
    stored = Stored(
        paths=paths,
        picked=picked,
        rows=counts(info.get("splits"), f"{above}{INFO}").get(split, -1),
        features=features(info.get("features"), f"{above}{INFO}"),
    )
    return stored, about, split


def _listed(folder: Path, named: object, name: str) -> tuple[Path, ...]:
    """The files that a ``state.json`` names."""
    if not isinstance(named, list) or not all(isinstance(each, dict) for each in named):
        raise DataError(f"{name} does not say which files hold the data", "what save_to_disk writes", "save it again")
    return tuple(inside(folder, each.get("filename"), name) for each in named)


def _cached(root: Path) -> bool:
    return any(path.suffix == ".arrow" for path in root.iterdir())


def _prepared(root: Path) -> Layout:
    """What ``load_dataset`` keeps of one configuration in its cache."""
    info = read_json(root / INFO, INFO)
    said = counts(info.get("splits"), INFO)
    if not said:
        raise DataError(f"{INFO} names no splits", "what load_dataset keeps in its cache", "load it again")
    about = features(info.get("features"), INFO)
    there = sorted(path.name for path in root.iterdir() if path.suffix == ".arrow")
    splits = {}
    for split, rows in said.items():
        form = re.compile(rf"[^/]+-{re.escape(split)}(-\d{{5}}-of-\d{{5}})?\.arrow")
        paths = shards([root / name for name in there if form.fullmatch(name)], root, split)
        splits[split] = Stored(paths=paths, rows=rows, surely=True, features=about)
    return Layout(root=root, splits=splits, about=(root / INFO,))


def shards(paths: Sequence[Path], root: Path, split: str) -> tuple[Path, ...]:
    """The files of a split in order, as many as ``-00000-of-00002`` in their names counts.

    Raises:
        InputMissingError: none, or not all.
        DataError: two counts, or a number twice.
    """
    numbered: dict[tuple[str, int], Path] = {}
    totals, plain, twice = set(), [], False
    for path in sorted(paths):
        found = re.search(r"-(\d{5})-of-(\d{5})(-[0-9a-f]+)?\.\w+$", path.name)
        if found is None:
            plain.append(path)
            continue
        totals.add(int(found[2]))
        place = str(path.parent / path.name[: found.start()]), int(found[1])
        twice |= place in numbered
        numbered[place] = path
    of = max(totals, default=0)
    missing = sorted(set(range(of)) - {number for _, number in numbered})
    if missing or not paths:
        what = f"part {missing[0]:05d} of {of:05d}" if missing else "a file"
        raise InputMissingError(f"{what} of split {split} is not there", "all files of the split", "fetch it again")
    if twice or len(totals) > 1 or (plain and numbered) or len(numbered) != (of if numbered else 0):
        shown = ", ".join(path.relative_to(root).as_posix() for path in sorted(paths)[:4])
        raise DataError(f"the files of split {split} do not belong together ({shown})", "one set of parts")
    return tuple(numbered[key] for key in sorted(numbered)) or tuple(plain)


def inside(folder: Path, name: object, where: str) -> Path:
    """What a file ``where`` names beside itself; raises ``DataError`` where that is no plain name."""
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
        raise DataError(f"{where} names {name!r}", "a plain name beside it", "do not use data from this source")
    return folder / name


def read_json(path: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file; raises ``DataError`` where there is none."""
    try:
        body = json.loads(read_small(path, name))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is no JSON ({str(error)[:100]})", "what datasets writes", "fetch it again") from None
    if not isinstance(body, dict):
        raise DataError(f"{name} holds a {type(body).__name__}", "a JSON object", "fetch it again")
    return body


def read_small(path: Path, name: str) -> bytes:
    """The bytes of a file about the data; raises ``DataError`` where there are over 64 MiB."""
    files.regular(path, name)
    with files.told(name), path.open("rb") as stream:
        body = stream.read(_CAP + 1)
    if len(body) > _CAP:
        raise DataError(f"{name} has over {_CAP} bytes", "a small file about the data")
    return body


def counts(splits: object, name: str) -> dict[str, int]:
    """Number of rows by split, from the ``splits`` of an info, in JSON or YAML."""
    listed = list(splits.values()) if isinstance(splits, dict) else splits or []
    out: dict[str, int] = {}
    for each in listed if isinstance(listed, list) else [None]:
        split, rows = (each.get("name"), each.get("num_examples")) if isinstance(each, dict) else (None, None)
        if not isinstance(split, str) or not isinstance(rows, int):
            raise DataError(f"{name} has splits of another form", "name and num_examples of each", "fetch it again")
        out[split] = rows
    return out


def features(found: object, name: str) -> Mapping[str, Any]:
    """The features of an info in JSON, by column; raises ``DataError`` where they are of another form."""
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise DataError(f"{name} has features of another form", "a feature by column", "fetch it again")
    return found


def _strange(root: Path) -> DataError:
    """What to say of a folder that is none of the layouts."""
    suffixes = {Path(name).suffix.lower() for _, _, names in os.walk(root) for name in names}
    found = f"{root.name!r} is no Hugging Face dataset"
    if suffixes & set(SUFFIXES) and not suffixes & {".arrow", ".parquet"}:
        return DataError(f"{found}: it holds plain image files", LAYOUTS, f"write folder:{root.name}")
    if suffixes & {".csv", ".tsv"}:
        return DataError(f"{found}: it holds tables", LAYOUTS, "write table:FILE")
    if ".tar" in suffixes:
        return DataError(f"{found}: it holds tar files", LAYOUTS, "write wds:DIR/{000..127}.tar")
    return DataError(found, LAYOUTS, "check the path after hf:")
