"""The papers' datasets as ``nmtool list suites`` prints them: a table of all, or all facts of one."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence

from nmtool.cli.columns import pairs, paragraphs, width
from nmtool.data.suites.catalogue import PARTS, SUITES
from nmtool.data.suites.facts import Suite
from nmtool.data.suites.open import suite_named
from nmtool.errors import UsageError

_HEAD = ("name", "classes", "train", "test", "metric", "where")
_RIGHT = (1, 2, 3)
_MORE = (
    "nmtool list suites NAME tells the rest of one: splits, source, protocol, notes, the whole layout.",
    "Test stands for val where there is no test; several domains are counted together; varies: by what can be fetched.",
)


def table() -> tuple[Mapping[str, object], Iterable[str]]:
    """A row a suite, by groups; what ``--json`` prints comes first."""
    rows: list[tuple[str, tuple[str, ...]]] = [("", _HEAD)]
    for suite in SUITES:
        # A suite that is only the roof over its members has no size of its own.
        listed = [*([suite] if suite.splits else []), *PARTS.get(suite.name, ())]
        rows += [(suite.group, _row(each, suite)) for each in listed]
    wide = [max(len(cells[k]) for _, cells in rows) for k in range(len(_HEAD))]
    lines: list[str] = []
    last = ""
    for group, cells in rows:
        if group != last:
            lines += ["", group]
            last = group
        padded = (
            cell.rjust(size) if k in _RIGHT else cell.ljust(size)
            for k, (cell, size) in enumerate(zip(cells, wide, strict=True))
        )
        lines.append(("  " + "  ".join(padded)).rstrip())
    return {"suites": [_facts(suite) for suite in SUITES]}, [*map(_fitted, lines), "", *paragraphs(*_MORE)]


def one(name: str) -> tuple[Mapping[str, object], Iterable[str]]:
    """All about one suite, or one member of it; raises ``UsageError`` where there is none, naming the nearest."""
    first, _, member = name.removeprefix("suite:").partition("/")
    whole = suite_named(first, f"suite:{first}")
    if member and member not in whole.members:
        near = difflib.get_close_matches(member, whole.members, n=1)
        hint = f"did you mean {whole.name}/{near[0]}?" if near else ""
        raise UsageError(f"no member {member!r} of {whole.name}", f"one of {', '.join(whole.members) or 'none'}", hint)
    uri = f"suite:{whole.name}" + (f"/{member}" if member else "")
    # glue-x/rte/hans is a set of glue-x/rte
    suite = next((part for part in PARTS.get(whole.name, ()) if f"{uri}/".startswith(f"suite:{part.name}/")), whole)
    sizes = (f"{split} {'(varies)' if size is None else f'{size:,}'}" for split, size in suite.splits.items())
    about = {
        "group": f"{suite.group}; {suite.kind}",
        "classes": (f"{suite.classes:,}" if suite.classes else "")
        + (f", ImageNet-1K's; it has {suite.subset}" * bool(suite.subset)),
        "splits": ", ".join(sizes),
        "metric": suite.metric if suite.metric != "none" else "",
        "source": suite.source,
        "protocol": suite.protocol,
        "note": suite.note,
        "members": ", ".join(suite.members),
        "also as": ", ".join(suite.aliases),
        "try": _example(suite, uri, member.rpartition("/")[2]),
    }
    lines = [f"{uri}  {suite.title}", *pairs({k: v for k, v in about.items() if v}, "  ")]
    tree = ("    " + line for line in suite.tree.strip("\n").splitlines())
    return {"uri": uri, **_facts(suite)}, [*lines, "  layout, below the data root:", *tree]


def _row(suite: Suite, whole: Suite) -> tuple[str, ...]:
    test = _size(suite, ("test",))
    return (
        suite.name,
        f"{suite.classes:,}" if suite.classes else "-",
        _size(suite, ("train",)),
        test if test != "-" else _size(suite, ("val", "validation")),
        suite.metric if suite.metric != "none" else "-",
        # the layout's drawing begins with the folder
        whole.tree.strip().partition("\n")[0].split("  ")[0],
    )


def _size(suite: Suite, names: Sequence[str]) -> str:
    """Samples of the split of this name, or else of that of every domain together."""
    sizes = [size for split, size in suite.splits.items() if split in names]
    sizes = sizes or [size for split, size in suite.splits.items() if split.rpartition("/")[2] in names]
    if not sizes:
        return "-"
    return "varies" if None in sizes else f"{sum(size or 0 for size in sizes):,}"


def _fitted(line: str) -> str:
    """A row of the table, cut where a terminal would break it; what it loses stands in the suite's own page."""
    return line if len(line) <= width() or not sys.stdout.isatty() else line[: width() - 1] + "…"


def _facts(suite: Suite) -> dict[str, object]:
    body: dict[str, object] = {
        "name": suite.name,
        "title": suite.title,
        "group": suite.group,
        "kind": suite.kind,
        "classes": suite.classes,
        "subset": suite.subset,
        "splits": dict(suite.splits),
        "metric": suite.metric,
        "source": suite.source,
        "protocol": suite.protocol,
        "note": suite.note,
        "members": list(suite.members),
        "aliases": list(suite.aliases),
        "folders": [suite.name.partition("/")[0], *suite.folders],
        "tree": suite.tree.strip("\n"),
    }
    parts = PARTS.get(suite.name, ())
    return body | ({"parts": [_facts(part) for part in parts]} if parts else {})


def _example(suite: Suite, uri: str, part: str) -> str:
    """A command that works on it as it is; none where there are no classes and no captions to make wrong."""
    if suite.kind == "images":
        return f"nmtool extract timm:resnet50.a1_in1k {uri} --data-root DATA"
    if not suite.splits or (suite.kind == "text" and not suite.classes):
        return ""
    named = [split for split in suite.splits if split.startswith(f"{part}/")]
    split = "train" if "train" in suite.splits else (named or list(suite.splits))[0]
    kind = "captions" if suite.kind == "captions" else "symmetric"
    return f"nmtool inject-noise {uri} --type {kind} --ratio 0.1 --split {split} --data-root DATA"
