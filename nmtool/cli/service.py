"""The service verbs: show, verify, why; and list, from its own file."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nmtool.cli.export import export
from nmtool.cli.listing import listing
from nmtool.cli.predict import predict
from nmtool.cli.verify import size, verify
from nmtool.console import escape

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only on stderr.")]
_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command("list")(listing)
    app.command("show")(show)
    app.command("verify")(verify)
    app.command("why")(why)
    app.command("predict")(predict)
    app.command("export")(export)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def show(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="Path of an artifact.")],
    config: Annotated[bool, typer.Option("--config", help="Print the settings as TOML that makes it again.")] = False,
    json_: _Json = False,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """What an artifact is, and what it was made from."""
    from nmtool.artifact.open import open_artifact

    opened = open_artifact(Path(artifact))
    m = opened.manifest
    if config:
        stage = str(m.recipe["stage"])
        _say(f"[{stage}]\n" + "\n".join(f"{k} = {_toml(v)}" for k, v in m.config.items() if v is not None))
        return
    if json_:
        body: dict[str, Any] = json.loads((opened.path / "manifest.json").read_text(encoding="utf-8"))
        _say(json.dumps({"artifact": str(opened.path), **body}, ensure_ascii=False))
        return
    _say(f"{m.kind}  {escape(str(opened.path))}")
    _say(f"  key      {m.key}\n  content  {m.content}")
    _say(f"  made     {m.created} by nmtool {m.nmtool} in {m.made.get('seconds', '?')} s")
    _say(f"  files    {m.files['count']}, {size(int(m.files['bytes']))}")
    for given in m.inputs:
        _say(f"  from     {given.role}: {given.kind} {given.content[:23]}")
    # of labels the picture below tells each class
    summary = {k: v for k, v in m.summary.items() if m.kind != "labels" or k not in ("per_class", "concentration")}
    for title, section in (("settings", m.config), ("summary", summary)):
        _say(f"  {title}")
        for line in _lines(section, "    "):
            _say(line)
    if m.kind == "labels":
        from nmtool.inject_noise.picture import labels_text

        _say(labels_text(opened))


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lines(body: Mapping[str, Any], indent: str) -> list[str]:
    """A mapping as indented lines, long lists cut."""
    lines = []
    for name, value in body.items():
        label = escape(str(name))
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{label}", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines.append(f"{indent}{label}")
            for item in value[:20]:
                text = ", ".join(f"{k} {_short(v)}" for k, v in item.items() if v is not None)
                lines.append(f"{indent}  {escape(text)}")
            if len(value) > 20:
                lines.append(f"{indent}  … and {len(value) - 20} more")
        elif value is not None:
            lines.append(f"{indent}{label}  {escape(_short(value))}")
    return lines


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        shown = ", ".join(_short(v) for v in value[:12])
        return shown + (f", … ({len(value)})" if len(value) > 12 else "")
    return str(value)


def why(
    a: Annotated[str, typer.Argument(metavar="A", help="Path of an artifact.")],
    b: Annotated[str | None, typer.Argument(metavar="B", help="Another; without it A's recipe is printed.")] = None,
    json_: _Json = False,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """What differs between two recipes.

    Why the one is no cache hit for the other: the leaves of the recipes that differ.
    """
    from nmtool.artifact.key import differences, leaves
    from nmtool.artifact.open import open_artifact

    first = open_artifact(Path(a)).manifest
    if b is None:
        for path, value in leaves(first.recipe):
            _say(f"{escape(path)} = {escape(_toml(value))}")
        return
    second = open_artifact(Path(b)).manifest
    rows = differences(first.recipe, second.recipe)
    if json_:
        listed = [{"path": path, "a": left, "b": right} for path, left, right in rows]
        _say(json.dumps({"a": str(a), "b": str(b), "same": not rows, "differences": listed}, ensure_ascii=False))
        return
    for path, left, right in rows:
        _say(f"{escape(path)}: {escape(_toml(left))} → {escape(_toml(right))}")
    if not rows:
        same = "and the same content" if first.content == second.content else "but other content"
        _say(f"the same recipe, {same}")
