"""Typed access to payloads: Parquet tables, labels and features as records. What one stage writes, others read here."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.artifact import arrays
from nmtool.artifact.format import canonical
from nmtool.artifact.open import Artifact, open_artifact
from nmtool.artifact.stage import Reporter, Staging
from nmtool.errors import CorruptError, DataError, InputMissingError
from nmtool.records import Bool, FeatureTable, Int, Labels, NoisyLabels, TextColumn

STORE = "features.zarr"
VIEWS = "views"
TARGETS = "targets"
"""Labels that are real numbers, float64 [n] beside ``labels``; only where the data have such."""
FAILED = "failed.json"
"""Digests of the samples that failed, by split and row."""
_GROUP = 1 << 20
"""Rows of a Parquet row group; pyarrow's own default."""
LABELS_TABLE, SAMPLES_TABLE, CLASSES = "labels.parquet", "samples.parquet", "classes.json"


def parquet_bytes(columns: Mapping[str, Any]) -> bytes:
    """A Parquet file of equally long columns; the same bytes for the same columns.

    Args:
        columns: by name: numpy arrays, lists, ``TextColumn`` or ``Repeated``. They are converted a row group at a time,
            so that millions of texts never stand there as Python's own.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    compact = (TextColumn, Repeated)
    arrays = {name: v if isinstance(v, compact) else pa.array(v) for name, v in columns.items()}
    schema = pa.schema([(name, pa.string() if isinstance(v, compact) else v.type) for name, v in arrays.items()])
    rows, sink = max(lengths.values(), default=0), io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for start in range(0, max(rows, 1), _GROUP):
            parts = [_part(values, start, min(start + _GROUP, rows)) for values in arrays.values()]
            writer.write_table(pa.table(parts, schema=schema), row_group_size=_GROUP)
    return sink.getvalue()


def csv_bytes(columns: Mapping[str, Any], order: Int) -> bytes:
    """A CSV file (UTF-8, quoted where needed) of equally long columns, rows in this order.

    Text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pa_csv

    rows = pa.array(order)
    arrays = {name: v.to_arrow() if isinstance(v, TextColumn) else pa.array(v) for name, v in columns.items()}
    for name, values in arrays.items():
        taken = values.take(rows)
        if pa.types.is_large_string(taken.type):
            risky = pc.match_substring_regex(taken, r"^ *[=+\-@\t\r\n|]")
            quoted = pc.binary_join_element_wise(pa.scalar("'", taken.type), taken, pa.scalar("", taken.type))
            taken = pc.if_else(risky, quoted, taken)
        arrays[name] = taken
    sink = io.BytesIO()
    pa_csv.write_csv(pa.table(arrays), sink)
    return sink.getvalue()


def _part(values: Any, start: int, stop: int) -> Any:
    """Some rows of a column as a pyarrow array; texts as ``string``, whose offsets of 32 bits do for a row group."""
    import pyarrow as pa

    if isinstance(values, TextColumn):
        return values[start:stop].to_arrow().cast(pa.string())
    if isinstance(values, Repeated):
        return pa.repeat(values.text, stop - start)
    return values[start:stop]


@dataclass(frozen=True, slots=True)
class Repeated:
    """A column that has one text in all of its rows."""

    text: str
    rows: int

    def __len__(self) -> int:
        return self.rows


def labels_bytes(labels: NoisyLabels) -> bytes:
    """``labels.parquet`` of an overlay; ``read_labels`` reads it."""
    n = len(labels.clean)
    return parquet_bytes(
        {
            "row": np.arange(n, dtype=np.int64),
            "sample": TextColumn.of(labels.samples),
            "split": Repeated(labels.split, n),
            "clean": labels.clean,
            "noisy": labels.noisy,
            "flipped": labels.flipped,
        }
    )


def read_parquet(artifact: Artifact, name: str) -> dict[str, Any]:
    """Columns of a payload Parquet file, checked: numpy arrays for numbers, lists for text."""
    import pyarrow as pa

    table = _table(artifact, name)
    columns: dict[str, Any] = {}
    for column in table.column_names:
        values = table.column(column)
        plain = (
            pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)
        )
        columns[column] = values.to_numpy() if plain and values.null_count == 0 else values.to_pylist()
    return columns


def _table(artifact: Artifact, name: str, **options: Any) -> Any:
    """A payload Parquet file as a pyarrow table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without threads: a process that ends while Arrow's pool is still starting is aborted (2 of 8 runs, measured).
        source = pa.BufferReader(artifact.read(name))
        return pq.read_table(source, use_threads=False, pre_buffer=False, **options)
    except (pa.ArrowException, ValueError) as error:
        raise CorruptError(f"{artifact.path}/data/{name} does not parse ({error})", "a Parquet table") from None


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
    """A ``labels`` artifact as a record.

    Raises:
        CorruptError: no such table, or one of another shape.
    """
    import pyarrow as pa

    where = f"{artifact.path}/data/{LABELS_TABLE}"
    table = _table(artifact, LABELS_TABLE, read_dictionary=["split"])
    wrong = [name for name in ("sample", "split", "clean", "noisy") if name not in table.column_names]
    wrong += [name for name in table.column_names if name not in wrong and table.column(name).null_count]
    wrong += [
        name for name in ("clean", "noisy") if name not in wrong and not pa.types.is_integer(table.field(name).type)
    ]
    if wrong:
        raise CorruptError(f"columns {', '.join(wrong)} of {where}", "sample, split, and whole numbers clean and noisy")
    splits = sorted({name for chunk in table.column("split").chunks for name in chunk.unique().to_pylist()})
    if len(splits) != 1:
        raise CorruptError(f"{artifact.path} labels splits {splits}", "one split")
    try:
        samples = TextColumn.from_arrow(table.column("sample"))
    except (pa.ArrowException, ValueError) as error:
        raise CorruptError(f"the sample ids of {where} ({error})", "texts") from None
    return NoisyLabels(
        samples=samples,
        split=splits[0],
        clean=table.column("clean").to_numpy(),
        noisy=table.column("noisy").to_numpy(),
        classes=read_classes(artifact) if artifact.has(CLASSES) else (),
    )


def join_labels(overlay: NoisyLabels, ids: Sequence[str], labels: Labels, where: str) -> Labels:
    """The overlay's noisy labels for these rows, joined by sample id.

    Raises:
        DataError: a sample has no overlay label or two, or the overlay's clean labels or classes are not those of the
            data: it was made for another dataset.
    """
    if labels.classes and not overlay.classes:
        raise DataError("the labels are mismatched captions", "class labels", "give an artifact of another --type")
    if overlay.classes and overlay.classes != labels.classes:
        raise DataError(
            f"the labels are for {len(overlay.classes)} classes ({', '.join(overlay.classes[:3])}, …)",
            f"the {len(labels.classes)} classes of {where} ({', '.join(labels.classes[:3])}, …)",
            "give the labels artifact made from this dataset",
        )
    rows = _rows_of(TextColumn.of(ids), TextColumn.of(overlay.samples))
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


def _rows_of(ids: TextColumn, samples: TextColumn) -> Int:
    """Where each id stands among the samples, int64 [n]; -1 where it does not."""
    if samples.first_out_of_order() >= 0:  # not as nmtool writes them
        twice = next((text for text, count in Counter(samples).items() if count > 1), None)
        if twice is not None:
            raise DataError(f"the labels have sample {twice!r} twice", "each sample once", "make the labels again")
    if ids == samples:
        return np.arange(len(ids), dtype=np.int64)
    import pyarrow.compute as pc

    found = pc.index_in(ids.to_arrow(), value_set=samples.to_arrow())
    return np.asarray(found.fill_null(-1).to_numpy(), dtype=np.int64)


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
        targets=arrays.read_array(artifact, STORE, f"{split}/{TARGETS}") if has_targets(artifact, split) else None,
    )


def encoded_rows(table: FeatureTable) -> Bool:
    """bool [N]: those with features, whether or not they have a label.

    Raises:
        DataError: features that are not finite in rows marked good.
    """
    bad = np.flatnonzero(table.ok & ~np.isfinite(table.features).all(axis=1))
    if bad.size:
        raise DataError(
            f"{bad.size} rows of split {table.split} of {table.source} are not finite "
            f"(first: {table.ids[int(bad[0])]!r})",
            "finite features, or rows marked as skipped",
            "extract again with --on-error skip, or with --dtype float32",
        )
    return table.ok


def usable_rows(table: FeatureTable, what: str, report: Reporter) -> Bool:
    """bool [N]: encoded and labelled; tells of the others; errors as of ``encoded_rows``."""
    encoded = encoded_rows(table)
    known = table.labels.values >= 0 if table.targets is None else np.isfinite(table.targets)
    usable: Bool = encoded & known
    if not usable.all():
        skipped, unlabelled = int(np.sum(~table.ok)), int(np.sum(table.ok & ~known))
        report.warning(
            f"{what} split {table.split} of {table.source}: {skipped} rows without features and {unlabelled} without "
            f"a label of {len(usable)} are left out"
        )
    return usable


def has_targets(artifact: Artifact, split: str) -> bool:
    """Whether the labels of a split are real numbers."""
    return artifact.has(f"{STORE}/{split}/{TARGETS}/zarr.json")


def read_views(artifact: Artifact, split: str) -> Any:
    """Features of the augmented views of one split, float [n, K, D], NaN in rows that are marked.

    Raises:
        InputMissingError: the features were extracted without views, or there is no such split.
        CorruptError: a chunk is damaged.
    """
    if not artifact.has(f"{STORE}/{split}/{VIEWS}/zarr.json"):
        raise InputMissingError(
            f"{artifact.path} holds no augmented views of split {split}", "features with views", "extract --views 2"
        )
    return arrays.read_array(artifact, STORE, f"{split}/{VIEWS}")


def open_features(text: str) -> tuple[Artifact, str]:
    """``FEATURES[:SPLIT]`` opened; the split is '' where none is named."""
    path, split = split_of(text)
    return open_artifact(path, "features"), split
