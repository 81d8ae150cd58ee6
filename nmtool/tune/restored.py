"""A ``heads`` artifact read back: its runs, and each head as it was after training. Opening is light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtool.artifact.heads import read_heads_file
from nmtool.artifact.open import Artifact, open_artifact
from nmtool.errors import CorruptError, DataError, InputMissingError, UsageError
from nmtool.tune.plan import Run, from_json

if TYPE_CHECKING:
    import torch

    from nmtool.tune.heads import LinearHeads
    from nmtool.tune.knn import Voters
    from nmtool.tune.scale import Scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """A ``heads`` artifact, read.

    Attributes:
        artifact: opened.
        classes: C class names.
        dim: D of the features.
        encoder: the encoder's record that the features came from; empty where they came ready made.
        source: the training features by content, ``features-`` and twelve digits.
        split: the training split.
        runs: by number.
        tensors: numpy arrays by ``run_0000.NAME``.
    """

    artifact: Artifact
    classes: tuple[str, ...]
    dim: int
    encoder: Mapping[str, Any]
    source: str
    split: str
    runs: Mapping[int, Run]
    tensors: Mapping[str, Any]

    @property
    def outputs(self) -> int:
        """Numbers that a head gives of each row: one a class, or (no classes) the one real number."""
        return len(self.classes) or 1

    def tensors_of(self, run: Run, device: torch.device) -> dict[str, torch.Tensor]:
        """The tensors of one run on a device."""
        import torch

        from nmtool.artifact.heads import run_name

        start = f"{run_name(run.index)}."
        found = {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}
        return {k: torch.from_numpy(v).to(device) for k, v in found.items()}

    def head(self, run: Run, device: torch.device) -> tuple[LinearHeads, Scaling]:
        """The head of a run, as a stack of one, and its scaling; raises ``CorruptError`` where tensors do not fit."""
        from nmtool.tune.heads import LinearHeads
        from nmtool.tune.mlp import MlpHeads

        tensors = self.tensors_of(run, device)
        head = (MlpHeads if run.shape is not None else LinearHeads)((run,), self.dim, self.outputs, device)
        try:
            head.restore(0, tensors)
        except (KeyError, ValueError) as error:
            raise CorruptError(f"{self.artifact.path}: the tensors of run {run.index} ({error})", "its head") from None
        return head.one(0), self.scaling(run, tensors)

    def scaling(self, run: Run, tensors: Mapping[str, torch.Tensor]) -> Scaling:
        """The scaling of a run, from its tensors."""
        from nmtool.tune.scale import Scaling

        return Scaling(kind=run.probe.scale, mean=tensors.get("scale.mean"), std=tensors.get("scale.std"))

    def voters(self, run: Run, device: torch.device) -> Voters:
        """The training rows that vote in a run of ``knn``."""
        from nmtool.tune.knn import LABELS, ROWS, Voters

        assert run.neighbours is not None
        tensors = self.tensors_of(run, device)
        return Voters(how=run.neighbours, rows=tensors[ROWS], labels=tensors[LABELS])


def read_heads(path: str) -> Heads:
    """Open and read a ``heads`` artifact.

    Raises:
        InputMissingError, CorruptError, DataError: as of ``open_artifact``; a header that does not parse.
    """
    artifact = open_artifact(Path(path), "heads")
    file = read_heads_file(artifact)
    try:
        runs = {run.index: run for run in map(from_json, file.runs)}
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"the runs of {path} do not read ({error})", "heads as nmtool writes them") from None
    return Heads(
        artifact=artifact,
        classes=file.classes,
        dim=file.dim,
        encoder=file.encoder,
        source=file.source,
        split=file.split,
        runs=runs,
        tensors=file.tensors,
    )


def choose_runs(heads: Heads, wanted: str) -> tuple[Run, ...]:
    """The runs that ``all`` or ``N[,N…]`` names.

    Raises:
        UsageError: no numbers.
        InputMissingError: no such run.
    """
    if wanted == "all":
        return tuple(heads.runs[index] for index in sorted(heads.runs))
    try:
        numbers = [int(part) for part in wanted.split(",")]
    except ValueError:
        raise UsageError(f"--run is {wanted!r}", "all, or numbers of runs: 0 or 0,3") from None
    for number in numbers:
        if number not in heads.runs:
            last = max(heads.runs)
            raise InputMissingError(f"{heads.artifact.path} has no run {number}", f"0 to {last}" if last else "0")
    return tuple(heads.runs[number] for number in dict.fromkeys(numbers))


def on_features(runs: Sequence[Run], asked: bool) -> tuple[tuple[Run, ...], int]:
    """Runs whose head works on features, and how many others there are, which fine-tuned a backbone.

    Raises:
        DataError: none of them does, or one was asked for by its number.
    """
    kept = tuple(run for run in runs if run.finetune is None)
    if not kept or (asked and len(kept) < len(runs)):
        first = next(run for run in runs if run.finetune is not None)
        number = first.index
        raise DataError(
            f"run {number} is of method {first.method}: its head belongs to the backbone that it fine-tuned, not "
            "to the one that features come from",
            "a head that was trained on features",
            "for this one, give nmtool predict the images themselves (a data URI); or name other runs by --run",
        )
    return kept, len(runs) - len(kept)
