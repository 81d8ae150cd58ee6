"""``--search``: each run's learning rate and decay (L-BFGS: its C), found on a held-out part of its training rows.

All points of the grid, of all runs, train as stacks on the rest of the rows, for as many epochs as the run itself, and
are judged once, after the last, on the rows held out, by the labels that are trained on (noisy ones, where they are):
classes by accuracy, real numbers by the correlation that counts, then by the mean squared error. The best then trains
on all rows. It refuses to look at a test label: candidates are not judged on a test split at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from nmtool.artifact.format import canonical
from nmtool.artifact.stage import Reporter
from nmtool.errors import DataError, DivergedError
from nmtool.tune import evaluate, subset
from nmtool.tune.material import Bench, Material
from nmtool.tune.method import method_named
from nmtool.tune.plan import Run
from nmtool.tune.task import REAL_METRICS

if TYPE_CHECKING:
    from nmtool.tune.fit import Trained

# What a candidate is judged by: of classes the first, of real numbers the others.
_JUDGED = ("accuracy", *REAL_METRICS, "squared_error")
Candidates = Mapping[int, tuple[Run, ...]]
Trial = Mapping[str, Any]


def check(runs: Sequence[Run], material: Material) -> None:
    """Raises ``DataError`` where a run has no class of two rows (of real numbers: one row): nothing can be held out."""
    few, enough = "one training row a class", "a class with two rows or more"
    if material.values is not None:
        few, enough = "one training row", "two rows or more"
    for run in runs:
        y = material.overlays[run.labels].y
        rows = subset.share(y, run.seed, run.fraction, run.nested)
        if not len(subset.hold_out(y, rows, run.seed, run.searched)[1]):
            raise DataError(
                f"--search with {few} ({run.words()})",
                f"{enough}, to hold one out",
                "ask for a larger --fraction, or give the settings",
            )


def trials(part: tuple[Run, ...], material: Material, bench: Bench) -> list[dict[str, Any]]:
    """Train candidates as one stack; for each a row: what it was, rows, held-out scores (None where it diverged)."""
    name = f"search-{hashlib.sha256(canonical([r.index for r in part])).hexdigest()[:16]}.json"
    kept = bench.kept(name)
    if kept is not None:
        bench.advance(sum(run.probe.epochs for run in part))
    else:
        kept = canonical(_trials(part, material, bench))
        bench.keep(name, kept)
    rows: list[dict[str, Any]] = json.loads(kept)  # as a resumed run has them, orders of keys included
    return rows


def _trials(part: tuple[Run, ...], material: Material, bench: Bench) -> list[dict[str, Any]]:
    trained = method_named(part[0].method).resolve_fit()(part, material, bench)
    whole = [all(bool(torch.isfinite(p[k]).all()) for p in trained.heads.parameters.values()) for k in range(len(part))]
    scores = _scores(trained, material)
    return [
        {
            "index": run.index,
            "n_fit": trained.feed.n,
            "n_holdout": int(trained.feed.held.shape[1]),
            **(scores[k] if whole[k] else dict.fromkeys(scores[k])),
        }
        for k, run in enumerate(part)
    ]


def _scores(trained: Trained, material: Material) -> list[dict[str, float | None]]:
    """What each candidate is judged by, on the rows held out."""
    if material.values is None:
        return [{"accuracy": accuracy} for accuracy in evaluate.held_out(trained.heads, trained.feed)]
    feed = trained.feed
    values = material.values[feed.of_heads(feed.held).cpu().numpy()]
    found = [
        evaluate.held_out_score(material.metric, mine, truth)
        for mine, truth in zip(evaluate.held_out_numbers(trained.heads, feed), values, strict=True)
    ]
    return [{material.metric: measure, "squared_error": error} for measure, error in found]


def _rank(trial: Trial) -> tuple[float, ...] | None:
    """The larger the better; None where it diverged.

    Where the labels held out leave the correlation undefined, they do so for all candidates of a run, and the squared
    error decides alone.
    """
    if "squared_error" not in trial:
        return None if trial["accuracy"] is None else (trial["accuracy"],)
    measure = next((trial[name] for name in REAL_METRICS if trial.get(name) is not None), 0.0)
    return None if trial["squared_error"] is None else (measure, -trial["squared_error"])


def settle(
    runs: Sequence[Run], candidates: Candidates, results: Sequence[Trial], report: Reporter
) -> tuple[tuple[Run, ...], list[dict[str, Any]]]:
    """The runs with the settings found, and the rows of ``search.parquet``.

    Of equal scores the smaller learning rate wins (L-BFGS: the smaller C), then the smaller decay.

    Raises:
        DivergedError: every candidate of a run diverged.
    """
    by_index = {row["index"]: row for row in results}
    settled, rows, edges = [], [], []
    for run in runs:
        tried = candidates[run.index]  # in ascending order of their settings: the first of the best is the smallest
        scores = [_rank(by_index[c.index]) for c in tried]
        if all(score is None for score in scores):
            raise DivergedError(
                f"all {len(tried)} settings of the search diverged ({run.words()})",
                "a finite loss for one of them",
                "give smaller rates by --lr, or scale the features (--scale l2)",
            )
        best = max((i for i, score in enumerate(scores) if score is not None), key=lambda i: (scores[i], -i))
        edge = at_edge(tried, best)
        settled.append(run.at(tried[best].found()))
        edges += [(settled[-1], name) for name in edge]
        for i, candidate in enumerate(tried):
            facts = {k: v for k, v in by_index[candidate.index].items() if k != "index"}
            rows.append(
                {
                    "run": run.index,
                    **{k: candidate.columns()[k] for k in ("method", "loss", "seed", "fraction")},
                    **candidate.found(),
                    **facts,
                    "chosen": i == best,
                    "at_edge": ",".join(edge) if i == best else "",
                }
            )
    if edges:
        run, name = edges[0]
        report.warning(
            f"the search of {len({r.index for r, _ in edges})} of {len(runs)} runs ended at the edge of its grid "
            f"({run.words()}: {name}); the optimum may lie beyond: give a wider list by {_flag(name)}"
        )
    return tuple(settled), rows


def at_edge(tried: Sequence[Run], best: int) -> list[str]:
    """Settings whose chosen value is the smallest or largest tried; not a decay of 0, below which there is nothing."""
    chosen = tried[best].found()
    values = {name: sorted({c.found()[name] for c in tried}) for name in chosen}
    return [
        name
        for name, value in chosen.items()
        if len(values[name]) > 1 and value in (values[name][0], values[name][-1]) and value != 0
    ]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def notes_of(rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """For each run, by its index, what its result rows say of its search."""
    return {
        row["run"]: {
            **{f"search_{name}": row[name] for name in _JUDGED if name in row},
            "search_at_edge": row["at_edge"],
        }
        for row in rows
        if row["chosen"]
    }


def summary_of(rows: Sequence[Mapping[str, Any]], share: float) -> dict[str, Any]:
    """For the manifest: how many were tried, and where the best of them lay."""
    chosen = [row for row in rows if row["chosen"]]
    (measure,) = [name for name in ("accuracy", *REAL_METRICS) if name in rows[0]]
    return {
        "holdout": share,
        "candidates": len(rows),
        "diverged": sum(_rank(row) is None for row in rows),
        "runs": len(chosen),
        "at_edge": sum(bool(row["at_edge"]) for row in chosen),
        f"{measure}_is": "on held-out training rows, by the labels trained on",
    }


def epochs(candidates: Candidates) -> int:
    """Run-epochs that the candidates take."""
    return sum(run.probe.epochs for tried in candidates.values() for run in tried)
