"""Heads whose transformed space is to be looked at: read from a ``heads`` artifact, its runs chosen, checked to fit.

Runs of ``turn``, ``fft`` and ``lora`` are left out: their space is that of a backbone of their own. Opening is light;
torch comes on a miss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.artifact.arrays import array_shape
from nmtool.artifact.heads import HeadsFile, read_heads_file
from nmtool.artifact.open import Artifact, open_artifact
from nmtool.artifact.typed import STORE
from nmtool.errors import DataError, InputMissingError, UsageError

Block = npt.NDArray[Any]
# What tells the runs of an artifact apart in a result.
_TOLD = ("method", "seed", "fraction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The transformed space of one run.

    Attributes:
        run: its number.
        told: what a result says of it: run, method, loss, seed, fraction.
        apply: float64 [n, D] of features [n, D].
    """

    run: int
    told: Mapping[str, Any]
    apply: Callable[[Block], Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spaces:
    """A ``heads`` artifact, opened, and the runs of it that were chosen (as written), none of a fine-tuned backbone."""

    artifact: Artifact
    file: HeadsFile
    runs: tuple[Mapping[str, Any], ...]
    left_out: int

    def spaces(self) -> list[Space]:
        """The spaces, ready to be applied; imports torch."""
        return [_space(self.file, run) for run in self.runs]


def open_heads(path: str, wanted: str) -> Spaces:
    """Open heads and choose runs.

    Args:
        path: of the artifact.
        wanted: ``all``, or numbers of runs: ``0`` or ``0,3``.

    Raises:
        InputMissingError, CorruptError, DataError: as of ``open_artifact``; no such run; none but of backbones.
        UsageError: no numbers.
    """
    artifact = open_artifact(Path(path), "heads")
    file = read_heads_file(artifact)
    by_number = {int(run["index"]): run for run in file.runs}
    chosen = _numbers(wanted) if wanted != "all" else list(by_number)
    for number in chosen:
        if number not in by_number:
            raise InputMissingError(f"{path} has no run {number}", f"0 to {max(by_number)}")
    kept = [by_number[number] for number in chosen if by_number[number].get("finetune") is None]
    if not kept or (wanted != "all" and len(kept) < len(chosen)):
        method = next(run["method"] for n in chosen if (run := by_number[n]).get("finetune") is not None)
        raise DataError(
            f"a run of method {method} in {path}: its space is that of the backbone that it fine-tuned",
            "heads that were trained on features",
            "name other runs by --run",
        )
    return Spaces(artifact=artifact, file=file, runs=tuple(kept), left_out=len(chosen) - len(kept))


def _numbers(wanted: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in wanted.split(",")))
    except ValueError:
        raise UsageError(f"--run is {wanted!r}", "all, or numbers of runs: 0 or 0,3") from None


def check_fits(spaces: Spaces, features: Artifact, splits: Sequence[str], shown: str) -> None:
    """Raises ``DataError`` where the features are of another encoder (by content) or dimension than the heads'."""
    body = features.manifest.recipe.get("config", {}).get("encoder")
    encoder = body if isinstance(body, dict) and body.get("family") != "none" else {}
    if dict(encoder) != dict(spaces.file.encoder):
        raise DataError(
            f"{shown} was extracted by another encoder or preprocessing than the features of the heads",
            "the same encoder",
            "extract with the same MODEL and flags",
        )
    for split in splits:
        dim = array_shape(features, STORE, f"{split}/features")[0][1]
        if dim != spaces.file.dim:
            raise DataError(f"{shown} has {dim} dimensions", f"{spaces.file.dim}, as the heads' own features")


def _space(file: HeadsFile, run: Mapping[str, Any]) -> Space:
    import torch

    from nmtool.numerics.transformed import transformed

    number = int(run["index"])
    tensors = {
        name: torch.from_numpy(np.array(t)) for name, t in file.of_run(number).items() if "neighbours" not in name
    }
    scale, shape = str(run["probe"]["scale"]), run.get("shape") or {}
    activation = str(shape.get("activation", "none"))

    def apply(block: Block) -> Block:
        features = torch.from_numpy(block.astype(np.float64))
        out: Block = transformed(features, tensors, scale=scale, activation=activation).numpy()
        return out

    told = {"run": number, **{name: run[name] for name in _TOLD}, "loss": run["probe"]["loss"]}
    return Space(run=number, told=told, apply=apply)
