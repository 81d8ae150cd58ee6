"""Label noise as a section: what was asked, what was drawn, and where the wrong labels went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nmtool.numerics import flips
from nmtool.report.figures import Figure, Panel, heatmap
from nmtool.report.gather import MATRIX_CLASSES, Draw
from nmtool.report.section import Section
from nmtool.report.table import NONE, Cell, Column, Table, decimal, number, percent, share, shown

_MATRICES = 12  # drawn, at most
_BLOCKS = 50  # of classes, where they are too many to be drawn one by one
_LISTED = 50  # classes in a table, where there are more than MATRIX_CLASSES


def label_noise(draws: Sequence[Draw]) -> Section | None:
    """Asked for and realised, where the flips went, the realised matrices and counts by class of the first draws."""
    if not draws:
        return None
    ordered = sorted(
        draws,
        key=lambda d: (d.data_name, str(d.summary.get("type")), _how(d), _asked_for(d), _seed(d), d.content),
    )
    tables = [_asked(ordered)]
    flipped = [d for d in ordered if d.classes and d.summary.get("flipped")]
    if flipped:
        tables.append(_concentrations(flipped))
    captions = [d for d in ordered if not d.classes and d.summary.get("type") == "captions"]
    if captions:
        tables.append(_captions(captions))
    panels = []
    for position, draw in enumerate(flipped[:_MATRICES]):
        name = f"{_title(draw)} on {shown(draw.data_name)}, seed {_seed(draw)}"
        panels.append(_panel(draw, salt=f"matrix{position}"))
        tables += [_per_class(draw, name), *([_matrix(draw, name)] if len(draw.classes) <= 20 else [])]
    caption = (
        "Realised transition matrices, the colours up to the largest cell off the diagonal, what stayed right in grey; "
        f"in cells: percent of the clean class. Over {MATRIX_CLASSES} classes: flips between blocks of classes."
    )
    return Section(
        anchor="label-noise",
        title="Label noise",
        intro="What the draw really did. A row of a matrix is a clean class, a column the label it got; the diagonal "
        f"is what stayed right. Drawn are the first {_MATRICES} draws.",
        figures=(Figure(caption=caption, panels=tuple(panels), wide=True),) if panels else (),
        tables=tuple(tables),
    )


def _how(draw: Draw) -> str:
    return shown(draw.summary.get("how") or NONE)


def _asked_for(draw: Draw) -> float:
    return number(draw.summary.get("ratio_requested")) or number(draw.summary.get("ratio")) or 0.0


def _kind(draw: Draw) -> str:
    return f"{shown(draw.summary.get('type', 'noise'))} {share(draw.summary.get('ratio'))}"


def _title(draw: Draw) -> str:
    return _kind(draw) + (f", {_how(draw)}" if _how(draw) != NONE else "")


def _seed(draw: Draw) -> str:
    seed = draw.summary.get("seed")
    return NONE if seed is None else shown(seed)


def _panel(draw: Draw, *, salt: str) -> Panel:
    if draw.transition is not None:
        return heatmap(draw.transition, draw.classes, _title(draw), salt=salt)
    blocks, size = flips.block_shares(draw.clean, draw.noisy, len(draw.classes), _BLOCKS)
    title = f"{_title(draw)}, blocks of {size}"
    return heatmap(blocks, draw.classes[::size], title, salt=salt, diagonal=True)


def _asked(draws: Sequence[Draw]) -> Table:
    titles = ("type", "how", "data", "split", "samples", "classes", "asked (%)", "wrong (%)", "flipped", "seed")
    columns = tuple(Column(title=t, number=n > 3) for n, t in enumerate(titles))
    rows = tuple(_draw_row(draw) for draw in draws)
    return Table(caption="Label noise, asked for and realised", columns=columns, rows=rows)


def _concentrations(draws: Sequence[Draw]) -> Table:
    """Where the flips went: the same for all types, so that they compare."""
    titles = ("type", "how", "data", "seed", "top class (% of flips)", "classes hit", "biggest class (%)", "perplexity")
    rows = []
    for draw in draws:
        told = flips.concentration(draw.clean, draw.noisy, len(draw.classes))
        known = draw.summary.get("concentration")
        perplexity = number(known.get("perplexity")) if isinstance(known, Mapping) else None
        words = [_kind(draw), _how(draw), shown(draw.data_name or NONE), _seed(draw), percent(told.top_share)]
        words += [f"{told.classes_hit} of {len(draw.classes)}", percent(told.biggest_class_share)]
        rows.append(tuple(Cell(text=word) for word in (*words, decimal(perplexity, 2))))
    return Table(
        caption="Where the flips went",
        columns=tuple(Column(title=t, number=n > 2) for n, t in enumerate(titles)),
        rows=tuple(rows),
        note="Share of the flips that the most hit class took; classes that took any; share of all labels that the "
        "commonest noisy label has; for instance noise the perplexity of the other classes (1: no choice left).",
    )


def _captions(draws: Sequence[Draw]) -> Table:
    titles = ("how", "data", "seed", "pairs", "mismatched pairs", "mismatched texts")
    rows = []
    for draw in draws:
        s = draw.summary
        words = [_how(draw), shown(draw.data_name or NONE), _seed(draw)]
        words += [str(s.get(name, NONE)) for name in ("n", "flipped", "text_mismatches")]
        rows.append(tuple(Cell(text=shown(word)) for word in words))
    columns = tuple(Column(title=t, number=n > 2) for n, t in enumerate(titles))
    return Table(caption="Captions of other pairs", columns=columns, rows=tuple(rows))


def _draw_row(draw: Draw) -> tuple[Cell, ...]:
    s = draw.summary
    asked, real = number(s.get("ratio_requested")), number(s.get("ratio"))
    words = [shown(s.get("type", NONE)), _how(draw), shown(draw.data_name or NONE), shown(s.get("split", NONE))]
    words += [str(s.get("n", NONE)), str(s.get("classes", NONE)), percent(asked), percent(real)]
    words += [str(s.get("flipped", NONE)), _seed(draw)]
    return tuple(Cell(text=shown(word)) for word in words)


def _per_class(draw: Draw, name: str) -> Table:
    """Counts of each class; of many classes those that received most."""
    count = len(draw.classes)
    table = flips.by_class(draw.clean, draw.noisy, count)
    clean, noisy, pairs = flips.flip_pairs(draw.clean, draw.noisy, count)
    wrong = np.flatnonzero(clean != noisy)
    best = wrong[np.lexsort((noisy[wrong], -pairs[wrong], clean[wrong]))]
    first = best[np.unique(clean[best], return_index=True)[1]]
    taken = {int(clean[k]): f"{shown(draw.classes[int(noisy[k])], 40)} ({int(pairs[k])})" for k in first}
    rows = []
    many = count > MATRIX_CLASSES
    for label in np.argsort(-table.received, kind="stable")[:_LISTED].tolist() if many else range(count):
        n, lost = int(table.rows[label]), int(table.flipped[label])
        words = [shown(draw.classes[label], 60), str(n), str(lost), percent(lost / n) if n else NONE]
        words += [str(int(table.received[label])), taken.get(label, NONE)]
        rows.append(tuple(Cell(text=word) for word in words))
    titles = ("class", "samples", "flipped", "wrong (%)", "received", "most often taken for")
    columns = tuple(Column(title=t, number=n in (1, 2, 3, 4)) for n, t in enumerate(titles))
    caption = f"The {_LISTED} classes that received most: {name}" if many else f"By class: {name}"
    return Table(caption=caption, columns=columns, rows=tuple(rows), folded=True)


def _matrix(draw: Draw, name: str) -> Table:
    assert draw.transition is not None
    columns = [Column(title="clean \\ noisy")] + [Column(title=shown(c, 40), number=True) for c in draw.classes]
    rows = [
        (Cell(text=shown(title, 40)), *(Cell(text=percent(float(v))) for v in draw.transition[clean]))
        for clean, title in enumerate(draw.classes)
    ]
    return Table(caption=f"Transition matrix (%): {name}", columns=tuple(columns), rows=tuple(rows), folded=True)
