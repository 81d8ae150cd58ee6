"""Image-caption pairs for contrastive pre-training: CC12M and YFCC15M, as they lie after the images were downloaded.

Both are published as lists, without images. What people really keep is what ``img2dataset`` writes from such a list:
WebDataset shards (``00000.tar`` …, read through ``wds:``), or its ``files`` output: a folder of images and a Parquet
file with keys and captions for each shard. A list alone is refused, with the way to the images.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nmtool.data.dataset import Dataset
from nmtool.data.suites import arrowed
from nmtool.data.suites.facts import Request, Suite, WrongLayout
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.data.wds.open import open_wds
from nmtool.errors import DataError, InputMissingError

_LISTS = {"cc12m": "cc12m.tsv", "yfcc15m": "yfcc100m_subset_data.tsv"}
_NUMBERED = re.compile(r"(?P<head>(?:.*[^0-9])?)(?P<number>[0-9]+)(?P<tail>\.tar|\.parquet)")
_ENCODINGS = (".jpg", ".png", ".webp")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def _load(suite: Suite, request: Request) -> Dataset:
    if tars := sorted(request.root.glob("*.tar")):
        _check_numbers(tars)
        alone = [path for path in sorted(request.root.glob("*.parquet")) if not path.with_suffix(".tar").is_file()]
        if alone:
            raise InputMissingError(f"{alone[0].stem}.tar is not there", f"it, since {alone[0].name} describes it")
        where = f"train={quote(str(request.root))}"
        dataset = open_wds(where, uri=request.uri, memo=request.memo)
        if dataset.kind != "captions":
            raise WrongLayout(f"the shards of {suite.title} hold {dataset.kind}", "images, each with its caption")
        return dataset
    tables = sorted(request.root.glob("*.parquet"))
    if any(path.with_suffix("").is_dir() for path in tables):
        _check_numbers(tables)
        _check_folders(request.root, {path.stem for path in tables})
        return files_dataset(suite, request, (), {"train": _pairs(tables)}, inputs=tables)
    listed = _LISTS[suite.name]
    if (request.root / listed).is_file():
        raise InputMissingError(
            f"{listed} lists the images of {suite.title} and does not hold them",
            "shards with images",
            "download them first, for example with img2dataset --output_format webdataset",
        )
    raise InputMissingError(f"no shard of {suite.title}", "00000.tar …, or 00000/ … with 00000.parquet …")


def _check_numbers(paths: list[Path]) -> None:
    """A number missing between the first shard and the last is a shard that went away."""
    there: dict[tuple[str, str, int], list[int]] = {}
    for path in paths:
        if found := _NUMBERED.fullmatch(path.name):
            there.setdefault((found["head"], found["tail"], len(found["number"])), []).append(int(found["number"]))
    for (head, tail, width), numbers in there.items():
        gap = next((one for one, two in itertools.pairwise(sorted(numbers)) if two > one + 1), None)
        if gap is not None:
            raise InputMissingError(
                f"{head}{gap + 1:0{width}d}{tail} is not there",
                f"all shards up to {head}{max(numbers):0{width}d}{tail}",
            )


def _check_folders(root: Path, tables: set[str]) -> None:
    """Every shard has its folder and its metadata, the first and the last too."""
    folders = {path.name for path in root.iterdir() if path.is_dir()}
    if alone := sorted(tables - folders):
        raise InputMissingError(f"the folder {alone[0]} is not there", f"it, with the images of {alone[0]}.parquet")
    if untold := sorted(name for name in folders - tables if name.isdecimal()):
        raise InputMissingError(f"{untold[0]}.parquet is not there", f"it, with the captions of {untold[0]}/")


def _pairs(tables: list[Path]) -> ImageFiles:
    """The pairs that were downloaded, by the metadata of every shard; the others have no image."""
    paths: list[str] = []
    captions: list[str] = []
    for table in tables:
        keys, texts, states = arrowed.parquet([table], ("key", "caption", "status"))
        shard, ending = table.stem, ""
        for row, (key, text, state) in enumerate(zip(keys, texts, states, strict=True)):
            if state != "success":
                continue
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise DataError(f"{table.name}, row {row}: the key {key!r}", "letters and digits")
            ending = ending or _ending(table.with_suffix(""), key)
            paths.append(f"{shard}/{key}{ending}")
            captions.append(_caption(text, table.name, row))
    return ImageFiles(paths=paths, labels=[-1] * len(paths), captions=captions)


def _ending(folder: Path, key: str) -> str:
    """What the images of a shard are called; img2dataset encodes them all in one way."""
    return next((ending for ending in _ENCODINGS if (folder / f"{key}{ending}").exists()), _ENCODINGS[0])


def _caption(text: Any, name: str, row: int) -> str:
    # img2dataset itself writes an empty text where there is no caption
    if text is not None and not isinstance(text, str):
        raise DataError(f"{name}, row {row}: the caption {text!r}", "text")
    return text or ""


def _tree(folder: str, listed: str) -> str:
    return f"""
{folder}/                  as img2dataset writes it from
                          {listed}; either
  00000.tar               000000000.jpg, 000000000.txt, 000000000.json, …
  00001.tar …
or
  00000.parquet           key, caption, status
  00000/000000000.jpg …
"""


def _witnesses(listed: str) -> tuple[str, ...]:
    return ("0*.tar", "0*.parquet", listed)


YFCC15M = Suite(
    name="yfcc15m",
    title="YFCC15M",
    group="pre-training",
    kind="captions",
    classes=0,
    splits={"train": None},
    metric="none",
    source="Thomee et al. 2016; Radford et al. 2021",
    tree=_tree("yfcc15m", "the images' addresses and titles"),
    witnesses=(*_witnesses(_LISTS["yfcc15m"]), "yfcc*.tar"),
    folders=("YFCC15M", "yfcc-15m", "yfcc100m_subset"),
    load=_load,
    note="The list (yfcc100m_subset_data.tsv, by OpenAI) names 14,829,396 images by line, photo and hash; how many can "
    "still be downloaded differs.",
    protocol="The paper trains CLIP with a ResNet-50 on it, with 0 to 30 % of the captions swapped (Section 2).",
)

CC12M = Suite(
    name="cc12m",
    title="CC12M",
    group="pre-training",
    kind="captions",
    classes=0,
    splits={"train": None},
    metric="none",
    source="Changpinyo et al. 2021",
    tree=_tree("cc12m", "cc12m.tsv (address, caption; no header)"),
    witnesses=(*_witnesses(_LISTS["cc12m"]), "cc12m*.tar"),
    folders=("CC12M", "conceptual_12m", "cc12m-wds"),
    load=_load,
    aliases=("conceptual12m",),
    note="The list has 12,423,374 addresses; how many images can still be downloaded differs.",
    protocol="The first paper's extended version trains CLIP with a ViT-B/16 on it and YFCC15M together.",
)
