"""Stage ``extract``: resolve the model and the data (light), then, on a miss, write a ``features`` artifact.

Refuses data that the encoder can't read before any work starts. Importing this file imports neither torch nor zarr.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nmtool import settings
from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.encoders.facts import parse_kwargs
from nmtool.encoders.resolve import resolve
from nmtool.encoders.resolved import Resolved
from nmtool.encoders.spec import READY_MADE
from nmtool.errors import InputMissingError, UsageError
from nmtool.extract.config import Config
from nmtool.records import ArtifactRef, InputRef

EPOCH = 1


def run(config: Config, session: Session) -> ArtifactRef:
    """Extract features of every chosen split.

    Raises:
        UsageError: settings that make no sense together.
        InputMissingError: a split or a path that is not there.
        DataError: samples that can't be read (with ``--on-error fail``), weights that do not fit.
        UnavailableError: weights or a device that are not there.
    """
    if not 1 <= config.batch_size <= 1 << 16:
        raise UsageError(f"--batch-size is {config.batch_size}", "1 to 65536")
    dataset = open_dataset(config.data, memo=session.memo, data_root=config.data_root)
    for remark in dataset.remarks:
        session.report.warning(remark)
    splits = choose_splits(dataset, config.split)
    kwargs = parse_kwargs(config.model_kwargs)
    resolved = _resolve(config, kwargs, dataset, session)
    spec = resolved.spec if resolved else READY_MADE
    digests = {split: dataset.splits[split].digest for split in splits}
    data = InputRef(role="data", kind="index", key="", content=sha256(canonical(digests)))
    recipe = Recipe(
        stage="extract",
        kind="features",
        epoch=EPOCH,
        config={**settings.keyed(config), "encoder": spec.to_json(), "splits": list(splits)},
        inputs=(data, resolved.input) if resolved else (data,),
    )
    rows = sum(len(dataset.splits[split]) for split in splits)
    who = f"{spec.arch}{' (untrained)' if spec.untrained else ''}"
    return produce(
        session,
        recipe,
        name=f"{spec.arch}-{data_name(config.data)}",
        config=settings.everything(config),
        origin=_origin(config, kwargs),
        build=lambda staging: _build(staging, config, dataset, splits, resolved, session),
        work=f"encode {rows} samples in {len(splits)} splits with {who}" if resolved else f"take in {rows} rows",
    )


def choose_splits(dataset: Dataset, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The splits named, or all of them, in order; raises ``InputMissingError`` listing those there are."""
    for name in wanted:
        if name not in dataset.splits:
            raise InputMissingError(f"{dataset.uri} has no split {name!r}", "one of " + ", ".join(dataset.splits))
    return tuple(sorted(set(wanted) or dataset.splits))


def data_name(uri: str) -> str:
    """A short name for a data URI: the last part of its path, without suffix."""
    scheme, _, rest = uri.partition(":")
    stem = re.sub(r"\.(parquet|csv|tsv|npz)$", "", rest.partition("?")[0].rstrip("/").rpartition("/")[2])
    return stem or scheme


def _resolve(config: Config, kwargs: Mapping[str, object], dataset: Dataset, session: Session) -> Resolved | None:
    """The encoder, or None for ready-made features; refuses a model for the wrong kind of data."""
    if config.model == "none":
        if dataset.kind != "features":
            raise UsageError(f"MODEL none with {dataset.kind} in {config.data}", "ready-made features", "name a model")
        asked = any(value is not None for value in (*config.overrides().values(), config.arch, config.feature))
        if asked or kwargs or config.untrained or config.normalize or config.tower or config.max_length is not None:
            raise UsageError(
                "model, feature or preprocessing flags with MODEL none", "none of them: nothing is encoded"
            )
        if config.dtype == "bfloat16":
            raise UsageError("--dtype bfloat16 with MODEL none", "float32 or float16: nothing is computed")
        return None
    if dataset.kind == "features":
        raise UsageError(f"MODEL {config.model} with the ready-made features of {config.data}", "MODEL none")
    return resolve(
        config.model,
        arch=config.arch,
        kwargs=kwargs,
        untrained=config.untrained,
        seed=config.seed,
        overrides=config.overrides(),
        memo=session.memo,
        feature=config.feature or "",
        normalize=config.normalize,
        tower=choose_tower(dataset, config.tower),
        max_length=config.max_length,
    )


def choose_tower(dataset: Dataset, asked: str | None) -> str:
    """The tower that can read the data; empty for captions where none is asked for: whichever the model has."""
    can = {"images": ("image",), "text": ("text",), "captions": ("image", "text")}[dataset.kind]
    if asked and asked not in can:
        raise UsageError(f"--tower {asked} for {dataset.kind}", f"the {can[0]} tower")
    return asked or (can[0] if len(can) == 1 else "")


def _origin(config: Config, kwargs: Mapping[str, object]) -> dict[str, object]:
    """What ``turn`` needs to read images and weights again, as it was given here."""
    overrides = {k: list(v) if isinstance(v, tuple) else v for k, v in config.overrides().items() if v is not None}
    return {
        "model": config.model,
        "arch": config.arch,
        "model_kwargs": dict(kwargs),
        "untrained": config.untrained,
        "seed": config.seed,
        "overrides": overrides,
        "data": config.data,
        "data_root": config.data_root,
    }


def _build(
    staging: Staging,
    config: Config,
    dataset: Dataset,
    splits: tuple[str, ...],
    resolved: Resolved | None,
    session: Session,
) -> Mapping[str, object]:
    from nmtool.extract.encode import Job, encode_splits
    from nmtool.extract.ingest import ingest_splits

    if resolved is None:
        return ingest_splits(staging, dataset, splits, config.dtype, config.on_error, session.report)
    job = Job(
        dtype=config.dtype,
        on_error=config.on_error,
        batch_size=config.batch_size,
        device=config.device,
        workers=config.workers,
        model=config.model,
    )
    return encode_splits(staging, dataset, splits, resolved, job, session.report)
