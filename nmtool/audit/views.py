"""Three opinions on each label, and one of them all. Classes that nobody has take no part; no true label is seen.

- mixture: TURN's; in each class two Gaussians on the cross-entropy of a robust probe, here out of fold.
- confident: confident learning on the same out-of-fold probabilities.
- neighbours: the share of the nearest other samples that have another label.

All read rows of unit length, centred, of unit length again. The combination is Bayes' rule on the probe's and the
neighbours' predictions pooled, under the transition matrix that the probe's predictions say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nmtool.artifact.stage import Reporter
from nmtool.audit.confident import confident
from nmtool.audit.config import Config
from nmtool.audit.inputs import Judged
from nmtool.numerics import mislabelled
from nmtool.numerics.mislabelled import Predicted
from nmtool.numerics.nearest import vote_shares
from nmtool.numerics.probe import Training, centred_unit_rows, out_of_fold_probabilities, stratified_folds
from nmtool.numerics.seeds import generator, torch_seed
from nmtool.numerics.selection import clean_posterior_with_notes
from nmtool.records import Bool, Float, Int

# Ours, by AUROC (recipes/audit): the neighbours know less than the probe; and a matrix is worth what its cells are
# seen: human labels gain by it, while 100 classes of 200 samples each have two samples a cell, and lose by 0.004.
NEIGHBOURS_WEIGHT = 0.2
MATRIX_PRIOR = 120.0
"""Samples a cell that the symmetric matrix counts for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One opinion: how probably each label is wrong, float64 [n] in [0, 1], and whether it says so, bool [n]."""

    probability: Float
    flagged: Bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All that is found out about n labels.

    Attributes:
        views: by name, those that were asked.
        combined: float64 [n] probability that the label is wrong, by all of them.
        suggested: int64 [n] the likeliest class; the given one where nothing else is likelier.
        transition: float64 [C, C] estimate of P(given | true); a class that nobody has keeps to itself.
        noise_ratio: estimated share of wrong labels: the mean probability that the probe (else the neighbours) gives.
        small_classes: classes in which the mixture found nothing to tell apart.
    """

    views: dict[str, View]
    combined: Float
    suggested: Int
    transition: Float
    noise_ratio: float
    small_classes: tuple[int, ...]

    @property
    def agreement(self) -> Int:
        """int64 [n]: how many views say that the label is wrong."""
        count: Int = np.stack([view.flagged for view in self.views.values()]).sum(0, dtype=np.int64)
        return count

    @property
    def wrong(self) -> Bool:
        """bool [n]: more likely wrong than right, by all views together."""
        return np.asarray(self.combined > 0.5)


def audit(judged: Judged, classes: int, config: Config, device: torch.device, report: Reporter) -> Audit:
    """Ask the views that ``config`` names."""
    present, given = np.unique(judged.given, return_inverse=True)
    given = given.astype(np.int64)
    X = centred_unit_rows(torch.from_numpy(judged.X).to(device))
    y = torch.from_numpy(given).to(device)
    views: dict[str, View] = {}
    small: tuple[int, ...] = ()
    probed = shares = None
    if set(config.views) & {"mixture", "confident"}:
        probed = _probed(X, y, given, len(present), config, report)
    if probed is not None and "mixture" in config.views:
        views["mixture"], small = _mixture(probed, given, len(present), config.seed)
    if probed is not None and "confident" in config.views:
        probability, flagged = confident(probed, given)
        views["confident"] = View(probability=probability, flagged=flagged)
    if "neighbours" in config.views:
        if config.neighbours >= len(given):
            report.warning(f"--neighbours {config.neighbours}: all {len(given) - 1} other samples vote on each label")
        with report.progress(len(given), "neighbours") as advance:
            shares = vote_shares(X, y, config.neighbours, len(present), advance).cpu().numpy()
        lost = 1.0 - mislabelled.own_probability(shares, given)
        others = shares.copy()
        others[np.arange(len(given)), given] = -1.0
        views["neighbours"] = View(probability=np.clip(lost, 0.0, 1.0), flagged=others.max(1) > 1.0 - lost)
    combined, suggested, T, ratio = _together(views, probed, shares, given, config.neighbours)
    whole = np.eye(classes)
    whole[np.ix_(present, present)] = T
    return Audit(
        views=views,
        combined=combined,
        suggested=present[suggested].astype(np.int64),
        transition=whole,
        noise_ratio=ratio,
        small_classes=tuple(int(present[c]) for c in small),
    )


def _probed(X: torch.Tensor, y: torch.Tensor, given: Int, classes: int, config: Config, report: Reporter) -> Predicted:
    folds = stratified_folds(given, min(config.folds, len(given)), generator(config.seed, "audit", "folds"))
    how = Training()
    with report.progress(how.plan(len(given))[1], "probe") as advance:
        probabilities = out_of_fold_probabilities(
            X,
            y,
            torch.from_numpy(folds).to(X.device),
            classes,
            torch_seed(config.seed, "audit", "probe"),
            how,
            advance,
        )
    found: Predicted = probabilities.cpu().numpy()
    return found


def _mixture(probed: Predicted, given: Int, classes: int, seed: int) -> tuple[View, tuple[int, ...]]:
    start = torch_seed(seed, "audit", "mixture") % 2**32  # what scikit-learn takes
    losses = mislabelled.cross_entropy(probed, given)
    found = clean_posterior_with_notes(losses, given, classes=classes, seed=start)
    wrong = np.clip(1.0 - found.posterior, 0.0, 1.0)
    return View(probability=wrong, flagged=wrong > 0.5), found.fallback_classes


def _together(
    views: dict[str, View], probed: Predicted | None, shares: Predicted | None, given: Int, votes: int
) -> tuple[Float, Int, Float, float]:
    """Combined probability, suggested class, transition matrix and noise ratio, over the classes that are there.

    The mixture takes part where it was asked alone; else it would say again, more coarsely, what the probe's
    probabilities say (its weight in the odds only lowered AUROC).
    """
    near = mislabelled.smoothed(shares, votes) if shares is not None else None
    pooled: Predicted
    if probed is not None and near is not None:
        pooled = mislabelled.pooled(probed, near, NEIGHBOURS_WEIGHT)
    else:
        one = probed if probed is not None else near
        assert one is not None
        pooled = one
    # the pool is blunter than the probe, and would have the matrix too clean
    source = probed if probed is not None else pooled
    T = mislabelled.transition_estimate(source, given)
    seen = len(given) / T.size
    trusted = mislabelled.shrunk(T, seen / (seen + MATRIX_PRIOR))
    ratio = float(mislabelled.wrong_probability(source, given, trusted).mean())
    if set(views) == {"mixture"}:
        combined = views["mixture"].probability
    else:
        combined = mislabelled.wrong_probability(pooled, given, trusted)
    suggested = pooled.argmax(1).astype(np.int64)
    return combined, suggested, T, ratio
