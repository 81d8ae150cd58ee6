"""TURN's cleansing: a mixture on each class's losses, and a balanced draw from what it calls clean (TURN 4.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nmtool.numerics.seeds import generator, torch_seed
from nmtool.numerics.selection import balanced_sample, clean_posterior_with_notes, purity_and_recall
from nmtool.records import Bool, Float, Int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One cleansing.

    Attributes:
        number: counted from 1: the epoch of fine-tuning that it serves.
        rows: int64 [n] training rows that were looked at.
        losses: float64 [n] their cross-entropy.
        posterior: float64 [n] of the component with the lower mean.
        selected: bool [n] posterior above the threshold.
        drawn: bool [n] in the class-balanced draw to train on.
        per_class: size of that draw for each class.
        small_classes: classes without a mixture (too small, or constant loss): all of them count as clean.
        empty_classes: classes of which nothing was selected; each gave its sample of lowest loss.
    """

    number: int
    rows: Int
    losses: Float
    posterior: Float
    selected: Bool
    drawn: Bool
    per_class: int
    small_classes: tuple[int, ...]
    empty_classes: tuple[int, ...]

    @property
    def chosen(self) -> Int:
        """Training rows to train on."""
        return self.rows[self.drawn]

    def quality(self, clean: Int, noisy: Int) -> dict[str, float]:
        """Purity and recall of the selected set, and purity of the draw; clean and noisy are [N] over all rows."""
        purity, recall = purity_and_recall(self.selected, clean[self.rows], noisy[self.rows])
        drawn, _ = purity_and_recall(self.drawn, clean[self.rows], noisy[self.rows])
        found = {"purity": purity, "recall": recall, "drawn_purity": drawn}
        return {name: value for name, value in found.items() if np.isfinite(value)}


def cleanse(losses: Float, rows: Int, noisy: Int, *, classes: int, tau: float, seed: int, number: int) -> Round:
    """One round.

    Args:
        losses: float64 [n] cross-entropy of each row in use, from the model as it is now, in evaluation mode.
        rows: int64 [n] those rows.
        noisy: int64 [N] training labels.
        classes: number of classes.
        tau: posterior above which a sample counts as clean.
        seed: of the run.
        number: of the round, from 1.
    """
    labels = noisy[rows]
    start = torch_seed(seed, "tune", "cleanse", number) % 2**32  # what scikit-learn takes
    mixture = clean_posterior_with_notes(losses, labels, classes=classes, seed=start)
    selected = mixture.posterior > tau
    rng = generator(seed, "tune", "balance", number)
    balanced = balanced_sample(selected, labels, losses=losses, classes=classes, rng=rng)
    drawn = np.zeros(len(rows), dtype=np.bool_)
    drawn[balanced.rows] = True
    return Round(
        number=number,
        rows=rows,
        losses=losses,
        posterior=mixture.posterior,
        selected=selected,
        drawn=drawn,
        per_class=balanced.per_class,
        small_classes=mixture.fallback_classes,
        empty_classes=balanced.empty_classes,
    )
