"""``nmtool verify``: whether an artifact is what was written, and whether features can be made again."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmtool.console import escape
from nmtool.errors import CorruptError, UsageError

if TYPE_CHECKING:
    from nmtool.artifact.open import Artifact
    from nmtool.extract.replay import Drift, Replayed

_PANEL = "With --replay"


def verify(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="Path of an artifact.")],
    full: Annotated[bool, typer.Option("--full", help="Hash every file again.")] = False,
    slice_: Annotated[
        str | None, typer.Option("--slice", metavar="I/N", help="Hash every N-th file, beginning with the I-th.")
    ] = None,
    replay: Annotated[
        int | None,
        typer.Option(metavar="N", help="Extract N random rows of features again and compare.", rich_help_panel=_PANEL),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Which rows [drawn anew].", rich_help_panel=_PANEL)
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Greatest drift of a row over its largest value [float32 1e-4, float16 2e-3, bfloat16 0.05, none 0].",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Where the model is now [as extract had it].", rich_help_panel=_PANEL),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Where the data are now [as extract had them].", rich_help_panel=_PANEL),
    ] = None,
    data_root: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder of torchvision: and suite: [as extract had it].", rich_help_panel=_PANEL
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="TEXT", help="auto, cpu or cuda[:N].", rich_help_panel=_PANEL)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Threads that decode.", rich_help_panel=_PANEL)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr.")] = False,
) -> None:
    """Check an artifact; exit 76 where anything is wrong.

    Without flags: the seal, the file table, names and sizes. With --full or --slice the bytes, too. With --replay
    random rows of features are extracted again, from the data and the model that they name, and compared.
    """
    from nmtool.artifact import open as opening

    if full and slice_:
        raise UsageError("--full and --slice together", "one of them")
    changes = {"model": model, "data": data, "data_root": data_root, "device": device, "workers": workers}
    if replay is None and any(value is not None for value in (seed, tolerance, *changes.values())):
        raise UsageError("a flag of --replay without it", "how many rows", "--replay 64")
    part = (1, 1) if full else opening.parse_slice(slice_) if slice_ else None
    opened = opening.open_artifact(Path(artifact), "features" if replay is not None else ())
    result = opening.verify(opened, part) if part else opening.Verified(files=0, of=len(opened.files), bytes=0)
    again = None if replay is None else _replayed(opened, replay, seed, tolerance, changes)
    level = "full" if full else f"slice {slice_}" if slice_ else "light"
    if json_:
        body = {
            "artifact": str(opened.path),
            "kind": opened.manifest.kind,
            "key": opened.manifest.key,
            "content": opened.manifest.content,
            "ok": again is None or not again.beyond,
            "level": level,
            "files": result.of,
            "hashed": result.files,
            "bytes": result.bytes,
            **({"replay": _json(again)} if again else {}),
        }
        _say(json.dumps(body, ensure_ascii=False, allow_nan=False))
    else:
        read = (
            f"{result.files} of {result.of} files hashed, {size(result.bytes)}"
            if part
            else f"{result.of} files in place"
        )
        _say(f"ok {escape(str(opened.path))}: {level} check, {read}")
        if again:
            _say("\n".join(_lines(again)))
    if again and again.beyond:
        worst = again.beyond[0]
        what = worst.error or f"its relative drift is {worst.relative:.3g}"
        raise CorruptError(
            f"{len(again.beyond)} of {len(again.rows)} rows extracted again differ from {opened.path}; the worst is "
            f"sample {worst.sample!r} of split {worst.split}: {what}",
            f"a drift of at most {again.tolerance:g}",
            "extract again with --force, or check what has changed: nmtool show tells the versions it was made with",
        )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def size(count: int) -> str:
    """Bytes for people."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _replayed(
    opened: Artifact, rows: int, seed: int | None, tolerance: float | None, changes: dict[str, Any]
) -> Replayed:
    from nmtool.artifact.memo import Memo
    from nmtool.artifact.stage import Session
    from nmtool.cli.app import console_from, memo_root
    from nmtool.extract import replay as room

    store = Path(os.environ.get("NMTOOL_STORE") or "nmruns")
    session = Session(store=store, report=console_from(sys.argv[1:]), memo=Memo(memo_root(store)))
    return room.replay(opened, room.Asked(rows=rows, seed=seed, tolerance=tolerance, changes=changes), session)


def _lines(again: Replayed) -> list[str]:
    worst = again.rows[0]
    state = "drift" if again.beyond else "ok"
    lines = [
        f"{state}: {len(again.rows)} of {again.of} rows extracted again (--seed {again.seed}), "
        f"largest difference {max(d.max_abs for d in again.rows):.3g}, relative to its row {worst.relative:.3g} "
        f"(tolerance {again.tolerance:g})"
    ]
    for drift in again.beyond[:10]:
        why = drift.error or f"{drift.max_abs:.3g}, relative {drift.relative:.3g}"
        lines.append(f"  {escape(drift.split)} {drift.row} {escape(drift.sample)}: {escape(why)}")
    if len(again.beyond) > 10:
        lines.append(f"  … and {len(again.beyond) - 10} more")
    return lines


def _json(again: Replayed) -> dict[str, object]:
    return {
        "rows": len(again.rows),
        "of": again.of,
        "seed": again.seed,
        "tolerance": again.tolerance,
        "beyond": len(again.beyond),
        "max_abs": _finite(max(d.max_abs for d in again.rows)),
        "relative": _finite(again.rows[0].relative),
        "drift": [_row(drift) for drift in again.rows],
    }


def _row(drift: Drift) -> dict[str, object]:
    return {
        "split": drift.split,
        "row": drift.row,
        "sample": drift.sample,
        "max_abs": _finite(drift.max_abs),
        "relative": _finite(drift.relative),
        **({"error": drift.error} if drift.error else {}),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
