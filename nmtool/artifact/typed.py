"""Typed access to payloads: Parquet tables, labels and features as records. What one stage writes, others read here."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.artifact import arrays
from nmtool.artifact.format import canonical
from nmtool.artifact.open import Artifact, open_artifact
from nmtool.artifact.stage import Staging
from nmtool.errors import CorruptError, DataError, InputMissingError
from nmtool.records import FeatureTable, Labels, NoisyLabels

STORE = "features.zarr"
LABELS_TABLE, SAMPLES_TABLE, CLASSES = "labels.parquet", "samples.parquet", "classes.json"


def parquet_bytes(columns: Mapping[str, Any]) -> bytes:
    """A Parquet file of equally long columns (numpy arrays or lists); the same bytes for the same columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({k: pa.array(v) for k, v in columns.items()}), sink, compression="zstd")
    return sink.getvalue()


def read_parquet(artifact: Artifact, name: str) -> dict[str, Any]:
    """Columns of a payload Parquet file, checked: numpy arrays for numbers, lists for text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without threads: a process that ends while Arrow's pool is still starting is aborted (2 of 8 runs, measured).
        table = pq.read_table(io.BytesIO(artifact.read(name)), use_threads=False, pre_buffer=False)
    except (pa.ArrowException, ValueError) as error:
        raise CorruptError(f"{artifact.path}/data/{name} does not parse ({error})", "a Parquet table") from None
    columns: dict[str, Any] = {}
    for column in table.column_names:
        values = table.column(column)
        plain = (
            pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)
        )
        columns[column] = values.to_numpy() if plain and values.null_count == 0 else values.to_pylist()
    return columns


def write_classes(staging: Staging, classes: Sequence[str]) -> None:
    """Class names in label order, as ``classes.json``."""
    staging.write(CLASSES, canonical(list(classes)))


def read_classes(artifact: Artifact) -> tuple[str, ...]:
    """Class names in label order; raises ``CorruptError`` where they are not a list of text."""
    names = artifact.json(CLASSES)
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise CorruptError(f"{artifact.path}/data/{CLASSES}", "a list of class names")
    return tuple(names)


def read_labels(artifact: Artifact) -> NoisyLabels:
    """A ``labels`` artifact as a record."""
    table = read_parquet(artifact, LABELS_TABLE)
    splits = sorted(set(table["split"]))
    if len(splits) != 1:
        raise CorruptError(f"{artifact.path} labels splits {splits}", "one split")
    return NoisyLabels(
        samples=table["sample"],
        split=splits[0],
        clean=table["clean"],
        noisy=table["noisy"],
        classes=read_classes(artifact) if artifact.has(CLASSES) else (),
    )


def join_labels(overlay: NoisyLabels, ids: Sequence[str], labels: Labels, where: str) -> Labels:
    """The overlay's noisy labels for these rows, joined by sample id.

    Raises:
        DataError: a sample has no overlay label, or the overlay's clean labels or classes are not those of the data: it
            was made for another dataset.
    """
    if overlay.classes and overlay.classes != labels.classes:
        raise DataError(
            f"the labels are for {len(overlay.classes)} classes ({', '.join(overlay.classes[:3])}, …)",
            f"the {len(labels.classes)} classes of {where} ({', '.join(labels.classes[:3])}, …)",
            "give the labels artifact made from this dataset",
        )
    position = {sample: row for row, sample in enumerate(overlay.samples)}
    rows = np.array([position.get(sample, -1) for sample in ids], dtype=np.int64)
    missing = np.flatnonzero(rows < 0)
    if missing.size:
        raise DataError(
            f"{missing.size} of {len(ids)} samples of {where} have no label there (first: {ids[int(missing[0])]!r})",
            f"labels for split {overlay.split} of the same dataset",
            "run inject-noise on this dataset and split",
        )
    wrong = np.flatnonzero(overlay.clean[rows] != labels.values)
    if wrong.size:
        raise DataError(
            f"{wrong.size} of {len(ids)} samples of {where} have another clean label (first: {ids[int(wrong[0])]!r})",
            "labels made from this dataset",
            "run inject-noise on it again",
        )
    return Labels(values=overlay.noisy[rows], classes=labels.classes)


def split_of(text: str) -> tuple[Path, str]:
    """``FEATURES[:SPLIT]``: the path and the split ('' where none is named). A path that exists wins over a colon."""
    path = Path(text)
    if path.exists() or ":" not in text:
        return path, ""
    head, _, tail = text.rpartition(":")
    return Path(head), tail


def feature_splits(artifact: Artifact) -> list[str]:
    """Names of the splits of a ``features`` artifact."""
    return arrays.split_names(artifact, STORE)


def choose_split(artifact: Artifact, wanted: str, *, role: str) -> str:
    """The split to use: the one named, or by default ``train`` for training and ``test``/``val``/``validation`` else.

    Raises:
        InputMissingError: no such split; the message lists those there are.
    """
    names = feature_splits(artifact)
    candidates = [wanted] if wanted else (["train"] if role == "train" else ["test", "val", "validation"])
    for name in candidates:
        if name in names:
            return name
    raise InputMissingError(
        f"{artifact.path} has no split {' or '.join(candidates)}",
        "one of " + ", ".join(names),
        f"name the {role} split",
    )


def read_features(artifact: Artifact, split: str, source: str = "") -> FeatureTable:
    """One split of a ``features`` artifact, in memory, checksums verified."""
    features = arrays.read_array(artifact, STORE, f"{split}/features")
    labels = arrays.read_array(artifact, STORE, f"{split}/labels")
    samples = read_parquet(artifact, SAMPLES_TABLE)
    rows = [row for row, name in enumerate(samples["split"]) if name == split]
    return FeatureTable(
        source=source or str(artifact.path),
        split=split,
        ids=[samples["sample"][row] for row in rows],
        features=features,
        labels=Labels(values=labels, classes=read_classes(artifact)),
        ok=np.asarray(samples["ok"])[rows],
        content=artifact.manifest.content,
    )


def open_features(text: str) -> tuple[Artifact, str]:
    """``FEATURES[:SPLIT]`` opened; the split is '' where none is named."""
    path, split = split_of(text)
    return open_artifact(path, "features"), split
