"""Synthetic features as a real artifact, made by the machinery that ``extract`` itself uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.artifact import typed
from nmtool.artifact.arrays import ArrayWriter
from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.extract.write import chunk_rows
from nmtool.records import ArtifactRef

Split = tuple[Any, Any]
"""Features [n, D] and labels [n] of one split."""


def clusters(rows: int, tests: int, dim: int, classes: int) -> dict[str, Split]:
    """Splits train and test of Gaussian classes that overlap: a linear head gets many of them right, not all."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, dim)).astype(np.float32) * np.float32(5 / np.sqrt(dim))
    splits = {}
    for name, n in (("train", rows), ("test", tests)):
        labels = np.arange(n, dtype=np.int64) % classes
        noise = rng.normal(size=(n, dim)).astype(np.float32)
        splits[name] = (centres[labels] + noise, labels)
    return splits


def write_features(store: Path, splits: Mapping[str, Split], classes: int) -> ArtifactRef:
    """A ``features`` artifact that holds these splits."""
    recipe = Recipe(stage="extract", kind="features", epoch=1, config={"bench": sorted(splits)}, inputs=())
    return produce(
        Session(store=store),
        recipe,
        name="bench",
        config={},
        build=lambda staging: _build(staging, splits, classes),
    )


def _build(staging: Staging, splits: Mapping[str, Split], classes: int) -> dict[str, object]:
    for split, (features, labels) in splits.items():
        ok = np.ones(len(labels), dtype=bool)
        for name, values in (("features", features), ("labels", labels), ("ok", ok)):
            width = values.shape[1] if values.ndim == 2 else 1
            write_array(staging, f"{split}/{name}", values, chunk_rows(width, values.dtype))
    columns = {
        "row": np.concatenate([np.arange(len(labels)) for _, labels in splits.values()]),
        "sample": [f"{split}/{row:08d}" for split, (_, labels) in splits.items() for row in range(len(labels))],
        "split": [split for split, (_, labels) in splits.items() for _ in range(len(labels))],
        "label": np.concatenate([labels for _, labels in splits.values()]),
        "ok": np.ones(sum(len(labels) for _, labels in splits.values()), dtype=bool),
    }
    staging.write(typed.SAMPLES_TABLE, typed.parquet_bytes({**columns, "error": [""] * len(columns["row"])}))
    typed.write_classes(staging, [f"c{number:04d}" for number in range(classes)])
    sizes = {s: {"n": len(y), "classes": classes, "skipped": 0, "digest": ""} for s, (_, y) in splits.items()}
    return {"model": "bench", "splits": sizes}


def write_array(staging: Staging, name: str, values: Any, rows: int) -> None:
    """A whole array, chunk by chunk."""
    writer = ArrayWriter(staging, typed.STORE, name, values.shape, values.dtype, rows)
    for chunk in range(writer.chunks):
        start, stop = writer.bounds(chunk)
        writer.write(chunk, values[start:stop])
