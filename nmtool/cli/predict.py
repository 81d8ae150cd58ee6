"""``nmtool predict``: heads on new features, or on new data, which are then extracted as the heads' own were."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmtool.console import Console
from nmtool.errors import DataError, InputMissingError, UsageError

if TYPE_CHECKING:
    from nmtool.artifact.open import Artifact
    from nmtool.tune.restored import Heads

_FOUND = "name the features that the heads were made from by --trained-on"


def predict(
    heads: Annotated[str, typer.Argument(metavar="HEADS", help="A heads artifact, as tune writes it.")],
    data: Annotated[
        str, typer.Argument(metavar="FEATURES|DATA", help="Features (FEATURES[:SPLIT]) or a data URI to extract.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE.parquet", help="The table of predictions.")],
    run: Annotated[str, typer.Option(metavar="all|N[,…]", help="Which runs to ask.")] = "all",
    split: Annotated[str, typer.Option(metavar="SPLIT[,…]", help="Splits to predict [all].")] = "",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Keep the probabilities of all classes, in their order.")
    ] = False,
    trained_on: Annotated[
        str, typer.Option(metavar="FEATURES", help="Where the heads' own features are now [where tune read them].")
    ] = "",
    store: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where extracted features go [$NMTOOL_STORE, else nmruns].")
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of torchvision: and suite: [$NMTOOL_DATA].")
    ] = None,
    device: Annotated[str, typer.Option(metavar="TEXT", help="auto, cpu or cuda[:N].")] = "auto",
    workers: Annotated[int, typer.Option(metavar="N", help="Threads that decode; 0: as many as cores.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr.")] = False,
) -> None:
    """What heads predict of every sample, as a Parquet table.

    Columns: run, split, sample, label, predicted, predicted_class, confidence (the last two not of real numbers). Data
    are extracted first, by the encoder and the settings that the heads' own features came from, into the store;
    features of another encoder are refused.
    """
    from nmtool.artifact.plainfile import check_free, write_file
    from nmtool.artifact.typed import parquet_bytes
    from nmtool.cli.app import console_from
    from nmtool.encoders.device import choose_device
    from nmtool.tune import predict as room
    from nmtool.tune.restored import choose_runs, read_heads, without_turn

    began = time.monotonic()
    console = console_from(sys.argv[1:])
    target = Path(out)
    check_free(target)
    found = read_heads(heads)
    runs, skipped = without_turn(choose_runs(found, run), asked=run != "all")
    if skipped:
        console.warning(f"{skipped} runs are left out: their heads belong to backbones that they fine-tuned")
    chosen = tuple(part.strip() for part in split.split(",")) if split else ()
    artifact, shown, named = _features(found, data, trained_on, chosen, store, data_root, device, workers, console)
    room.check_fits(found, artifact, shown)
    splits = room.choose_splits(artifact, named or chosen, shown)
    training = None
    if any(r.neighbours is not None for r in runs):
        own = _own_features(found, trained_on)
        training = room.trained_on(found, own, str(own.path))
    result = room.predict(
        found,
        runs,
        artifact,
        splits,
        shown=shown,
        device=choose_device(device),
        training=training,
        probabilities=probabilities,
        report=console,
    )
    if result.left_out:
        console.warning(f"{result.left_out} rows of {shown} have no features and no prediction")
    write_file(target, parquet_bytes(result.columns))
    body = {
        "file": out,
        "heads": heads,
        "features": str(artifact.path),
        "content": artifact.manifest.content,
        "runs": [r.index for r in runs],
        "rows": len(result.columns["run"]),
        "results": result.scores,
        "seconds": round(time.monotonic() - began, 3),
    }
    sys.stdout.write((json.dumps(body, ensure_ascii=False, allow_nan=False) if json_ else out) + "\n")


def _features(
    heads: Heads,
    data: str,
    trained_on: str,
    splits: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    device: str,
    workers: int,
    console: Console,
) -> tuple[Artifact, str, tuple[str, ...]]:
    """The features to ask about, how to call them, and the split that their name bears."""
    from nmtool.artifact.open import open_artifact
    from nmtool.artifact.typed import open_features, split_of
    from nmtool.data.sources import FORMS, SCHEMES

    path, _ = split_of(data)
    if path.exists() or data.partition(":")[0] not in SCHEMES:
        if not path.exists():
            raise InputMissingError(f"{data} does not exist", f"a features artifact, or a data URI: {FORMS}")
        artifact, split = open_features(data)
        if split and splits:
            raise UsageError(f"{data} names a split, and --split does, too", "one of them")
        return artifact, data.removesuffix(f":{split}") if split else data, (split,) if split else ()
    reference = _extract(_own_features(heads, trained_on), data, splits, store, data_root, device, workers, console)
    console.info(f"features of {data}: {reference}")
    return open_artifact(reference, "features"), data, splits


def _own_features(heads: Heads, trained_on: str) -> Artifact:
    """The features that the heads were made from: where they are said to be, or where tune read them."""
    from nmtool.artifact.typed import open_features

    origin = str(heads.artifact.manifest.origin.get("features", ""))
    try:
        artifact, _ = open_features(trained_on or origin)
    except InputMissingError as error:
        raise InputMissingError(error.found, "the features that the heads were made from", _FOUND) from None
    cited = next((i.content for i in heads.artifact.manifest.inputs if i.role == "features"), "")
    if artifact.manifest.content != cited:
        raise DataError(
            f"{trained_on or origin} holds other features (content {artifact.manifest.content[7:19]})",
            f"those that the heads were made from ({cited[7:19]})",
            _FOUND,
        )
    return artifact


def _extract(
    own: Artifact,
    data: str,
    splits: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    device: str,
    workers: int,
    console: Console,
) -> Path:
    """Extract data as the heads' own features were; a hit where that was done before."""
    from nmtool import settings
    from nmtool.artifact.memo import Memo
    from nmtool.artifact.stage import Session
    from nmtool.cli.app import memo_root
    from nmtool.extract import run as extract
    from nmtool.extract.config import Config

    manifest = own.manifest
    asked: dict[str, Any] = {k: v for k, v in manifest.config.items() if k in Config.__dataclass_fields__}
    root = data_root or os.environ.get("NMTOOL_DATA") or asked.get("data_root")
    asked |= {"split": list(splits), "data_root": root, "device": device, "workers": workers}
    if "model" not in manifest.origin:
        raise DataError(f"{own.path} does not say which MODEL it was extracted by", "features that extract made")
    where = Path(store or os.environ.get("NMTOOL_STORE") or "nmruns")
    session = Session(
        store=where,
        command=shlex.join(["nmtool", *sys.argv[1:]]),
        report=console,
        memo=Memo(memo_root(where)),
        secret=os.environ.get,
    )
    flags = {**asked, "model": str(manifest.origin["model"]), "data": data}
    return extract.run(settings.resolve(Config, flags, {}, ""), session).path
