"""TURN's mixtures, one a class, beside a plain loop over scikit-learn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nmtool.numerics.selection import clean_posterior
from tests.bench import plain
from tests.bench.measure import Found, Line, in_turns, timed
from tests.bench.sizes import Sizes


def bench(sizes: Sizes, work: Path) -> Found:
    """Classes a second; each round takes its own part of the classes, so that all rounds together are one cleansing."""
    del work
    classes, rows = sizes.mixture_classes // sizes.rounds, sizes.mixture_rows
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(sizes.rounds):
        labels = rng.permutation(np.repeat(np.arange(classes), rows))
        wrong = rng.random(len(labels)) < 0.4
        # Cross-entropies of a fair probe: low and skewed where the label is right, high and wide where it is wrong.
        parts.append(
            (np.where(wrong, rng.normal(4, 1.2, len(labels)), rng.gamma(1.5, 0.5, len(labels))).clip(0), labels)
        )
    ours, theirs = [], []
    left = {"nmtool": iter(parts), "plain": iter(parts)}

    def clean() -> None:
        losses, labels = next(left["nmtool"])
        ours.append(clean_posterior(losses, labels, classes=classes))

    def plainly() -> None:
        losses, labels = next(left["plain"])
        theirs.append(plain.clean_posterior(losses, labels, classes))

    warm = parts[0][1] < 2
    for function in (clean_posterior, plain.clean_posterior):
        function(parts[0][0][warm], parts[0][1][warm], classes=2)
    times = in_turns(sizes.rounds, {"nmtool": timed(clean), "plain": timed(plainly)})
    line = Line(
        what=f"mixtures of {sizes.rounds} x {classes} classes of {rows} losses, beside scikit-learn's in a loop",
        unit="classes/s",
        plain=times.rate("plain", classes),
        ours=times.rate("nmtool", classes),
        noise=times.noise("plain", "nmtool"),
    )
    apart = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    whole = 1000 / times.rate("nmtool", classes)
    return Found(lines=[line], notes=[f"posteriors differ by {apart:.1e} at most; 1,000 classes take {whole:.1f} s"])
