"""A tiny features artifact, made by the real machinery."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nmtool.artifact.arrays import ArrayWriter
from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Staging

ROWS, DIM, CHUNK = 1000, 16, 128


def matrix() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(ROWS, DIM)).astype(np.float32)


def recipe(**config: object) -> Recipe:
    return Recipe(stage="extract", kind="features", epoch=1, config=config, inputs=())


def build_features(staging: Staging) -> Mapping[str, object]:
    X = matrix()
    writer = ArrayWriter(staging, "features.zarr", "train/features", X.shape, X.dtype, CHUNK)
    for chunk in range(writer.chunks):
        start, stop = writer.bounds(chunk)
        if not writer.is_done(chunk):
            writer.write(chunk, X[start:stop])
    staging.write("note.json", b"{}")
    return {"rows": ROWS}
