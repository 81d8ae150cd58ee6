"""Figures as inline SVG: drawn by matplotlib without a display, the same bytes for the same numbers.

Text stays text (selectable, readable by a screen reader, in the page's font) and takes the page's colours; no
mathematics is parsed in labels, which are data. What leaves this file is plain SVG (see ``svg``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nmtool.records import Float
from nmtool.report.svg import GRID, INK, svg_of
from nmtool.report.table import shown

# Okabe and Ito's palette without its yellow: colour-blind readers tell them apart; shape and dash do so in print.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#b35a9b", "#b87f00", "#3a9bdc", "#7a7a7a", "#8c564b")
# The same shapes for the legend, about 8 units wide, centred on the origin.
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.7 -3.7h7.4v7.4h-7.4z",
    "M0 -4.5L4.3 3.6H-4.3z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 4.5L4.3 -3.6H-4.3z",
    "M-1.6 -4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",
    "M-4.5 -2.3L-2.3 -4.5L0 -2.2L2.3 -4.5L4.5 -2.3L2.2 0L4.5 2.3L2.3 4.5L0 2.2L-2.3 4.5L-4.5 2.3L-2.2 0z",
    "M0 -4.7L4.5 -1.4L2.8 3.8H-2.8L-4.5 -1.4z",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("", "5 2", "2 2", "7 2 2 2", "5 2", "2 2", "7 2 2 2", "5 2")
LINES = len(PALETTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point with its spread (None: one run) and, for scatter plots, what is written beside it."""

    x: float
    y: float
    spread: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line, or a cloud of points; ``style`` numbers its colour, marker and dash."""

    label: str
    style: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One set of axes; ``x_ticks`` where the values asked for are few and known."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False
    joined: bool = True
    marked: bool = True
    x_ticks: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An entry of a figure's legend."""

    label: str
    colour: str
    dash: str
    marker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A drawn set of axes: SVG, and what a reader who can't see it is told."""

    svg: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Panels that share a legend and a caption; ``wide``: at most two in a row."""

    caption: str
    panels: tuple[Panel, ...]
    keys: tuple[Key, ...] = ()
    wide: bool = False


def figure(caption: str, plots: Sequence[Plot], *, salt: str) -> Figure:
    """Draw plots that share their series' styles. ``salt`` must differ from figure to figure of a page."""
    panels = tuple(
        Panel(svg=_draw(plot, f"{salt}-{number}"), label=f"{plot.title}: {plot.y} against {plot.x}")
        for number, plot in enumerate(plots)
    )
    labels = {s.style: s.label for plot in plots for s in plot.series}
    joined, marked = any(plot.joined for plot in plots), any(plot.marked for plot in plots)
    keys = tuple(
        Key(
            label=shown(label),
            colour=PALETTE[style % LINES],
            dash=DASHES[style % LINES] if joined else "0 99",
            marker=SHAPES[style % LINES] if marked else "",
        )
        for style, label in sorted(labels.items())
    )
    return Figure(caption=caption, panels=panels, keys=keys if len(keys) > 1 or (keys and keys[0].label) else ())


def _rc(salt: str) -> Any:  # matplotlib types the names of all its settings
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": ["sans-serif"],
        "font.size": 11.5,
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "text.parse_math": False,
        "text.usetex": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.formatter.use_mathtext": False,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "path.simplify": False,
    }


def _draw(plot: Plot, salt: str) -> str:
    """The plot's SVG."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_rc(salt)):
        canvas = Canvas(figsize=(4.5, 3.3), layout="constrained")
        axes = canvas.add_subplot()
        axes.set_title(shown(plot.title, 60), loc="left")
        axes.set_xlabel(shown(plot.x, 60))
        axes.set_ylabel(shown(plot.y, 60))
        axes.grid(visible=True, zorder=0)
        for series in plot.series:
            _series(axes, plot, series)
        _texts(axes, plot)
        _scales(axes, plot)
        return svg_of(canvas, salt)


def _series(axes: Any, plot: Plot, series: Series) -> None:
    style = series.style % LINES
    xs, ys = [p.x for p in series.points], [p.y for p in series.points]
    look: dict[str, Any] = {"color": PALETTE[style], "zorder": 3}
    if plot.marked:
        look |= {"marker": MARKERS[style], "markersize": 6}
    if plot.joined:
        dash = [float(n) for n in DASHES[style].split()]
        look |= {"linewidth": 1.8, "linestyle": (0, tuple(dash)) if dash else "-"}
    else:
        look |= {"linestyle": "none"}
    axes.plot(xs, ys, **look)
    known = [p for p in series.points if p.spread is not None]
    if known:
        axes.errorbar(
            [p.x for p in known],
            [p.y for p in known],
            yerr=[p.spread for p in known],
            fmt="none",
            ecolor=PALETTE[style],
            elinewidth=1.2,
            capsize=3,
            zorder=2,
        )


def _texts(axes: Any, plot: Plot) -> None:
    """What stands beside points, from the top down; left out where it would cover one that is there already."""
    everything = [p for s in plot.series for p in s.points]
    width = max(p.x for p in everything) - min(p.x for p in everything) or 1.0
    height = max(p.y for p in everything) - min(p.y for p in everything) or 1.0
    placed: list[Point] = []
    for p in sorted((p for p in everything if p.text), key=lambda p: (-p.y, p.x)):
        if all(abs(p.x - q.x) > 0.17 * width or abs(p.y - q.y) > 0.09 * height for q in placed):
            axes.annotate(shown(p.text, 24), (p.x, p.y), xytext=(6, 4), textcoords="offset points", fontsize=10)
            placed.append(p)


def _scales(axes: Any, plot: Plot) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

    for log, axis, name in ((plot.log_x, axes.xaxis, "x"), (plot.log_y, axes.yaxis, "y")):
        if not log:
            plain = ScalarFormatter(useOffset=False)
            axis.set_major_formatter(plain)
            axis.set_major_locator(MaxNLocator(nbins=6, integer=name == "x" and not plot.marked))
            continue
        (axes.set_xscale if name == "x" else axes.set_yscale)("log")
        values = [getattr(p, name) for s in plot.series for p in s.points]
        # within two decades a decade's tick is too rare to read a value by
        narrow = max(values) / min(values) < 100
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=12))
        axis.set_major_formatter(_plain_log())
        axis.set_minor_formatter(NullFormatter())
    if 0 < len(plot.x_ticks) <= 7:
        axes.set_xticks(plot.x_ticks, [f"{tick:.4g}" for tick in plot.x_ticks])
        axes.set_xticks([], minor=True)
    if not plot.joined:
        axes.margins(x=0.16, y=0.12)


def _plain_log() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:g}")


def heatmap(matrix: Float, classes: Sequence[str], title: str, *, salt: str, diagonal: bool = False) -> Panel:
    """A matrix of probabilities: rows the clean class, columns the noisy one; names where there is room for them.

    The colours end at the largest cell off the diagonal, so that noise of any strength shows.

    Args:
        diagonal: the diagonal is noise as well (flips within blocks of classes), else it is what stayed right: grey.
    """
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure as Canvas

    count = len(classes)
    off = matrix if diagonal else np.where(np.eye(count, dtype=bool), 0.0, matrix)
    top = float(off.max()) or 1.0
    with matplotlib.rc_context({**_rc(salt), "axes.spines.left": False, "axes.spines.bottom": False}):
        canvas = Canvas(figsize=(5.0, 4.6), layout="constrained")
        axes = canvas.add_subplot()
        colours = matplotlib.colormaps["viridis"].with_extremes(bad=(0.5, 0.5, 0.5, 0.3))
        masked = np.ma.masked_array(matrix, mask=np.eye(count, dtype=bool) & (not diagonal))
        image = axes.imshow(masked, cmap=colours, vmin=0.0, vmax=top, interpolation="nearest")
        # over the whole width: above the matrix alone it would run into the colour bar
        canvas.suptitle(shown(title, 60), x=0.01, ha="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("block of noisy classes" if diagonal else "noisy class")
        axes.set_ylabel("block of clean classes" if diagonal else "clean class")
        if count <= 20:
            names = [shown(name, 14) for name in classes]
            axes.set_xticks(range(count), names, rotation=0 if count <= 10 and max(map(len, names)) < 4 else 90)
            axes.set_yticks(range(count), names)
        if count <= 10:
            for (row, column), value in ((p, matrix[p]) for p in _cells(count)):
                grey = row == column and not diagonal
                colour = INK if grey else "#ffffff" if value < 0.6 * top else "#101010"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=colour)
        bar = canvas.colorbar(image, ax=axes, shrink=0.9)
        bar.set_label("share flipped" if diagonal else "P(noisy | clean)")
        bar.outline.set_visible(False)
        return Panel(svg=svg_of(canvas, salt), label=f"{title}: {count} by {count}, P(noisy | clean)")


def _cells(count: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(count) for column in range(count)]
