"""From MODEL as the user names it to an encoder by content: architecture, digest of the weights, preprocessing.

Light where the memo knows the answer: neither torch nor timm is imported. Refuses pickled weights, and never takes
random weights for trained ones unless told to.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmtool.artifact.memo import Memo, file_digest
from nmtool.artifact.open import Artifact, open_artifact
from nmtool.encoders.checkpoints import refuse_pickle
from nmtool.encoders.facts import facts_of, versions
from nmtool.encoders.spec import INTERPOLATIONS, EncoderSpec, Preprocessing, preprocessing_from_json
from nmtool.errors import CorruptError, DataError, InputMissingError, UnavailableError, UsageError
from nmtool.records import InputRef

KNOWN = "timm:NAME, the path of a backbone artifact, a .safetensors file with --arch NAME, or none"
_LATER = ("open_clip", "transformers", "openai")
WEIGHTS, CONFIG = "weights.safetensors", "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """An encoder that is known by content and not loaded yet.

    Attributes:
        spec: what goes into keys.
        input: how a recipe cites it (role ``model``).
        path: the safetensors file, or None for random weights.
        source: ``untrained``, ``hub``, ``file`` or ``backbone``.
        seed: of random weights; else unused.
    """

    spec: EncoderSpec
    input: InputRef
    path: Path | None
    source: str
    seed: int


def resolve(
    model: str,
    *,
    arch: str | None,
    kwargs: Mapping[str, object],
    untrained: bool,
    seed: int,
    overrides: Mapping[str, object],
    memo: Memo,
) -> Resolved:
    """Resolve MODEL.

    Args:
        model: ``timm:NAME``, the path of a ``backbone`` artifact, or of a safetensors file.
        arch: timm's architecture name, for a file alone.
        kwargs: keyword arguments of the architecture's constructor; a backbone has its own.
        untrained: take seeded random weights for ``timm:NAME``.
        seed: of those.
        overrides: any of ``size``, ``interpolation``, ``crop_pct``, ``mean``, ``std``; None values are ignored.
        memo: remembered digests and facts.

    Raises:
        UsageError: a form, flag or architecture that is not known.
        InputMissingError: a path that is not there.
        DataError: a pickled checkpoint, or an artifact of another kind.
        UnavailableError: pretrained weights that are neither in the local cache nor reachable.
    """
    asked = check_overrides(overrides)
    family, colon, name = model.partition(":")
    if colon and family in _LATER:
        raise UsageError(f"MODEL {model}: {family} is not in this version", KNOWN)
    if colon and family == "timm":
        if arch is not None:
            raise UsageError("--arch beside timm:NAME", "--arch for a weights file alone", f"give timm:{arch}")
        return _from_timm(name, kwargs, untrained, seed, asked, memo)
    path = Path(model)
    if untrained:
        raise UsageError(f"--untrained with {model}", "timm:NAME: what is random needs no file")
    if not path.exists():
        hint = f"timm:{model} if a timm model is meant" if re.fullmatch(r"[\w.]+", model) else ""
        raise InputMissingError(f"MODEL {model} does not exist", KNOWN, hint)
    if path.is_dir():
        return _from_backbone(path, arch, kwargs, asked, memo)
    return _from_file(path, arch, kwargs, asked, memo)


def check_overrides(overrides: Mapping[str, object]) -> dict[str, Any]:
    """The preprocessing settings that are given, checked; raises ``UsageError``."""
    out: dict[str, Any] = {k: v for k, v in overrides.items() if v is not None}
    if "size" in out and not 1 <= out["size"] <= 4096:
        raise UsageError(f"--image-size is {out['size']}", "1 to 4096 pixels")
    if "interpolation" in out and out["interpolation"] not in INTERPOLATIONS:
        raise UsageError(f"--interpolation is {out['interpolation']!r}", "one of " + ", ".join(INTERPOLATIONS))
    if "crop_pct" in out and not 0 < out["crop_pct"] <= 1:
        raise UsageError(f"--crop-pct is {out['crop_pct']}", "more than 0, at most 1")
    for name in ("mean", "std"):
        if name in out:
            values = tuple(float(v) for v in out[name])
            if len(values) not in (1, 3) or (name == "std" and min(values) <= 0):
                raise UsageError(f"--{name} is {out[name]}", "one number or three" + (" > 0" if name == "std" else ""))
            out[name] = values * 3 if len(values) == 1 else values
    return out


def _preprocessing(base: Preprocessing, asked: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing:
    return dataclasses.replace(base, size=size, **{k: v for k, v in asked.items() if k != "size"})


def _from_timm(
    name: str, kwargs: Mapping[str, object], untrained: bool, seed: int, asked: Mapping[str, Any], memo: Memo
) -> Resolved:
    facts = facts_of(name, kwargs, asked.get("size"), memo)
    path: Path | None = None
    if untrained:
        if not 0 <= seed < 2**63:
            raise UsageError(f"--seed is {seed}", "0 to 2**63 - 1")
        version = versions()
        # The versions are part of it: another torch may draw other numbers, another timm initialise otherwise.
        weights = f"untrained:{seed}:timm-{version['timm']}:torch-{version['torch']}"
    else:
        path = _hub_file(name, facts.hub)
        weights = file_digest(path, memo)
    spec = EncoderSpec(
        family="timm",
        arch=name,
        kwargs=dict(kwargs),
        weights=weights,
        preprocessing=_preprocessing(facts.preprocessing, asked, facts.preprocessing.size),
        feature="pre_logits",
        dim=facts.dim,
        untrained=untrained,
    )
    cited = InputRef(role="model", kind="weights", key="", content=weights)
    return Resolved(spec=spec, input=cited, path=path, source="untrained" if untrained else "hub", seed=seed)


def _hub_file(name: str, hub: tuple[str, ...]) -> Path:
    """The pretrained weights in the local hub cache, fetched there first where they can be."""
    import huggingface_hub as hf

    or_else = "take seeded random weights with --untrained, or a weights file with --arch " + name.partition(".")[0]
    if not hub:
        raise UnavailableError(f"timm knows no hub repository with weights of {name}", "", or_else)
    repo, file = hub
    if not file.endswith(".safetensors"):
        raise UnavailableError(f"{repo} on the hub names {file}", "safetensors", or_else)
    found = hf.try_to_load_from_cache(repo, file)
    if isinstance(found, str):
        return Path(found)
    folder = Path(hf.constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--")) / "snapshots"
    try:
        # One look first, by the hub's own client (proxies, HF_HUB_OFFLINE): its download would try for half a minute.
        hf.get_session().head(hf.constants.ENDPOINT, timeout=5)
        return Path(hf.hf_hub_download(repo, file, etag_timeout=10))
    except Exception as error:  # the hub's client raises its HTTP library's errors too, and those change with it
        why = (str(error) or type(error).__name__).strip().splitlines()[0][:160]
        raise UnavailableError(
            f"the weights of {name} are neither in {folder}/*/{file} nor to be had from the hub ({why})", "", or_else
        ) from None


def _from_file(
    path: Path, arch: str | None, kwargs: Mapping[str, object], asked: Mapping[str, Any], memo: Memo
) -> Resolved:
    refuse_pickle(path)
    if path.suffix.lower() != ".safetensors":
        raise DataError(f"MODEL {path} is no weights file that nmtool reads", "a .safetensors file")
    if arch is None:
        raise UsageError(f"the weights file {path} without --arch", "the name of its architecture: --arch NAME")
    facts = facts_of(arch, kwargs, asked.get("size"), memo)
    weights = file_digest(path, memo)
    spec = EncoderSpec(
        family="timm",
        arch=arch,
        kwargs=dict(kwargs),
        weights=weights,
        preprocessing=_preprocessing(facts.preprocessing, asked, facts.preprocessing.size),
        feature="pre_logits",
        dim=facts.dim,
        untrained=False,
    )
    cited = InputRef(role="model", kind="weights", key="", content=weights)
    return Resolved(spec=spec, input=cited, path=path, source="file", seed=0)


def _from_backbone(
    path: Path, arch: str | None, kwargs: Mapping[str, object], asked: Mapping[str, Any], memo: Memo
) -> Resolved:
    if arch is not None or kwargs:
        raise UsageError(f"--arch or --model-kwargs beside the backbone {path}", "neither: it knows its own")
    artifact = open_artifact(path, "backbone")
    own_arch, own_kwargs, base = read_config(artifact)
    facts = facts_of(own_arch, own_kwargs, asked.get("size", base.size[0]), memo)
    size = facts.preprocessing.size if "size" in asked else base.size
    spec = EncoderSpec(
        family="timm",
        arch=own_arch,
        kwargs=own_kwargs,
        weights=next(e.sha256 for e in artifact.files if e.path == f"data/{WEIGHTS}"),
        preprocessing=_preprocessing(base, asked, size),
        feature="pre_logits",
        dim=facts.dim,
        untrained=False,
    )
    return Resolved(
        spec=spec, input=artifact.as_input("model"), path=path / "data" / WEIGHTS, source="backbone", seed=0
    )


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
