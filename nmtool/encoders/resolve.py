"""From MODEL as the user names it to an encoder by content: architecture, digests, preparation, feature.

Light where the memo knows the answer: neither torch nor a model library is imported. Never takes random weights for
trained ones unless told to.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmtool.artifact.memo import Memo
from nmtool.encoders.checkpoints import check_weights_name
from nmtool.encoders.resolved import Asked, Resolved, Service
from nmtool.encoders.spec import INTERPOLATIONS
from nmtool.encoders.timm_plan import CONFIG, WEIGHTS, plan_backbone
from nmtool.errors import InputMissingError, UsageError

__all__ = ["CONFIG", "FAMILIES", "KNOWN", "WEIGHTS", "check_overrides", "resolve"]

KNOWN = (
    "timm:NAME, open_clip:ARCH[/PRETRAINED], transformers:NAME or transformers:FOLDER, openai:MODEL, the path of a "
    "backbone artifact or of a weights file with --arch NAME, or none"
)
# prefix: module:function of (name, Asked, Memo), which gives a Resolved; resolved on use
FAMILIES: Mapping[str, str] = {
    "timm": "nmtool.encoders.timm_plan:plan",
    "open_clip": "nmtool.encoders.open_clip_plan:plan",
    "transformers": "nmtool.encoders.transformers_plan:plan",
    "openai": "nmtool.encoders.openai_plan:plan",
}
# prefix of --arch: module:function of (path, name, Asked, Memo), for weights files
FILES: Mapping[str, str] = {
    "timm": "nmtool.encoders.timm_plan:plan_file",
    "open_clip": "nmtool.encoders.open_clip_plan:plan_file",
}


def resolve(
    model: str,
    *,
    arch: str | None,
    kwargs: Mapping[str, object],
    untrained: bool,
    seed: int,
    overrides: Mapping[str, object],
    memo: Memo,
    feature: str = "",
    normalize: bool = False,
    tower: str = "",
    max_length: int | None = None,
    service: Service | None = None,
) -> Resolved:
    """Resolve MODEL.

    Args:
        model: ``FAMILY:NAME``, the path of a ``backbone`` artifact, or of a weights file.
        arch: architecture of a weights file: timm's name for it, or ``open_clip:ARCH[/PRETRAINED]``.
        kwargs: keyword arguments of the architecture's constructor; a backbone has its own.
        untrained: take seeded random weights for ``FAMILY:NAME``.
        seed: of those.
        overrides: any of ``size``, ``interpolation``, ``crop_pct``, ``mean``, ``std``; None values are ignored.
        memo: remembered digests and facts.
        feature: which tensor is the feature; empty: the family's default.
        normalize: divide features by their L2 norm.
        tower: ``image`` or ``text``; empty: image where the encoder has that, else text.
        max_length: longest text in tokens; None: the model's own.
        service: for ``openai:`` alone.

    Raises:
        UsageError: a form, flag, architecture or feature that is not known.
        InputMissingError: a path that is not there.
        DataError: a file that is no weights file, or an artifact of another kind.
        UnavailableError: a package that is not installed, or weights neither in the local cache nor reachable.
    """
    if max_length is not None and max_length < 1:
        raise UsageError(f"--max-length is {max_length}", "1 or more tokens")
    asked = Asked(
        arch=arch,
        kwargs=dict(kwargs),
        untrained=untrained,
        seed=seed,
        overrides=check_overrides(overrides),
        feature=feature,
        normalize=normalize,
        tower=tower,
        max_length=max_length,
        service=service or Service(),
    )
    family, colon, name = model.partition(":")
    if asked.service != Service() and family != "openai":
        raise UsageError(
            f"--base-url, --dimensions, --revision or --pair-separator with MODEL {model}", "MODEL openai:NAME"
        )
    if colon and family in FAMILIES:
        if arch is not None:
            raise UsageError(f"--arch beside {family}:NAME", "--arch for a weights file alone", f"give {family}:{arch}")
        return _planned(FAMILIES[family], name, asked, memo)
    path = Path(model)
    if untrained:
        raise UsageError(f"--untrained with {model}", "FAMILY:NAME: what is random needs no file")
    if not path.exists():
        hint = f"timm:{model} if a timm model is meant" if re.fullmatch(r"[\w.]+", model) else ""
        raise InputMissingError(f"MODEL {model} does not exist", KNOWN, hint)
    if path.is_dir():
        if (path / "config.json").is_file() and not (path / "manifest.json").exists():
            raise UsageError(f"MODEL {model} is no artifact", "a backbone artifact", f"transformers:{model} if meant")
        return plan_backbone(path, asked, memo)
    check_weights_name(path)
    if arch is None:
        raise UsageError(f"the weights file {path} without --arch", "the name of its architecture: --arch NAME")
    family, colon, name = arch.partition(":") if ":" in arch else ("timm", ":", arch)
    if family not in FILES:
        raise UsageError(f"--arch {arch}", "timm's name, or one with a prefix: " + ", ".join(f"{f}:" for f in FILES))
    return _planned(FILES[family], path, name, asked, memo)


def _planned(where: str, *given: Any) -> Resolved:
    module, _, name = where.partition(":")
    found: Resolved = getattr(importlib.import_module(module), name)(*given)
    return found


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
