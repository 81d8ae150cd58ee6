"""What an ``audit`` artifact holds: a table a sample, the matrix, a gallery, and a summary.

``audit.parquet`` is in the order of the rows; ``audit.csv`` holds the same, most suspicious first, for people.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from nmtool.artifact.format import canonical
from nmtool.artifact.stage import Staging
from nmtool.artifact.typed import csv_bytes, parquet_bytes, write_classes
from nmtool.audit.gallery import Gallery
from nmtool.audit.inputs import Judged
from nmtool.audit.views import Audit
from nmtool.numerics.metrics import area_under_roc, average_precision, precision_recall
from nmtool.records import Bool, Float, Int, TextColumn

TABLE, CSV, TRANSITION, SUMMARY, GALLERY = (
    "audit.parquet",
    "audit.csv",
    "transition.npy",
    "audit.json",
    "gallery.parquet",
)
MATRIX_CLASSES = 4_000
"""A square of more classes takes over 128 MB: none is written."""


def order_of(found: Audit) -> Int:
    """int64 [n]: positions, most suspicious first; of equals the one that more views flag, then the earlier row."""
    place = np.arange(len(found.combined))
    return np.lexsort((place, -found.agreement, -found.combined)).astype(np.int64)


def write(
    staging: Staging, judged: Judged, classes: tuple[str, ...], found: Audit, order: Int, pictures: Gallery
) -> dict[str, object]:
    """Write the payload and return the summary; ``order`` as ``order_of``."""
    columns = _columns(judged, classes, found, order)
    staging.write(TABLE, parquet_bytes(columns))
    staging.write(CSV, csv_bytes(columns, order))
    write_classes(staging, classes)
    if len(classes) <= MATRIX_CLASSES:
        buffer = io.BytesIO()
        np.save(buffer, found.transition)
        staging.write(TRANSITION, buffer.getvalue())
    shown = order[: len(pictures.pictures)]
    staging.write(
        GALLERY,
        parquet_bytes(
            {
                "rank": np.arange(1, len(shown) + 1),
                "row": judged.rows[shown],
                "picture": _binary(pictures.pictures),
                "text": TextColumn.of([t.encode("utf-8", "backslashreplace").decode() for t in pictures.texts]),
            }
        ),
    )
    summary = _summary(judged, classes, found, pictures)
    staging.write(SUMMARY, canonical({**summary, "per_class": _per_class(judged, classes, found)}))
    return summary


def _binary(parts: list[bytes]) -> Any:
    import pyarrow as pa

    return pa.array(parts, type=pa.binary())


def _columns(judged: Judged, classes: tuple[str, ...], found: Audit, order: Int) -> dict[str, Any]:
    names = TextColumn.of(classes)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    columns: dict[str, Any] = {
        "row": judged.rows,
        "sample": TextColumn.of(judged.samples),
        "given": judged.given,
        "given_name": names.take(judged.given),
        "suggested": found.suggested,
        "suggested_name": names.take(found.suggested),
        "rank": rank,
        "combined": found.combined,
        "wrong": found.wrong,
        "agreement": found.agreement,
    }
    for name, view in found.views.items():
        columns |= {name: view.probability, f"{name}_flag": view.flagged}
    if judged.true is not None:
        columns |= {"true": judged.true, "flipped": judged.true != judged.given}
    return columns


def _summary(judged: Judged, classes: tuple[str, ...], found: Audit, pictures: Gallery) -> dict[str, object]:
    agreement = np.bincount(found.agreement, minlength=len(found.views) + 1)
    summary: dict[str, object] = {
        "n": len(judged.rows),
        "classes": len(classes),
        "noise_ratio": found.noise_ratio,
        "flagged": {
            **{name: int(view.flagged.sum()) for name, view in found.views.items()},
            "combined": int(found.wrong.sum()),
        },
        "agreement": {str(count): int(n) for count, n in enumerate(agreement)},
        "left_out": judged.left_out,
        "gallery": {
            "samples": len(pictures.pictures),
            "pictures": sum(map(bool, pictures.pictures)),
            "texts": sum(map(bool, pictures.texts)),
            "missing": pictures.missing,
        },
    }
    if found.small_classes:
        summary["classes_without_mixture"] = len(found.small_classes)
    if judged.true is not None:
        flipped = judged.true != judged.given
        summary["noise_ratio_true"] = float(flipped.mean())
        quality = {name: _quality(view.probability, view.flagged, flipped) for name, view in found.views.items()}
        summary["quality"] = {**quality, "combined": _quality(found.combined, found.wrong, flipped)}
    return summary


def _quality(scores: Float, flagged: Bool, flipped: Bool) -> Mapping[str, object]:
    precision, recall = precision_recall(flagged, flipped)
    return {
        "auroc": area_under_roc(scores, flipped),
        "average_precision": average_precision(scores, flipped),
        "precision": precision,
        "recall": recall,
    }


def _per_class(judged: Judged, classes: tuple[str, ...], found: Audit) -> list[dict[str, object]]:
    """By given label: how many, how many wrong by estimate and in truth, and what the wrong ones most often seem."""
    out: list[dict[str, object]] = []
    count = len(classes)
    n = np.bincount(judged.given, minlength=count)
    wrong = np.bincount(judged.given[found.wrong], minlength=count)
    expected = np.bincount(judged.given, weights=found.combined, minlength=count)
    flipped = judged.true != judged.given if judged.true is not None else None
    real = np.bincount(judged.given[flipped], minlength=count) if flipped is not None else None
    seem = found.suggested != judged.given
    pairs, times = np.unique(judged.given[seem] * count + found.suggested[seem], return_counts=True)
    best: dict[int, tuple[int, int]] = {}
    for pair, many in zip(pairs.tolist(), times.tolist(), strict=True):
        given, other = divmod(pair, count)
        if many > best.get(given, (0, 0))[0]:
            best[given] = (many, other)
    for label in np.flatnonzero(n).tolist():
        line: dict[str, object] = {
            "class": classes[label],
            "n": int(n[label]),
            "wrong": int(wrong[label]),
            "ratio": float(expected[label] / n[label]),
            "seems": classes[best[label][1]] if label in best else None,
            "seems_n": best[label][0] if label in best else 0,
        }
        if real is not None:
            line["ratio_true"] = float(real[label] / n[label])
        out.append(line)
    return out
