"""timm's models by content: by name, from a weights file, from a ``backbone`` artifact. Loads nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nmtool.artifact.memo import Memo, file_digest
from nmtool.artifact.open import Artifact, open_artifact
from nmtool.encoders import hub
from nmtool.encoders.facts import Facts, facts_of, untrained_weights, versions
from nmtool.encoders.resolved import Asked, Resolved
from nmtool.encoders.spec import EncoderSpec, Preprocessing, preprocessing_from_json
from nmtool.errors import CorruptError, UnavailableError, UsageError
from nmtool.records import InputRef

WEIGHTS, CONFIG = "weights.safetensors", "config.json"


def plan(name: str, asked: Asked, memo: Memo) -> Resolved:
    """``timm:NAME``, with the weights of its pretrained tag or, where asked, random ones."""
    facts = _facts(name, dict(asked.kwargs), asked.overrides.get("size"), asked, memo)
    if asked.untrained:
        weights = untrained_weights(asked.seed, versions())
        return _resolved(name, facts, facts.preprocessing, asked, weights, None, "untrained")
    path = _hub_file(name, facts.hub)
    return _resolved(name, facts, facts.preprocessing, asked, file_digest(path, memo), path, "hub")


def plan_file(path: Path, name: str, asked: Asked, memo: Memo) -> Resolved:
    """A weights file of one of timm's architectures."""
    facts = _facts(name, dict(asked.kwargs), asked.overrides.get("size"), asked, memo)
    return _resolved(name, facts, facts.preprocessing, asked, file_digest(path, memo), path, "file")


def plan_backbone(path: Path, asked: Asked, memo: Memo) -> Resolved:
    """The path of a ``backbone`` artifact, which knows its architecture and preprocessing."""
    if asked.arch is not None or asked.kwargs:
        raise UsageError(f"--arch or --model-kwargs beside the backbone {path}", "neither: it knows its own")
    artifact = open_artifact(path, "backbone")
    arch, kwargs, base = read_config(artifact)
    facts = _facts(arch, kwargs, asked.overrides.get("size", base.size[0]), asked, memo)
    if "size" in asked.overrides:
        base = dataclasses.replace(base, size=facts.preprocessing.size)
    weights = next(e.sha256 for e in artifact.files if e.path == f"data/{WEIGHTS}")
    asked = dataclasses.replace(asked, kwargs=kwargs)
    found = _resolved(arch, facts, base, asked, weights, path / "data" / WEIGHTS, "backbone")
    return dataclasses.replace(found, input=artifact.as_input("model"))


def read_config(artifact: Artifact) -> tuple[str, dict[str, object], Preprocessing]:
    """Architecture, its arguments and preprocessing of a ``backbone`` artifact; raises ``CorruptError``."""
    body = artifact.json(CONFIG)
    try:
        if not isinstance(body, dict) or not artifact.has(WEIGHTS):
            raise TypeError("no table, or no weights")
        return str(body["arch"]), dict(body["kwargs"]), preprocessing_from_json(body["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(
            f"{artifact.path}/data/{CONFIG} is no backbone's ({error})", "arch, kwargs, preprocessing"
        ) from None


def _facts(arch: str, kwargs: dict[str, object], size: int | None, asked: Asked, memo: Memo) -> Facts:
    if asked.tower == "text" or asked.max_length is not None:
        raise UsageError(f"the text tower of timm's {arch}", "images: timm has no text encoders")
    return facts_of(arch, kwargs, size, memo, asked.feature or "pre_logits")


def _resolved(
    arch: str, facts: Facts, base: Preprocessing, asked: Asked, weights: str, path: Path | None, source: str
) -> Resolved:
    spec = EncoderSpec(
        family="timm",
        arch=arch,
        kwargs=dict(asked.kwargs),
        weights=weights,
        preprocessing=dataclasses.replace(base, **{k: v for k, v in asked.overrides.items() if k != "size"}),
        feature=facts.feature,
        dim=facts.dim,
        untrained=source == "untrained",
        normalize=asked.normalize,
    )
    cited = InputRef(role="model", kind="weights", key="", content=weights)
    return Resolved(spec=spec, input=cited, path=path, source=source, seed=asked.seed if spec.untrained else 0)


def _hub_file(name: str, where: tuple[str, ...]) -> Path:
    """The pretrained weights in the local hub cache, fetched there first where they can be."""
    or_else = "take seeded random weights with --untrained, or a weights file with --arch " + name.partition(".")[0]
    if not where:
        raise UnavailableError(f"timm knows no hub repository with weights of {name}", "", or_else)
    repo, file = where
    if not file.endswith(".safetensors"):
        raise UnavailableError(f"{repo} on the hub names {file}", "safetensors", or_else)
    return hub.find(repo, [file], name, or_else)
