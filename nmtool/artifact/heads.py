"""The file of a ``heads`` artifact: tensors of every run, and in its header what they are. Written by ``tune`` alone.

Tensors are named ``run_0000.NAME`` in PyTorch's layout; the header's one key ``nmtool`` holds classes, dimension,
encoder and the settings of each run as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nmtool.artifact.open import Artifact
from nmtool.errors import CorruptError

HEADS = "heads.safetensors"
# Folders of what a run learned beside its head: its backbone, and the adapters in it.
BACKBONES, ADAPTED = "backbones", "adapters"


def run_name(index: int) -> str:
    """``run_0007``: how a run's tensors are named."""
    return f"run_{index:04d}"


def run_file(folder: str, index: int) -> str:
    """The payload file of a run in one of those folders."""
    return f"{folder}/{run_name(index)}.safetensors"


def header_of(data: bytes) -> Any:
    """The JSON in the header of a safetensors file, ``nmtool``: its one metadata key, so that bytes are stable."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["nmtool"])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsFile:
    """What the file holds.

    Attributes:
        classes: C class names; none where labels are real numbers.
        dim: D of the features.
        encoder: the encoder's record that the features came from; empty where they came ready made.
        source: the training features by content, ``features-`` and twelve digits.
        split: the training split.
        runs: settings of each run, as ``tune`` wrote them, in the order of their numbers.
        tensors: numpy arrays by ``run_0000.NAME``.
    """

    classes: tuple[str, ...]
    dim: int
    encoder: Mapping[str, Any]
    source: str
    split: str
    runs: tuple[Mapping[str, Any], ...]
    tensors: Mapping[str, Any]

    def of_run(self, index: int) -> dict[str, Any]:
        """The tensors of one run, by their names without the run."""
        start = f"{run_name(index)}."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


def read_heads_file(artifact: Artifact) -> HeadsFile:
    """Read and check the file; raises ``CorruptError`` where it does not read."""
    from safetensors.numpy import load

    data = artifact.read(HEADS)
    try:
        meta = header_of(data)
        return HeadsFile(
            classes=tuple(meta["classes"]),
            dim=int(meta["dim"]),
            encoder=meta["encoder"],
            source=meta["source"],
            split=meta["split"],
            runs=tuple(sorted(meta["runs"].values(), key=lambda run: int(run["index"]))),
            tensors=dict(sorted(load(data).items())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptError(
            f"{artifact.path}/data/{HEADS} does not read ({error})", "heads as nmtool writes them"
        ) from None
