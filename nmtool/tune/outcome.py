"""What a run gives: the head, its epochs, its scores. Also as bytes: a killed tune goes on from finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nmtool.artifact.format import canonical
from nmtool.artifact.heads import header_of
from nmtool.tune.plan import Run, from_json

Array = npt.NDArray[Any]
_META = "nmtool"
metadata = header_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One run on one evaluation split, after the last epoch.

    Attributes:
        target: which split, counted from 0.
        n: rows judged.
        accuracy, macro_f1, mean_per_class: in [0, 1]; these and the next three are None for real numbers.
        matthews: Matthews correlation, in [-1, 1].
        calibration_error: expected calibration error over 15 bins, in [0, 1].
        never_predicted: share of the classes present in training that no row was given.
        best_accuracy, best_epoch: of the epoch best on this very split, an oracle; None where epochs were not judged
            on it.
        sve, lsvr: of the transformed space (what enters the classifier), in nats; None where not asked or all zero.
        predicted: int32 [n] classes, or float32 [n] real numbers.
        confidence: float32 [n] probability of the predicted class; empty for real numbers.
        pearson, spearman: correlations of real numbers, in [-1, 1]; None for classes, and for a single row.
    """

    target: int
    n: int
    accuracy: float | None
    macro_f1: float | None
    mean_per_class: float | None
    matthews: float | None
    calibration_error: float | None
    never_predicted: float | None
    best_accuracy: float | None
    best_epoch: int | None
    sve: float | None
    lsvr: float | None
    predicted: Array
    confidence: Array
    pearson: float | None = None
    spearman: float | None = None


_ARRAYS = ("predicted", "confidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One finished run.

    Attributes:
        run: what was asked.
        tensors: the head in PyTorch's layout, by name: ``classifier.weight`` [C, D] …
        epochs: a row an epoch: mean losses by term, accuracy on the training labels, accuracy in-domain.
        scores: one for each evaluation split.
        notes: further numbers about the run (rows trained on, purity of the clean set …), for its result rows.
        cleansing: columns of what was selected, for methods that cleanse; else empty.
    """

    run: Run
    tensors: Mapping[str, Array]
    epochs: Sequence[Mapping[str, Any]]
    scores: Sequence[Scores]
    notes: Mapping[str, Any]
    cleansing: Mapping[str, Array]


def to_bytes(outcomes: Sequence[Outcome]) -> bytes:
    """Outcomes as one safetensors file; exact."""
    tensors: dict[str, Array] = {}
    meta = []
    for i, o in enumerate(outcomes):
        tensors |= {f"{i}/tensors/{k}": np.ascontiguousarray(v) for k, v in o.tensors.items()}
        tensors |= {f"{i}/cleansing/{k}": np.ascontiguousarray(v) for k, v in o.cleansing.items()}
        scores = []
        for j, s in enumerate(o.scores):
            tensors |= {f"{i}/scores/{j}/{k}": getattr(s, k) for k in _ARRAYS}
            scores.append({k: getattr(s, k) for k in Scores.__slots__ if k not in _ARRAYS})
        meta.append({"run": o.run.to_json(), "epochs": list(o.epochs), "scores": scores, "notes": dict(o.notes)})
    return bytes(save_tensors(tensors, metadata={_META: canonical(meta).decode()}))


def from_bytes(data: bytes) -> list[Outcome]:
    """What ``to_bytes`` wrote."""
    # Sorted: safetensors returns them in an order that differs from process to process.
    tensors = dict(sorted(load_tensors(data).items()))
    outcomes = []
    for i, body in enumerate(metadata(data)):
        part = {k.split("/", 1)[1]: v for k, v in tensors.items() if k.startswith(f"{i}/")}
        scores = []
        for j, row in enumerate(body["scores"]):
            arrays: dict[str, Any] = {k: part[f"scores/{j}/{k}"] for k in _ARRAYS}
            scores.append(Scores(**row, **arrays))
        outcomes.append(
            Outcome(
                run=from_json(body["run"]),
                tensors={k.removeprefix("tensors/"): v for k, v in part.items() if k.startswith("tensors/")},
                cleansing={k.removeprefix("cleansing/"): v for k, v in part.items() if k.startswith("cleansing/")},
                epochs=body["epochs"],
                scores=scores,
                notes=body["notes"],
            )
        )
    return outcomes
