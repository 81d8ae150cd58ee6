"""``nmtool predict``: heads on new features, or on new data.

Data are extracted as the heads' own features were; runs that fine-tuned their backbone read the images themselves.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmtool.console import Console
from nmtool.errors import DataError, InputMissingError, UsageError

if TYPE_CHECKING:
    from nmtool.artifact.open import Artifact
    from nmtool.artifact.stage import Session
    from nmtool.encoders.encoder import ImageEncoder
    from nmtool.tune.plan import Run
    from nmtool.tune.predict import Answers
    from nmtool.tune.restored import Heads

# Names of tables of another sort, which -o would make a lie of.
_OTHERS = (".csv", ".tsv", ".json", ".jsonl", ".npy", ".npz", ".xlsx", ".txt")
_FOUND = "name the features that the heads were made from by --trained-on"


def predict(
    heads: Annotated[str, typer.Argument(metavar="HEADS", help="A heads artifact, as tune writes it.")],
    data: Annotated[
        str, typer.Argument(metavar="FEATURES|DATA", help="Features (FEATURES[:SPLIT]) or a data URI to extract.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE.parquet", help="The table of predictions.")],
    run: Annotated[list[str] | None, typer.Option(metavar="all|N[,…]", help="Which runs to ask [all].")] = None,
    split: Annotated[list[str] | None, typer.Option(metavar="SPLIT[,…]", help="Splits to predict [all].")] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Keep the probabilities of all classes, in their order.")
    ] = False,
    trained_on: Annotated[
        str, typer.Option(metavar="FEATURES", help="Where the heads' own features are now [where tune read them].")
    ] = "",
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Where the heads' encoder is now [where extract read it].")
    ] = "",
    on_error: Annotated[
        str,
        typer.Option(metavar="fail|skip", help="DATA that can't be read: stop, or leave it out [as extract was told]."),
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
    features of another encoder are refused. Runs of fft, lora and turn need DATA: they read its images through the
    backbone that they fine-tuned (fft, turn: where tune had --keep-backbone).
    """
    from nmtool.artifact.plainfile import check_free, write_file
    from nmtool.artifact.typed import parquet_bytes
    from nmtool.cli.app import console_from
    from nmtool.tune import predict as room
    from nmtool.tune.restored import choose_runs, read_heads

    began = time.monotonic()
    console = console_from(sys.argv[1:])
    runs = ",".join(run or ["all"])
    target = Path(out)
    check_free(target)
    if target.suffix.lower() in _OTHERS:
        raise UsageError(f"-o {out} for a Parquet table", "a name that ends in .parquet")
    if on_error not in ("", "fail", "skip"):
        raise UsageError(f"--on-error is {on_error!r}", "fail or skip")
    found = read_heads(heads)
    if probabilities and not found.classes:
        raise UsageError("--probabilities of heads whose labels are real numbers", "heads of classes")
    call = _Call(
        heads=found,
        data=data,
        splits=tuple(part.strip() for part in ",".join(split).split(",")) if split else (),
        probabilities=probabilities,
        trained_on=trained_on,
        model=model,
        on_error=on_error,
        store=Path(store or os.environ.get("NMTOOL_STORE") or "nmruns"),
        data_root=data_root or os.environ.get("NMTOOL_DATA"),
        device=device,
        workers=workers,
        console=console,
    )
    direct, tuned = _choose(call, choose_runs(found, runs), asked=runs != "all")
    answers = []
    artifact = None
    if direct:
        artifact, said = _of_features(call, direct)
        answers.append(said)
    if tuned:
        answers.append(_of_images(call, tuned))
    result = room.joined(*answers)
    write_file(target, parquet_bytes(result.columns))
    body = {
        "file": out,
        "heads": heads,
        "features": None if artifact is None else str(artifact.path),
        "content": None if artifact is None else artifact.manifest.content,
        "runs": sorted(r.index for r in (*direct, *tuned)),
        "rows": len(result.columns["run"]),
        "results": result.scores,
        "seconds": round(time.monotonic() - began, 3),
    }
    sys.stdout.write((json.dumps(body, ensure_ascii=False, allow_nan=False) if json_ else out) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What was asked, and of which heads."""

    heads: Heads
    data: str
    splits: tuple[str, ...]
    probabilities: bool
    trained_on: str
    model: str
    on_error: str
    store: Path
    data_root: str | None
    device: str
    workers: int
    console: Console

    @property
    def is_uri(self) -> bool:
        """Whether DATA is that, and no features: a path that exists wins over a scheme."""
        from nmtool.artifact.typed import split_of
        from nmtool.data.sources import SCHEMES

        return not split_of(self.data)[0].exists() and self.data.partition(":")[0] in SCHEMES


def _choose(call: _Call, runs: tuple[Run, ...], *, asked: bool) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """The runs that are asked about features, and those that are asked about images; tells of the others."""
    from nmtool.tune.restored import on_features

    if not call.is_uri:
        direct, left = on_features(runs, asked)
        if left:
            call.console.warning(
                f"{left} runs are left out: their heads belong to backbones that they fine-tuned; give a data URI"
            )
        return direct, ()
    if all(run.finetune is None for run in runs):
        return runs, ()
    from nmtool.tune.tuned import choose

    runs, lost = choose(call.heads, runs, asked=asked)
    if lost:
        call.console.warning(f"{len(lost)} runs are left out: tune kept no backbone of theirs (--keep-backbone)")
    return tuple(r for r in runs if r.finetune is None), tuple(r for r in runs if r.finetune is not None)


def _of_features(call: _Call, runs: tuple[Run, ...]) -> tuple[Artifact, Answers]:
    """What heads on features say: of features, or of data that are extracted first."""
    from nmtool.encoders.device import choose_device
    from nmtool.tune import predict as room

    artifact, shown, named = _features(call)
    room.check_fits(call.heads, artifact, shown)
    training = None
    if any(r.neighbours is not None for r in runs):
        own = _own_features(call.heads, call.trained_on)
        training = room.trained_on(call.heads, own, str(own.path))
    return artifact, room.predict(
        call.heads,
        runs,
        artifact,
        room.choose_splits(artifact, named or call.splits, shown),
        shown=shown,
        device=choose_device(call.device),
        training=training,
        probabilities=call.probabilities,
        report=call.console,
    )


def _of_images(call: _Call, runs: tuple[Run, ...]) -> Answers:
    """What fine-tuned runs say of the images themselves."""
    from nmtool.data.sources import open_dataset
    from nmtool.encoders.device import choose_device, keep_freed_memory, thread_count
    from nmtool.tune import tuned

    device, session = choose_device(call.device), _session(call)
    if device.type == "cpu":
        keep_freed_memory()
    try:
        own: Artifact | None = _own_features(call.heads, call.trained_on)
    except InputMissingError:
        if call.trained_on:
            raise
        own = None  # a backbone that was kept whole needs none
    asked = own.manifest.config if own is not None else {}
    root = call.data_root or asked.get("data_root")
    dataset = open_dataset(call.data, memo=session.memo, data_root=str(root) if root else None)
    for remark in dataset.remarks:
        call.console.warning(remark)

    def base() -> ImageEncoder:
        features = own or _own_features(call.heads, call.trained_on)  # or its error
        return tuned.original(features, call.heads, call.model, session.memo, device)

    return tuned.predict(
        tuned.Backbones(call.heads, device, base, call.console),
        runs,
        dataset,
        tuned.choose_splits(dataset, call.splits),
        threads=thread_count(call.workers),
        probabilities=call.probabilities,
        skip=(call.on_error or asked.get("on_error")) == "skip",
    )


def _session(call: _Call) -> Session:
    from nmtool.artifact.memo import Memo
    from nmtool.artifact.stage import Session
    from nmtool.cli.app import memo_root

    return Session(
        store=call.store,
        command=shlex.join(["nmtool", *sys.argv[1:]]),
        report=call.console,
        memo=Memo(memo_root(call.store)),
        secret=os.environ.get,
    )


def _features(call: _Call) -> tuple[Artifact, str, tuple[str, ...]]:
    """The features to ask about, how to call them, and the split that their name bears."""
    from nmtool.artifact.open import open_artifact
    from nmtool.artifact.typed import open_features, split_of
    from nmtool.data.sources import FORMS

    data = call.data
    if not call.is_uri:
        if not split_of(data)[0].exists():
            raise InputMissingError(f"{data} does not exist", f"a features artifact, or a data URI: {FORMS}")
        artifact, split = open_features(data)
        if split and call.splits:
            raise UsageError(f"{data} names a split, and --split does, too", "one of them")
        return artifact, data.removesuffix(f":{split}") if split else data, (split,) if split else ()
    reference = _extract(call, _own_features(call.heads, call.trained_on))
    call.console.info(f"features of {data}: {reference}")
    return open_artifact(reference, "features"), data, call.splits


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


def _extract(call: _Call, own: Artifact) -> Path:
    """Extract data as the heads' own features were; a hit where that was done before."""
    from nmtool import settings
    from nmtool.extract import run as extract
    from nmtool.extract.config import Config

    manifest = own.manifest
    asked: dict[str, Any] = {k: v for k, v in manifest.config.items() if k in Config.__dataclass_fields__}
    root = call.data_root or asked.get("data_root")
    asked |= {"split": list(call.splits), "data_root": root, "device": call.device, "workers": call.workers}
    if call.on_error:
        asked["on_error"] = call.on_error
    if "model" not in manifest.origin:
        raise DataError(f"{own.path} does not say which MODEL it was extracted by", "features that extract made")
    flags = {**asked, "model": call.model or str(manifest.origin["model"]), "data": call.data}
    return extract.run(settings.resolve(Config, flags, {}, ""), _session(call)).path
