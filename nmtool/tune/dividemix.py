"""DivideMix on frozen features: each of two heads is trained on what the other one's losses call clean.

A mixture on all rows' losses, scaled to [0, 1], divides them (two components, 10 iterations, tolerance 1e-2, variance
floor 5e-4: the released code); its posterior is the weight of a label. The loop is ``semi``'s.
"""

from __future__ import annotations

from nmtool.numerics import semi as formulas
from nmtool.numerics.seeds import torch_seed
from nmtool.numerics.selection import clean_posterior
from nmtool.records import Int
from nmtool.tune import semi
from nmtool.tune.fit import Trained
from nmtool.tune.material import Bench, Material
from nmtool.tune.outcome import Outcome
from nmtool.tune.plan import Run
from nmtool.tune.semi import Division, Look

_ITERATIONS = 10  # released code, Train_cifar.py


def divide(run: Run, look: Look, labels: Int, net: int, epoch: int) -> Division:
    """The labelled rows of one head, by the losses of the other."""
    assert run.semi is not None
    assert run.semi.p_threshold is not None
    seed = torch_seed(run.seed, "tune", "dividemix", net, epoch) % 2**32  # what scikit-learn takes
    posterior = clean_posterior(look.losses[1 - net], labels, per_class=False, max_iter=_ITERATIONS, seed=seed)
    return Division(labelled=formulas.divide(posterior, run.semi.p_threshold), weight=posterior)


_RULES = semi.Rules(name="dividemix", divide=divide, fresh_look=False, unlabelled_by_share=False)


def fit(runs: tuple[Run, ...], material: Material, bench: Bench) -> Trained:
    """Train pairs of heads as one stack; what is left of a pair is the mean of its logits."""
    return semi.fit(runs, material, bench, _RULES)


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Train pairs of heads, and judge them on every split."""
    return semi.tune(runs, material, bench, _RULES)
