"""Features in, a ``spectrum`` artifact out: one result for each source, split and preprocessing."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool import settings
from nmtool.artifact import arrays
from nmtool.artifact.format import canonical
from nmtool.artifact.key import Recipe
from nmtool.artifact.open import Artifact
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.artifact.typed import STORE, choose_split, feature_splits, open_features
from nmtool.errors import DataError, UsageError
from nmtool.numerics import singular
from nmtool.records import ArtifactRef, Spectrum
from nmtool.spectrum.config import Config
from nmtool.spectrum.heads import Space, Spaces, check_fits, open_heads

EPOCH = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One split of one features artifact, as the user named it."""

    named: str
    artifact: Artifact
    split: str


def run(config: Config, session: Session) -> ArtifactRef:
    """Singular values, SVE and LSVR of every source.

    Raises:
        InputMissingError, CorruptError: a source that is not there or damaged.
        DataError: features that are all zero or not finite.
    """
    sources = [source for text in config.features for source in _open(text)]
    spaces = _spaces(config, sources, session)
    runs = [int(run["index"]) for run in spaces.runs] if spaces else []
    recipe = Recipe(
        stage="spectrum",
        kind="spectrum",
        epoch=EPOCH,
        config={
            **settings.keyed(config),
            "splits": [source.split for source in sources],
            **({"runs": runs} if spaces else {}),
        },
        inputs=(
            *(source.artifact.as_input("features") for source in sources),
            *([spaces.artifact.as_input("heads")] if spaces else []),
        ),
    )
    rows = sum(_rows(source) for source in sources)
    return produce(
        session,
        recipe,
        name="-".join(dict.fromkeys(_model(s.artifact) for s in sources)),
        config=settings.everything(config),
        build=lambda staging: _build(staging, config, sources, spaces, session),
        work=f"singular values of {rows} rows in {len(sources)} splits"
        + (f", transformed by {len(runs)} heads" if spaces else ""),
    )


def _model(features: Artifact) -> str:
    """What encoded them, for a name: the architecture, never the path of a weights file."""
    summary = features.manifest.summary
    return str(summary.get("arch") or summary.get("model", "features"))


def _spaces(config: Config, sources: list[_Source], session: Session) -> Spaces | None:
    """The heads whose space is asked for, checked to fit every source; None where the features' own is."""
    if not config.heads:
        if config.run != ("all",):
            raise UsageError(f"--run {','.join(config.run)} without --heads", "the heads whose runs are meant")
        return None
    spaces = open_heads(config.heads, ",".join(config.run))
    for source in sources:
        check_fits(spaces, source.artifact, [source.split], source.named)
    if spaces.left_out:
        session.report.warning(
            f"{spaces.left_out} runs that fine-tuned a backbone are left out: their space is that backbone's"
        )
    return spaces


def _open(text: str) -> list[_Source]:
    artifact, split = open_features(text)
    chosen = [choose_split(artifact, split, role="features")] if split else feature_splits(artifact)
    return [_Source(named=str(artifact.path), artifact=artifact, split=name) for name in chosen]


def _rows(source: _Source) -> int:
    return arrays.array_shape(source.artifact, STORE, f"{source.split}/features")[0][0]


def _blocks(source: _Source) -> Iterator[npt.NDArray[Any]]:
    """Blocks of rows that could be encoded, a chunk at a time."""
    name = f"{source.split}/features"
    (total, _), step = arrays.array_shape(source.artifact, STORE, name)
    ok = arrays.read_array(source.artifact, STORE, f"{source.split}/ok")
    for start in range(0, total, step):
        block = arrays.read_array(source.artifact, STORE, name, start, start + step)
        yield block[ok[start : start + step]]


def _spectrum(source: _Source, preprocess: Any, space: Space | None) -> Spectrum:
    # a head computes in float32 whatever its features are stored in
    dtype = np.dtype(_dtype(source) if space is None else np.float32)
    blocks = _blocks(source)
    streamed = singular.singular_values_streaming(
        blocks if space is None else map(space.apply, blocks), preprocess=preprocess
    )
    if streamed.values.max(initial=0.0) == 0:
        raise DataError(f"split {source.split} of {source.named} is all zero after {preprocess}", "features that vary")
    return Spectrum(
        sigma=streamed.values,
        rows=streamed.shape[0],
        dim=streamed.shape[1],
        preprocess=preprocess,
        rank=singular.rank(streamed.values, streamed.shape, dtype=dtype),
        sve=singular.singular_value_entropy(streamed.values),
        lsvr=singular.largest_singular_value_ratio(streamed.values),
    )


def _dtype(source: _Source) -> str:
    meta = source.artifact.json(f"{STORE}/{source.split}/features/zarr.json")
    assert isinstance(meta, dict)
    return str(meta["data_type"])


def _build(
    staging: Staging, config: Config, sources: list[_Source], spaces: Spaces | None, session: Session
) -> Mapping[str, object]:
    results: list[dict[str, object]] = []
    payload: list[dict[str, object]] = []
    heads: list[Space | None] = [*spaces.spaces()] if spaces else [None]
    wanted = [(source, how, space) for source in sources for how in config.preprocess for space in heads]
    with session.report.progress(len(wanted), "spectrum") as advance:
        for number, (source, preprocess, space) in enumerate(wanted):
            found = _spectrum(source, preprocess, space)
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(found.sigma))
            file = f"sigma-{number}.npy" if len(wanted) > 1 else "sigma.npy"
            staging.write(file, buffer.getvalue())
            result = {
                "split": source.split,
                "n": found.rows,
                "dim": found.dim,
                "rank": found.rank,
                "sve": found.sve,
                "lsvr": found.lsvr,
                "preprocess": preprocess,
                **(space.told if space else {}),
            }
            results.append({"source": source.named, **result})
            # The payload cites the features by content: a path would change the digest of equal numbers.
            manifest = source.artifact.manifest
            model = manifest.summary.get("model", "")
            cited = {"heads": spaces.artifact.manifest.content} if spaces else {}
            payload.append({**result, "features": manifest.content, **cited, "model": model, "sigma": file})
            advance(1)
    staging.write("spectrum.json", canonical({"results": payload}))
    return {"results": results}
