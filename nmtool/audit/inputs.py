"""What a call names, opened lightly and read: one split's features, the labels to judge, and the truth where known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmtool.artifact.open import Artifact, open_artifact
from nmtool.artifact.stage import Reporter
from nmtool.artifact.typed import (
    CLASSES,
    choose_split,
    join_labels,
    open_features,
    read_classes,
    read_features,
    read_labels,
    usable_rows,
)
from nmtool.audit.config import Config
from nmtool.errors import DataError
from nmtool.records import Int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Opened, not read.

    Attributes:
        features, split: whose labels are judged.
        shown: the features' path as the user gave it.
        labels: a labels artifact, or None: the data's own.
        classes: class names in label order.
    """

    features: Artifact
    split: str
    shown: str
    labels: Artifact | None
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The samples that are judged, n of them in the order of their rows.

    Attributes:
        rows: int64 [n] in the split.
        samples: n sample ids.
        X: float [n, D], finite.
        given: int64 [n] the labels under suspicion.
        true: int64 [n] where a labels artifact knows it, else None.
        left_out: how many rows are not judged, by reason.
    """

    rows: Int
    samples: list[str]
    X: npt.NDArray[np.floating]
    given: Int
    true: Int | None
    left_out: dict[str, int]


def resolve(config: Config) -> Inputs:
    """Open what ``config`` names.

    Raises:
        InputMissingError: an artifact or a split that is not there.
        DataError: another kind of artifact; features without class labels (regression, captions); one class.
    """
    features, split = open_features(config.features)
    shown = config.features.removesuffix(f":{split}") if split else config.features
    labels = open_artifact(Path(config.labels), "labels") if config.labels else None
    if labels is not None and not labels.has(CLASSES):
        raise DataError(f"{config.labels} holds caption pairs", "class labels")
    wanted = split or (str(labels.manifest.summary.get("split") or "") if labels is not None else "")
    chosen = choose_split(features, wanted, role="train")
    classes = read_classes(features) if features.has(CLASSES) else ()
    if not classes:
        raise DataError(
            f"{shown} has no class labels (captions, real numbers, or none)", "features of data with class labels"
        )
    if len(classes) < 2:
        raise DataError(f"{shown} has one class ({classes[0]})", "at least two classes to tell apart")
    return Inputs(features=features, split=chosen, shown=shown, labels=labels, classes=classes)


def read(inputs: Inputs, report: Reporter) -> Judged:
    """Read features and labels, and leave out what can't be judged: no features, no label, alone in its class.

    Raises:
        DataError: features that are not finite, labels of another dataset, fewer than two classes left.
    """
    table = read_features(inputs.features, inputs.split, inputs.shown)
    usable = usable_rows(table, "audited", report)
    given, true = table.labels.values, None
    if inputs.labels is not None:
        where = f"split {inputs.split} of {inputs.shown}"
        given = join_labels(read_labels(inputs.labels), table.ids, table.labels, where).values
        true = table.labels.values
    judged = usable & (given >= 0)
    counts = np.bincount(given[judged], minlength=len(inputs.classes))
    lonely = np.flatnonzero(counts == 1)
    alone = judged & np.isin(given, lonely)
    if lonely.size:
        names = ", ".join(inputs.classes[c] for c in lonely[:5]) + (", …" if lonely.size > 5 else "")
        report.warning(f"{lonely.size} classes have one sample ({names}), which nothing can judge: left out")
    judged &= ~alone
    rows = np.flatnonzero(judged)
    present = int(np.unique(given[rows]).size)
    if present < 2:
        raise DataError(
            f"split {inputs.split} of {inputs.shown} has {len(rows)} labelled samples of {present} classes with two "
            "samples or more",
            "two such classes to tell apart",
        )
    left_out = {
        "without features": int(np.sum(~table.ok)),
        "unlabelled": int(np.sum(table.ok & (given < 0))),
        "alone in their class": int(alone.sum()),
    }
    return Judged(
        rows=rows.astype(np.int64),
        samples=[table.ids[int(row)] for row in rows],
        X=table.features[rows],
        given=given[rows],
        true=true[rows] if true is not None else None,
        left_out={name: n for name, n in left_out.items() if n},
    )
