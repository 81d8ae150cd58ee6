"""A labels artifact as text for a terminal: the realised transition matrix and the table of classes."""

from __future__ import annotations

import numpy as np

from nmtool.artifact.open import Artifact
from nmtool.artifact.typed import read_labels
from nmtool.console import escape
from nmtool.numerics.noise import transition_matrix

_SHADES = " ░▒▓█"
_WIDEST = 30


def matrix_text(artifact: Artifact) -> str:
    """P(noisy | clean) in shades, a row a clean class, with each class's share of wrong labels."""
    labels = read_labels(artifact)
    if not labels.classes:
        return ""
    count = len(labels.classes)
    matrix = transition_matrix(labels.clean, labels.noisy, count)
    rows = [
        "  P(noisy | clean): rows clean, columns noisy; "
        + " ".join(f"{s!r}>{p}" for s, p in zip(_SHADES[1:], ("0", ".05", ".2", ".5"), strict=True))
    ]
    width = min(max(len(name) for name in labels.classes), 18)
    for label in range(min(count, _WIDEST)):
        cells = "".join(_shade(p) * 2 for p in matrix[label, :_WIDEST])
        total = int(np.sum(labels.clean == label))
        wrong = int(np.sum((labels.clean == label) & labels.flipped))
        name = escape(labels.classes[label])[:width]
        rows.append(f"  {name:>{width}} |{cells}| {wrong}/{total} wrong")
    if count > _WIDEST:
        rows.append(f"  … {count} classes in all; nmtool report draws the whole matrix")
    return "\n".join(rows)


def _shade(p: float) -> str:
    return _SHADES[0 if p <= 0 else 1 if p <= 0.05 else 2 if p <= 0.2 else 3 if p <= 0.5 else 4]
