"""The table of methods under noise: cells against means taken by hand, and when there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nmtool.report.gather import find, gather
from nmtool.report.results import ID, group_results
from nmtool.report.under_noise import under_noise


def made(bench: Any, scores: dict[str, dict[float, list[tuple[float, float]]]]) -> list[Any]:
    """Heads of (best, last) accuracies by method and ratio, a run a seed; and the labels they were trained on."""
    clean = np.arange(200) % 10
    features = bench.features(None, name="w")
    out = [features]
    for ratio in sorted({r for by in scores.values() for r in by}):
        labels = bench.labels(clean, ratio, [f"c{i}" for i in range(10)])
        rows = []
        for method, by in scores.items():
            for seed, (best, last) in enumerate(by.get(ratio, [])):
                named = {"labels": f"labels-{labels.content[7:19]}", "noise_ratio": ratio}
                rows.append(
                    bench.row(run=len(rows), method=method, seed=seed, accuracy=last, best_accuracy=best, **named)
                )
        out += [labels, bench.heads(features, rows, labels=[labels])]
    return out


def section_of(artifacts: list[Any]) -> Any:
    return under_noise(group_results(gather(find(tuple(str(a.path) for a in artifacts))).runs))


def test_cells_are_best_and_last_by_hand(bench: Any) -> None:
    scores = {
        "lp": {0.2: [(0.70, 0.60), (0.72, 0.64)], 0.4: [(0.50, 0.50)]},
        "turn": {0.4: [(0.9, 0.8), (0.8, 0.8), (0.85, 0.83)]},
    }
    section = section_of(made(bench, scores))
    (table,) = section.tables
    assert [c.title for c in table.columns] == ["method", "loss", "symmetric 20 %", "symmetric 40 %"]
    texts = [[cell.text for cell in row] for row in table.rows]
    spread = 100 * np.std([0.8, 0.8, 0.83], ddof=1)
    assert texts == [
        ["lp", "ce", f"71.00 / 62.00 ± {100 * np.std([0.6, 0.64], ddof=1):.2f}", "50.00 / 50.00"],
        ["turn", "ce", "–", f"85.00 / 81.00 ± {spread:.2f}"],
    ]
    assert [[cell.best for cell in row][2:] for row in table.rows] == [[True, False], [False, True]]


def test_clean_labels_are_a_column_of_their_own(bench: Any) -> None:
    section = section_of(made(bench, {"lp": {0.0: [(0.9, 0.9)], 0.3: [(0.5, 0.4)]}}))
    assert [c.title for c in section.tables[0].columns][2:] == ["clean labels", "symmetric 30 %"]


@pytest.mark.parametrize("ratios", [(0.3,), ()])
def test_one_kind_of_noise_makes_no_table(bench: Any, ratios: tuple[float, ...]) -> None:
    scores = {"lp": {r: [(0.5, 0.4)] for r in ratios}}
    artifacts = made(bench, scores) if ratios else [bench.features(None, name="w")]
    assert section_of(artifacts) is None


def test_it_is_in_the_report(bench: Any, report: Callable[..., Any]) -> None:
    artifacts = made(bench, {"lp": {0.2: [(0.7, 0.6)], 0.4: [(0.5, 0.45)]}})
    _, data = report(*[a.path for a in artifacts], format=("markdown", "latex", "html"))
    assert "50.00 / 45.00" in (data / "report.md").read_text()
    assert "50.00 / 45.00" in (data / "report.tex").read_text()
    assert 'id="under-noise"' in (data / "report.html").read_text()


def test_labels_that_are_not_here_are_never_averaged_together(bench: Any) -> None:
    """Two draws of one ratio, whose type is known to their artifacts alone: a column each, and no mean of both."""
    clean = np.arange(200) % 10
    features = bench.features(None, name="w")
    draws = [bench.labels(clean, 0.4, [f"c{i}" for i in range(10)], seed=seed) for seed in (0, 1)]
    rows = []
    for made, accuracy in zip(draws, (0.9, 0.5), strict=True):
        named = {"labels": f"labels-{made.content[7:19]}", "noise_ratio": 0.4}
        rows.append(bench.row(run=len(rows), accuracy=accuracy, best_accuracy=accuracy, **named))
    heads = bench.heads(features, rows, labels=draws)
    (group,) = group_results(gather(find((str(heads.path),))).runs)
    assert sorted(line.stats["accuracy", ID].mean for line in group.lines) == [0.5, 0.9]
    assert "labels" in group.columns
    section = section_of([heads])
    (table,) = section.tables
    titles = [f"labels-{made.content[7:19]} 40 %" for made in draws]
    assert [c.title for c in table.columns][2:] == sorted(titles)
    assert sorted(cell.text for cell in table.rows[0][2:]) == ["50.00 / 50.00", "90.00 / 90.00"]
    # where the artifacts are here, two draws of one kind are one column, as before
    (group,) = group_results(gather(find(tuple(str(a.path) for a in (heads, *draws)))).runs)
    assert [line.n for line in group.lines] == [2]
