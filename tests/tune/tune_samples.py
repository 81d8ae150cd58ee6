"""Features and labels artifacts made by the real machinery, of real data: the pixels of scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from nmtool.artifact.arrays import ArrayWriter
from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.key import Recipe
from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.artifact.typed import parquet_bytes, read_parquet, write_classes
from nmtool.records import ArtifactRef
from nmtool.tune.config import Config
from nmtool.tune.run import run

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Splits = Mapping[str, tuple[Any, Any]]


def digit_splits(train: int = 500, test: int = 400) -> dict[str, tuple[Any, Any]]:
    """Pixels in [0, 1] and labels, two disjoint splits in the dataset's own order."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    return {
        "train": (images[:train], labels[:train]),
        "test": (images[train : train + test], labels[train : train + test]),
    }


def write_features(
    store: Path,
    splits: Splits,
    classes: Sequence[str] = NAMES,
    bad: Mapping[str, Sequence[int]] | None = None,
    views: Any = None,
    augment: str = "weak",
    real: bool = False,
) -> ArtifactRef:
    """A features artifact as ``extract`` lays it out; ``bad`` rows are marked and NaN.

    ``views`` [n, K, D] are of train; ``real`` labels are numbers.
    """

    def build(staging: Staging) -> Mapping[str, object]:
        table: dict[str, list[Any]] = {name: [] for name in ("row", "sample", "split", "label", "ok", "error")}
        for split, (features, labels) in splits.items():
            ok = np.ones(len(features), dtype=bool)
            ok[list((bad or {}).get(split, ()))] = False
            X = np.where(ok[:, None], features, np.nan).astype(np.float32)
            y = np.full(len(X), -1) if real else np.asarray(labels, dtype=np.int64)
            arrays = {"features": X, "labels": y, "ok": ok}
            if real:
                arrays["targets"] = np.asarray(labels, dtype=np.float64)
            for name, array in arrays.items():
                writer = ArrayWriter(staging, "features.zarr", f"{split}/{name}", array.shape, array.dtype, 256)
                for chunk in range(writer.chunks):
                    start, stop = writer.bounds(chunk)
                    writer.write(chunk, array[start:stop])
            if views is not None and split == "train":
                writer = ArrayWriter(staging, "features.zarr", "train/views", views.shape, views.dtype, 256)
                for chunk in range(writer.chunks):
                    start, stop = writer.bounds(chunk)
                    writer.write(chunk, views[start:stop])
            table["row"] += range(len(X))
            table["sample"] += [f"{split}/{i:05d}" for i in range(len(X))]
            table["split"] += [split] * len(X)
            table["label"] += y.tolist()
            table["ok"] += ok.tolist()
            table["error"] += ["" if good else "broken" for good in ok]
        staging.write("samples.parquet", parquet_bytes(table))
        write_classes(staging, classes)
        return {"model": "none"}

    contents = {
        split: sha256(np.ascontiguousarray(x).tobytes() + (np.asarray(y).tobytes() if real else b""))
        for split, (x, y) in splits.items()
    }
    recipe = Recipe(
        stage="extract",
        kind="features",
        epoch=1,
        config={
            "splits": contents,
            "classes": list(classes),
            "bad": canonical(bad or {}).decode(),
            **({} if views is None else {"views": {"augment": augment, "content": sha256(views.tobytes())}}),
        },
        inputs=(),
    )
    return produce(Session(store=store), recipe, name="pixels", config={}, build=build)


def write_labels(
    store: Path,
    split: str,
    clean: Any,
    noisy: Any,
    classes: Sequence[str] = NAMES,
    samples: Sequence[str] | None = None,
) -> ArtifactRef:
    """A labels artifact as ``inject-noise`` lays it out; ``samples`` where ``write_features`` did not name them."""
    clean, noisy = np.asarray(clean, dtype=np.int64), np.asarray(noisy, dtype=np.int64)

    def build(staging: Staging) -> Mapping[str, object]:
        columns = {
            "row": np.arange(len(clean)),
            "sample": list(samples) if samples is not None else [f"{split}/{i:05d}" for i in range(len(clean))],
            "split": [split] * len(clean),
            "clean": clean,
            "noisy": noisy,
            "flipped": clean != noisy,
        }
        staging.write("labels.parquet", parquet_bytes(columns))
        write_classes(staging, classes)
        return {}

    config = {"clean": sha256(clean.tobytes()), "noisy": sha256(noisy.tobytes()), "split": split}
    recipe = Recipe(stage="inject-noise", kind="labels", epoch=1, config=config, inputs=())
    return produce(Session(store=store), recipe, name="noise", config={}, build=build)


def flip(labels: Any, ratio: float, classes: int, seed: int = 0) -> Any:
    """Labels of which exactly round(ratio * n) are another class, uniformly."""
    rng = np.random.default_rng(seed)
    noisy = np.array(labels)
    rows = rng.permutation(len(noisy))[: round(ratio * len(noisy))]
    noisy[rows] = (noisy[rows] + rng.integers(1, classes, len(rows))) % classes
    return noisy


class Notes:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str) -> None:
        self.infos.append(message)

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def progress(self, total: int, what: str) -> Any:
        from nmtool.artifact.stage import Silence

        return Silence().progress(total, what)


def tune(store: Path, features: ArtifactRef | Path | str, notes: Notes | None = None, **settings: Any) -> ArtifactRef:
    """Run the stage; settings that are given as single values may be lists in the configuration."""
    path = str(features.path) if isinstance(features, ArtifactRef) else str(features)
    fields = Config.__dataclass_fields__
    lists = {k: (v,) if "tuple" in str(fields[k].type) and not isinstance(v, tuple) else v for k, v in settings.items()}
    session = Session(store=store, report=notes) if notes is not None else Session(store=store)
    return run(Config(features=path, **{"device": "cpu", "workers": 1, **lists}), session)


def table(ref: ArtifactRef, name: str) -> dict[str, Any]:
    """A payload table of an artifact."""
    return read_parquet(open_artifact(ref.path), name)


def results(ref: ArtifactRef) -> list[dict[str, Any]]:
    """The rows of ``results.parquet``."""
    columns = table(ref, "results.parquet")
    plain = [v.tolist() if isinstance(v, np.ndarray) else v for v in columns.values()]
    return [dict(zip(columns, values, strict=True)) for values in zip(*plain, strict=True)]
