"""The table of labels: written from columns, read as columns, joined by sample id."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtool.artifact import typed
from nmtool.artifact.key import Recipe
from nmtool.artifact.open import Artifact, open_artifact
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.errors import CorruptError, DataError
from nmtool.records import FeatureTable, Labels, NoisyLabels, TextColumn

IDS = st.lists(st.text("ab/é", max_size=3), unique=True, min_size=1, max_size=12)


def overlay(samples: Sequence[str], clean: Sequence[int], noisy: Sequence[int]) -> NoisyLabels:
    return NoisyLabels(
        samples=samples, split="train", clean=np.array(clean), noisy=np.array(noisy), classes=("x", "y", "z")
    )


def columns(**changed: Any) -> dict[str, Any]:
    table = {"row": [0, 1], "sample": ["a", "b"], "split": ["train"] * 2, "clean": [0, 1], "noisy": [1, 1]}
    return {name: values for name, values in {**table, "flipped": [True, False], **changed}.items() if values}


def artifact(root: Path, body: bytes) -> Artifact:
    def build(staging: Staging) -> Mapping[str, object]:
        staging.write(typed.LABELS_TABLE, body)
        typed.write_classes(staging, ["x", "y", "z"])
        return {}

    recipe = Recipe(stage="inject-noise", kind="labels", epoch=1, config={}, inputs=())
    return open_artifact(produce(Session(store=root), recipe, name="n", config={}, build=build).path)


def test_the_table_is_the_one_of_the_contract() -> None:
    labels = overlay(["a/é", "b"], [0, 2], [1, 2])
    body = typed.labels_bytes(labels)
    table = pq.read_table(io.BytesIO(body))
    assert table.schema.names == ["row", "sample", "split", "clean", "noisy", "flipped"]
    assert table.schema.types == [pa.int64(), pa.string(), pa.string(), pa.int64(), pa.int64(), pa.bool_()]
    assert list(table.to_pydict().values()) == [[0, 1], ["a/é", "b"], ["train"] * 2, [0, 2], [1, 2], [True, False]]
    plain = {name: table.column(name).to_pylist() for name in table.column_names}
    assert typed.parquet_bytes(plain) == body


def test_row_groups_hold_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"{k:03d}é" for k in range(100)]
    table = {
        "n": np.arange(100),
        "t": TextColumn.of(ids),
        "u": ids,
        "s": typed.Repeated("x", 100),
        "v": [None, *ids[1:]],
    }
    whole = pq.read_table(io.BytesIO(typed.parquet_bytes(table)))
    monkeypatch.setattr(typed, "_GROUP", 33)
    body = typed.parquet_bytes(table)
    assert pq.ParquetFile(io.BytesIO(body)).num_row_groups == 4
    assert pq.read_table(io.BytesIO(body)).to_pydict() == whole.to_pydict()
    assert whole.to_pydict()["t"] == whole.to_pydict()["u"] == ids
    with pytest.raises(ValueError, match="different lengths"):
        typed.parquet_bytes({"a": [1], "b": [1, 2]})


def test_labels_come_back(tmp_path: Path) -> None:
    labels = overlay(TextColumn.of(["a", "b/é", "c"]), [0, -1, 2], [1, -1, 2])
    read = typed.read_labels(artifact(tmp_path, typed.labels_bytes(labels)))
    assert isinstance(read.samples, TextColumn)
    assert read.samples == labels.samples
    assert (read.split, read.classes) == (labels.split, labels.classes)
    assert read.clean.tolist() == [0, -1, 2]
    assert read.noisy.tolist() == [1, -1, 2]
    assert read.flipped.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sample": None}, "columns sample of"),
        ({"clean": [0.0, 1.0]}, "columns clean of"),
        ({"noisy": ["0", "1"]}, "columns noisy of"),
        ({"sample": ["a", None]}, "columns sample of"),
        ({"noisy": [1, None]}, "columns noisy of"),
        ({"split": ["train", "test"]}, r"splits \['test', 'train'\]"),
        ({"sample": [b"\xff", b"b"]}, "sample ids of"),
    ],
)
def test_tables_of_another_shape_are_corrupt(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    found = artifact(tmp_path, typed.parquet_bytes(columns(**changed)))
    with pytest.raises(CorruptError, match=said):
        typed.read_labels(found)


@settings(deadline=None)
@given(IDS, st.data())
def test_labels_are_joined_by_sample_and_not_by_row(ids: list[str], data: st.DataObject) -> None:
    n = len(ids)
    numbers = st.lists(st.integers(-1, 2), min_size=n, max_size=n)
    clean, noisy = data.draw(numbers), data.draw(numbers)
    of_sample = dict(zip(ids, zip(clean, noisy, strict=True), strict=True))
    mine = data.draw(st.permutations(ids)) if data.draw(st.booleans()) else ids
    mine = mine[: data.draw(st.integers(1, n))]
    labels = Labels(values=np.array([of_sample[s][0] for s in mine]), classes=("x", "y", "z"))
    for samples in (ids, TextColumn.of(ids)):
        joined = typed.join_labels(overlay(samples, clean, noisy), mine, labels, "here")
        assert joined.values.tolist() == [of_sample[s][1] for s in mine]
    wrong = Labels(values=(labels.values + 2) % 4 - 1, classes=labels.classes)
    with pytest.raises(DataError, match=f"{len(mine)} of {len(mine)} samples of here have another clean label"):
        typed.join_labels(overlay(ids, clean, noisy), mine, wrong, "here")
    with pytest.raises(DataError, match=f"1 of {len(mine)} samples of here have no label there .first: 'new'"):
        typed.join_labels(overlay(ids, clean, noisy), [*mine[:-1], "new"], labels, "here")


def test_a_sample_that_is_labelled_twice_is_refused() -> None:
    labels = Labels(values=np.array([0]), classes=("x", "y", "z"))
    with pytest.raises(DataError, match="have sample 'b' twice"):
        typed.join_labels(overlay(["b", "a", "b"], [0, 0, 0], [1, 0, 2]), ["b"], labels, "here")


def test_captions_are_no_class_labels() -> None:
    """Each sample a class of its own: the rows of captions would pass for clean labels."""
    captions = NoisyLabels(
        samples=["a", "b", "c"], split="train", clean=np.arange(3), noisy=np.array([1, 0, 2]), classes=()
    )
    labels = Labels(values=np.arange(3), classes=("x", "y", "z"))
    with pytest.raises(DataError, match="captions"):
        typed.join_labels(captions, ["a", "b", "c"], labels, "here")


class _News:
    """A reporter that keeps warnings."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, message: str) -> None:
        self.said.append(message)


def test_rows_with_features_and_those_of_them_with_a_label() -> None:
    """Predictions need the first, training the second; a good row that is not finite is neither's."""
    features = np.array([[0.0], [1.0], [np.nan], [3.0]])
    table = FeatureTable(
        source="f",
        split="train",
        ids=["a", "b", "c", "d"],
        features=features,
        labels=Labels(values=np.array([0, -1, 1, 1]), classes=("x", "y")),
        ok=np.array([True, True, False, True]),
        content="sha256:" + "0" * 64,
    )
    news: Any = _News()
    assert typed.encoded_rows(table).tolist() == [True, True, False, True]
    assert typed.usable_rows(table, "training", news).tolist() == [True, False, False, True]
    assert news.said == ["training split train of f: 1 rows without features and 1 without a label of 4 are left out"]
    bad = dataclasses.replace(table, ok=np.array([True, True, True, True]))
    for ask in (typed.encoded_rows, lambda t: typed.usable_rows(t, "training", news)):
        with pytest.raises(DataError, match=r"1 rows of split train of f are not finite .first: 'c'."):
            ask(bad)
