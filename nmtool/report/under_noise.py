"""Methods under label noise, as a section: a row a method, a column a kind of noise, best / last (TURN, Table 2).

The long table of results has a line for each method *and* noise; what is compared under noise is read across. It
makes no number of its own: every cell is one line of that table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nmtool.report.results import ID, SHARES, TITLES, Group, Line, order, setting_text, telling
from nmtool.report.section import Section
from nmtool.report.table import NONE, Cell, Column, Table, percent, share, shown, stat_text

_NOISE = ("label_type", "label_noise")


def under_noise(groups: Sequence[Group]) -> Section | None:
    """A table for each training set that was tuned on under two kinds of label noise or more."""
    tables = [table for table in map(_table, groups) if table is not None]
    if not tables:
        return None
    return Section(
        anchor="under-noise",
        title="Methods under label noise",
        intro="Accuracy on the in-domain split in percent, best epoch / last epoch, means over runs that differ in "
        "nothing but their seed, with the last epoch's sample standard deviation. The best epoch is chosen by test "
        "accuracy: an oracle. Bold is the best last epoch of its column.",
        tables=tuple(tables),
    )


def _table(group: Group) -> Table | None:
    kinds = sorted({_kind(line) for line in group.lines}, key=lambda kind: tuple(order(v) for v in kind))
    if len(kinds) < 2:
        return None
    rest = [column for column in group.lines[0].settings if column not in (*_NOISE, "labels")]
    rows: dict[tuple[Any, ...], dict[tuple[Any, ...], Line]] = {}
    for line in group.lines:
        rows.setdefault(tuple(line.settings.get(column) for column in rest), {})[_kind(line)] = line
    asked = sorted(rows, key=lambda values: tuple(order(v) for v in values))
    told = telling(rest, asked)
    columns = [Column(title=TITLES.get(column, column), number=column in SHARES) for column in told]
    columns += [Column(title=_title(kind), number=True) for kind in kinds]
    best = {kind: _best(row[kind] for row in rows.values() if kind in row) for kind in kinds}
    cells = []
    for values in asked:
        settings: Mapping[str, Any] = dict(zip(rest, values, strict=True))
        found = rows[values]
        cells.append(
            tuple(
                [Cell(text=setting_text(column, settings[column])) for column in told]
                + [_cell(found.get(kind), best[kind]) for kind in kinds]
            )
        )
    caption = f"Best / last accuracy (%), trained on {shown(group.name)}, tested on {shown(group.id_name, 40)}"
    return Table(caption=caption, columns=tuple(columns), rows=tuple(cells))


def _kind(line: Line) -> tuple[Any, ...]:
    """What tells one kind of noise from another; labels of an unknown draw are told by their name."""
    kind = tuple(line.settings.get(column) for column in _NOISE)
    return (*kind, None if kind[1] is not None and (kind[0] or not kind[1]) else line.settings.get("labels"))


def _title(kind: tuple[Any, ...]) -> str:
    what, ratio, labels = kind
    if ratio is None:
        return shown(labels or "unknown noise", 40)
    return f"{shown(what or labels or 'unknown noise', 40)} {share(ratio)}" if ratio else "clean labels"


def _last(line: Line) -> float | None:
    stat = line.stats.get(("accuracy", ID))
    return None if stat is None else stat.mean


def _best(lines: Iterable[Line]) -> str:
    """The best last accuracy of a column, as printed."""
    means = [mean for mean in map(_last, lines) if mean is not None]
    return percent(max(means)) if means else NONE


def _cell(line: Line | None, best: str) -> Cell:
    if line is None:
        return Cell(text=NONE)
    last, top = line.stats.get(("accuracy", ID)), line.stats.get(("best_accuracy", ID))
    if last is None:
        return Cell(text=NONE)
    text = f"{NONE if top is None else percent(top.mean)} / {stat_text(last, as_percent=True)}"
    return Cell(text=text, best=percent(last.mean) == best)
