"""Operands to artifacts, artifacts to plain records. Reads through ``artifact`` alone, follows no link below a folder.

A report among the inputs is left out where a folder was searched (it would report on itself), refused where it was
named.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.artifact.format import parse
from nmtool.artifact.open import Artifact, is_artifact, open_artifact
from nmtool.artifact.stage import STAGING
from nmtool.artifact.typed import read_classes, read_labels, read_parquet
from nmtool.errors import CorruptError, DataError, InputMissingError, PermissionDeniedError
from nmtool.records import Float, Int
from nmtool.report.lineage import Lineage, Origin, content_of, overlays, short_name

# Above this a matrix has more cells than a page has room for, and C x C memory is no longer nothing (reliability T15).
MATRIX_CLASSES = 100


def find(operands: tuple[str, ...]) -> tuple[Artifact, ...]:
    """The artifacts named or below the folders named, each content once, in an order that only their content decides.

    Raises:
        InputMissingError: no such path, or a folder without any artifact.
        CorruptError: a damaged artifact, named.
        DataError: a report given as an input.
    """
    found: dict[tuple[str, str], Artifact] = {}
    for operand in operands:
        path = Path(operand)
        named = not path.is_dir() or is_artifact(path)
        for place in [path] if named else _below(path):
            artifact = open_artifact(place)
            kind, content = artifact.manifest.kind, artifact.manifest.content
            if kind == "report":
                if named:
                    raise DataError(f"{place} is a report", "what a report is made of", "leave it out")
                continue
            twin = found.get((kind, content))
            if twin is None or artifact.manifest.key < twin.manifest.key:
                found[kind, content] = artifact
    if not found:
        raise InputMissingError(
            f"no artifact in {', '.join(operands)}",
            "labels, backbone, features, spectrum or heads artifacts",
            "run spectrum or tune first, or name the folder they were written to (nmruns where no -o was given)",
        )
    return tuple(found[name] for name in sorted(found))


def _below(folder: Path) -> list[Path]:
    """Artifacts below a folder; unfinished work and what lies inside an artifact is not looked at."""

    def refuse(error: OSError) -> None:
        raise PermissionDeniedError(f"{error.filename} can't be read ({error.strerror})", "folders that can be listed")

    places = []
    for here, folders, _ in os.walk(folder, onerror=refuse, followlinks=False):
        if is_artifact(Path(here)):
            places.append(Path(here))
            folders.clear()
        folders[:] = sorted(f for f in folders if f != STAGING and not (Path(here) / f).is_symlink())
    return places


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One line of a ``results.parquet``, and where it comes from.

    Attributes:
        heads: content digest of the heads artifact.
        line: its columns as they stand there.
        settings: names of the columns that were asked for, not measured.
        train, evaluated: the features trained and evaluated on, where they are among the inputs.
        train_features: content digest of the features trained on.
        evaluated_features: content digest, or its first digits, of those evaluated on.
        label_noise: ratio of wrong labels among the training labels, where known.
    """

    heads: str
    line: Mapping[str, Any]
    settings: frozenset[str]
    train: Origin | None
    evaluated: Origin | None
    train_features: str
    evaluated_features: str
    label_noise: float | None
    label_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Singular:
    """One result of a spectrum artifact with its singular values, descending."""

    line: Mapping[str, Any]
    sigma: Float
    origin: Origin | None
    features: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One labels artifact: its summary, and for few classes the realised matrix and counts per class."""

    content: str
    data_name: str
    summary: Mapping[str, Any]
    classes: tuple[str, ...]
    transition: Float | None
    clean: Int
    noisy: Int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """One backbone artifact: its summary, its log, the noise it was trained on."""

    content: str
    data_name: str
    summary: Mapping[str, Any]
    log: tuple[Mapping[str, Any], ...]
    noise: float | None
    noise_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleansing:
    """The columns of a ``cleansing.parquet``."""

    heads: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """One audit: its summary, lines by class, matrix (of few classes), and the lines of its gallery in order.

    Attributes:
        name: the data, as a reader knows it.
        missing: why the gallery has neither pictures nor texts; '' where it has.
        top: columns of the table and of the gallery, a dict a sample.
    """

    content: str
    name: str
    summary: Mapping[str, Any]
    classes: tuple[str, ...]
    transition: Float | None
    per_class: tuple[Mapping[str, Any], ...]
    top: tuple[Mapping[str, Any], ...]
    missing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ByClass:
    """The columns of a ``per_class.parquet``."""

    heads: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a report is made of."""

    artifacts: tuple[Artifact, ...]
    lineage: Lineage
    runs: tuple[Run, ...]
    spectra: tuple[Singular, ...]
    draws: tuple[Draw, ...]
    backbones: tuple[Backbone, ...]
    cleansing: tuple[Cleansing, ...]
    audits: tuple[Audited, ...]
    by_class: tuple[ByClass, ...] = ()


def gather(artifacts: tuple[Artifact, ...]) -> Evidence:
    """Read the payloads. Raises ``CorruptError`` naming what does not read."""
    lineage = Lineage(artifacts)
    by_kind: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        by_kind.setdefault(artifact.manifest.kind, []).append(artifact)
    heads = by_kind.get("heads", [])
    return Evidence(
        artifacts=artifacts,
        lineage=lineage,
        runs=tuple(run for a in heads for run in _runs(a, lineage)),
        spectra=tuple(s for a in by_kind.get("spectrum", []) for s in _spectra(a, lineage)),
        draws=tuple(_draw(a) for a in by_kind.get("labels", [])),
        backbones=tuple(_backbone(a, lineage) for a in by_kind.get("backbone", [])),
        cleansing=tuple(
            Cleansing(heads=a.manifest.content, columns=read_parquet(a, "cleansing.parquet"))
            for a in heads
            if a.has("cleansing.parquet")
        ),
        audits=tuple(_audited(a) for a in by_kind.get("audit", [])),
        by_class=tuple(
            ByClass(heads=a.manifest.content, columns=read_parquet(a, "per_class.parquet"))
            for a in heads
            if a.has("per_class.parquet")
        ),
    )


def _lines(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    """A Parquet table as plain Python values, a dict a line; a NaN is no value."""
    columns = read_parquet(artifact, name)
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else list(v) for k, v in columns.items()}
    count = len(next(iter(plain.values()), []))
    return [{k: _known(v[row]) for k, v in plain.items()} for row in range(count)]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _runs(artifact: Artifact, lineage: Lineage) -> list[Run]:
    manifest = artifact.manifest
    train = next((i.content for i in manifest.inputs if i.role == "features"), "")
    cited = [i.content for i in manifest.inputs if i.kind == "labels"]
    asked = frozenset(_names(manifest.recipe.get("config", {})))
    out = []
    for line in _lines(artifact, "results.parquet"):
        for name in ("source", "model"):
            if isinstance(line.get(name), str):
                line[name] = short_name(line[name])
        stated = line.get("label_noise", line.get("noise_ratio"))
        evaluated = str(line.get("features") or content_of(line.get("source")) or train)
        noise = lineage.noise_of(overlays(line.get("labels"), cited))
        # Known from the draw where that is here: a column may say what is realised, which differs from draw to draw.
        ratio = noise.ratio if noise is not None and (cited or stated is None) else stated
        out.append(
            Run(
                heads=manifest.content,
                line=line,
                settings=asked,
                train=lineage.origin(train),
                evaluated=lineage.origin(evaluated),
                train_features=train,
                evaluated_features=evaluated.removeprefix("sha256:"),
                label_noise=ratio,
                label_type=noise.type if noise is not None else "",
            )
        )
    return out


def _names(config: object) -> set[str]:
    """Every key of a nested configuration."""
    if not isinstance(config, Mapping):
        return set()
    return set(config) | {name for value in config.values() for name in _names(value)}


def _spectra(artifact: Artifact, lineage: Lineage) -> list[Singular]:
    body = artifact.json("spectrum.json")
    if not isinstance(body, dict) or not isinstance(body.get("results"), list):
        raise CorruptError(f"{artifact.path}/data/spectrum.json", "an object with results")
    out = []
    for line in body["results"]:
        if not isinstance(line, dict) or not isinstance(line.get("sigma"), str):
            raise CorruptError(f"{artifact.path}/data/spectrum.json", "results that name their singular values")
        features = str(line.get("features") or "")
        out.append(
            Singular(
                line={
                    k: short_name(v) if k in ("source", "model") and isinstance(v, str) else v for k, v in line.items()
                },
                sigma=_array(artifact, line["sigma"]),
                origin=lineage.origin(features) if features else None,
                features=features,
            )
        )
    return out


def _array(artifact: Artifact, name: str) -> Float:
    """A ``.npy`` payload file; never unpickled."""
    try:
        array = np.load(io.BytesIO(artifact.read(name)), allow_pickle=False)
        return np.asarray(array, dtype=np.float64)
    except (ValueError, EOFError, OSError) as error:
        raise CorruptError(f"{artifact.path}/data/{name} does not read ({error})", "an array of numbers") from None


def _draw(artifact: Artifact) -> Draw:
    labels = read_labels(artifact)
    classes = read_classes(artifact) if artifact.has("classes.json") else ()
    few = 0 < len(classes) <= MATRIX_CLASSES and artifact.has("transition.npy")
    transition = _array(artifact, "transition.npy") if few else None
    if transition is not None and transition.shape != (len(classes), len(classes)):
        raise CorruptError(
            f"{artifact.path}/data/transition.npy of shape {transition.shape}", f"{len(classes)} classes"
        )
    return Draw(
        content=artifact.manifest.content,
        data_name=short_name(str(artifact.manifest.origin.get("data", ""))),
        summary=artifact.manifest.summary,
        classes=classes,
        transition=transition,
        clean=labels.clean,
        noisy=labels.noisy,
    )


def _audited(artifact: Artifact) -> Audited:
    where = f"{artifact.path}/data/audit.json"
    body = artifact.json("audit.json")
    if not isinstance(body, dict) or not isinstance(body.get("per_class"), list):
        raise CorruptError(where, "an object with per_class")
    classes = read_classes(artifact)
    few = len(classes) <= MATRIX_CLASSES and artifact.has("transition.npy")
    pictures = read_parquet(artifact, "gallery.parquet")
    table = read_parquet(artifact, "audit.parquet")
    at = {int(row): place for place, row in enumerate(table["row"])} if len(pictures["row"]) else {}
    top = []
    for n, row in enumerate(pictures["row"]):
        line = {name: values[at[int(row)]] for name, values in table.items()}
        top.append({**line, "picture": pictures["picture"][n], "text": pictures["text"][n]})
    told = artifact.manifest.summary.get("gallery")
    data = artifact.manifest.origin.get("data")
    return Audited(
        content=artifact.manifest.content,
        name=short_name(str(data)) if data else "features",
        summary=artifact.manifest.summary,
        classes=classes,
        transition=_array(artifact, "transition.npy") if few else None,
        per_class=tuple(line for line in body["per_class"] if isinstance(line, dict)),
        top=tuple(top),
        missing=str(told.get("missing", "")) if isinstance(told, Mapping) else "",
    )


def _backbone(artifact: Artifact, lineage: Lineage) -> Backbone:
    manifest = artifact.manifest
    noise = lineage.label_noise(artifact)
    lines = artifact.read("log.jsonl").splitlines() if artifact.has("log.jsonl") else []
    log = [parse(line, f"{artifact.path}/data/log.jsonl") for line in lines if line.strip()]
    return Backbone(
        content=manifest.content,
        data_name=short_name(str(manifest.origin.get("data", ""))),
        summary=manifest.summary,
        log=tuple(line for line in log if isinstance(line, dict)),
        noise=noise.ratio if noise is not None else None,
        noise_type=noise.type if noise is not None else "",
    )
