"""A recipe and its key: all that changes the numbers, and nothing else.

Never a path, a clock, a host or a worker count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nmtool.artifact.format import canonical, sha256
from nmtool.records import InputRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What was asked.

    Attributes:
        stage: the command's name.
        kind: the kind of artifact it makes.
        epoch: the stage's version, bumped by hand when the same settings would give other numbers.
        config: the resolved settings that change the result.
        inputs: the inputs, cited by content.
    """

    stage: str
    kind: str
    epoch: int
    config: Mapping[str, object]
    inputs: tuple[InputRef, ...]

    def to_json(self) -> dict[str, Any]:
        """The object whose canonical bytes are hashed."""
        return {
            "stage": self.stage,
            "epoch": self.epoch,
            "config": dict(self.config),
            "inputs": [{"role": i.role, "kind": i.kind, "content": i.content} for i in self.inputs],
        }

    @property
    def key(self) -> str:
        """``sha256:`` digest of the recipe."""
        return sha256(canonical(self.to_json()))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a JSON value with dotted paths, in order."""
    if isinstance(value, Mapping) and value:
        for name in sorted(value):
            yield from leaves(value[name], f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)) and value and any(isinstance(v, (Mapping, list)) for v in value):
        for position, item in enumerate(value):
            name = item.get("role", position) if isinstance(item, Mapping) else position
            yield from leaves(item, f"{path}[{position}:{name}]" if name != position else f"{path}[{position}]")
    else:
        yield path, value


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The leaves that differ between two recipes: (path, in a, in b); a missing leaf is None."""
    left, right = dict(leaves(a)), dict(leaves(b))
    return [
        (path, left.get(path), right.get(path))
        for path in sorted(left.keys() | right.keys())
        if left.get(path) != right.get(path) or (path in left) != (path in right)
    ]
