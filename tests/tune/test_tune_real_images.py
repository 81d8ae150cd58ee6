"""Real numbers beside images, in tables and Hugging Face datasets: from the files to a report, on real photographs.

The number is how bright a photograph is (its mean grey level), which even an untrained network can tell.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy import stats

from nmtool.artifact.open import open_artifact
from nmtool.artifact.typed import read_features

Ok = Callable[..., Any]
Photo = tuple[str, float, str, str]
ENCODE = ("--untrained", "--image-size", "32", "--workers", "1", "--device", "cpu")
BROKEN, EMPTY = 7, (3, 11, 65)


@pytest.fixture(scope="module")
def album(real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Photo]]:
    """90 photographs and 90 paintings of PACS in a folder ``img``, 60 of each to train on, and the tables' rows."""
    folder, rows = tmp_path_factory.mktemp("album"), []
    (folder / "img").mkdir()
    for domain in ("photo", "art_painting"):
        files = sorted((real_data("pacs") / "pacs" / domain / "train").glob("*/*.jpg"))[::9][:90]
        assert len(files) == 90
        for k, file in enumerate(files):
            name = f"img/{domain}-{k:02d}.jpg"
            shutil.copy(file, folder / name)
            with Image.open(file) as image:
                bright = float(np.asarray(image.convert("L")).mean()) / 255
            rows.append((name, round(bright, 4), "train" if k < 60 else "test", domain))
    return folder, rows


def write(path: Path, header: str, rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        tab = path.suffix == ".tsv"
        csv.writer(stream, delimiter="\t" if tab else ",").writerows([header.split(), *rows])


@pytest.fixture
def copied(album: tuple[Path, list[Photo]], tmp_path: Path) -> list[Photo]:
    """The photographs where the commands run, and their rows."""
    shutil.copytree(album[0] / "img", tmp_path / "img")
    return album[1]


def test_from_a_table_of_images_to_a_report(copied: list[Photo], ok: Ok, nmtool: Ok, tmp_path: Path) -> None:
    """Two domains, views, rows without a label, a file that is no image: Pearson's correlation over the rest."""
    odd = {EMPTY[0]: "", EMPTY[1]: "nan", EMPTY[2]: "inf"}
    write(
        tmp_path / "t.csv", "path score split domain", [(r[0], odd.get(k, r[1]), *r[2:]) for k, r in enumerate(copied)]
    )
    (tmp_path / copied[BROKEN][0]).write_bytes(b"no image at all")
    argv = ("extract", "timm:test_resnet", "table:t.csv?label=score", *ENCODE, "--views", "2")
    assert nmtool(*argv, "-o", "no").code == 65
    first = ok(*argv, "--on-error", "skip", "-o", "features", "--json").json
    assert {s: (v["n"], v["classes"], v["skipped"]) for s, v in first["splits"].items()} == {
        "art_painting/test": (30, 0, 0),
        "art_painting/train": (60, 0, 0),
        "photo/test": (30, 0, 0),
        "photo/train": (60, 0, 1),
    }
    flags = ("--train", "photo/train", "--test", "photo/test", "--ood", "features:art_painting/test")
    argv = ("tune", "features", "--method", "lp,mlp,nmtune", *flags, "-o", "heads")
    ran = ok(*argv, "--json")
    rows = ran.json["results"]
    assert {(r["role"], r["n"], r["n_train"]) for r in rows} == {("id", 29, 57), ("ood", 30, 57)}
    assert "1 rows without features and 2 without a label of 60 are left out" in ran.err
    told = pq.read_table(tmp_path / "heads" / "data" / "predictions.parquet").to_pandas()
    bright = {name: score for name, score, _, _ in copied}
    for row in rows:
        mine = told[(told.run == row["run"]) & (told.split == row["split"])]
        assert mine.label.tolist() == [bright[name] for name in mine["sample"]]
        assert row["pearson"] == pytest.approx(stats.pearsonr(mine.label, mine.predicted)[0], abs=1e-6)
        assert (row["metric"], row["loss"], row["accuracy"]) == ("pearson", "mse", None)
    # chance is 0 +- 0.19 on 30 rows
    assert min(r["pearson"] for r in rows if r["method"] == "lp") > 0.5
    by_run = {r["run"]: r["pearson"] for r in rows if r["role"] == "id"}
    for data in ("features:photo/test", "table:t.csv?label=score"):
        split = () if data.startswith("features") else ("--split", "photo/test")
        found = ok("predict", "heads", data, *split, "-o", "p.parquet", "--json").json["results"]
        assert {r["run"]: r["pearson"] for r in found} == {run: pytest.approx(p, abs=1e-4) for run, p in by_run.items()}
        (tmp_path / "p.parquet").unlink()
    spectra = ok("spectrum", "features:photo/train", "--json").json["results"]
    assert [(r["n"], r["split"]) for r in spectra] == [(59, "photo/train")]
    ok("verify", "features", "--full", "--replay", "20")
    ok("report", "features", "heads", "--format", "markdown", "-o", "report")
    page = (tmp_path / "report" / "data" / "report.md").read_text()
    assert "**Pearson, trained on" in page
    assert "Accuracy (%)" not in page


def test_two_views_of_a_row_have_its_number(copied: list[Photo], ok: Ok, tmp_path: Path) -> None:
    """``--use-views`` on real numbers, and ``--search``, on features stored in float16."""
    write(tmp_path / "t.tsv", "path label split", [r[:3] for r in copied[:90]])
    ok("extract", "timm:test_resnet", "table:t.tsv", *ENCODE, "--views", "2", "--dtype", "float16", "-o", "features")
    rows = ok("tune", "features", "--method", "lp,mlp,nmtune", "--use-views", "-o", "heads", "--json").json["results"]
    assert [(r["method"], r["n_train"]) for r in rows] == [("lp", 60), ("mlp", 60), ("nmtune", 60)]
    assert min(r["pearson"] for r in rows) > 0.3
    argv = ("tune", "features", "--method", "lp", "--search", "--lr", "0.01,0.1", "--weight-decay", "0", "-o", "found")
    (row,) = ok(*argv, "--json").json["results"]
    assert row["search_pearson"] > 0.3


def test_a_dataset_of_hugging_face_is_the_table_of_its_bytes(copied: list[Photo], ok: Ok, tmp_path: Path) -> None:
    """The same numbers from an ``hf:`` folder and from a Parquet table; another score is another key."""
    images = [(tmp_path / name).read_bytes() for name, *_ in copied[:90]]
    for split, rows in (("train", slice(0, 60)), ("test", slice(60, 90))):
        scores = pa.array([score for _, score, _, _ in copied[rows]])
        cells = pa.array(
            [{"bytes": data, "path": None} for data in images[rows]],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        for folder, column in (("hub/data", cells), ("plain", pa.array(images[rows]))):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            pq.write_table(
                pa.table({"image": column, "label": scores}), tmp_path / folder / f"{split}-00000-of-00001.parquet"
            )
    plain = "plain/{}-00000-of-00001.parquet"
    table = f"table:train={plain.format('train')},test={plain.format('test')}"
    made = {}
    for name, uri in (("hf", "hf:hub"), ("table", table)):
        made[name] = ok("extract", "timm:test_resnet", uri, *ENCODE, "-o", name, "--json").json
    assert (made["hf"]["key"], made["hf"]["content"]) == (made["table"]["key"], made["table"]["content"])
    found = read_features(open_artifact(tmp_path / "hf"), "test")
    assert found.targets is not None
    assert found.targets.tolist() == [score for _, score, _, _ in copied[60:90]]
    (row,) = ok("tune", "hf", "--method", "lp", "-o", "heads", "--json").json["results"]
    assert row["pearson"] > 0.5
    for path in ("hub/data/train-00000-of-00001.parquet", plain.format("train")):
        old = pq.read_table(tmp_path / path)
        scores = [old["label"][0].as_py() + 0.5, *old["label"].to_pylist()[1:]]
        pq.write_table(old.set_column(1, "label", pa.array(scores)), tmp_path / path)
    again = {
        n: ok("extract", "timm:test_resnet", u, *ENCODE, "--dry-run", "--json").json["key"]
        for n, u in (("hf", "hf:hub"), ("table", table))
    }
    assert again["hf"] == again["table"] != made["hf"]["key"]


def test_what_is_for_classes_is_refused_early(copied: list[Photo], ok: Ok, nmtool: Ok, tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "path label split", [r[:3] for r in copied[:90]])
    ok("extract", "timm:test_resnet", "table:t.csv", *ENCODE, "-o", "features")
    for refused in (
        ("inject-noise", "table:t.csv", "--type", "symmetric", "--ratio", "0.2"),
        ("pretrain", "table:t.csv", "--arch", "test_resnet", "--epochs", "1"),
        ("audit", "features"),
    ):
        ran = nmtool(*refused, "-o", "no")
        assert (ran.code, "real numbers" in ran.err) == (65, True), ran.err
    # those that have images to read again; the others are refused for texts and arrays, too
    for argv in (*(("--method", method) for method in ("turn", "fft", "lora", "knn")), ("--loss", "ce")):
        ran = nmtool("tune", "features", *argv, "-o", "no")
        assert (ran.code, "labels are real numbers" in ran.err, "Traceback" in ran.err) == (2, True, False), ran.err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (lambda k: "2.0", "all 6 labels of split train of features are 2; expected numbers that differ"),
        (lambda k: "nan", "no row with features and a label"),
        (lambda k: f"{k}.5" if k < 6 else "", "no row to judge; expected labelled rows"),
    ],
)
def test_numbers_that_teach_nothing_are_told(
    copied: list[Photo], ok: Ok, nmtool: Ok, tmp_path: Path, scores: Callable[[int], str], words: str
) -> None:
    some = [*copied[:6], *copied[60:63]]
    write(tmp_path / "t.csv", "path label split", [(r[0], scores(k), r[2]) for k, r in enumerate(some)])
    ok("extract", "timm:test_resnet", "table:t.csv", *ENCODE, "-o", "features")
    ran = nmtool("tune", "features", "--method", "lp", "--epochs", "1", "-o", "no")
    assert (ran.code, words in ran.err) == (65, True), ran.err


def test_whole_numbers_are_classes_and_with_a_point_they_are_scores(
    copied: list[Photo], ok: Ok, tmp_path: Path
) -> None:
    some = [*copied[:30], *copied[60:75]]
    for name, point in (("classes", ""), ("scores", ".0")):
        rows = [(r[0], f"{int(r[1] > 0.5)}{point}", r[2]) for r in some]
        write(tmp_path / f"{name}.csv", "path label split", rows)
        ran = ok("extract", "timm:test_resnet", f"table:{name}.csv", *ENCODE, "-o", name)
        assert ("they are taken as real numbers; if they are classes, save them as integers" in ran.err) == bool(point)
        argv = ("tune", name, "--method", "lp", "--epochs", "1", "-o", f"{name}-heads", "--json")
        (row,) = ok(*argv).json["results"]
        assert row["loss"] == ("mse" if point else "ce")
