"""Labels in, ``labels`` artifacts out: one for each ratio asked."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nmtool import settings
from nmtool.artifact.format import sha256
from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.artifact.typed import LABELS_TABLE, parquet_bytes, write_classes
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, InputMissingError
from nmtool.inject_noise.config import Config
from nmtool.inject_noise.mapping import read_groups, read_map, read_matrix
from nmtool.numerics import noise
from nmtool.numerics.seeds import generator
from nmtool.records import ArtifactRef, Float, InputRef, Int, SampleIndex

EPOCH = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draw:
    """One draw, fully resolved: what is flipped, and by which file's numbers."""

    config: Config
    index: SampleIndex
    ratio: float | None
    mapping: Int | None
    matrix: Float | None


def run(config: Config, session: Session) -> list[ArtifactRef]:
    """Make (or find) one labels artifact for each ratio.

    Raises:
        InputMissingError: no such data, split or file.
        DataError: labels that can't be made wrong as asked: one class, no labels, a map of other classes.
    """
    dataset = open_dataset(config.data, memo=session.memo)
    index = dataset.splits.get(config.split)
    if index is None:
        raise InputMissingError(
            f"{config.data} has no split {config.split!r}", "one of " + ", ".join(dataset.splits), "name it by --split"
        )
    _check_kind(config, dataset, index)
    classes = dataset.classes
    mapping = read_map(config.map, classes) if config.map else None
    mapping = read_groups(config.groups, classes) if config.groups else mapping
    matrix = read_matrix(config.matrix, classes) if config.matrix else None
    ratios: tuple[float | None, ...] = config.ratio or (None,)
    return [
        _one(_Draw(config=config, index=index, ratio=ratio, mapping=mapping, matrix=matrix), session, len(ratios) > 1)
        for ratio in ratios
    ]


def _check_kind(config: Config, dataset: Dataset, index: SampleIndex) -> None:
    captions = config.type == "captions"
    if captions != (dataset.kind == "captions"):
        wanted = "image-caption pairs" if captions else "class labels"
        raise DataError(f"{config.data} holds {dataset.kind}", f"{wanted} for --type {config.type}")
    if captions:
        return
    present = np.unique(index.labels.values[index.labels.values >= 0])
    if len(present) == 0:
        raise DataError(f"split {config.split} of {config.data} has no labels", "class labels to make wrong")
    if len(index.labels.classes) < 2:
        raise DataError(
            f"split {config.split} of {config.data} has one class ({index.labels.classes[0]!r})",
            "at least two: there is no other label to flip to",
        )


def _one(draw: _Draw, session: Session, several: bool) -> ArtifactRef:
    config, index = draw.config, draw.index
    keyed: dict[str, object] = {
        **settings.keyed(config),
        "ratio": draw.ratio,
        "mapping": None if draw.mapping is None else draw.mapping.tolist(),
        "matrix": None if draw.matrix is None else sha256(np.ascontiguousarray(draw.matrix).tobytes()),
    }
    recipe = Recipe(
        stage="inject-noise",
        kind="labels",
        epoch=EPOCH,
        config=keyed,
        inputs=(InputRef(role="data", kind="index", key="", content=index.digest),),
    )
    if several and session.out is not None:
        session = dataclasses.replace(session, out=session.out / f"ratio-{draw.ratio:g}")
    label = config.type if draw.ratio is None else f"{config.type}-{draw.ratio:g}"
    return produce(
        session,
        recipe,
        name=f"{config.data.rpartition('/')[2].partition('?')[0]}-{label}",
        config={**settings.everything(config), "ratio": draw.ratio},
        origin={"data": config.data},
        build=lambda staging: _build(staging, draw),
        work=f"draw {config.type} noise for {len(index)} samples of split {config.split}",
    )


def _noisy(draw: _Draw, clean: Int) -> Int:
    """The drawn labels. The generator's name holds the ratio: several ratios of one seed are independent draws."""
    config, classes = draw.config, len(draw.index.labels.classes)
    rng = generator(config.seed, "inject-noise", config.type, config.split, repr(draw.ratio))
    if draw.matrix is not None:
        return noise.matrix(clean, draw.matrix, rng=rng)
    assert draw.ratio is not None
    if config.type == "symmetric":
        return noise.symmetric(
            clean, draw.ratio, classes, rng=rng, include_self=config.include_self, bernoulli=config.bernoulli
        )
    if config.type == "asymmetric":
        assert draw.mapping is not None
        return noise.asymmetric(clean, draw.ratio, draw.mapping, rng=rng)
    if config.type == "pairflip":
        return noise.pairflip(clean, draw.ratio, classes, rng=rng)
    return noise.swap_captions(clean, draw.ratio, rng=rng)


def _save(staging: Staging, name: str, array: Float) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    staging.write(name, buffer.getvalue())


def _build(staging: Staging, draw: _Draw) -> Mapping[str, object]:
    index, config = draw.index, draw.config
    captions = config.type == "captions"
    clean = np.arange(len(index), dtype=np.int64) if captions else index.labels.values
    noisy = _noisy(draw, clean)
    flipped = clean != noisy
    rows = np.arange(len(index), dtype=np.int64)
    columns = {
        "row": rows,
        "sample": list(index.ids),
        "split": [index.split] * len(index),
        "clean": clean,
        "noisy": noisy,
        "flipped": flipped,
    }
    staging.write(LABELS_TABLE, parquet_bytes(columns))
    labelled = int(np.sum(clean >= 0))
    summary: dict[str, object] = {
        "n": labelled,
        "classes": len(index.labels.classes),
        "type": config.type,
        "ratio_requested": draw.ratio,
        "ratio": float(np.sum(flipped)) / labelled,
        "flipped": int(np.sum(flipped)),
        "seed": config.seed,
        "split": index.split,
        "self_flips": "allowed" if config.include_self else "never",
    }
    if captions:
        return summary
    classes = index.labels.classes
    write_classes(staging, classes)
    _save(staging, "transition.npy", noise.transition_matrix(clean, noisy, len(classes)))
    if draw.matrix is not None:
        _save(staging, "matrix.npy", draw.matrix)
    if len(classes) <= 1000:
        summary["per_class"] = [
            {"class": name, "n": int(np.sum(clean == c)), "flipped": int(np.sum(flipped & (clean == c)))}
            for c, name in enumerate(classes)
        ]
    return summary
