"""What came out of tuning, as sections: results, the motivating figure, fractions, TURN's cleansing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nmtool.report.classes import by_class
from nmtool.report.cleansing import cleansing
from nmtool.report.figures import LINES, Plot, Point, Series, figure
from nmtool.report.gather import Evidence
from nmtool.report.results import ID, MEAN, SHARES, TITLES, Group, Line, group_results, ood, setting_text
from nmtool.report.section import Section
from nmtool.report.table import NONE, Cell, Column, Table, share, shown, stat_cells
from nmtool.report.under_noise import under_noise

_HEADINGS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "mean_per_class": "mean per class",
    "matthews": "Matthews",
    "calibration_error": "calibration error",
    "best_accuracy": "best epoch (oracle)",
    "sve": "SVE",
    "lsvr": "LSVR",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
# Correlations and nats are told as they are, all else in percent.
_PLAIN = ("sve", "lsvr", "matthews", "pearson", "spearman")


def outcome(evidence: Evidence) -> list[Section]:
    """All sections about results."""
    groups = group_results(evidence.runs)
    sections = [_results(groups), under_noise(groups), _motivation(groups), _fractions(groups)]
    sections += [by_class(evidence), cleansing(evidence)]
    return [section for section in sections if section is not None]


def _line_name(line: Line, columns: Iterable[str]) -> str:
    parts = []
    for column in columns:
        text = setting_text(column, line.settings.get(column))
        if text != NONE:
            title = TITLES.get(column, column)
            parts.append(text if column in ("method", "loss", "model") else f"{title} {text}")
    return ", ".join(parts)


def _results(groups: Sequence[Group]) -> Section | None:
    if not groups:
        return None
    tables = [table for group in groups for table in (_accuracy(group), _measures(group))]
    return Section(
        anchor="results",
        title="Results",
        intro="After the last epoch, in percent but for correlations: mean ± sample standard deviation over runs that "
        "differ in nothing but their seed; one run has no ±. Bold is the best mean of its column.",
        tables=tuple(tables),
    )


def _settings_cells(group: Group, line: Line) -> list[Cell]:
    return [Cell(text=setting_text(column, line.settings.get(column))) for column in group.columns] + [
        Cell(text=str(line.n))
    ]


def _settings_columns(group: Group) -> list[Column]:
    titles = [Column(title=TITLES.get(column, column), number=column in SHARES) for column in group.columns]
    return [*titles, Column(title="runs", number=True)]


def _table(group: Group, caption: str, wanted: Sequence[tuple[str, str, str]], note: str) -> Table:
    """A table of (title, measure, target) columns; those without any value are left out."""
    columns, cells = _settings_columns(group), [_settings_cells(group, line) for line in group.lines]
    for title, measure, target in wanted:
        stats = [line.stats.get((measure, target)) for line in group.lines]
        if all(stat is None for stat in stats):
            continue
        columns.append(Column(title=title, number=True))
        percent = measure not in _PLAIN
        mark = measure not in ("sve", "lsvr", "calibration_error")  # the largest is the best
        for row, cell in zip(cells, stat_cells(stats, as_percent=percent, mark=mark), strict=True):
            row.append(cell)
    return Table(caption=caption, columns=tuple(columns), rows=tuple(tuple(row) for row in cells), note=note)


def _measured(group: Group) -> tuple[str, str]:
    """What the measure that counts is called, and its unit."""
    return _HEADINGS[group.metric], "" if group.metric in _PLAIN else " (%)"


def _accuracy(group: Group) -> Table:
    wanted = [(f"ID: {shown(group.id_name, 40)}", group.metric, ID)]
    wanted += [(f"OOD: {shown(target, 60)}", group.metric, ood(target)) for target in group.targets]
    if len(group.targets) > 1:
        wanted.append(("OOD mean", group.metric, MEAN))
    name, unit = _measured(group)
    return _table(group, f"{name[0].upper()}{name[1:]}{unit}, trained on {shown(group.name)}", wanted, "")


def _measures(group: Group) -> Table:
    sides = [("ID", ID)] + ([("OOD", MEAN)] if group.targets else [])
    told = [(measure, title) for measure, title in _HEADINGS.items() if measure != group.metric]
    wanted = [(f"{side} {title}", measure, target) for measure, title in told for side, target in sides]
    return _table(
        group,
        f"Other measures, trained on {shown(group.name)}",
        wanted,
        "F1, mean per class, calibration error (expected, 15 bins) and best epoch in percent. The best epoch is chosen "
        "by test accuracy: an oracle, not a result one could have had. SVE and LSVR in nats, of the space that the "
        "head's last layer sees; OOD is the mean over the targets.",
    )


def _curves(group: Group, along: str, measure: str, target: str) -> dict[str, list[Point]]:
    """Points of every line of the table along one setting: percent for accuracies."""
    rest = [column for column in group.columns if column != along]
    if along == "pretrain_noise":
        # each ratio has its own backbone: neither its set-up nor the type of its noise makes another curve of it
        rest = [column for column in rest if column not in ("setup", "pretrain_type")]
    out: dict[str, list[Point]] = {}
    for line in group.lines:
        x, stat = line.settings.get(along), line.stats.get((measure, target))
        points = out.setdefault(_line_name(line, rest), [])
        if isinstance(x, (int, float)) and stat is not None:
            factor = 1.0 if measure in _PLAIN else 100.0
            spread = None if stat.std is None else factor * stat.std
            points.append(Point(x=100.0 * x, y=factor * stat.mean, spread=spread))
    return {name: sorted(points, key=lambda p: p.x) for name, points in out.items()}


def _series(curves: Mapping[str, Sequence[Point]]) -> tuple[Series, ...]:
    """Styles by position, the same in every panel; lines beyond the palette stay in the tables."""
    return tuple(
        Series(label=name, style=style, points=tuple(points))
        for style, (name, points) in enumerate(list(curves.items())[:LINES])
        if points
    )


def _omitted(curves: Mapping[str, object]) -> str:
    more = len(curves) - LINES
    return f" The first {LINES} lines; {more} more are in the table." if more > 0 else ""


def _levels(group: Group, column: str) -> int:
    return len({v for v in (line.settings.get(column) for line in group.lines) if isinstance(v, (int, float))})


def _ticks(group: Group, column: str) -> tuple[float, ...]:
    values = {v for v in (line.settings.get(column) for line in group.lines) if isinstance(v, (int, float))}
    return tuple(100.0 * v for v in sorted(values))


def _motivation(groups: Sequence[Group]) -> Section | None:
    figures = []
    for number, group in enumerate(groups):
        if _levels(group, "pretrain_noise") < 2:
            continue
        x = "pre-training noise (%)"
        name, unit = _measured(group)
        panels = [(f"ID {name}", f"{name}{unit}", group.metric, ID)]
        if group.targets:
            panels.append((f"OOD {name}", f"mean {name}{unit}", group.metric, MEAN))
        panels.append(("SVE, in-domain", "SVE (nats)", "sve", ID))
        panels.append(
            ("LSVR, out of domain", "mean LSVR (nats)", "lsvr", MEAN)
            if group.targets
            else ("LSVR", "LSVR (nats)", "lsvr", ID)
        )
        plots, omitted = [], ""
        for title, y, measure, target in panels:
            curves = _curves(group, "pretrain_noise", measure, target)
            omitted = _omitted(curves)
            if series := _series(curves):
                plots.append(Plot(title=title, x=x, y=y, series=series, x_ticks=_ticks(group, "pretrain_noise")))
        scatter = _scatter(group)
        caption = f"Against the noise ratio of pre-training, tuned on {shown(group.name)}.{omitted}"
        if plots:
            figures.append(figure(caption, plots, salt=f"noise{number}"))
        if scatter:
            caption = (
                f"Spectrum against accuracy, tuned on {shown(group.name)}; beside each point its pre-training noise."
            )
            figures.append(figure(caption, scatter, salt=f"scatter{number}"))
    if not figures:
        return None
    return Section(
        anchor="noise-in-pretraining",
        title="Noise in pre-training",
        intro="The first paper's question: slight pre-training noise may help in domain and still hurt out of domain. "
        "Read SVE (how evenly the features use their space) with in-domain accuracy, LSVR (how small the share of the "
        "largest singular value is) with out-of-domain accuracy. Bars are ± one standard deviation; the numbers stand "
        "in the tables above.",
        figures=tuple(figures),
    )


def _scatter(group: Group) -> list[Plot]:
    rest = [c for c in group.columns if c not in ("pretrain_noise", "setup", "pretrain_type")]
    out_of_domain = MEAN if group.targets else ID
    name, unit = _measured(group)
    factor = 1.0 if group.metric in _PLAIN else 100.0
    wanted = [(f"SVE and ID {name}", "SVE (nats)", "sve", ID, f"ID {name}{unit}")]
    place = "OOD" if group.targets else "ID"
    wanted.append((f"LSVR and {place} {name}", "LSVR (nats)", "lsvr", out_of_domain, f"{place} {name}{unit}"))
    plots = []
    for title, x, measure, target, y in wanted:
        clouds: dict[str, list[Point]] = {}
        for line in group.lines:
            points = clouds.setdefault(_line_name(line, rest), [])
            left, right = line.stats.get((measure, target)), line.stats.get((group.metric, target))
            if left is not None and right is not None:
                text = share(line.settings.get("pretrain_noise"))
                points.append(Point(x=left.mean, y=factor * right.mean, text="" if text == NONE else text))
        if series := _series(clouds):
            plots.append(Plot(title=title, x=x, y=y, series=series, joined=False))
    return plots


def _fractions(groups: Sequence[Group]) -> Section | None:
    figures = []
    for number, group in enumerate(groups):
        if _levels(group, "fraction") < 2:
            continue
        plots, omitted = [], ""
        name, unit = _measured(group)
        for title, target in [(f"ID {name}", ID)] + ([(f"OOD {name}, mean", MEAN)] if group.targets else []):
            curves = _curves(group, "fraction", group.metric, target)
            omitted = _omitted(curves)
            if series := _series(curves):
                x, y = "training samples (%)", f"{name}{unit}"
                ticks = _ticks(group, "fraction")
                plots.append(Plot(title=title, x=x, y=y, series=series, log_x=True, x_ticks=ticks))
        if plots:
            caption = (
                f"{name[0].upper()}{name[1:]} against the share of training samples of {shown(group.name)}.{omitted}"
            )
            figures.append(figure(caption, plots, salt=f"fraction{number}"))
    if not figures:
        return None
    return Section(
        anchor="fractions",
        title="Less training data",
        intro="How much of the training set each method needs; bars are ± one standard deviation over seeds.",
        figures=tuple(figures),
    )
