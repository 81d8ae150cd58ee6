"""What heads say of features: a table of predictions. Refuses features of another encoder, or of another dimension.

A head is asked as ``tune`` asks it, alone and in the same blocks: on the same split, device and number of threads the
predictions are those on record, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nmtool.artifact.arrays import array_shape
from nmtool.artifact.open import Artifact
from nmtool.artifact.stage import Reporter
from nmtool.artifact.typed import STORE, encoded_rows, feature_splits, read_features
from nmtool.encoders.device import products_by_onednn
from nmtool.errors import DataError, InputMissingError
from nmtool.numerics.metrics import pearson_correlation
from nmtool.records import FeatureTable, Labels
from nmtool.tune import evaluate, knn
from nmtool.tune.inputs import Source
from nmtool.tune.outcome import Array
from nmtool.tune.plan import Run
from nmtool.tune.restored import Heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Predictions of several runs on several splits.

    Attributes:
        columns: of the table: run, split, sample, label (-1: none, or of a class that the heads do not know),
            predicted, predicted_class, confidence, and where asked probabilities (a list of C a row). Of heads of real
            numbers: run, split, sample, label (NaN: none), predicted.
        scores: a row a run and split: n, how many have a label, and the accuracy on those (None where there are none),
            or Pearson's correlation of real numbers.
    """

    columns: Mapping[str, Any]
    scores: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answers:
    """What runs said, a table and a score for each run and split, in the order in which they were asked."""

    tables: list[Mapping[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)

    def add(self, table: Mapping[str, Any], score: dict[str, Any]) -> None:
        """A run's answer about a split."""
        self.tables.append(table)
        self.scores.append(score)


def joined(*answers: Answers) -> Predicted:
    """All of them as one table: split by split, and in each run by run."""
    tables = [table for some in answers for table in some.tables]
    scores = [score for some in answers for score in some.scores]
    splits = list(dict.fromkeys(score["split"] for score in scores))
    order = sorted(range(len(scores)), key=lambda i: (splits.index(scores[i]["split"]), scores[i]["run"]))
    return Predicted(columns=_together([tables[i] for i in order]), scores=[scores[i] for i in order])


def check_fits(heads: Heads, artifact: Artifact, shown: str) -> None:
    """Raises ``DataError`` where the features are not of the heads' encoder (by content), or dimension."""
    source = Source(artifact=artifact, split="", shown=shown, classes=())
    if dict(source.encoder) != dict(heads.encoder):
        raise DataError(
            f"{shown} was extracted by another encoder or preprocessing ({_name(source.encoder)})",
            f"that of the heads' own features ({_name(heads.encoder)})",
            "extract with the same MODEL and flags, or give the data itself: predict then extracts",
        )
    for split in feature_splits(artifact):
        dim = array_shape(artifact, STORE, f"{split}/features")[0][1]
        if dim != heads.dim:
            raise DataError(f"{shown} has {dim} dimensions", f"{heads.dim}, as the heads' own features")


def _name(encoder: Mapping[str, Any]) -> str:
    if not encoder:
        return "none: features that came ready made"
    return f"{encoder.get('arch', '?')}, weights {str(encoder.get('weights', '?'))[:19]}"


def choose_splits(artifact: Artifact, wanted: Sequence[str], shown: str) -> tuple[str, ...]:
    """The splits named, or all; raises ``InputMissingError`` listing those there are."""
    names = feature_splits(artifact)
    for name in wanted:
        if name not in names:
            raise InputMissingError(f"{shown} has no split {name}", "one of " + ", ".join(names))
    return tuple(dict.fromkeys(wanted)) or tuple(names)


def trained_on(heads: Heads, artifact: Artifact, shown: str) -> torch.Tensor:
    """Features [N, D] of the training split, for ``knn``; raises ``DataError`` where they are others."""
    cited = next((i.content for i in heads.artifact.manifest.inputs if i.role == "features"), "")
    if artifact.manifest.content != cited:
        raise DataError(
            f"{shown} holds other features (content {artifact.manifest.content[7:19]})",
            f"those that the heads were made from ({cited[7:19]})",
            "name them by --trained-on",
        )
    table = read_features(artifact, heads.split, shown)
    features = table.features.astype(np.float32)
    features[~table.ok] = 0.0
    return torch.from_numpy(features)


def predict(
    heads: Heads,
    runs: Sequence[Run],
    artifact: Artifact,
    splits: Sequence[str],
    *,
    shown: str,
    device: torch.device,
    training: torch.Tensor | None,
    probabilities: bool,
    report: Reporter,
) -> Answers:
    """Ask every run about every split.

    Args:
        heads: read.
        runs: of them, those to ask.
        artifact: the features, checked by ``check_fits``.
        splits: those to predict.
        shown: the features as the user named them.
        device: where to compute.
        training: features of the training split, where a run is of ``knn``.
        probabilities: keep those of all classes.
        report: news.

    Raises:
        DataError: features that are not finite in rows marked good.
    """
    answers, left_out = Answers(), 0
    home = training.to(device) if training is not None else None
    progress = report.progress(len(runs) * len(splits), "predicting, runs")
    with products_by_onednn(device), progress as advance:  # as tune does: the same bits
        for split in splits:
            table = read_features(artifact, split, shown)
            rows = np.flatnonzero(encoded_rows(table))
            left_out += len(table.ok) - len(rows)
            X = torch.from_numpy(table.features[rows].astype(np.float32)).to(device)
            ids = [table.ids[int(row)] for row in rows]
            label: Array = (known_classes(heads, table.labels) if heads.classes else _numbers(table))[rows]
            for run in runs:
                if heads.classes:
                    said = _ask(heads, run, X, home, probabilities)
                    answers.add(*of_classes(heads, run, split, ids, label, *said))
                else:
                    answers.add(*_of_numbers(heads, run, split, ids, label, X))
                advance(1)
    if left_out:
        report.warning(f"{left_out} rows of {shown} have no features and no prediction")
    return answers


def of_classes(
    heads: Heads,
    run: Run,
    split: str,
    ids: Sequence[str],
    label: Array,
    predicted: Array,
    confidence: Array,
    shares: Array | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One run's table and score on one split.

    Args:
        heads, run, split: who was asked about what.
        ids: of the n samples.
        label: int32 [n] in the heads' class numbers, -1 where there is none.
        predicted, confidence: [n].
        shares: probabilities [n, C] to keep, or None.
    """
    known = label >= 0
    right = float(np.mean(predicted[known] == label[known])) if known.any() else None
    score = {"run": run.index, "split": split, "n": len(ids), "labelled": int(known.sum()), "accuracy": right}
    table = {
        **_where(run, split, ids),
        "label": label,
        "predicted": predicted,
        "predicted_class": [heads.classes[c] for c in predicted],
        "confidence": confidence,
        **({"probabilities": shares} if shares is not None else {}),
    }
    return table, score


def _of_numbers(
    heads: Heads, run: Run, split: str, ids: Sequence[str], label: Array, X: torch.Tensor
) -> tuple[dict[str, Any], dict[str, Any]]:
    values, score = _values(heads, run, X, label)
    table = {**_where(run, split, ids), "label": label, "predicted": values}
    return table, {"run": run.index, "split": split, "n": len(ids), **score}


def _where(run: Run, split: str, ids: Sequence[str]) -> dict[str, Any]:
    return {"run": np.full(len(ids), run.index, dtype=np.int32), "split": [split] * len(ids), "sample": list(ids)}


def known_classes(heads: Heads, labels: Labels) -> Array:
    """int32 [N] labels in the heads' class numbers, joined by name; -1 where there is none, or of another class."""
    known = {name: number for number, name in enumerate(heads.classes)}
    lookup = np.array([*(known.get(name, -1) for name in labels.classes), -1], dtype=np.int32)
    found: Array = lookup[labels.values]  # -1, unlabelled, is the last
    return found


def _numbers(table: FeatureTable) -> Array:
    """float64 [N] labels that are real numbers, NaN where there are none."""
    return np.full(len(table.ok), np.nan) if table.targets is None else table.targets


def _values(heads: Heads, run: Run, X: torch.Tensor, label: Array) -> tuple[Array, dict[str, Any]]:
    """Real numbers float32 [n], how many rows have a label, and Pearson's correlation (None below two)."""
    head, scaling = heads.head(run, X.device)
    values = evaluate.numbers(head, scaling, X) if len(X) else np.zeros(0, np.float32)
    known = np.isfinite(label)
    count = int(known.sum())
    pearson = pearson_correlation(values[known], label[known]) if count > 1 else None
    return values, {"labelled": count, "pearson": pearson}


@torch.no_grad()
def _ask(
    heads: Heads, run: Run, X: torch.Tensor, home: torch.Tensor | None, probabilities: bool
) -> tuple[Array, Array, Array | None]:
    """Classes int32 [n], confidences float32 [n], and where asked probabilities float32 [n, C]."""
    if not len(X):
        empty = np.zeros((0, len(heads.classes)), dtype=np.float32)
        return np.zeros(0, np.int32), np.zeros(0, np.float32), empty if probabilities else None
    if run.neighbours is None:
        head, scaling = heads.head(run, X.device)
        predicted, confidence = evaluate.predict(head, scaling, X)
        if not probabilities:
            return predicted, confidence, None
        shares = [block.softmax(-1).cpu().numpy() for block in evaluate.logits(head, scaling, X)]
        return predicted, confidence, np.concatenate(shares)
    assert home is not None
    voters = heads.voters(run, X.device)
    scaling = heads.scaling(run, heads.tensors_of(run, X.device))
    given = scaling(X), scaling(home), [voters], len(heads.classes)
    predicted, confidence = knn.predict(*given)[0]
    if not probabilities:
        return predicted, confidence, None
    return predicted, confidence, np.concatenate([b[0][0].float().cpu().numpy() for b in knn.ask(*given)])


def _together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables of the same columns, one below the other, as Parquet's writer takes them."""
    import pyarrow as pa

    out: dict[str, Any] = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if isinstance(values[0], list):
            out[name] = pa.array([text for part in values for text in part], type=pa.string())
        elif values[0].ndim == 2:
            whole = np.concatenate(values)
            out[name] = pa.FixedSizeListArray.from_arrays(pa.array(whole.ravel()), whole.shape[1])
        else:
            out[name] = np.concatenate(values)
    return out
