"""k nearest neighbours by cosine: nothing is trained. All runs of a call that see the same features share one search.

The votes are DINO's (Caron et al. 2021, after Wu et al. 2018): the k nearest training rows vote for the labels that are
trained on, each with weight exp(cosine / temperature), or all alike. Equally near rows come in their own order, and of
classes with equally many votes the one with the nearest row wins. Where k is more than the training rows, all vote.

The head keeps which rows of the training split vote, and for what; not their features: those are the ``features``
artifact that it was made from, and ``nmtool predict`` reads them there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmtool.numerics.nearest import nearest, unit
from nmtool.tune import evaluate
from nmtool.tune.feed import Feed
from nmtool.tune.material import Bench, Material
from nmtool.tune.outcome import Array, Outcome
from nmtool.tune.plan import Neighbours, Run

# Rows that are asked at once. Fixed, since the shape of a product is part of its rounding.
_ASKED = 512
_VOTES = 1 << 24  # votes by class in memory at once, float64
ROWS, LABELS = "neighbours.rows", "neighbours.labels"


@torch.no_grad()
def votes(cosines: Tensor, labels: Tensor, how: Neighbours, classes: int) -> Tensor:
    """Share of the votes float64 [q, C] from cosines [q, m] and labels [q, m] of the nearest rows, nearest first."""
    near, mine = cosines[:, : how.k].double(), labels[:, : how.k]
    if how.knn_weights == "distance":
        assert how.temperature is not None
        weights = ((near - near[:, :1]) / how.temperature).exp()  # the nearest weighs 1: no overflow at any temperature
    else:
        weights = torch.ones_like(near)
    total = torch.zeros(len(near), classes, dtype=torch.float64, device=near.device)
    return total.scatter_add_(1, mine, weights) / weights.sum(1, keepdim=True)


def winners(shares: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted classes int32 [q] and their shares float32 [q]; ``labels`` [q, m] are the nearest rows', as found."""
    mine = shares.gather(1, labels)
    top = mine.argmax(1, keepdim=True)  # the first of the largest: of equal shares the nearest row's
    return labels.gather(1, top)[:, 0].int(), mine.gather(1, top)[:, 0].float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Voters:
    """The training rows of one run, as they vote.

    Attributes:
        how: k and weights.
        rows: int64 [n], sorted, in the training features.
        labels: int64 [n].
    """

    how: Neighbours
    rows: Tensor
    labels: Tensor


def ask(
    asked: Tensor, trained: Tensor, voters: Sequence[Voters], classes: int
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Vote on rows, block by block: for each of ``voters`` shares [b, C] and the nearest rows' labels [b, m].

    Args:
        asked: [q, D] scaled features; ``trained``: [N, D] likewise.
        voters: who votes; those with the same rows share a search.
        classes: C.
    """
    home = unit(trained)
    keys = [v.rows.cpu().numpy().tobytes() for v in voters]
    distinct = list(dict.fromkeys(keys))
    views = [voters[keys.index(key)].rows for key in distinct]
    most = max(v.how.k for v in voters)
    # fixed by the classes, not by the voters: the same product for one run as for all
    step = max(1, min(_ASKED, _VOTES // classes))
    for start in range(0, len(asked), _ASKED):
        found = nearest(unit(asked[start : start + _ASKED]), home, views, most)
        for part in range(0, min(_ASKED, len(asked) - start), step):
            here = slice(part, part + step)
            out = []
            for voter, key in zip(voters, keys, strict=True):
                cosines, positions = found[distinct.index(key)]
                labels = voter.labels[positions[here]]
                out.append((votes(cosines[here], labels, voter.how, classes), labels[:, : voter.how.k]))
            yield out


def predict(asked: Tensor, trained: Tensor, voters: Sequence[Voters], classes: int) -> list[tuple[Array, Array]]:
    """Predicted classes int32 [q] and confidences float32 [q] of each of ``voters``; arguments as of ``ask``."""
    parts: list[list[tuple[Array, Array]]] = [[] for _ in voters]
    for block in ask(asked, trained, voters, classes):
        for mine, (shares, labels) in zip(parts, block, strict=True):
            predicted, confidence = winners(shares, labels)
            mine.append((predicted.cpu().numpy(), confidence.cpu().numpy()))
    return [(np.concatenate([p for p, _ in mine]), np.concatenate([c for _, c in mine])) for mine in parts]


class _Features:
    """The spaces that the spectrum is of: the scaled features themselves."""

    transforms = False

    def __init__(self, heads: int, dim: int) -> None:
        self.heads, self.row_width = heads, dim

    def one(self, k: int) -> _Features:
        return self

    def transform(self, x: Tensor, *, training: bool) -> Tensor:
        return x


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Ask every split about the runs' training rows."""
    feed = Feed(runs, material, bench)
    voters = [_voters(run, feed, k, bench) for k, run in enumerate(runs)]
    found = [_predictions(target.X, runs, voters, feed, material) for target in material.targets]
    features = _Features(len(runs), material.X.shape[1])
    spectra = evaluate.spectra(features, feed, material.targets, bench) if bench.spectra else None
    _tell_few(runs, voters, bench)
    outcomes = []
    for k, run in enumerate(runs):
        y = voters[k].labels.cpu().numpy()
        trained, counts = np.unique(y, return_counts=True)
        scores = [
            evaluate.scores_of(
                *found[i][k], t.y, target=i, trained=trained, spectrum=spectra[i][k] if spectra is not None else None
            )
            for i, t in enumerate(material.targets)
        ]
        scores[0] = evaluate.with_best(scores[0], scores[0].accuracy, 1)
        tensors = {ROWS: voters[k].rows.cpu().numpy(), LABELS: y, **feed.scaling_of(k)}
        outcomes.append(
            Outcome(
                run=run,
                tensors=tensors,
                epochs=[{"epoch": 1, "accuracy": scores[0].accuracy}],
                scores=scores,
                # a training row is its own nearest: its accuracy would say nothing
                notes={"n_train": len(y), "train_accuracy": None, "chance": float(counts.max() / counts.sum())},
                cleansing={},
            )
        )
        bench.advance(1)
    return outcomes


def _voters(run: Run, feed: Feed, k: int, bench: Bench) -> Voters:
    assert run.neighbours is not None
    rows = bench.tensor(feed.rows_of(k))
    return Voters(how=run.neighbours, rows=rows, labels=feed.y[run.labels][rows])


def _predictions(
    asked: Tensor, runs: Sequence[Run], voters: Sequence[Voters], feed: Feed, material: Material
) -> list[tuple[Array, Array]]:
    """Of each run; runs whose scaling is the same are asked together."""
    views = feed.view if feed.scalings[0].mean is not None else [0] * len(runs)
    out: dict[int, tuple[Array, Array]] = {}
    for view in dict.fromkeys(views):
        members = [k for k, v in enumerate(views) if v == view]
        scaling = feed.scalings[view]
        answers = predict(scaling(asked), scaling(material.X), [voters[k] for k in members], len(material.classes))
        out |= dict(zip(members, answers, strict=True))
    return [out[k] for k in range(len(runs))]


def _tell_few(runs: Sequence[Run], voters: Sequence[Voters], bench: Bench) -> None:
    few = [(run, v) for run, v in zip(runs, voters, strict=True) if v.how.k > len(v.rows)]
    if few:
        run, voter = few[0]
        bench.report.warning(
            f"{len(few)} of {len(runs)} runs have fewer training rows than neighbours ({len(voter.rows)} rows; "
            f"{run.words()}): all of them vote"
        )
