"""Label noise as a section: what was asked, what was drawn, and where the wrong labels went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nmtool.report.figures import Figure, heatmap
from nmtool.report.gather import MATRIX_CLASSES, Draw
from nmtool.report.section import Section
from nmtool.report.table import NONE, Cell, Column, Table, number, percent, share, shown

_MATRICES = 12  # drawn, at most


def label_noise(draws: Sequence[Draw]) -> Section | None:
    """Asked for and realised, with the realised matrices of small draws."""
    if not draws:
        return None
    titles = ("type", "data", "split", "samples", "classes", "asked (%)", "wrong (%)", "flipped", "seed")
    ordered = sorted(
        draws,
        key=lambda d: (d.data_name, str(d.summary.get("type")), number(d.summary.get("ratio")) or 0.0, d.content),
    )
    rows = tuple(_draw_row(draw) for draw in ordered)
    columns = tuple(Column(title=t, number=n > 2) for n, t in enumerate(titles))
    tables = [Table(caption="Label noise, asked for and realised", columns=columns, rows=rows)]
    figures = []
    drawn = [d for d in ordered if d.transition is not None and d.summary.get("flipped")][:_MATRICES]
    panels = []
    for position, draw in enumerate(drawn):
        assert draw.transition is not None
        kind = f"{shown(draw.summary.get('type', 'noise'))} {share(draw.summary.get('ratio'))}"
        panels.append(heatmap(draw.transition, draw.classes, kind, salt=f"matrix{position}"))
        name = f"{kind} on {shown(draw.data_name)}, seed {shown(draw.summary.get('seed', NONE))}"
        tables += [_per_class(draw, name), *([_matrix(draw, name)] if len(draw.classes) <= 20 else [])]
    if panels:
        caption = "Realised transition matrices; in cells: percent of the clean class."
        figures.append(Figure(caption=caption, panels=tuple(panels), wide=True))
    return Section(
        anchor="label-noise",
        title="Label noise",
        intro="What the draw really did. A row of a matrix is a clean class, a column the label it got; the diagonal "
        f"is what stayed right. Drawn are the first {_MATRICES} draws with at most {MATRIX_CLASSES} classes.",
        figures=tuple(figures),
        tables=tuple(tables),
    )


def _draw_row(draw: Draw) -> tuple[Cell, ...]:
    s = draw.summary
    asked, real = number(s.get("ratio_requested")), number(s.get("ratio"))
    words = [shown(s.get("type", NONE)), shown(draw.data_name or NONE), shown(s.get("split", NONE))]
    words += [str(s.get("n", NONE)), str(s.get("classes", NONE)), percent(asked), percent(real)]
    words += [str(s.get("flipped", NONE)), str(s.get("seed", NONE))]
    return tuple(Cell(text=shown(word)) for word in words)


def _per_class(draw: Draw, name: str) -> Table:
    rows = []
    for clean, title in enumerate(draw.classes):
        noisy = draw.noisy[draw.clean == clean]
        wrong = noisy[noisy != clean]
        wrong = wrong[wrong >= 0]
        worst = NONE
        if len(wrong):
            counts = np.bincount(wrong, minlength=len(draw.classes))
            worst = f"{shown(draw.classes[int(counts.argmax())], 40)} ({int(counts.max())})"
        rate = percent(len(wrong) / len(noisy)) if len(noisy) else NONE
        words = (shown(title, 60), str(len(noisy)), str(len(wrong)), rate, worst)
        rows.append(tuple(Cell(text=word) for word in words))
    titles = ("class", "samples", "flipped", "wrong (%)", "most often taken for")
    columns = tuple(Column(title=t, number=n in (1, 2, 3)) for n, t in enumerate(titles))
    return Table(caption=f"By class: {name}", columns=columns, rows=tuple(rows), folded=True)


def _matrix(draw: Draw, name: str) -> Table:
    assert draw.transition is not None
    columns = [Column(title="clean \\ noisy")] + [Column(title=shown(c, 40), number=True) for c in draw.classes]
    rows = [
        (Cell(text=shown(title, 40)), *(Cell(text=percent(float(v))) for v in draw.transition[clean]))
        for clean, title in enumerate(draw.classes)
    ]
    return Table(caption=f"Transition matrix (%): {name}", columns=tuple(columns), rows=tuple(rows), folded=True)
