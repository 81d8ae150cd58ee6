"""Audit of a feature store: random rows are extracted again, from the data and the model that it names.

Data and encoder are found as ``extract`` was given them, or where the user says they are now, and must have the digests
of the recipe: what is compared is the same work done twice. Importing this file imports neither torch nor zarr.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool import settings
from nmtool.artifact import arrays, typed
from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.open import Artifact
from nmtool.artifact.stage import Session
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.encoders.facts import parse_kwargs
from nmtool.encoders.resolved import Resolved
from nmtool.encoders.spec import READY_MADE
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.extract.config import Config
from nmtool.extract.run import chosen_views, job_of, resolve_model
from nmtool.numerics.seeds import generator

# Largest difference in a row over the row's largest value. Other batches and other kernels move the last bits of
# float32; float16 is rounded to 11 bits when it is stored, bfloat16 (bf16) to 8 bits and fp16 to 11 in every layer.
TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 5e-2, "bf16": 5e-2, "fp16": 1e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What to replay.

    Attributes:
        rows: how many, 1 or more; all of them where there are fewer.
        seed: which; None: drawn anew.
        tolerance: greatest relative drift; None: by the type of the features.
        changes: settings of ``extract`` that differ from those recorded: ``model``, ``data``, ``data_root``,
            ``device``, ``workers``; None where they do not.
    """

    rows: int
    seed: int | None = None
    tolerance: float | None = None
    changes: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A row that was extracted again.

    Attributes:
        split, row, sample: which.
        max_abs: largest absolute difference, over its views too.
        relative: that, divided by the row's largest absolute value; infinite where the row can't be read any more.
        error: why it can't be.
    """

    split: str
    row: int
    sample: str
    max_abs: float
    relative: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """Outcome of a replay: the rows, worst first; out of how many; the seed; and the tolerance."""

    rows: tuple[Drift, ...]
    of: int
    seed: int
    tolerance: float

    @property
    def beyond(self) -> tuple[Drift, ...]:
        """The rows whose drift is beyond the tolerance."""
        return tuple(drift for drift in self.rows if not drift.relative <= self.tolerance)


def replay(artifact: Artifact, asked: Asked, session: Session) -> Replayed:
    """Extract random rows of a ``features`` artifact again and compare.

    Raises:
        UsageError: no rows asked for, or features of a service.
        InputMissingError, UnavailableError: the data or the model are gone.
        DataError: the data or the model are not those that the features were made from.
        CorruptError: the store is damaged.
    """
    if asked.rows < 1:
        raise UsageError(f"--replay is {asked.rows}", "1 row or more")
    if asked.tolerance is not None and not asked.tolerance >= 0:
        raise UsageError(f"--tolerance is {asked.tolerance}", "0 or more")
    if _recipe(artifact)["encoder"]["family"] == "openai":
        raise UsageError(f"--replay of {artifact.path}, which a service made", "features that were made on a machine")
    config = _config(artifact, asked.changes)
    with _where_it_is_now("--data"):
        dataset = open_dataset(config.data, memo=session.memo, data_root=config.data_root)
    splits = _check_data(artifact, dataset, config)
    resolved = _check_model(artifact, dataset, config, session)
    seed = secrets.randbelow(1 << 31) if asked.seed is None else asked.seed
    chosen, total = _choose(artifact, splits, asked.rows, seed)
    again = _encoded(dataset, resolved, config, chosen) if resolved else _taken_in(dataset, config, chosen)
    drifts = [
        _drift(artifact, dataset, split, row, block, error) for split, row, block, error in again
    ]  # a row at a time: its chunk is read, and no more of the store is ever in memory
    tolerance = asked.tolerance
    if tolerance is None:
        tolerance = max(TOLERANCE[config.dtype], TOLERANCE.get(config.amp, 0.0)) if resolved else 0.0
    drifts.sort(key=lambda drift: (-drift.relative, drift.split, drift.row))
    return Replayed(rows=tuple(drifts), of=total, seed=seed, tolerance=tolerance)


@contextlib.contextmanager
def _where_it_is_now(flag: str) -> Iterator[None]:
    try:
        yield
    except InputMissingError as error:
        raise InputMissingError(error.found, error.expected, f"say where it is now with {flag}") from None


def _config(artifact: Artifact, changes: Mapping[str, object]) -> Config:
    """The settings that ``extract`` had, and where things are now."""
    m = artifact.manifest
    given = {name: value for name, value in changes.items() if value is not None}
    recorded = {**m.config, "model": m.origin.get("model"), "data": m.origin.get("data")}
    known = {name: value for name, value in recorded.items() if value is not None}
    for name in ("model", "data"):
        if name not in known and name not in given:
            raise InputMissingError(f"{artifact.path} does not say its {name}", "where it is", f"give --{name}")
    return settings.resolve(Config, given, known, f"{artifact.path}/manifest.json")


def _check_data(artifact: Artifact, dataset: Dataset, config: Config) -> tuple[str, ...]:
    """The splits of the features; their samples must be those that were extracted."""
    splits = tuple(str(name) for name in _recipe(artifact)["splits"])
    for name in splits:
        if name not in dataset.splits:
            raise InputMissingError(f"{dataset.uri} has no split {name}", "one of " + ", ".join(dataset.splits))
    digest = sha256(canonical({name: dataset.splits[name].digest for name in splits}))
    recorded = next((i.content for i in artifact.manifest.inputs if i.role == "data"), "")
    if digest != recorded:
        raise DataError(
            f"{config.data} has other samples than the features {artifact.path} were made from",
            f"samples of digest {recorded[:19]} (found {digest[:19]})",
            "give the same data with --data, or extract again",
        )
    return splits


def _check_model(artifact: Artifact, dataset: Dataset, config: Config, session: Session) -> Resolved | None:
    """The encoder, which must be the one recorded; None for ready-made features."""
    recorded: Mapping[str, Any] = _recipe(artifact)["encoder"]
    with _where_it_is_now("--model"):
        resolved = resolve_model(config, parse_kwargs(config.model_kwargs), dataset, session)
    now = (resolved.spec if resolved else READY_MADE).to_json()
    differing = sorted(name for name in recorded.keys() | now.keys() if now.get(name) != recorded.get(name))
    if differing:
        name = differing[0]
        raise DataError(
            f"the {name} of {config.model} is {str(now.get(name))[:80]}",
            f"{str(recorded.get(name))[:80]}, as the features {artifact.path} were made with",
            "give that model with --model, or extract again",
        )
    return resolved


def _recipe(artifact: Artifact) -> Mapping[str, Any]:
    body = artifact.manifest.recipe["config"]
    assert isinstance(body, Mapping)
    return body


def _choose(artifact: Artifact, splits: Sequence[str], count: int, seed: int) -> tuple[dict[str, list[int]], int]:
    """Rows to replay, by split in order, and how many there are that hold features."""
    samples = typed.read_parquet(artifact, typed.SAMPLES_TABLE)
    good = np.flatnonzero(np.asarray(samples["ok"]))
    some = good[np.sort(generator(seed, "verify", "replay").choice(len(good), min(count, len(good)), replace=False))]
    chosen: dict[str, list[int]] = {split: [] for split in splits}
    for at in some:
        chosen[samples["split"][int(at)]].append(int(samples["row"][int(at)]))
    return {split: sorted(rows) for split, rows in chosen.items() if rows}, len(good)


Again = list[tuple[str, int, npt.NDArray[Any], str]]


def _encoded(dataset: Dataset, resolved: Resolved, config: Config, chosen: Mapping[str, Sequence[int]]) -> Again:
    """Split, row, its features anew ([D], or [1 + K, D] with views) and why it has none."""
    from nmtool.encoders.device import choose_device
    from nmtool.encoders.encoder import load
    from nmtool.extract.images import ready
    from nmtool.extract.rows import encode_rows

    job, device = job_of(config, chosen_views(config, resolved)), choose_device(config.device)
    encoder = ready(load(resolved, device), job)
    out: Again = []
    for split, rows in chosen.items():
        block, errors, _ = encode_rows(dataset, encoder, split, rows, job, device)
        with np.errstate(over="ignore"):
            kept = block.astype(job.stored_as)
        out += [(split, row, kept[k], errors.get(row, "")) for k, row in enumerate(rows)]
    return out


def _taken_in(dataset: Dataset, config: Config, chosen: Mapping[str, Sequence[int]]) -> Again:
    out: Again = []
    for split, rows in chosen.items():
        features = dataset.features(split)
        with np.errstate(over="ignore"):
            out += [(split, row, features[row].astype(config.dtype), "") for row in rows]
    return out


def _drift(artifact: Artifact, dataset: Dataset, split: str, row: int, now: npt.NDArray[Any], error: str) -> Drift:
    names = [f"{split}/features"] + [f"{split}/{typed.VIEWS}"] * (now.ndim == 2)
    parts = [np.ravel(arrays.read_array(artifact, typed.STORE, name, row, row + 1)) for name in names]
    then, new = np.concatenate(parts).astype(np.float64), np.ravel(now).astype(np.float64)
    sample = dataset.splits[split].ids[row]
    if then.shape != new.shape or not np.isfinite(new).all() or not np.isfinite(then).all():
        error = error or "features that are not finite or of another length"
        return Drift(split=split, row=row, sample=sample, max_abs=np.inf, relative=np.inf, error=error)
    largest = float(max(np.abs(then).max(initial=0.0), np.abs(new).max(initial=0.0)))
    most = float(np.abs(then - new).max(initial=0.0))
    return Drift(split=split, row=row, sample=sample, max_abs=most, relative=most / largest if largest else 0.0)
