"""What the user asks of an encoder, and the encoder that is meant by it: known by content, not loaded yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmtool.encoders.spec import EncoderSpec
from nmtool.records import InputRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user asks of an encoder beside its name, checked as far as that needs no model.

    Attributes:
        arch: ``--arch``, for a weights file.
        kwargs: keyword arguments of the architecture.
        untrained, seed: seeded random weights.
        overrides: any of ``size``, ``interpolation``, ``crop_pct``, ``mean``, ``std`` that replaces the model's own.
        feature: which tensor; empty: the family's default.
        normalize: divide features by their L2 norm.
        tower: ``image``, ``text``, or empty: image where the encoder has that, else text.
        max_length: longest text in tokens; None: the model's own.
    """

    arch: str | None = None
    kwargs: Mapping[str, object] = field(default_factory=dict)
    untrained: bool = False
    seed: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    feature: str = ""
    normalize: bool = False
    tower: str = ""
    max_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """An encoder that is known by content and not loaded yet.

    Attributes:
        spec: what goes into keys.
        input: how a recipe cites it (role ``model``).
        path: the weights file, or None for random weights or several files.
        source: ``untrained``, ``hub``, ``file``, ``folder`` or ``backbone``.
        seed: of random weights; else unused.
        folder: where the files of ``spec.files`` lie, or None.
        weights: the weights files of ``folder`` with their digests.
    """

    spec: EncoderSpec
    input: InputRef
    path: Path | None
    source: str
    seed: int
    folder: Path | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
