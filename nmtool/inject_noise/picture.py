"""A labels artifact as text for a terminal: where the flips went, the transition matrix, the table of classes.

Few classes are drawn one by one, many in blocks; shades are relative to the strongest cell off the diagonal, so that
noise of any strength shows. Never holds a square of more than 4,000 classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nmtool.artifact.open import Artifact
from nmtool.artifact.typed import read_labels
from nmtool.console import escape
from nmtool.inject_noise.payload import concentration_line
from nmtool.numerics import flips
from nmtool.records import Int, NoisyLabels

_SHADES = "·░▒▓█"
_NUMBERED = 12  # classes whose cells are printed as numbers
_SINGLE = 25  # classes drawn one by one
_BLOCKS = 34  # blocks at most: two characters each, beside a name, fit 80 columns
_LISTED = 10  # classes and pairs listed where there are many
_EXAMPLES = 5


def labels_text(artifact: Artifact) -> str:
    """What a labels artifact did, for ``nmtool show``."""
    labels = read_labels(artifact)
    if not labels.classes:
        return "\n".join(_captions(labels))
    count = len(labels.classes)
    table = flips.by_class(labels.clean, labels.noisy, count)
    lines = _where(labels, artifact.manifest.summary)
    if count <= _NUMBERED:
        return "\n".join(lines + _numbers(labels, table))
    lines += _shaded(labels, table, count if count <= _SINGLE else _blocks_of(count))
    return "\n".join(lines if count <= _SINGLE else lines + _many(labels, table))


def _where(labels: NoisyLabels, summary: Mapping[str, Any]) -> list[str]:
    told = flips.concentration(labels.clean, labels.noisy, len(labels.classes))
    known = summary.get("concentration")
    shares = {
        "top_share": told.top_share,
        "classes_hit": told.classes_hit,
        "biggest_class_share": told.biggest_class_share,
        "perplexity": known.get("perplexity") if isinstance(known, Mapping) else None,
    }
    return ["  " + concentration_line(shares, len(labels.classes))] if told.flips else ["  no label was flipped"]


def _names(classes: tuple[str, ...], widest: int) -> list[str]:
    """Names of one width, cut where they are longer."""
    shown = [_line(name) for name in classes]
    width = min(max(len(name) for name in shown), widest)
    return [(name if len(name) <= width else name[: width - 1] + "…").rjust(width) for name in shown]


def _line(name: str) -> str:
    """A name from the data for a terminal, line breaks and tabs escaped as well."""
    return escape(name).replace("\n", "\\x0a").replace("\t", "\\x09")


def _counts_of(rows: int, wrong: int, received: int) -> str:
    return f"{wrong:>7} of {rows:<7} {100 * wrong / max(rows, 1):5.1f} %  {received:>8}"


_TITLES = f"{'flipped':>7}    {'rows':<7} {'':7}  {'received':>8}"


def _numbers(labels: NoisyLabels, table: flips.ByClass) -> list[str]:
    """The matrix in percent, with each class's counts."""
    names = _names(labels.classes, 14)
    matrix = flips.transition_matrix(labels.clean, labels.noisy, len(names))
    lines = ["  P(noisy | clean) in percent: rows clean, columns noisy, in the same order"]
    lines.append(" " * (len(names[0]) + 5 + 4 * len(names)) + _TITLES)
    for row, name in enumerate(names):
        cells = "".join(_percent(float(p)) for p in matrix[row])
        counts = _counts_of(int(table.rows[row]), int(table.flipped[row]), int(table.received[row]))
        lines.append(f"  {name} |{cells} |{counts}")
    return lines


def _percent(p: float) -> str:
    if p == 0:
        return "   ·"
    return "  <1" if p < 0.005 else f"{100 * p:4.0f}"


def _blocks_of(count: int) -> int:
    """How many blocks of one size: that of a fifth or a multiple of ten classes, where it divides them."""
    least = -(-count // _BLOCKS)
    for size in range(least, 2 * least):
        if count % size == 0:
            return count // size
    return -(-count // least)


def _shaded(labels: NoisyLabels, table: flips.ByClass, blocks: int) -> list[str]:
    """The flips in shades; with counts by class where each class has its row."""
    shares, size = flips.block_shares(labels.clean, labels.noisy, len(labels.classes), blocks)
    strongest = float(shares.max())
    if strongest == 0:
        return []
    limits = [strongest * part for part in (0.0, 0.125, 0.25, 0.5)]
    legend = "  ".join(f"{shade} {100 * low:.2g} %" for shade, low in zip(_SHADES[1:], limits, strict=True))
    what = "class" if size == 1 else f"block of {size} classes"
    lines = [
        f"  flips from a {what} (row) to each (column), as a share of the row's samples; what stayed right is left out",
        f"  · none  more than: {legend}",
    ]
    first = labels.classes[::size]
    names = _names(first, 16)
    if size == 1:
        lines.append(" " * (len(names[0]) + 5 + 2 * len(shares)) + _TITLES)
    for row, name in enumerate(names):
        cells = "".join(_shade(float(share), limits) * 2 for share in shares[row])
        line = f"  {name} |{cells}|"
        if size == 1:
            line += _counts_of(int(table.rows[row]), int(table.flipped[row]), int(table.received[row]))
        lines.append(line)
    return lines


def _shade(share: float, limits: list[float]) -> str:
    return _SHADES[sum(share > low for low in limits)]


def _many(labels: NoisyLabels, table: flips.ByClass) -> list[str]:
    """For many classes: how the ratios are spread, which classes took most, which pairs are commonest."""
    present = table.rows > 0
    rates = table.flipped[present] / table.rows[present]
    spread = ", ".join(f"{100 * q:.4g}" for q in np.quantile(rates, (0.0, 0.25, 0.5, 0.75, 1.0)))
    lines = [f"  flipped by class, in percent: least, quarters and most of {int(present.sum())} classes: {spread}"]
    top = [label for label in np.argsort(-table.received, kind="stable")[:_LISTED] if table.received[label]]
    if top and table.received.min() == table.received.max():
        lines.append(f"  each class received {int(table.received[0])} samples of others")
    elif top:
        lines.append(f"  the {len(top)} classes that received most:")
        names = _names(labels.classes, 24)
        lines.append(" " * (len(names[0]) + 4) + _TITLES)
        lines += [
            f"  {names[k]}  {_counts_of(int(table.rows[k]), int(table.flipped[k]), int(table.received[k]))}"
            for k in top
        ]
    clean, noisy, number = flips.flip_pairs(labels.clean, labels.noisy, len(labels.classes))
    wrong = np.flatnonzero(clean != noisy)
    order = wrong[np.argsort(-number[wrong], kind="stable")[:_LISTED]]
    if order.size:
        lines.append(f"  the commonest of {wrong.size} sorts of flips:")
        lines += [_pair(labels.classes, table.rows, int(clean[k]), int(noisy[k]), int(number[k])) for k in order]
    return lines


def _pair(classes: tuple[str, ...], rows: Int, clean: int, noisy: int, number: int) -> str:
    share = 100 * number / max(int(rows[clean]), 1)
    return f"    {_line(classes[clean])} → {_line(classes[noisy])}: {number} ({share:.3g} % of the class)"


def _captions(labels: NoisyLabels) -> list[str]:
    """How many pairs were torn apart, and the first of them."""
    wrong = np.flatnonzero(labels.flipped)
    n = len(labels.clean)
    lines = [f"  {wrong.size} of {n} pairs ({100 * wrong.size / n:.4g} %) have another pair's caption"]
    back = labels.noisy[labels.noisy[wrong]] == wrong
    if wrong.size:
        lines.append(f"  {int(back.sum())} of them changed with one another; the first:")
    for row in wrong[:_EXAMPLES].tolist():
        given = labels.samples[int(labels.noisy[row])]
        lines.append(f"    {_line(labels.samples[row])} has the caption of {_line(given)}")
    return lines
