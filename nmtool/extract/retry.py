"""``--retry-failed``: rows that failed are encoded again, all others are taken from the features that are there.

Either the data are the same, and the artifact of the very recipe gets its rows filled (same key, other content); or
samples that failed were mended, which makes other data and another key: then features of the same encoder are looked
for beside the new ones, of which it can be shown that nothing but failed samples has changed since. Their digests were
kept when they failed; put in the place of the mended ones they must give the digest of the split as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.artifact import arrays, typed
from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.key import Recipe
from nmtool.artifact.open import Artifact, is_artifact, open_artifact
from nmtool.artifact.stage import Reporter, Session, Staging, place_of
from nmtool.data.dataset import Dataset
from nmtool.data.index import digest_with
from nmtool.encoders.resolved import Resolved
from nmtool.errors import DataError, NmtoolError, UsageError
from nmtool.records import ArtifactRef

# What a summary says of the encoder and of the data, and so holds for the rows that are taken over.
_KEPT = (
    "model",
    "arch",
    "tower",
    "feature",
    "normalize",
    "untrained",
    "dim",
    "dtype",
    "amp",
    "compile",
    "views",
    "batch_size",
    "device",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """Features some of whose rows failed, and all others of which hold for the data as they are now.

    Attributes:
        artifact: where they are.
        marked: the rows that failed, by split.
        same_key: they answer the very recipe.
    """

    artifact: Artifact
    marked: Mapping[str, tuple[int, ...]]
    same_key: bool

    @property
    def count(self) -> int:
        """How many rows failed."""
        return sum(map(len, self.marked.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What became of the failed rows of one split: ``rows.Rows``, with the rows that they are of."""

    rows: tuple[int, ...]
    block: Any
    errors: Mapping[int, str]
    contents: Mapping[int, str]


Build = Callable[[Staging], Mapping[str, object]]


def plan_retry(
    session: Session,
    recipe: Recipe,
    name: str,
    dataset: Dataset,
    splits: Sequence[str],
    resolved: Resolved | None,
    job: Any,
) -> ArtifactRef | tuple[Session, Build, str] | None:
    """How the recipe's artifact is had with as little work as can be.

    Returns:
        The artifact that is there, where none of its rows can be filled; or how ``produce`` is to be called: session,
        what builds the payload, and the work in words; or None: as ever.

    Raises:
        UsageError: with ``--force``, with ready-made features, or with a service.
    """
    if session.force:
        raise UsageError("--retry-failed and --force together", "one of them: --force encodes all rows")
    if resolved is None or resolved.spec.family == "openai":
        raise UsageError(
            f"--retry-failed with MODEL {job.model}", "a model that runs here", "extract again with --force"
        )
    out = place_of(session, recipe, name)
    earlier = find_earlier(out, recipe, dataset, splits)
    if earlier is None:
        if not is_artifact(out):
            session.report.info("no features with failed rows fit this encoder and these data: all rows are encoded")
        return None
    here = earlier.artifact.path
    forced = dataclasses.replace(session, force=True) if earlier.same_key else session
    filled: dict[str, Filled] = {}
    if not session.dry_run:
        filled = encode_marked(earlier, dataset, resolved, job)
        if earlier.same_key and all(len(f.errors) == len(f.rows) for f in filled.values()):
            session.report.warning(f"none of the {earlier.count} rows of {here} that failed can be filled")
            return earlier.artifact.ref()

    def build(staging: Staging) -> Mapping[str, object]:
        return refill(staging, earlier, filled, dataset, splits, job.stored_as, session.report)

    return forced, build, f"encode {earlier.count} samples that failed, and take all others from {here}"


def find_earlier(out: Path, recipe: Recipe, dataset: Dataset, splits: Sequence[str]) -> Earlier | None:
    """What to go on from; None where the recipe has its artifact whole, or nothing fits.

    Args:
        out: where the recipe's artifact is or goes; others are looked for beside it.
        recipe, dataset, splits: what is asked for.
    """
    if is_artifact(out):
        artifact = open_artifact(out)
        marked = _marked(artifact, splits) if artifact.manifest.key == recipe.key else {}
        return Earlier(artifact=artifact, marked=marked, same_key=True) if marked else None
    found = []
    for path in sorted(out.parent.glob("*")):
        if is_artifact(path):
            with contextlib.suppress(NmtoolError):  # what is damaged is of no use; it is not what was asked for, either
                artifact = open_artifact(path)
                if _comparable(artifact.manifest.recipe) == _comparable(recipe.to_json()):
                    found.append(Earlier(artifact=artifact, marked=_marked(artifact, splits), same_key=False))
    # all samples are read for each that is looked at closely: the one with the least to do comes first
    found.sort(key=lambda earlier: earlier.count)
    return next((earlier for earlier in found if earlier.count and _fits(earlier.artifact, dataset, splits)), None)


def _comparable(recipe: Mapping[str, Any]) -> Mapping[str, object]:
    """A recipe but for its data, and for what becomes of samples that can't be read."""
    return {
        **recipe,
        "config": {k: v for k, v in recipe["config"].items() if k != "on_error"},
        "inputs": [given for given in recipe["inputs"] if given["role"] != "data"],
    }


def _fits(artifact: Artifact, dataset: Dataset, splits: Sequence[str]) -> bool:
    """Whether nothing but samples that failed has changed since the features were made."""
    if not artifact.has(typed.FAILED):
        return False
    failed: Any = artifact.json(typed.FAILED)
    then: Any = artifact.manifest.summary["splits"]
    recorded = {split: then[split]["digest"] for split in splits if split in then}
    data = next((given.content for given in artifact.manifest.inputs if given.role == "data"), "")
    if len(recorded) != len(splits) or sha256(canonical(recorded)) != data:
        return False
    for split in splits:
        index = dataset.splits[split]
        others = {int(row): str(content) for row, content in failed.get(split, {}).items()}
        if recorded[split] != index.digest and (not others or digest_with(index, others) != recorded[split]):
            return False
    return True


def _marked(artifact: Artifact, splits: Sequence[str]) -> dict[str, tuple[int, ...]]:
    samples = typed.read_parquet(artifact, typed.SAMPLES_TABLE)
    marked: dict[str, list[int]] = {}
    for at in np.flatnonzero(~np.asarray(samples["ok"])):
        marked.setdefault(samples["split"][int(at)], []).append(int(samples["row"][int(at)]))
    return {split: tuple(marked[split]) for split in splits if split in marked}


def encode_marked(earlier: Earlier, dataset: Dataset, resolved: Resolved, job: Any) -> dict[str, Filled]:
    """The failed rows through the encoder, by split.

    Raises:
        DataError: one fails again, with ``on_error`` fail.
    """
    from nmtool.encoders.device import choose_device
    from nmtool.encoders.encoder import load
    from nmtool.extract.batches import NOT_FINITE
    from nmtool.extract.images import ready
    from nmtool.extract.rows import encode_rows

    device = choose_device(job.device)
    encoder = ready(load(resolved, device), job)
    filled = {}
    for split, rows in earlier.marked.items():
        block, errors, contents = encode_rows(dataset, encoder, split, rows, job, device)
        finite = [bool(np.isfinite(row).all()) for row in block]
        errors = {row: NOT_FINITE for k, row in enumerate(rows) if not finite[k]} | errors
        if errors and job.on_error == "fail":
            row = min(errors)
            sample = dataset.splits[split].ids[row]
            raise DataError(
                f"sample {sample!r} of split {split} (row {row}) can't be read: {errors[row]}", "", "mend it"
            )
        filled[split] = Filled(rows=rows, block=block, errors=errors, contents=contents)
    return filled


def refill(
    staging: Staging,
    earlier: Earlier,
    filled: Mapping[str, Filled],
    dataset: Dataset,
    splits: Sequence[str],
    stored_as: str,
    report: Reporter,
) -> Mapping[str, object]:
    """Write the payload: earlier features, a chunk at a time, with the rows that are there now; returns the summary."""
    from nmtool.extract.write import SplitWriter, finish

    began = time.perf_counter()
    before: Any = earlier.artifact.manifest.summary
    count = int(before["views"]["count"]) if "views" in before else 0
    writers = [SplitWriter(staging, dataset.splits[s], int(before["dim"]), stored_as, count) for s in splits]
    for writer in writers:
        _copy(earlier.artifact, writer, filled.get(writer.index.split), stored_as)
    counts: dict[str, Any] = finish(staging, writers, dataset.classes, dataset.targets)
    for split in splits:
        if "truncated" in before["splits"][split]:
            counts[split]["truncated"] = before["splits"][split]["truncated"]
    still = sum(len(f.errors) for f in filled.values())
    total = sum(len(writer.index) for writer in writers)
    report.info(f"{earlier.count - still} rows filled, {total - earlier.count} taken from {earlier.artifact.path}")
    if still:
        report.warning(f"{still} rows failed again; they stay marked and hold no features")
    return {
        **{name: before[name] for name in _KEPT if name in before},
        "splits": counts,
        "encoded": earlier.count,
        "filled": earlier.count - still,
        "taken_from": earlier.artifact.manifest.content,
        "samples_per_s": round(total / max(time.perf_counter() - began, 1e-9), 1),
    }


def _copy(artifact: Artifact, writer: Any, filled: Filled | None, stored_as: str) -> None:
    """The chunks of one split; those of an interrupted run that hold no failed row stay as they are."""
    from nmtool.extract.write import Chunk, stored

    split = writer.index.split
    rows = filled.rows if filled else ()
    for number in range(writer.array.chunks):
        start, stop = writer.array.bounds(number)
        here = [k for k, row in enumerate(rows) if start <= row < stop]
        if writer.is_done(number) and not here:
            continue
        places = [rows[k] - start for k in here]
        features = arrays.read_array(artifact, typed.STORE, f"{split}/features", start, stop)
        views = (
            arrays.read_array(artifact, typed.STORE, f"{split}/{typed.VIEWS}", start, stop) if writer.views else None
        )
        for row in (rows[k] for k in here):
            writer.errors.pop(row, None)
            writer.contents.pop(row, None)
        errors: dict[int, str] = {}
        if filled and here:
            block = stored(filled.block[here], stored_as, f"rows {start} to {stop - 1} of split {split}")
            features[places] = block if block.ndim == 2 else block[:, 0]
            if views is not None:
                views[places] = block[:, 1:]
            errors = {rows[k]: filled.errors[rows[k]] for k in here if rows[k] in filled.errors}
            writer.contents.update({row: filled.contents[row] for row in errors if row in filled.contents})
            bad = [row - start for row in errors]
            features[bad] = np.nan
            if views is not None:
                views[bad] = np.nan
        writer.write(Chunk(number=number, features=features, errors=errors, views=views))
