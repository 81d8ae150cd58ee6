"""What is checked of a suite's samples before they are indexed, and what is said where they are not the official ones.

Refuses labels out of range, splits without samples, and samples that stand twice.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.data import files
from nmtool.data.suites.facts import Request, Suite
from nmtool.errors import DataError
from nmtool.records import UNLABELLED, Int, SampleIndex


def facts_of(
    suite: Suite,
    request: Request,
    classes: Sequence[str],
    splits: Mapping[str, SampleIndex],
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """What ``Indexed`` is made with."""
    return {
        "uri": request.uri,
        "kind": suite.kind,
        "classes": tuple(classes),
        "splits": splits,
        "remarks": (*_remarks(suite, classes, splits), *remarks),
    }


def _remarks(suite: Suite, classes: Sequence[str], splits: Mapping[str, SampleIndex]) -> Iterator[str]:
    """One sentence where sizes, and one where the number of classes, are not the official ones."""
    if suite.classes and len(classes) != suite.classes:
        yield f"suite:{suite.name} has {len(classes)} classes here, officially {suite.classes}"
    odd = [
        f"{split}: {len(index)} samples, officially {suite.splits[split]}"
        for split, index in splits.items()
        if suite.splits.get(split) not in (None, len(index))
    ]
    if odd:
        yield f"suite:{suite.name} is not the whole of {suite.title} ({'; '.join(odd)})"


def question_of(suite: Suite, request: Request, inputs: Sequence[Path], listing: str) -> list[object]:
    """What a remembered digest answers: these files, as they are."""
    return [
        "suite",
        suite.name,
        request.member,
        os.fsencode(request.root).hex(),
        [[os.fsencode(path).hex(), *files.identity(path.stat())] for path in inputs],
        listing,
    ]


def settled(inputs: Sequence[Path]) -> bool:
    """Whether the files are old enough for their time stamps to be trusted."""
    return files.settled(files.stacked([files.identity(path.stat()) for path in inputs]))


def labels_of(labels: Sequence[int] | Int, classes: Sequence[str], suite: Suite, split: str) -> Int:
    """Class numbers int64 [n], -1 unlabelled; raises ``DataError`` where one is out of range, or there is none."""
    values = np.array(labels, dtype=np.int64).reshape(-1)
    if not len(values):
        raise DataError(f"split {split} of {suite.title} has no samples", "at least one")
    bad = np.flatnonzero((values < UNLABELLED) | (values >= len(classes)))
    if bad.size:
        raise DataError(
            f"{suite.title}, split {split}: sample {int(bad[0])} has the class number {int(values[bad[0]])}",
            f"0 to {len(classes) - 1}",
        )
    return values


def check_equal(samples: int, labels: int, suite: Suite, split: str) -> None:
    """Raise ``DataError`` where there are not as many labels as samples."""
    if samples != labels:
        raise DataError(f"{suite.title}, split {split}: {samples} samples and {labels} labels", "as many of each")


def check_once(ids: Sequence[str], suite: Suite, split: str) -> None:
    """Raise ``DataError`` where an id, of those in order, stands twice."""
    for one, two in itertools.pairwise(ids):
        if one == two:
            raise DataError(f"{suite.title}, split {split}: {one!r} stands twice", "each sample once")
