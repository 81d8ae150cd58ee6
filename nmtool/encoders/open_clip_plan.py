"""open_clip's models by content: image and text towers, by open_clip's own names or from a weights file. Loads nothing.

Weights come from the hub's cache or from a file; addresses that open_clip would fetch on its own are not followed, and
its ``hf-hub:`` and ``local-dir:`` names are refused: their configuration could change under the same name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmtool.artifact.memo import Memo, file_digest
from nmtool.encoders import hub
from nmtool.encoders.facts import untrained_weights, versions
from nmtool.encoders.resolved import Asked, Resolved
from nmtool.encoders.spec import EncoderSpec, preprocessing_from_json
from nmtool.errors import UnavailableError, UsageError
from nmtool.records import InputRef

_LAYOUT = 1  # of a remembered answer
# Named arguments of open_clip.create_model that are ours to give; what is left goes to the model's constructor.
RESERVED = ("pretrained", "cache_dir", "precision", "device", "jit", "weights_only", "output_dict", "load_weights")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def plan(name: str, asked: Asked, memo: Memo) -> Resolved:
    """``open_clip:ARCH[/PRETRAINED]``."""
    arch, tag = _split(name)
    facts = _facts(arch, tag, asked, memo)
    if asked.untrained:
        return _resolved(arch, facts, asked, memo, untrained_weights(asked.seed, _versions()), None, "untrained")
    if not tag:
        tags = ", ".join(facts["tags"]) or "none: give a weights file"
        raise UsageError(
            f"open_clip:{arch} without weights", f"open_clip:{arch}/PRETRAINED, one of {tags}", "or take --untrained"
        )
    or_else = f"take --untrained, or its file with --arch open_clip:{arch}/{tag}"
    if not facts["hub"]:
        raise UnavailableError(f"open_clip knows {arch}/{tag} by an address alone, not on the hub", "", or_else)
    repo, *files = facts["hub"]
    path = hub.find(repo, files, f"open_clip:{arch}/{tag}", or_else)
    return _resolved(f"{arch}/{tag}", facts, asked, memo, file_digest(path, memo), path, "hub")


def plan_file(path: Path, name: str, asked: Asked, memo: Memo) -> Resolved:
    """A weights file; a pretrained tag beside the architecture gives the preprocessing that it was trained with."""
    arch, tag = _split(name)
    facts = _facts(arch, tag, asked, memo)
    return _resolved(f"{arch}/{tag}" if tag else arch, facts, asked, memo, file_digest(path, memo), path, "file")


def _split(name: str) -> tuple[str, str]:
    arch, _, tag = name.partition("/")
    if ":" in name or "/" in tag or not arch:
        raise UsageError(
            f"MODEL open_clip:{name}",
            "open_clip's own names, ARCH[/PRETRAINED]: ViT-B-32/laion2b_s34b_b79k",
            "fetch another repository's file and give it with --arch open_clip:ARCH",
        )
    return arch, tag


def _versions() -> dict[str, str]:
    named = {"open_clip_torch": "open_clip", "timm": "timm", "torch": "torch"}
    return {named[k]: v for k, v in versions(named, "'nmtool[clip]'").items()}


def _facts(arch: str, tag: str, asked: Asked, memo: Memo) -> dict[str, Any]:
    """What open_clip knows, remembered by name, arguments, size, tower, feature and open_clip's version."""
    tower = asked.tower or "image"
    if tower == "text" and asked.overrides:
        raise UsageError("preprocessing flags with the text tower of open_clip", "none: they are for images")
    if asked.max_length is not None:
        raise UsageError("--max-length with open_clip", "the context length that the text tower was built with")
    taken = sorted(k for k in asked.kwargs if k in RESERVED or k.startswith(("force_", "pretrained", "image_")))
    if taken:
        raise UsageError(f"--model-kwargs sets {', '.join(taken)}", "arguments of the architecture alone")
    size = asked.overrides.get("size")
    feature = asked.feature or "projected"
    question = ["open-clip-facts", _LAYOUT, arch, tag, dict(asked.kwargs), size, tower, feature, _versions()]
    known = memo.recall(question)
    if not isinstance(known, dict):
        from nmtool.encoders.open_clip import find_out

        known = find_out(arch, tag, asked.kwargs, size, tower, feature)
        memo.remember(question, known)
    return known


def _resolved(
    arch: str, facts: Mapping[str, Any], asked: Asked, memo: Memo, weights: str, path: Path | None, source: str
) -> Resolved:
    tower = asked.tower or "image"
    folder, files = _tokenizer(facts, memo) if tower == "text" else (None, {})
    base = preprocessing_from_json(facts["preprocessing"])
    spec = EncoderSpec(
        family="open_clip",
        arch=arch,
        kwargs=dict(asked.kwargs),
        weights=weights,
        preprocessing=dataclasses.replace(base, **{k: v for k, v in asked.overrides.items() if k != "size"})
        if tower == "image"
        else None,
        feature=facts["feature"],
        dim=int(facts["dim"]),
        untrained=source == "untrained",
        tower=tower,
        normalize=asked.normalize,
        files=files,
        preparation=facts["preparation"],
    )
    cited = InputRef(role="model", kind="weights", key="", content=weights)
    seed = asked.seed if spec.untrained else 0
    return Resolved(spec=spec, input=cited, path=path, source=source, seed=seed, folder=folder)


def _tokenizer(facts: Mapping[str, Any], memo: Memo) -> tuple[Path | None, dict[str, str]]:
    """Folder and digests of a tokenizer that lies on the hub; None for the one that comes with open_clip."""
    repo = str(facts["tokenizer"])
    if not repo:
        return None, {}
    needed = ["tokenizer_config.json", "|".join(n for n in TOKENIZER_FILES if n != "tokenizer_config.json")]
    folder = hub.folder(repo, needed, TOKENIZER_FILES, f"the tokenizer {repo}", "take the image tower")
    return folder, {name: file_digest(folder / name, memo) for name in TOKENIZER_FILES if (folder / name).is_file()}
