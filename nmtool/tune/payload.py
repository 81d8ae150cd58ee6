"""The ``heads`` artifact's files: what they hold, and nothing that would differ between two machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from nmtool.artifact.format import canonical
from nmtool.artifact.heads import ADAPTED, BACKBONES, HEADS, run_file, run_name
from nmtool.artifact.stage import Staging
from nmtool.artifact.typed import parquet_bytes
from nmtool.numerics import metrics
from nmtool.tune.material import Material
from nmtool.tune.outcome import Outcome, Scores

RESULTS, LOG = "results.parquet", "log.jsonl"
PREDICTIONS, CLEANSING, SEARCH = "predictions.parquet", "cleansing.parquet", "search.parquet"
PER_CLASS = "per_class.parquet"
# Tensors of a run that are no part of its head: a fine-tuned backbone, and adapters, have a file of their own each.
BACKBONE, ADAPTERS = "backbone.", "adapters."
_APART = {BACKBONE: BACKBONES, ADAPTERS: ADAPTED}

# In the order of the columns. ``best_accuracy`` is an oracle: chosen by looking at the test labels.
_SCORES = (
    "n",
    "accuracy",
    "macro_f1",
    "mean_per_class",
    "matthews",
    "calibration_error",
    "best_accuracy",
    "best_epoch",
    "never_predicted",
    "sve",
    "lsvr",
    "pearson",
    "spearman",
)


_CLEANSING = ("run", "round", "row", "sample", "noisy", "clean", "loss", "posterior", "selected", "drawn")


def rows_of(outcomes: Sequence[Outcome], material: Material) -> list[dict[str, Any]]:
    """A row a run and evaluation, with every setting of the run."""
    rows = []
    for o in outcomes:
        overlay = material.overlays[o.run.labels]
        noise = {"labels": overlay.name or None, "noise_ratio": overlay.ratio}
        for s in o.scores:
            target = material.targets[s.target]
            where = {"source": target.source, "split": target.split, "role": target.role}
            scores = {name: getattr(s, name) for name in _SCORES}
            scores |= {"metric": material.metric, "metric_value": getattr(s, material.metric)}
            rows.append({"run": o.run.index, **o.run.columns(), **noise, **where, **scores, **o.notes})
    return rows


def write(
    staging: Staging, outcomes: Sequence[Outcome], material: Material, facts: Mapping[str, Any], *, predictions: bool
) -> list[dict[str, Any]]:
    """Write the payload of all runs; returns the result rows.

    Args:
        staging: where to.
        outcomes: all runs, by index.
        material: what they were trained and judged on.
        facts: what a reader of the heads needs beside their settings (dimension, the training split …).
        predictions: write every sample's prediction, and of classes the table of each.
    """
    rows = rows_of(outcomes, material)
    staging.write(RESULTS, parquet_bytes(_columns(rows)))
    staging.write(HEADS, heads_bytes(outcomes, material.classes, facts))
    log = [{"run": o.run.index, "method": o.run.method, "seed": o.run.seed, **e} for o in outcomes for e in o.epochs]
    staging.write(LOG, b"".join(canonical(line) + b"\n" for line in log))
    if predictions:
        staging.write(PREDICTIONS, parquet_bytes(_predictions(outcomes, material)))
        if material.values is None:
            staging.write(PER_CLASS, parquet_bytes(_per_class(outcomes, material)))
    cleansed = [o for o in outcomes if o.cleansing]
    if cleansed:
        staging.write(CLEANSING, parquet_bytes(_cleansing(cleansed, material)))
    for o in outcomes:
        for start, folder in _APART.items():
            apart = {k.removeprefix(start): v for k, v in o.tensors.items() if k.startswith(start)}
            if apart:
                staging.write(run_file(folder, o.run.index), save_tensors(apart))
    return rows


def write_search(staging: Staging, rows: Sequence[Mapping[str, Any]]) -> None:
    """A row a run and setting tried, with its held-out accuracy (null where it diverged)."""
    staging.write(SEARCH, parquet_bytes(_columns(rows)))


def heads_bytes(outcomes: Sequence[Outcome], classes: Sequence[str], facts: Mapping[str, Any]) -> bytes:
    """All heads in one safetensors file; its header's one key ``nmtool`` holds classes and settings as JSON."""
    tensors = {
        f"{run_name(o.run.index)}.{name}": np.ascontiguousarray(t)
        for o in outcomes
        for name, t in o.tensors.items()
        if not name.startswith(tuple(_APART))
    }
    runs = {run_name(o.run.index): o.run.to_json() for o in outcomes}
    meta = canonical({"classes": list(classes), "runs": runs, **facts}).decode()
    return bytes(save_tensors(tensors, metadata={"nmtool": meta}))


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; what a row lacks is null."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _predictions(outcomes: Sequence[Outcome], material: Material) -> dict[str, Any]:
    parts: list[tuple[Outcome, Scores]] = [(o, s) for o in outcomes for s in o.scores]
    sizes = [s.n for _, s in parts]
    targets = [material.targets[s.target] for _, s in parts]

    def spread(values: Sequence[str]) -> list[str]:
        return [value for value, size in zip(values, sizes, strict=True) for _ in range(size)]

    columns = {
        "run": np.repeat(np.array([o.run.index for o, _ in parts], dtype=np.int32), sizes),
        "role": spread([t.role for t in targets]),
        "source": spread([t.source for t in targets]),
        "split": spread([t.split for t in targets]),
        "sample": [sample for t in targets for sample in t.ids],
    }
    predicted = np.concatenate([s.predicted for _, s in parts])
    if material.values is not None:
        return {**columns, "label": np.concatenate([t.values for t in targets]), "predicted": predicted}
    return {
        **columns,
        "label": np.concatenate([t.y for t in targets]).astype(np.int32),
        "predicted": predicted,
        "confidence": np.concatenate([s.confidence for _, s in parts]),
    }


def _per_class(outcomes: Sequence[Outcome], material: Material) -> dict[str, Any]:
    """A row a run, evaluation split and class of training; what is not defined (0 / 0) is null."""
    import pyarrow as pa

    parts = [(o.run.index, material.targets[s.target], s) for o in outcomes for s in o.scores]
    count = len(material.classes)
    found = [metrics.by_class(s.predicted, t.y, count) for _, t, s in parts]
    rates = {name: np.concatenate([f[name] for f in found]) for name in ("n", "recall", "precision", "f1")}
    where = np.repeat(np.arange(len(parts)), count)

    def told(words: Sequence[str], codes: Any) -> Any:
        return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(words)).cast(pa.string())

    return {
        "run": np.repeat(np.array([run for run, _, _ in parts], dtype=np.int32), count),
        **{name: told([getattr(t, name) for _, t, _ in parts], where) for name in ("role", "source", "split")},
        "class": told(material.classes, np.tile(np.arange(count), len(parts))),
        "n": rates["n"].astype(np.int64),
        **{name: pa.array(rates[name], mask=np.isnan(rates[name])) for name in ("recall", "precision", "f1")},
    }


def _cleansing(outcomes: Sequence[Outcome], material: Material) -> dict[str, Any]:
    """A row a run, round and training row in use."""
    tables: list[dict[str, Any]] = []
    for o in outcomes:
        rows = o.cleansing["row"]
        noisy = material.overlays[o.run.labels].y[rows]
        known = material.overlays[o.run.labels].ratio is not None
        tables.append(
            {
                "run": np.full(len(rows), o.run.index, dtype=np.int32),
                **o.cleansing,
                "sample": [material.ids[row] for row in rows],
                "noisy": noisy.astype(np.int32),
                "clean": material.clean[rows].astype(np.int32) if known else np.full(len(rows), -1, dtype=np.int32),
            }
        )
    out: dict[str, Any] = {}
    for name in _CLEANSING:
        parts = [t[name] for t in tables]
        out[name] = [s for p in parts for s in p] if name == "sample" else np.concatenate(parts)
    return out
