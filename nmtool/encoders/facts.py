"""What timm knows about an architecture: its preprocessing, its features and their length, where its weights lie.

Finding out needs torch and timm; the answer is remembered by architecture, arguments, input size, feature and timm's
version, so that planning a stage that ran before imports neither.
"""

from __future__ import annotations

import ast
import difflib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nmtool.artifact.memo import Memo
from nmtool.encoders.spec import Preprocessing, preprocessing_from_json
from nmtool.errors import UnavailableError, UsageError

# Arguments of timm.create_model that are ours to give. checkpoint_path would even unpickle a file.
RESERVED = frozenset(
    {
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "num_classes",
        "in_chans",
        "features_only",
    }
)
_LAYOUT = 2  # of a remembered answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """An architecture's facts.

    Attributes:
        preprocessing: timm's own for it, at the input size asked.
        dim: length of the feature asked for.
        hub: repository and file of its pretrained weights; empty where it has none.
        feature: the feature asked for, spelt out.
    """

    preprocessing: Preprocessing
    dim: int
    hub: tuple[str, ...]
    feature: str = "pre_logits"


def versions(packages: Iterable[str] = ("timm", "torch"), install: str = "") -> dict[str, str]:
    """Installed versions, without importing anything; raises ``UnavailableError`` with what to install."""
    try:
        return {name: importlib.metadata.version(name) for name in packages}
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(
            f"the package {error.name} is not installed", "", f"pip install {install or error.name}"
        ) from None


def untrained_weights(seed: int, versions: Mapping[str, str]) -> str:
    """What stands for the digest of seeded random weights: another version may draw or initialise otherwise.

    Raises:
        UsageError: the seed is out of range.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed is {seed}", "0 to 2**63 - 1")
    return f"untrained:{seed}:" + ":".join(f"{name}-{version}" for name, version in versions.items())


def parse_kwargs(items: Iterable[str]) -> dict[str, object]:
    """``KEY=VALUE`` words as keyword arguments: JSON or Python literals, else text (``pad_type=same``).

    Raises:
        UsageError: no ``=``, a key twice, or a key that nmtool sets itself.
    """
    out: dict[str, object] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--model-kwargs is {item!r}", "KEY=VALUE, for example pad_type=same")
        if name in out:
            raise UsageError(f"--model-kwargs names {name} twice", "each argument once")
        out[name] = _literal(text)
    check_kwargs(out)
    return out


def check_kwargs(kwargs: Mapping[str, object]) -> None:
    """Raise ``UsageError`` where an argument is nmtool's own to give."""
    taken = sorted(RESERVED & kwargs.keys())
    if taken:
        raise UsageError(f"--model-kwargs sets {', '.join(taken)}", "arguments of the architecture alone")


def _literal(text: str) -> object:
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
            return json.loads(json.dumps(value, allow_nan=False))  # tuples become lists; what has no JSON stays text
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return text


def facts_of(
    arch: str, kwargs: Mapping[str, object], size: int | None, memo: Memo, feature: str = "pre_logits"
) -> Facts:
    """An architecture's facts; light where the memo has them.

    Args:
        arch: timm's name, with or without a pretrained tag.
        kwargs: keyword arguments of its constructor.
        size: input height and width in pixels; None: the architecture's own.
        memo: remembered answers.
        feature: ``pre_logits``, ``cls``, ``mean`` or a layer's name.

    Raises:
        UsageError: timm does not know it, or it does not take these arguments or this size, or has no such feature.
        UnavailableError: timm or torch is not installed.
    """
    check_kwargs(kwargs)
    question = ["timm-facts", _LAYOUT, arch, dict(kwargs), size, feature, versions()["timm"]]
    known = memo.recall(question)
    if not isinstance(known, dict):
        known = _find_out(arch, kwargs, size, feature)
        memo.remember(question, known)
    return Facts(
        preprocessing=preprocessing_from_json(known["preprocessing"]),
        dim=int(known["dim"]),
        hub=tuple(known["hub"]),
        feature=str(known["feature"]),
    )


def _find_out(arch: str, kwargs: Mapping[str, object], size: int | None, feature: str) -> dict[str, Any]:
    import timm
    import timm.data

    check_arch(arch)
    cfg = timm.get_pretrained_cfg(arch).to_dict()
    size = size if size is not None else _own_size(kwargs)
    args = {} if size is None else {"input_size": (3, size, size)}
    data = timm.data.resolve_data_config(args, pretrained_cfg=cfg)
    height, width = data["input_size"][-2:]
    repo = cfg.get("hf_hub_id")
    file = cfg.get("hf_hub_filename") or "model.safetensors"
    named, dim = _feature(arch, kwargs, (int(height), int(width)), feature)
    return {
        "preprocessing": {
            "size": [int(height), int(width)],
            "interpolation": str(data["interpolation"]),
            "crop_pct": float(data["crop_pct"]),
            "crop_mode": str(data["crop_mode"]),
            "mean": [float(v) for v in data["mean"]],
            "std": [float(v) for v in data["std"]],
        },
        "dim": dim,
        "feature": named,
        "hub": [str(repo), str(file)] if repo else [],
    }


def _own_size(kwargs: Mapping[str, object]) -> int | None:
    """The size that a vision transformer is told to be built for."""
    size = kwargs.get("img_size")
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def check_arch(arch: str) -> None:
    """Raise ``UsageError`` with the nearest names where timm does not know an architecture or its pretrained tag."""
    import timm

    name, _, tag = arch.partition(".")
    # is_model drops what follows a dot; a colon or a slash would make timm read a hub or a folder of its own accord
    if not name or ":" in arch or "/" in arch or not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = "did you mean " + ", ".join(near) + "?" if near else "timm.list_models() lists them"
        raise UsageError(f"timm knows no architecture {arch!r}", "a name of timm's", hint)
    if tag and arch not in timm.list_pretrained(f"{name}.*"):
        tags = ", ".join(timm.list_pretrained(f"{name}.*")) or "none"
        raise UsageError(f"timm knows no pretrained tag {tag!r} of {name}", f"one of {tags}")


def _feature(arch: str, kwargs: Mapping[str, object], size: tuple[int, int], feature: str) -> tuple[str, int]:
    """A feature's full name and length, by a forward pass without data (on torch's meta device where that works)."""
    import torch

    from nmtool.encoders.timm import create, tapped

    problem: Exception | None = None
    for device in ("meta", "cpu"):
        try:
            model = create(arch, kwargs, num_classes=None, seed=0, device=device).eval()
            with torch.no_grad():
                images = torch.zeros(2, 3, *size, device=device)
                named, tap = tapped(model, feature, images, arch)
                shape = tuple(tap(model, images).shape)
        except UsageError:
            raise
        except Exception as error:  # each architecture complains in its own way, and some only can't do meta tensors
            problem = error
            continue
        if len(shape) != 2 or shape[0] != 2:
            raise UsageError(
                f"{arch} gives features of shape {list(shape)}", "[batch, dim]", "take another global_pool"
            )
        return named, int(shape[1])
    raise UsageError(
        f"{arch} does not take images of {size[0]} x {size[1]} ({str(problem)[:200]})",
        "a size that it is built for",
        f"give --model-kwargs img_size={size[0]} where it takes that, or another --image-size",
    )
