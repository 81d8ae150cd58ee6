"""UNICON on frozen features: DivideMix's loop, with equally many rows of each class, by Jensen-Shannon divergence.

Its contrastive loss trains a projection beside the classifier, and reaches it through the backbone alone: with that
frozen it can't change a prediction, and is left out. The divergence is taken in nats, which the weight of a label (1 -
divergence, from 0.5 on) depends on; the selection does not.
"""

from __future__ import annotations

from nmtool.numerics import semi as formulas
from nmtool.records import Int
from nmtool.tune import semi
from nmtool.tune.fit import Trained
from nmtool.tune.material import Bench, Material
from nmtool.tune.outcome import Outcome
from nmtool.tune.plan import Run
from nmtool.tune.semi import Division, Look


def divide(run: Run, look: Look, labels: Int, net: int, epoch: int) -> Division:
    """The labelled rows of both heads, by the mean of their predictions."""
    del run, net, epoch
    labelled = formulas.uniform_selection(look.divergence, labels)
    return Division(labelled=labelled, weight=formulas.label_confidence(look.divergence))


_RULES = semi.Rules(name="unicon", divide=divide, fresh_look=True, unlabelled_by_share=True)


def fit(runs: tuple[Run, ...], material: Material, bench: Bench) -> Trained:
    """Train pairs of heads as one stack; what is left of a pair is the mean of its logits."""
    return semi.fit(runs, material, bench, _RULES)


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Train pairs of heads, and judge them on every split."""
    return semi.tune(runs, material, bench, _RULES)
