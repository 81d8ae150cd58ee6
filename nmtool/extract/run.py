"""Stage ``extract``: resolve the model and the data (light), then, on a miss, write a ``features`` artifact.

Refuses data that the encoder can't read before any work starts. Importing this file imports neither torch nor zarr.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nmtool import settings
from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Session, Staging, place_of, produce
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.encoders.facts import parse_kwargs, versions
from nmtool.encoders.resolve import resolve
from nmtool.encoders.resolved import Resolved, Service
from nmtool.encoders.spec import READY_MADE
from nmtool.errors import InputMissingError, UsageError
from nmtool.extract.config import Config
from nmtool.extract.ranks import Crew
from nmtool.extract.retry import Build, plan_retry
from nmtool.extract.service import asked_of, settled
from nmtool.extract.service import work as work_of_service
from nmtool.extract.views import Views
from nmtool.records import ArtifactRef, InputRef

if TYPE_CHECKING:
    from nmtool.extract.batches import Job

EPOCH = 1
# Features that no layer's hook ends the pass for.
_WHOLE_PASS = ("pre_logits", "cls", "mean", "last", "projected")


def run(config: Config, session: Session) -> ArtifactRef:
    """Extract features of every chosen split.

    Raises:
        UsageError: settings that make no sense together.
        InputMissingError: a split or a path that is not there.
        DataError: samples that can't be read (with ``--on-error fail``), weights that do not fit.
        UnavailableError: weights or a device that are not there.
    """
    crew = Crew(session.ranks)
    agreed = "" if crew.leads else crew.tell()  # rank 0 has looked at the data: what it found out is remembered
    if not 1 <= config.batch_size <= 1 << 16:
        raise UsageError(f"--batch-size is {config.batch_size}", "1 to 65536")
    config = settled(config, session)
    dataset = open_dataset(config.data, memo=session.memo, data_root=config.data_root)
    for remark in dataset.remarks:
        session.report.warning(remark)
    splits = choose_splits(dataset, config.split)
    kwargs = parse_kwargs(config.model_kwargs)
    resolved = resolve_model(config, kwargs, dataset, session)
    spec = resolved.spec if resolved else READY_MADE
    views = chosen_views(config, resolved)
    config = computed(config, resolved)
    digests = {split: dataset.splits[split].digest for split in splits}
    real = [split for split in splits if dataset.targets(split) is not None]
    data = InputRef(role="data", kind="index", key="", content=sha256(canonical(digests)))
    recipe = Recipe(
        stage="extract",
        kind="features",
        epoch=EPOCH,
        config={
            **settings.keyed(config),
            "encoder": spec.to_json(),
            "splits": list(splits),
            # left out where there are none: so that older keys hold
            **({"views": views.to_json()} if views else {}),
            **({"decode": decoder_named(config, resolved)} if config.decode != "cpu" else {}),
            **({"amp": config.amp} if config.amp != "none" else {}),
            **({"compile": True} if config.compile else {}),
            # likewise
            **({"targets": real} if real else {}),
        },
        inputs=(data, resolved.input) if resolved else (data,),
    )
    name = f"{spec.arch}-{data_name(config.data)}"

    def encoded(staging: Staging) -> Mapping[str, object]:
        return _build(staging, config, dataset, splits, resolved, session, crew)

    if crew.world > 1:
        if resolved is None or resolved.service is not None or config.retry_failed:
            raise UsageError("several ranks for what is not encoded here, or for --retry-failed", "one process")
        if not crew.leads:
            return crew.follow(place_of(session, recipe, name), recipe.kind, recipe.key, agreed, encoded)
        crew.tell(recipe.key)
    build: Build = encoded
    work = _work(config, dataset, splits, resolved) if session.dry_run else ""
    if config.retry_failed:
        retry = plan_retry(session, recipe, name, dataset, splits, resolved, job_of(config, views))
        if isinstance(retry, ArtifactRef):
            return retry
        if retry is not None:
            session, build, work = retry
    with crew.led():
        return produce(
            session,
            recipe,
            name=name,
            config=settings.everything(config),
            origin=_origin(config, kwargs),
            build=build,
            work=work,
        )


def _work(config: Config, dataset: Dataset, splits: tuple[str, ...], resolved: Resolved | None) -> str:
    """In words, what a miss has to do."""
    rows = sum(len(dataset.splits[split]) for split in splits)
    if resolved is None:
        return f"take in {rows} rows"
    if resolved.service is not None:
        return work_of_service(dataset, splits, resolved, config.price)
    who = f"{resolved.spec.arch}{' (untrained)' if resolved.spec.untrained else ''}"
    return f"encode {rows} samples in {len(splits)} splits with {who}"


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


def resolve_model(config: Config, kwargs: Mapping[str, object], dataset: Dataset, session: Session) -> Resolved | None:
    """The encoder, or None for ready-made features; refuses a model for the wrong kind of data."""
    if config.model == "none":
        if dataset.kind != "features":
            raise UsageError(f"MODEL none with {dataset.kind} in {config.data}", "ready-made features", "name a model")
        asked = any(value is not None for value in (*config.overrides().values(), config.arch, config.feature))
        limits = config.max_length is not None or asked_of(config) != Service()
        if asked or kwargs or config.untrained or config.normalize or config.tower or limits:
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
        service=asked_of(config),
    )


def choose_tower(dataset: Dataset, asked: str | None) -> str:
    """The tower that can read the data; empty for captions where none is asked for: whichever the model has."""
    can = {"images": ("image",), "text": ("text",), "captions": ("image", "text")}[dataset.kind]
    if asked and asked not in can:
        raise UsageError(f"--tower {asked} for {dataset.kind}", f"the {can[0]} tower")
    return asked or (can[0] if len(can) == 1 else "")


def chosen_views(config: Config, resolved: Resolved | None) -> Views | None:
    """The views that are asked for, or None; refuses them where no images are encoded."""
    if not config.views:
        if config.augment != "weak" or config.view_seed:
            raise UsageError("--augment or --view-seed without --views", "how many views are wanted", "--views 2")
        return None
    if resolved is None or resolved.spec.tower != "image":
        raise UsageError(f"--views {config.views} for what is no image", "views of images alone")
    return Views(count=config.views, augment=config.augment, seed=config.view_seed)


def decoder_named(config: Config, resolved: Resolved | None) -> dict[str, str]:
    """What the key says of a JPEG decoder that is not Pillow; refuses one where no images are encoded here."""
    if resolved is None or resolved.spec.tower != "image" or resolved.service is not None:
        raise UsageError(f"--decode {config.decode} for what is no image", "images")
    return {"jpeg": config.decode, "torchvision": versions(("torchvision",))["torchvision"]}


def computed(config: Config, resolved: Resolved | None) -> Config:
    """Settings with one name for each way to compute: ``--amp bf16`` stored as float32 is ``--dtype bfloat16``.

    Raises:
        UsageError: ways that exclude each other, or where nothing is computed here; compiling what can't be.
    """
    asked = [flag for flag, given in (("--amp", config.amp != "none"), ("--compile", config.compile)) if given]
    if asked and (resolved is None or resolved.service is not None):
        raise UsageError(f"{' and '.join(asked)} with MODEL {config.model}", "neither: nothing is computed here")
    if config.dtype == "bfloat16" and config.amp == "fp16":
        raise UsageError("--dtype bfloat16 with --amp fp16", "one of them", "--dtype float16 --amp fp16, say")
    if config.compile and resolved is not None:
        if resolved.spec.tower != "image":
            raise UsageError("--compile for texts, whose lengths differ from batch to batch", "images")
        if resolved.spec.feature not in _WHOLE_PASS:
            raise UsageError(f"--compile with the layer {resolved.spec.feature}", "a feature of the whole pass")
    if config.amp == "bf16" and config.dtype == "float32":
        config = dataclasses.replace(config, dtype="bfloat16")
    return dataclasses.replace(config, amp="none") if config.dtype == "bfloat16" else config


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
    crew: Crew,
) -> Mapping[str, object]:
    from nmtool.extract.ingest import ingest_splits

    if resolved is None:
        return ingest_splits(staging, dataset, splits, config.dtype, config.on_error, session.report)
    job = crew.share(job_of(config, chosen_views(config, resolved)))
    if resolved.service is not None:
        from nmtool.extract.remote import Limits, encode_remote

        limits = Limits(
            batch_tokens=config.batch_tokens,
            max_retries=config.max_retries,
            timeout=config.timeout,
            price=config.price,
            secret=session.secret,
        )
        return encode_remote(staging, dataset, splits, resolved, job, limits, session.report)
    from nmtool.extract.encode import encode_splits

    return encode_splits(staging, dataset, splits, resolved, job, session.report, crew)


def job_of(config: Config, views: Views | None) -> Job:
    """How to encode, as the settings say."""
    from nmtool.extract.batches import Job

    return Job(
        dtype=config.dtype,
        on_error=config.on_error,
        batch_size=config.batch_size,
        device=config.device,
        workers=config.workers,
        model=config.model,
        views=views,
        decode=config.decode,
        amp="bf16" if config.dtype == "bfloat16" else config.amp,
        compile=config.compile,
    )
