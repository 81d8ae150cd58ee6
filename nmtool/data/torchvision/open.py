"""``torchvision:NAME[/MEMBER]``: a dataset as torchvision finds it below the data root. Nothing is ever downloaded.

Rows and labels are torchvision's own. Images in arrays have row numbers as ids, ``train/000012``, in torchvision's
order; image files have their paths below the dataset's folder, and are decoded from their bytes as all images are. What
was found is remembered for as long as the folder is the same: torchvision is imported to look, and to read arrays.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from pathlib import Path
from typing import Any

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageArray, ImageFiles, array_dataset, files_dataset
from nmtool.data.torchvision.arrays import ARRAY_SETS
from nmtool.data.torchvision.files import FILE_SETS
from nmtool.data.torchvision.look import Source
from nmtool.data.torchvision.sets import Files, Set
from nmtool.data.torchvision.told import INSTALL
from nmtool.errors import UnavailableError, UsageError

_FORMAT = 1
_SETS = {each.name.lower(): each for each in (*ARRAY_SETS, *FILE_SETS)}
# Asked for, and without a class label a sample or anything to read.
_REFUSED = {
    "fakedata": "its images are random numbers",
    "gtsrb": "its images are PPM files, which are not decoded here",
    "imagefolder": "write folder:DIR",
    "datasetfolder": "write folder:DIR",
    "cococaptions": "make a table of paths and captions, and write table:FILE",
    "flickr8k": "make a table of paths and captions, and write table:FILE",
    "flickr30k": "make a table of paths and captions, and write table:FILE",
}


def open_torchvision(where: str, *, uri: str, memo: Memo, data_root: Path | None) -> Dataset:
    """Index one of torchvision's datasets.

    Args:
        where: ``NAME`` or ``NAME/MEMBER``; case, ``-`` and ``_`` in the name don't matter.
        uri: the whole URI, for messages.
        memo: remembers what was found, and digests.
        data_root: what torchvision calls ``root``; a folder of the dataset's name in it will do, too.

    Raises:
        UsageError: no such dataset or member, or no data root.
        InputMissingError: files that torchvision expects are not there.
        DataError: they are not what they should be.
        UnavailableError: torchvision, or a package that it needs for this dataset, is not installed.
    """
    chosen, member = _chosen(where, uri)
    if data_root is None:
        raise UsageError(
            f"{uri} without a data root", f"the folder that holds {chosen.name}", "give --data-root DIR or $NMTOOL_DATA"
        )
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        raise UnavailableError("torchvision is not installed", "it, to read its datasets", INSTALL) from None
    source = Source.of(chosen, member, data_root, uri)
    question = ["torchvision", _FORMAT, version, chosen.name, member, *source.question()]
    known = memo.recall(question)
    if not isinstance(known, dict):
        known = source.found()
        if source.settled():
            memo.remember(question, known)
    return _dataset(source, known, Request(root=source.home, member=member, uri=uri, memo=memo))


def _dataset(source: Source, known: dict[str, Any], request: Request) -> Dataset:
    """What was found, as an index with images."""
    facts = Suite(
        name=f"torchvision:{source.chosen.name}",
        title=f"torchvision's {source.chosen.name}",
        group="in-domain",
        kind="images",
        classes=0,
        splits={},
        metric="none",
        source="",
        tree="",
        witnesses=(),
        load=lambda _, asked: _dataset(source, known, asked),
    )
    inputs, found, classes = source.inputs(), known["splits"], known["classes"]
    if isinstance(source.chosen.rows, Files):
        of_files = {split: ImageFiles(paths=each["paths"], labels=each["labels"]) for split, each in found.items()}
        return files_dataset(facts, request, classes, of_files, inputs=inputs)
    arrays = {
        split: ImageArray(labels=each["labels"], images=source.images(split, len(each["labels"])))
        for split, each in found.items()
    }
    return array_dataset(facts, request, classes, arrays, inputs=inputs)


def _chosen(where: str, uri: str) -> tuple[Set, str]:
    """The set and the member that a URI names."""
    name, _, member = where.partition("/")
    key = name.lower().replace("-", "").replace("_", "")
    if key in _REFUSED:
        raise UsageError(f"{uri}: {name} is not read", "a dataset with a class a sample", _REFUSED[key])
    chosen = _SETS.get(key)
    if chosen is None:
        near = difflib.get_close_matches(key, _SETS, n=1)
        hint = f"did you mean torchvision:{_SETS[near[0]].name}?" if near else ""
        names = ", ".join(sorted((each.name for each in _SETS.values()), key=str.lower))
        raise UsageError(f"no dataset {name!r} of torchvision (in {uri!r})", f"one of {names}", hint)
    if not member and chosen.default is None:
        raise UsageError(
            f"{uri} names no part of {chosen.name}",
            f"one of {', '.join(chosen.members)}",
            f"as torchvision:{chosen.name}/{next(iter(chosen.members))}",
        )
    if member and member not in chosen.members:
        near = difflib.get_close_matches(member, chosen.members, n=1)
        raise UsageError(
            f"no member {member!r} of torchvision:{chosen.name}",
            f"one of {', '.join(chosen.members)}" if chosen.members else "no member: it is one dataset",
            f"did you mean torchvision:{chosen.name}/{near[0]}?" if near else "",
        )
    return chosen, member or chosen.default or ""
