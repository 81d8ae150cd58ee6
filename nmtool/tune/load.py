"""From opened artifacts to resident material: labels joined by sample id, classes by name, unusable rows left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from nmtool.artifact.stage import Reporter
from nmtool.artifact.typed import join_labels, read_features, read_labels, read_views, usable_rows
from nmtool.errors import DataError
from nmtool.records import Bool, FeatureTable, Float, Int
from nmtool.tune.inputs import Inputs, Source
from nmtool.tune.material import Material, Overlay, Target, Views

if TYPE_CHECKING:
    from nmtool.tune.pictures import Pictures

# Squares of larger labels, summed over a batch, leave float32.
_MOST = 1e15


def load(
    inputs: Inputs,
    device: torch.device,
    report: Reporter,
    pictures: Callable[[], Pictures] | None = None,
    *,
    views: bool = False,
    metric: str = "accuracy",
) -> Material:
    """Read all splits into memory, on ``device``, in float32; augmented views only where asked, and where there are.

    Rows without features (``ok`` false) or without a label take no part and are counted.

    Raises:
        DataError: features that are not finite in rows marked good; fewer than two classes or numbers in training,
            or numbers out of float32's reach; no row to judge; labels of another dataset.
    """
    table = read_features(inputs.train.artifact, inputs.train.split, inputs.train.shown)
    usable = usable_rows(table, "training", report)
    if not usable.any():
        raise DataError(
            f"training split {table.split} of {table.source} has no row with features and a label", "labelled rows"
        )
    overlays = _overlays(inputs, table, usable)
    for overlay in overlays if table.targets is None else ():
        present = np.unique(overlay.y[overlay.y >= 0])
        if len(present) < 2:
            names = ", ".join(table.labels.classes[c] for c in present)
            count = f"{len(present)} class" + ("" if len(present) == 1 else "es")
            raise DataError(
                f"split {table.split} of {table.source} trains on {count} ({names})",
                "rows of at least two classes",
            )
    if table.targets is not None:
        _check_numbers(table.targets[usable], f"split {table.split} of {table.source}")
    targets = tuple(
        _target(source, "ood" if i else "id", inputs.train.classes, device, report)
        for i, source in enumerate(inputs.targets)
    )
    if table.targets is None:
        _tell_untrained(targets, overlays, inputs.train.classes, report)
    return Material(
        X=_resident(table, table.ok, device),
        ids=table.ids,
        clean=table.labels.values if table.targets is None else np.zeros(len(table.ok), dtype=np.int64),
        overlays=overlays,
        classes=inputs.train.classes,
        targets=targets,
        pictures=pictures,
        views=_views(inputs.train, table.ok, device) if views and inputs.train.views else None,
        values=_filled(table.targets),
        metric=metric,
    )


def _tell_untrained(
    targets: tuple[Target, ...], overlays: tuple[Overlay, ...], classes: tuple[str, ...], report: Reporter
) -> None:
    """Say which rows to judge are of classes that no training row has: no head can be right on them."""
    trained = np.unique(np.concatenate([overlay.y for overlay in overlays]))
    for target in targets:
        lost = ~np.isin(target.y, trained)
        if lost.any():
            absent = [classes[c] for c in np.unique(target.y[lost])]
            names = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
            report.warning(
                f"{int(lost.sum())} of {len(target.y)} rows of split {target.split} of {target.shown} are of classes "
                f"that no training row has ({names}): they count as wrong"
            )


def _views(source: Source, keep: Bool, device: torch.device) -> Views:
    array = read_views(source.artifact, source.split).astype(np.float32)
    array[~keep] = 0.0
    return Views(X=torch.from_numpy(array).to(device), augment=source.views)


def _check_numbers(values: Float, where: str) -> None:
    """Numbers that a squared error in float32 can be trained on, and that differ."""
    most = float(np.abs(values).max())
    if most > _MOST:
        raise DataError(f"{where} has labels as large as {most:.2g}", f"numbers up to {_MOST:.0g}", "rescale them")
    if values.min() == values.max():
        raise DataError(f"all {len(values)} labels of {where} are {values[0]:g}", "numbers that differ")


def _filled(targets: Float | None) -> Float | None:
    """Real numbers with 0 for those that are not there: they take no part, and a NaN would spread."""
    return None if targets is None else np.nan_to_num(targets, nan=0.0)


def _resident(table: FeatureTable, keep: Bool, device: torch.device) -> torch.Tensor:
    features = table.features.astype(np.float32)
    features[~keep] = 0.0
    return torch.from_numpy(features).to(device)


def _overlays(inputs: Inputs, table: FeatureTable, usable: Bool) -> tuple[Overlay, ...]:
    clean = table.labels.values if table.targets is None else np.zeros(len(usable), dtype=np.int64)
    if not inputs.labels:
        return (Overlay(name="", shown="", y=np.where(usable, clean, -1), ratio=None),)
    overlays = []
    for artifact, shown in inputs.labels:
        noisy = read_labels(artifact)
        joined = join_labels(noisy, table.ids, table.labels, f"split {table.split} of {table.source}")
        y = np.where(usable, joined.values, -1).astype(np.int64)
        used = y >= 0
        ratio = float(np.mean(y[used] != clean[used])) if used.any() else 0.0
        name, told = f"labels-{artifact.manifest.content[7:19]}", artifact.manifest.summary
        asked = told.get("ratio_requested")
        overlays.append(
            Overlay(
                name=name,
                shown=shown,
                y=y,
                ratio=ratio,
                type=str(told.get("type", "")),
                requested=float(asked) if isinstance(asked, (int, float)) else None,
            )
        )
    return tuple(overlays)


def _target(source: Source, role: str, classes: tuple[str, ...], device: torch.device, report: Reporter) -> Target:
    """One evaluation split, its classes joined by name; rows of a class that training does not know are left out."""
    table = read_features(source.artifact, source.split, source.shown)
    usable = usable_rows(table, "evaluation", report)
    known = {name: number for number, name in enumerate(classes)}
    # real numbers: all rows are of one kind
    lookup = np.array([*(known.get(name, -1) for name in source.classes), 0 if source.real else -1], dtype=np.int64)
    y: Int = np.where(usable, lookup[table.labels.values], -1)
    unknown = usable & (y < 0)
    if unknown.any():
        names = sorted({source.classes[c] for c in np.unique(table.labels.values[unknown])})
        report.warning(
            f"{int(unknown.sum())} rows of split {source.split} of {source.shown} are of classes that training does "
            f"not know ({', '.join(names[:5])}{', …' if len(names) > 5 else ''}) and are left out"
        )
    rows = np.flatnonzero(y >= 0).astype(np.int64)
    if rows.size == 0:
        wanted = "labelled rows" if source.real else "labelled rows of known classes"
        raise DataError(f"split {source.split} of {source.shown} has no row to judge", wanted)
    X = torch.from_numpy(table.features[rows].astype(np.float32)).to(device)
    return Target(
        source=source.name,
        shown=source.shown,
        split=source.split,
        role=role,
        rows=rows,
        ids=[table.ids[int(row)] for row in rows],
        X=X,
        y=y[rows],
        values=None if table.targets is None else table.targets[rows],
    )
