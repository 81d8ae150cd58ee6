"""``nmtool export``: one head as an ONNX model or as plain tensors, to be used without nmtool."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from nmtool.errors import UsageError


def export(
    heads: Annotated[str, typer.Argument(metavar="HEADS", help="A heads artifact, as tune writes it.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")],
    format_: Annotated[str, typer.Option("--format", metavar="onnx|torch", help="What to write.")] = "onnx",
    run: Annotated[str, typer.Option(metavar="N", help="Which run; may be left out where there is one.")] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr.")] = False,
) -> None:
    """One head with its scaling, for use elsewhere.

    onnx: features [N, D] to logits and probabilities [N, C]. torch: a safetensors file of the head's tensors. Both
    carry classes and settings as JSON in their metadata, under nmtool.
    """
    from nmtool.artifact.plainfile import check_free, write_file
    from nmtool.tune.export import FORMATS, onnx_bytes, torch_bytes
    from nmtool.tune.restored import choose_runs, on_features, read_heads

    if format_ not in FORMATS:
        raise UsageError(f"--format is {format_!r}", "onnx or torch")
    target = Path(out)
    check_free(target)
    found = read_heads(heads)
    chosen = choose_runs(found, run or "all")
    if len(chosen) != 1:
        raise UsageError(f"{len(chosen)} runs in {heads}", "one", "name it by --run: nmtool show lists them")
    (one,), _ = on_features(chosen, asked=True)
    data = onnx_bytes(found, one) if format_ == "onnx" else torch_bytes(found, one)
    write_file(target, data)
    body = {"file": out, "heads": heads, "run": one.index, "format": format_, "bytes": len(data)}
    sys.stdout.write((json.dumps(body, ensure_ascii=False) if json_ else out) + "\n")
