"""Brace expansion, as in names of shards: ``{000..127}``, ``{0..10..2}``, ``{a,b}``, several of them, and nested ones.

A range keeps the zeros of its ends; what a shell would leave as it is (a brace that is not closed, ``{x}``, a range of
letters) is refused. Looks at no file.
"""

from __future__ import annotations

import itertools
import re

from nmtool.errors import UsageError

MOST = 100_000
"""How many names a pattern may stand for."""

_GROUPS = 16
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})(?:\.\.(\d{1,9}))?")


def expand(pattern: str) -> list[str]:
    """All names that a pattern stands for, in the order written.

    Raises:
        UsageError: braces that do not match or that say nothing, over 100,000 names or 16 braces.
    """
    if pattern.count("{") > _GROUPS:
        raise _wrong(pattern, f"over {_GROUPS} braces")
    start = pattern.find("{")
    if start < 0:
        if "}" in pattern:
            raise _wrong(pattern, "a brace that was never opened")
        return [pattern]
    end, cuts = _group(pattern, start)
    heads = _alternatives(pattern, pattern[start + 1 : end], [cut - start - 1 for cut in cuts])
    tails = expand(pattern[end + 1 :])
    if len(heads) * len(tails) > MOST:
        raise _wrong(pattern, f"over {MOST} names")
    return [pattern[:start] + head + tail for head in heads for tail in tails]


def _group(pattern: str, start: int) -> tuple[int, list[int]]:
    """Where the group that opens at ``start`` closes, and where its own commas stand."""
    depth = 0
    cuts: list[int] = []
    for at in range(start, len(pattern)):
        if pattern[at] == "{":
            depth += 1
        elif pattern[at] == "}":
            depth -= 1
            if not depth:
                return at, cuts
        elif pattern[at] == "," and depth == 1:
            cuts.append(at)
    raise _wrong(pattern, "a brace that is not closed")


def _alternatives(pattern: str, inside: str, cuts: list[int]) -> list[str]:
    if cuts:
        edges = [-1, *cuts, len(inside)]
        parts = [inside[a + 1 : b] for a, b in itertools.pairwise(edges)]
        return [name for part in parts for name in expand(part)]
    found = _RANGE.fullmatch(inside)
    if not found:
        raise _wrong(pattern, f"{{{inside}}}, which is neither a range nor a list")
    first, last, step = int(found[1]), int(found[2]), int(found[3] or 1)
    if not step or abs(last - first) // step >= MOST:
        raise _wrong(pattern, "a step of 0" if not step else f"over {MOST} names")
    padded = any(len(end) > 1 and end[0] == "0" for end in found.groups()[:2])
    width = max(len(found[1]), len(found[2])) if padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [f"{number:0{width}d}" for number in numbers]


def _wrong(pattern: str, what: str) -> UsageError:
    return UsageError(f"the pattern {pattern[:200]!r} has {what}", "{000..127} or {a,b}")
