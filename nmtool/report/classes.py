"""Scores by class, as a section: which classes a way of working gets, in domain, averaged over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nmtool.report.gather import MATRIX_CLASSES, ByClass, Evidence, Run
from nmtool.report.results import TITLES, order, setting_text, settings_of, telling
from nmtool.report.section import Section
from nmtool.report.statistics import summarise
from nmtool.report.table import NONE, Cell, Column, Table, shown, stat_text

# A table has two columns a line; more are in per_class.parquet.
_LINES = 6
_RATES = ("recall", "precision", "f1")
Asked = tuple[tuple[str, Any], ...]
Scores = Mapping[str, Mapping[str, list[float | None]]]


def by_class(evidence: Evidence) -> Section | None:
    """A table a training set: rows are classes, columns the recall and F1 of each line; None without such scores."""
    sets: dict[tuple[str, str], dict[Asked, dict[str, dict[str, list[float | None]]]]] = {}
    sizes: dict[tuple[str, str], dict[str, int]] = {}
    for found in evidence.by_class:
        runs = {r.line.get("run"): r for r in evidence.runs if r.heads == found.heads and r.line.get("role") == "id"}
        for run, name, n, scores in _rows(found):
            known = runs.get(run)
            if known is None:
                continue
            group = (_name(known), known.train_features)
            line = sets.setdefault(group, {}).setdefault(tuple(settings_of(known).items()), {})
            sizes.setdefault(group, {})[name] = n
            for rate in _RATES:
                line.setdefault(name, {}).setdefault(rate, []).append(scores[rate])
    tables = [_table(group, lines, sizes[group]) for group, lines in sorted(sets.items(), key=lambda item: item[0])]
    if not tables:
        return None
    return Section(
        anchor="classes",
        title="Classes",
        intro="In-domain scores of each class after the last epoch, in percent, mean ± sample standard deviation over "
        "seeds. Recall is the share of the class that is found, precision the share of what is called so that is, F1 "
        "their harmonic mean; – where there is nothing to divide by.",
        tables=tuple(tables),
    )


def _rows(found: ByClass) -> list[tuple[Any, str, int, dict[str, float | None]]]:
    """Run, class, rows and rates of the in-domain lines."""
    columns = found.columns
    keep = [k for k, role in enumerate(columns["role"]) if role == "id"]
    return [
        (
            columns["run"][k],
            str(columns["class"][k]),
            int(columns["n"][k]),
            {rate: _known(columns[rate][k]) for rate in _RATES},
        )
        for k in keep
    ]


def _known(value: Any) -> float | None:
    return None if value is None else float(value)


def _name(run: Run) -> str:
    return (run.train.data_name if run.train is not None else "") or f"features {run.train_features[7:15]}"


def _table(group: tuple[str, str], lines: Mapping[Asked, Scores], sizes: Mapping[str, int]) -> Table:
    names = list(dict.fromkeys(name for asked in lines for name, _ in asked))
    asked = sorted(lines, key=lambda a: tuple(order(dict(a).get(name)) for name in names))
    told = telling(names, [tuple(dict(a).get(name) for name in names) for a in asked])
    chosen, classes = asked[:_LINES], list(sizes)[:MATRIX_CLASSES]
    columns = [Column(title="class"), Column(title="n", number=True)]
    for line in chosen:
        title = _title(told, dict(line))
        columns += [Column(title=f"{title}: {rate}", number=True) for rate in ("recall", "precision", "F1")]
    rows = []
    for name in classes:
        cells = [Cell(text=shown(name, 60)), Cell(text=str(sizes[name]))]
        for line in chosen:
            scores = lines[line].get(name, {})
            cells += [Cell(text=stat_text(summarise(scores.get(rate, [])), as_percent=True)) for rate in _RATES]
        rows.append(tuple(cells))
    more = [f"{len(asked) - _LINES} more lines"] if len(asked) > _LINES else []
    more += [f"{len(sizes) - MATRIX_CLASSES} more classes"] if len(sizes) > MATRIX_CLASSES else []
    return Table(
        caption=f"By class, trained on {shown(group[0])}",
        columns=tuple(columns),
        rows=tuple(rows),
        note=f"{' and '.join(more)} are in per_class.parquet." if more else "",
        folded=True,
    )


def _title(told: Sequence[str], settings: Mapping[str, Any]) -> str:
    parts = []
    for name in told:
        text = setting_text(name, settings.get(name))
        if text != NONE:
            parts.append(text if name in ("method", "loss", "model") else f"{TITLES.get(name, name)} {text}")
    return ", ".join(parts)
