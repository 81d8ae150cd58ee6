"""Prompts of classes, and the text tower that belongs to the features' image tower: found again, checked by digest.

The tower is looked for where extract read the model; nothing is loaded until it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtool.artifact.memo import Memo
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.tune.config import Config
from nmtool.tune.inputs import Source

if TYPE_CHECKING:
    import torch

    from nmtool.encoders.encoder import TextEncoder

HOLE = "{}"
# A file of templates is some kilobytes: CLIP's longest has 80 lines.
_FILE_BYTES = 1 << 20
_SAME = ("family", "arch", "kwargs", "weights")


def templates(given: Sequence[str]) -> tuple[str, ...]:
    """The templates; what has no ``{}`` is a file with one a line (empty lines are passed over).

    Raises:
        UsageError: a template twice, none at all, or a line of a file without ``{}``.
        InputMissingError: no such file.
    """
    found: list[str] = []
    for text in given:
        found += [text] if HOLE in text else _lines(text)
    if not found:
        raise UsageError("--template is empty", f"at least one with {HOLE} where the class name goes")
    twice = next((t for t in found if found.count(t) > 1), None)
    if twice is not None:
        raise UsageError(f"--template has {twice!r} twice", "each once")
    return tuple(found)


def _lines(path: str) -> list[str]:
    wanted = f"a template with {HOLE} where the class name goes, or a file of such lines"
    if not path.strip():
        raise UsageError("--template is empty", wanted)
    try:
        with Path(path).open("rb") as stream:
            body = stream.read(_FILE_BYTES + 1)
        if len(body) > _FILE_BYTES:
            raise UsageError(f"--template {path} is longer than {_FILE_BYTES} bytes", wanted)
        # an editor's byte order mark is no part of a prompt
        lines = [line.strip() for line in body.decode("utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise InputMissingError(f"--template {path!r} has no {HOLE}, and is no file", wanted) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputMissingError(f"--template {path!r} does not read ({error})", wanted) from None
    bare = next((line for line in lines if HOLE not in line), None)
    if bare is not None:
        raise UsageError(f"{path} has the line {bare[:80]!r}", wanted)
    return lines


def of_classes(classes: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """The prompts of each class; ``_`` in a class name, as folders have it, is a space."""
    return [[template.replace(HOLE, name.replace("_", " ")) for template in templates] for name in classes]


def check_towers(source: Source, method: str) -> None:
    """Raises ``UsageError`` where the features are not in the space that images and texts share."""
    encoder = source.encoder
    what = {name: encoder.get(name, "image" if name == "tower" else "") for name in ("family", "tower", "feature")}
    if what != {"family": "open_clip", "tower": "image", "feature": "projected"}:
        made = f"{what['family'] or 'ready made'}, {what['tower']} tower, {what['feature'] or 'unknown'} features"
        raise UsageError(
            f"--method {method} on {source.shown} ({made})",
            "projected features of open_clip's image tower",
            "nmtool extract open_clip:ARCH/PRETRAINED DATA",
        )


def checked_tower(config: Config, train: Source, memo: Memo, device: torch.device) -> Callable[[], TextEncoder]:
    """Find the text tower of the model that made the features, check that it is that model, and return what opens it.

    Raises:
        InputMissingError: the path that extract was given is no longer there.
        DataError: other weights or another architecture.
    """
    from nmtool.encoders.encoder import TextEncoder, load
    from nmtool.encoders.facts import parse_kwargs
    from nmtool.encoders.resolve import FAMILIES, resolve

    origin: Mapping[str, Any] = train.artifact.manifest.origin
    recorded = train.encoder
    model = config.model or str(origin.get("model") or "")
    if not model:
        raise InputMissingError(f"{train.shown} does not say which model made it", "a model", "give --model")
    arch = config.arch or None
    if arch is None and model.partition(":")[0] not in FAMILIES:
        arch = str(origin.get("arch") or f"{recorded['family']}:{recorded['arch']}")
    try:
        resolved = resolve(
            model,
            arch=arch,
            kwargs=parse_kwargs(config.model_kwargs) or dict(recorded["kwargs"]),
            untrained=bool(recorded.get("untrained")),
            seed=int(origin.get("seed") or 0),
            overrides={},
            memo=memo,
            feature="projected",
            tower="text",
        )
    except InputMissingError as error:
        raise InputMissingError(error.found, "the model that extract used", "give its path with --model") from None
    now = resolved.spec.to_json()
    differing = next((name for name in _SAME if now.get(name) != recorded.get(name)), None)
    if differing is not None:
        raise DataError(
            f"the {differing} of {model} is {str(now.get(differing))[:80]}",
            f"{str(recorded.get(differing))[:80]}, as the features {train.shown} were made with",
            "give that model with --model, or extract again",
        )

    def opened() -> TextEncoder:
        encoder = load(resolved, device)
        assert isinstance(encoder, TextEncoder)
        return encoder

    return opened
