"""What the user asks of an encoder, and the encoder that is meant by it: known by content, not loaded yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmtool.encoders.spec import EncoderSpec
from nmtool.records import InputRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the user asks of an embeddings service; the key to it is no part of this.

    Attributes:
        base_url: where it is, without userinfo and query; requests go to ``/embeddings`` below it.
        dimensions: how long its vectors shall be; None: the model's own length.
        revision: the user's own label for the state of the model, of which the service tells no digest.
        separator: what stands between the texts of a pair, which are sent as one; None: pairs are refused.
    """

    base_url: str = ""
    dimensions: int | None = None
    revision: str = ""
    separator: str | None = None


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
        service: for ``openai:``.
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
    service: Service = field(default_factory=Service)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """An encoder that is known by content and not loaded yet.

    Attributes:
        spec: what goes into keys.
        input: how a recipe cites it (role ``model``).
        path: the weights file, or None for random weights or several files.
        source: ``untrained``, ``hub``, ``file``, ``folder``, ``backbone`` or ``service``.
        seed: of random weights; else unused.
        folder: where the files of ``spec.files`` lie, or None.
        weights: the weights files of ``folder`` with their digests.
        service: where a black box is asked; None for encoders that run here.
    """

    spec: EncoderSpec
    input: InputRef
    path: Path | None
    source: str
    seed: int
    folder: Path | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    service: Service | None = None
