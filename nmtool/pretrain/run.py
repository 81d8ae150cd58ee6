"""Stage ``pretrain``: resolve data, labels and architecture (light), then, on a miss, train and write a ``backbone``.

Importing this file imports no torch. It refuses labels of another dataset before any image is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from nmtool import settings
from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.key import Recipe
from nmtool.artifact.open import Artifact, open_artifact
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.encoders.facts import Facts, facts_of, parse_kwargs
from nmtool.errors import DataError, InputMissingError
from nmtool.pretrain.config import Config
from nmtool.pretrain.plan import Plan, check, make_plan, validation_of
from nmtool.records import ArtifactRef, InputRef

EPOCH = 1


def run(config: Config, session: Session) -> ArtifactRef:
    """Train a backbone.

    Raises:
        UsageError: settings out of range, an architecture that timm does not know.
        InputMissingError: a split or a path that is not there.
        DataError: labels of another dataset, a broken image, one class only.
        DivergedError: the loss is no longer finite.
        UnavailableError: the device is not there.
    """
    check(config)
    dataset = open_dataset(config.data, memo=session.memo, data_root=config.data_root)
    for remark in dataset.remarks:
        session.report.warning(remark)
    if dataset.kind not in ("images", "captions"):
        raise DataError(f"{dataset.kind} in {config.data}", "images to train on")
    if config.split not in dataset.splits:
        known = "one of " + ", ".join(dataset.splits)
        raise InputMissingError(f"{dataset.uri} has no split {config.split!r}", known, "name it with --split")
    validation = validation_of(dataset, config)
    labels = open_artifact(Path(config.labels), "labels") if config.labels is not None else None
    kwargs = parse_kwargs(config.model_kwargs)
    facts = facts_of(config.arch, kwargs, None, session.memo)  # an unknown architecture is told now, not on a miss
    plan = make_plan(dataset, config, validation, labels)
    return produce(
        session,
        _recipe(config, dataset, validation, labels, kwargs, facts),
        name=_name(config, plan),
        config=settings.everything(config),
        origin={"data": config.data, "data_root": config.data_root, "labels": config.labels},
        build=lambda staging: _build(staging, config, dataset, plan, kwargs, session),
        work=f"train {config.arch} on {len(plan.train.rows)} images for {config.epochs} epochs",
    )


def _recipe(
    config: Config,
    dataset: Dataset,
    validation: str | float | None,
    labels: Artifact | None,
    kwargs: Mapping[str, object],
    facts: Facts,
) -> Recipe:
    splits = [config.split, *([validation] if isinstance(validation, str) else [])]
    content = sha256(canonical({split: dataset.splits[split].digest for split in splits}))
    data = InputRef(role="data", kind="index", key="", content=content)
    return Recipe(
        stage="pretrain",
        kind="backbone",
        epoch=EPOCH,
        config={
            **settings.keyed(config),
            "kwargs": dict(kwargs),
            "validation": validation,
            "preprocessing": dataclasses.asdict(facts.preprocessing),
        },
        inputs=(data, labels.as_input("labels")) if labels is not None else (data,),
    )


def _name(config: Config, plan: Plan) -> str:
    noise = f"-noise{round(100 * plan.noise)}" if config.labels is not None else ""
    return f"{config.arch}-{config.objective}{noise}"


def _build(
    staging: Staging,
    config: Config,
    dataset: Dataset,
    plan: Plan,
    kwargs: Mapping[str, object],
    session: Session,
) -> Mapping[str, object]:
    from nmtool.pretrain.make import make

    return make(staging, config, dataset, plan, kwargs, session)
