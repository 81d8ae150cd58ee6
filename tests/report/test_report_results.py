"""Joining with lineage, grouping and averaging: against means taken by hand."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtool.artifact.open import open_artifact
from nmtool.report.cleansing import cleansing, rounds
from nmtool.report.gather import Cleansing, find, gather
from nmtool.report.lineage import short_name
from nmtool.report.results import ID, MEAN, Group, group_results, joined, ood
from nmtool.report.statistics import summarise


def groups_of(*paths: Any) -> tuple[Group, ...]:
    return group_results(gather(find(tuple(str(p) for p in paths))).runs)


def test_mean_and_deviation_over_seeds_by_hand(bench: Any) -> None:
    scores = {0: (0.81, 0.40, 0.20), 1: (0.84, 0.50, 0.10), 2: (0.90, 0.45, 0.60)}
    rows = []
    for seed, (inside, one, two) in scores.items():
        rows.append(bench.row(run=seed, seed=seed, accuracy=inside))
        rows.append(bench.row(run=seed, seed=seed, role="ood", split="a/test", accuracy=one))
        rows.append(bench.row(run=seed, seed=seed, role="ood", split="b/test", accuracy=two))
    made = bench.heads(bench.features(None, name="w"), rows)
    (group,) = groups_of(made.path)
    (line,) = group.lines
    assert group.targets == ("a/test", "b/test")
    inside = line.stats["accuracy", ID]
    assert inside is not None
    assert line.n == inside.n == 3
    assert inside.mean == pytest.approx(np.mean([0.81, 0.84, 0.90]))
    assert inside.std == pytest.approx(np.std([0.81, 0.84, 0.90], ddof=1))
    outside = line.stats["accuracy", MEAN]
    assert outside is not None
    assert outside.mean == pytest.approx((0.3 + 0.3 + 0.525) / 3)
    assert outside.std == pytest.approx(statistics.stdev([0.3, 0.3, 0.525])), "spread of runs, not of targets"


def test_seeds_whose_searches_ended_differently_are_one_line(bench: Any) -> None:
    rows = [bench.row(run=s, seed=s, lr=None, found_lr=lr, accuracy=0.5 + s / 10) for s, lr in enumerate((0.1, 0.01))]
    rows.append(bench.row(run=2, seed=0, lr=0.1, found_lr=None, accuracy=0.4))
    (group,) = groups_of(bench.heads(bench.features(None, name="w"), rows).path)
    assert {line.settings["lr"]: line.n for line in group.lines} == {"searched": 2, 0.1: 1}


def test_the_page_and_markdown_hold_the_means(pipeline: Any, report: Callable[..., Any]) -> None:
    store, made = pipeline
    _, data = report(store, format=("markdown",))
    text, page = (data / "report.md").read_text().replace("\\", ""), (data / "report.html").read_text()
    heads = [m for m in made if m.kind == "heads"]
    from nmtool.artifact.typed import read_parquet

    for artifact, ratio in zip(heads, ("0 %", "10 %", "30 %"), strict=True):
        c = read_parquet(open_artifact(artifact.path), "results.parquet")
        rows = zip(c["method"], c["fraction"], c["role"], c["accuracy"], strict=True)
        got = [a for m, f, r, a in rows if (m, f, r) == ("nmtune", 0.25, "id")]
        wanted = f"{100 * statistics.fmean(got):.2f} ± {100 * statistics.stdev(got):.2f}"
        assert re.search(rf"\| nmtune \| ce \| {ratio} \| 25 % \| 3 \| (\*\*)?{re.escape(wanted)}", text), (
            ratio,
            wanted,
        )
        assert wanted in page


def test_lineage_gives_pretraining_noise_across_artifacts(pipeline: Any) -> None:
    evidence = gather(find((str(pipeline[0]),)))
    assert {joined(run)["pretrain_noise"] for run in evidence.runs} == {0.0, 0.1, 0.3}
    assert {joined(run)["backbone"] for run in evidence.runs} == {"resnet10t"}
    assert {run.label_noise for run in evidence.runs} == {0.4}
    (group,) = group_results(evidence.runs)
    assert group.name == "digits"
    assert group.columns == ("method", "loss", "pretrain_noise", "fraction")
    assert len(group.lines) == 18


def test_without_the_chain_noise_is_unknown_and_nothing_is_mixed(pipeline: Any) -> None:
    heads = [m.path for m in pipeline[1] if m.kind == "heads"]
    groups = groups_of(*heads)
    assert len(groups) == 3, "features that are not here are not known to be of one dataset"
    assert all("pretrain_noise" not in group.columns for group in groups)
    assert all(line.n == 3 for group in groups for line in group.lines)


def test_the_same_runs_in_two_artifacts_count_once(bench: Any) -> None:
    features = bench.features(None, name="w")
    rows = [bench.row(run=s, seed=s, accuracy=0.5 + s / 10) for s in range(3)]
    one = bench.heads(features, rows)
    more = [bench.row(run=s + 5, seed=s, accuracy=0.5 + s / 10) for s in range(3)] + [
        bench.row(run=9, method="mlp", accuracy=0.9)
    ]
    two = bench.heads(features, more)
    (group,) = groups_of(one.path, two.path)
    assert [(line.settings["method"], line.n) for line in group.lines] == [("lp", 3), ("mlp", 1)]


def test_a_setting_that_differs_separates_and_is_shown(bench: Any) -> None:
    rows = [
        bench.row(run=i, lr=lr, seed=s, accuracy=0.5)
        for i, (lr, s) in enumerate([(0.1, 0), (0.1, 1), (0.01, 0), (0.01, 1)])
    ]
    (group,) = groups_of(bench.heads(bench.features(None, name="w"), rows).path)
    assert group.columns == ("method", "loss", "lr")
    assert [(line.settings["lr"], line.n) for line in group.lines] == [(0.01, 2), (0.1, 2)]


def test_adapters_and_all_weights_of_one_method_are_told_by_name(bench: Any) -> None:
    """Their decays differ too, by default: that column alone would not say which is which."""
    told = ({"lora_rank": None, "weight_decay": 1e-5}, {"lora_rank": 8, "weight_decay": 1e-4})
    rows = [bench.row(run=i, method="turn", **more) for i, more in enumerate(told)]
    rows.append(bench.row(run=2, method="fft", lora_rank=None, weight_decay=1e-5))
    (group,) = groups_of(bench.heads(bench.features(None, name="w"), rows).path)
    assert group.columns == ("method", "loss", "weight_decay", "lora_rank")
    rows = [bench.row(run=0, method="fft", lora_rank=None), bench.row(run=1, method="lora", lora_rank=8)]
    (group,) = groups_of(bench.heads(bench.features(None, name="w"), rows).path)
    assert group.columns == ("method", "loss")


def test_cleansings_of_several_methods_are_told_apart(bench: Any) -> None:
    rows = [bench.row(run=i, method=method, cleanse="once") for i, method in enumerate(("lp", "nmtune", "turn"))]
    columns = {"run": np.arange(3), "round": np.ones(3, int), "selected": np.array([True, False, True])}
    heads = bench.heads(bench.features(None, name="w"), rows, cleansing=columns)
    section = cleansing(gather(find((str(heads.path),))))
    (table,) = section.tables
    assert [c.title for c in table.columns][:3] == ["method", "loss", "round"]
    assert [[cell.text for cell in row[:5]] for row in table.rows] == [
        ["lp", "ce", "1", "1", "1"],
        ["nmtune", "ce", "1", "1", "0"],
        ["turn", "ce", "1", "1", "1"],
    ]


def test_another_backbone_of_the_same_name_is_never_averaged_in(bench: Any) -> None:
    made = [bench.heads(bench.features(None, name=w), [bench.row(accuracy=a)]) for w, a in (("w1", 0.2), ("w2", 0.8))]
    (group,) = groups_of(bench.store)
    assert len(made) == len(group.lines) == 2
    assert "setup" in group.columns


def test_untrained_is_named(bench: Any, report: Callable[..., Any]) -> None:
    bench.heads(bench.features(None, untrained=True, name="u"), [bench.row()])
    (group,) = groups_of(bench.store)
    assert group.lines[0].settings["model"] == "resnet10t (untrained)"
    assert "model" in group.columns
    assert "resnet10t (untrained)" in (report(bench.store)[1] / "report.html").read_text()


def test_more_and_fewer_columns_than_known(bench: Any, report: Callable[..., Any]) -> None:
    rows = [
        {"method": "new", "seed": s, "split": "test", "role": "id", "n": 5, "accuracy": 0.5 + s, "odd": s}
        for s in (0, 1)
    ]
    made, data = report(bench.heads(None, rows).path, format=("csv", "json"))
    assert made.summary["rows"] == 2
    assert b"odd" in (data / "report.csv").read_bytes()
    (group,) = groups_of(bench.store)
    assert group.lines[0].n == 2, "an unknown column measures, it does not set apart"


def test_missing_and_non_finite_values_are_dashes(bench: Any, report: Callable[..., Any]) -> None:
    rows = [bench.row(seed=s, run=s, sve=None, lsvr=math.nan, best_accuracy=None) for s in (0, 1)]
    _, data = report(bench.heads(bench.features(None, name="w"), rows).path, format=("json", "csv"))
    assert b"NaN" not in (data / "report.json").read_bytes()
    assert b"nan" not in (data / "report.csv").read_bytes()
    assert "LSVR" not in re.sub(r"<p.*?</p>", "", (data / "report.html").read_text(), flags=re.S)


def test_named_ood_mean_is_a_target_like_any(bench: Any) -> None:
    rows = [
        bench.row(accuracy=0.9),
        bench.row(role="ood", split="mean", accuracy=0.1),
        bench.row(role="ood", split="x", accuracy=0.5),
    ]
    (group,) = groups_of(bench.heads(bench.features(None, name="w"), rows).path)
    stats = group.lines[0].stats
    assert stats["accuracy", ood("mean")] == summarise([0.1])
    assert stats["accuracy", MEAN] == summarise([0.3])


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("folder:/home/a/pacs", "folder:pacs"),
        ("table:train=/a/b.tsv,test=c/d.tsv?text=s", "table:train=b.tsv,test=d.tsv?text=s"),
        ("/a/b/features-0123", "features-0123"),
        ("timm:resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("suite:pacs/photo", "suite:pacs/photo"),
        ("digits", "digits"),
        ("arrays:C:\\data\\x.npz", "arrays:x.npz"),
    ],
)
def test_names_lose_their_folders(text: str, short: str) -> None:
    assert short_name(text) == short


def test_cleansing_rounds_against_counts_by_hand() -> None:
    columns = {
        "run": np.array([0, 0, 0, 0, 0, 0, 0, 0]),
        "round": np.array([0, 0, 0, 0, 1, 1, 1, 1]),
        "selected": np.array([True, True, False, False, True, True, True, False]),
        "drawn": np.array([True, False, False, False, True, False, True, False]),
        "noisy": np.array([1, 2, 1, 0, 1, 2, 1, 0]),
        "clean": np.array([1, 0, 1, 0, 1, 0, 1, 0]),
    }
    first, second = rounds(Cleansing(heads="", columns=columns))
    assert (first.size, first.purity, first.recall) == (2, 1 / 2, 1 / 3)
    assert (first.drawn, first.drawn_purity) == (1, 1.0)
    assert (second.drawn, second.drawn_purity) == (2, 1.0)
    assert (second.size, second.purity, second.recall) == (3, 2 / 3, 2 / 3)
    unknown = {**columns, "clean": np.full(8, -1)}
    assert [r.purity for r in rounds(Cleansing(heads="", columns=unknown))] == [None, None]


def test_noise_tables_hold_the_realised_counts(bench: Any, report: Callable[..., Any]) -> None:
    clean = np.repeat(np.arange(10), 20)
    made = bench.labels(clean, 0.4, bench.hostile)
    _, data = report(made.path, format=("markdown",))
    from nmtool.artifact.typed import read_labels

    labels = read_labels(open_artifact(made.path))
    text = (data / "report.md").read_text()
    last = int(np.sum((labels.clean == 9) & (labels.noisy != 9)))
    assert f"| plain | 20 | {last} | {5 * last}.00 |" in text
    assert made.summary["flipped"] == 80
    assert "| 40.00 | 40.00 | 80 |" in text


def test_many_classes_are_drawn_in_blocks(bench: Any, report: Callable[..., Any]) -> None:
    made = bench.labels(np.repeat(np.arange(101), 4), 0.25, [f"class {i}" for i in range(101)])
    page = (report(made.path)[1] / "report.html").read_text()
    assert "Label noise, asked for and realised" in page
    assert "blocks of 3" in page
    assert "Transition matrix (%)" not in page
    assert len(re.findall(r">class \d+<", page)) == 50  # a row each of those that received most


def test_spectrum_alone_makes_a_report(bench: Any, report: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    features = bench.features(None, name="w")
    made = bench.spectrum(features, {"test": rng.normal(size=(600, 520)), "photo/test": rng.normal(size=(30, 8))})
    ref, data = report(made.path, format=("csv", "json"))
    assert ref.summary == {"rows": 0, "files": ["report.html", "report.csv", "report.json"]}
    page = (data / "report.html").read_text()
    assert re.findall(r"Singular values 1 to 20|21 to 500|501 and on", page).count("501 and on") >= 1
    sigma = np.linalg.svd(np.random.default_rng(0).normal(size=(600, 520)), compute_uv=False)
    assert f"{sigma[0]:.5g}" in page
    assert f"{sigma[49]:.5g}" in page


def test_evidence_is_the_same_from_any_operand(pipeline: Any, tmp_path: Path) -> None:
    store, made = pipeline
    whole = find((str(store),))
    single = find((*(str(m.path) for m in reversed(made)), str(store / "heads")))
    assert [a.manifest.content for a in whole] == [a.manifest.content for a in single]
