"""A repository of the Hugging Face hub on disk: Parquet files, told apart by their names or by its README.

Where ``README.md`` begins with YAML that lists ``configs``, that says which files are which split. Else the names do::

    data/SPLIT-00000-of-00002.parquet   CONFIG/SPLIT-00000-of-00002.parquet
    SPLIT.parquet  SPLIT/*.parquet      CONFIG/SPLIT/*.parquet, SPLIT being train, test, validation or a word for it
    *.parquet                           the split is train

Links are followed only within the folder, or within the hub's cache that it is a snapshot of.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmtool.data.hf.files import INFOS, Layout, Stored, counts, features, read_json, read_small, shards
from nmtool.errors import DataError, UsageError

# as datasets has it
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.parquet")
_DEPTH = 4
_FEW = 20


def find(root: Path, config: str) -> Layout | None:
    """The layout of ``root``; None where it holds no Parquet file.

    Args:
        config: as for ``files.find``.

    Raises:
        UsageError: several configurations and none named, or no such one.
        InputMissingError: a part of a split is not there.
        DataError: a README that can't be understood, a path in it that leads out, files that go by a link.
    """
    there = _walk(root)
    if not there:
        return None
    card, about = _card(root)
    listed = {each["config_name"]: each for each in card.get("configs") or () if each.get("data_files")}
    found = _by_name(there) if not listed else {}
    name = _choose(sorted(listed or found), config, [k for k, each in listed.items() if each.get("default") is True])
    splits = _by_pattern(there, listed[name]) if listed else found[name]
    info, read = _info(root, card, name)
    said = counts(info.get("splits"), "the info")
    out = {}
    for split, paths in splits.items():
        whole = shards([root / path for path in paths], root, split)
        for path in whole:
            _check_inside(root, path)
        # a split that the info does not name is no error: it is of the library's own making
        out[split] = Stored(
            paths=whole, rows=said.get(split, -1), surely=True, features=features(info.get("features"), "the info")
        )
    return Layout(root=root, splits=out, about=(*about, *read))


def _walk(root: Path) -> list[str]:
    """All Parquet files, as sorted paths below ``root`` with slashes; hidden ones left out."""
    out = []
    for above, folders, names in os.walk(root):
        place = Path(above).relative_to(root)
        folders[:] = [] if len(place.parts) >= _DEPTH else [f for f in folders if not f.startswith((".", "__"))]
        out += [(place / name).as_posix() for name in names if name.endswith(".parquet") and not name.startswith(".")]
    return sorted(out)


def _by_name(there: list[str]) -> dict[str, dict[str, list[str]]]:
    """Paths by configuration and split, told by their names."""
    out: dict[str, dict[str, list[str]]] = {}
    unknown = []
    for path in there:
        *above, last = path.split("/")
        shard = _SHARD.fullmatch(last)
        word = _WORDS.get(last.removesuffix(".parquet").lower())
        if shard or word:
            split = shard[1] if shard else str(word)
        elif above and above[-1].lower() in _WORDS:
            split = _WORDS[above.pop().lower()]
        else:
            unknown.append(path)
            continue
        config = "default" if not above or above == ["data"] else "/".join(above)
        out.setdefault(config, {}).setdefault(split, []).append(path)
    if unknown and out:
        raise DataError(
            f"the split of {unknown[0]} can't be told by its name",
            "SPLIT-00000-of-00001.parquet or SPLIT/*.parquet",
            "rename or remove it, or list the configs in README.md",
        )
    return out or {"default": {"train": unknown}}


def _by_pattern(there: list[str], config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Paths by split, as the README's ``data_files`` says."""
    said = config["data_files"]
    if not isinstance(said, list) or not all(isinstance(each, dict) for each in said):
        said = [{"split": "train", "path": said}]
    above = f"{config['data_dir']}/" if config.get("data_dir") else ""
    out: dict[str, list[str]] = {}
    for each in said:
        split, patterns = each.get("split"), each.get("path")
        patterns = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(split, str) or not isinstance(patterns, list) or split in out:
            raise DataError(f"README.md lists the data file {each!r}", "each split once, with a path or several")
        out[split] = []
        for pattern in patterns:
            form = _pattern(f"{above}{pattern}")
            found = [path for path in there if form.fullmatch(path)]
            if not found:
                raise DataError(
                    f"README.md names {pattern!r} for split {split}, and no Parquet file is so called",
                    "Parquet files",
                    "fetch all of it; for CSV, write table:FILE",
                )
            out[split] += found
    return out


def _pattern(pattern: object) -> re.Pattern[str]:
    """A glob pattern of paths: ``*`` stays within a folder, ``**`` does not."""
    if not isinstance(pattern, str) or pattern.startswith("/") or ".." in pattern.split("/") or "://" in pattern:
        raise DataError(f"README.md names the path {pattern!r}", "one inside the folder")
    parts = re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern.removeprefix("./"))
    form = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(form.get(part) or re.escape(part) for part in parts))


def _card(root: Path) -> tuple[dict[str, Any], list[Path]]:
    """The YAML that README.md begins with, and the files read for it."""
    path = root / "README.md"
    if not path.is_file():
        return {}, []
    text = read_small(path, "README.md").decode("utf-8", "replace")
    found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    if not found:
        return {}, [path]
    yaml = importlib.import_module("yaml")

    try:
        card = yaml.load(found[1], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"the YAML of README.md can't be read ({str(error)[:100]})", "sound YAML") from None
    card = card if isinstance(card, dict) else {}
    for key in ("configs", "dataset_info"):
        listed = card.get(key) or []
        listed = [each for each in (listed if isinstance(listed, list) else [listed]) if isinstance(each, dict)]
        card[key] = [{**each, "config_name": str(each.get("config_name", "default"))} for each in listed]
    return card, [path]


def _choose(names: list[str], config: str, default: list[str]) -> str:
    """The configuration that is meant."""
    shown = ", ".join(names[:_FEW]) + (" …" if len(names) > _FEW else "")
    if config:
        if config not in names:
            raise UsageError(f"no configuration {config!r}", f"one of {shown}", "write ?config=NAME")
        return config
    if len(names) == 1 or "default" in names or len(default) == 1:
        return names[0] if len(names) == 1 else (default or ["default"])[0]
    raise UsageError(f"several configurations: {shown}", "one", f"write ?config={names[0]}")


def _info(root: Path, card: Mapping[str, Any], config: str) -> tuple[dict[str, Any], list[Path]]:
    """Features and splits of a configuration, from the README or ``dataset_infos.json``, and the files read for it."""
    for each in card.get("dataset_info") or ():
        if each["config_name"] == config:
            columns = each.get("features") or []
            named = columns if isinstance(columns, list) else []
            found = {str(c.get("name")): _feature(c) for c in named if isinstance(c, dict)}
            return {"features": {k: v for k, v in found.items() if v}, "splits": each.get("splits")}, []
    if not (root / INFOS).is_file():
        return {}, []
    infos = read_json(root / INFOS, INFOS)
    info = infos.get(config)
    return (info if isinstance(info, dict) else {}), [root / INFOS]


def _feature(column: Mapping[str, Any]) -> dict[str, Any]:
    """A column's feature as JSON has it, from the README's form, where that says more than the file's types do."""
    kind = column.get("dtype")
    if isinstance(kind, dict) and isinstance(kind.get("class_label"), dict):
        names = kind["class_label"].get("names")
        if isinstance(names, dict):
            keys = {str(key): str(name) for key, name in names.items()}
            if set(keys) != {str(k) for k in range(len(keys))}:
                raise DataError(f"the class names of {column.get('name')!r} in README.md", "a name for each of 0, 1, …")
            names = [keys[str(k)] for k in range(len(keys))]
        return {"_type": "ClassLabel", "names": names} if isinstance(names, list) else {}
    return {"_type": "Image"} if kind == "image" else {}


def _check_inside(root: Path, path: Path) -> None:
    """A file may be a link only into the folder, or into the blobs of the hub's cache."""
    snapshot = next((up for up in (root, *root.parents) if up.parent.name == "snapshots"), None)
    home = snapshot.parent.parent if snapshot else root
    if not path.resolve().is_relative_to(home.resolve()):
        raise DataError(f"{path.relative_to(root).as_posix()} is a link out of the folder", "the file itself")
