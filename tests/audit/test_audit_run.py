"""Audit through the command line, on handwritten digits: what it finds, what it leaves out, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

FLAGS = ["mixture_flag", "confident_flag", "neighbours_flag"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as ready-made features (their pixels), 600 of them, and symmetric noise of 40 %."""
    home = tmp_path_factory.mktemp("audit")
    digits = load_digits()
    np.savez(home / "x.npz", X_train=digits.data[:600].astype(np.float32), y_train=digits.target[:600])
    for line in (
        "extract none arrays:x.npz -o features",
        "inject-noise arrays:x.npz --type symmetric --ratio 0.4 -o labels",
    ):
        done = subprocess.run([sys.executable, "-m", "nmtool", *line.split()], cwd=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return home


def table(artifact: Path) -> dict[str, np.ndarray]:
    columns = pq.read_table(artifact / "data" / "audit.parquet", use_threads=False)
    return {name: columns.column(name).to_numpy(zero_copy_only=False) for name in columns.column_names}


def test_it_finds_what_was_flipped(place: Path, ok: Callable, tmp_path: Path) -> None:
    argv = ("audit", place / "features", "--labels", place / "labels", "-o", tmp_path / "a")
    body = ok(*argv, "--json").json
    found = table(tmp_path / "a")
    labels = pq.read_table(place / "labels/data/labels.parquet", use_threads=False)
    flipped = labels.column("flipped").to_numpy()
    assert found["flipped"].tolist() == flipped.tolist()
    assert found["row"].tolist() == list(range(600))
    for view in ("mixture", "confident", "neighbours", "combined"):
        told = body["quality"][view]
        assert told["auroc"] == pytest.approx(roc_auc_score(flipped, found[view]))
        assert told["auroc"] > 0.93
        flag = found["wrong" if view == "combined" else f"{view}_flag"]
        assert told["precision"] == pytest.approx(flipped[flag].mean())
        assert told["recall"] == pytest.approx(flag[flipped].mean())
        assert body["flagged"][view] == flag.sum()
        assert found[view].min() >= 0
        assert found[view].max() <= 1
    assert body["quality"]["combined"]["auroc"] >= body["quality"]["confident"]["auroc"]
    assert body["labels"].startswith("symmetric 40 %")
    assert found["agreement"].tolist() == sum(found[flag].astype(int) for flag in FLAGS).tolist()
    assert body["noise_ratio_true"] == pytest.approx(0.4, abs=0.01)
    assert abs(body["noise_ratio"] - 0.4) < 0.1
    # the suggestion repairs most of what is wrong
    true = labels.column("clean").to_numpy()
    assert (found["suggested"] == true).mean() > 0.85
    assert sorted(found["rank"]) == list(range(1, 601))
    assert (np.diff(found["combined"][np.argsort(found["rank"])]) <= 0).all()
    csv = pyarrow.csv.read_csv(tmp_path / "a/data/audit.csv")
    assert csv.column("rank").to_pylist() == list(range(1, 601))
    T = np.load(tmp_path / "a/data/transition.npy")
    assert T.shape == (10, 10)
    assert T.sum(1) == pytest.approx(np.ones(10))
    assert np.abs(np.diag(T) - 0.6).mean() < 0.15
    assert body["gallery"] == {
        "missing": "the features came ready made",
        "pictures": 0,
        "samples": 48,
        "texts": 0,
    }
    assert ok(*argv, "--json").json["cached"] is True
    again = ok("audit", place / "features", "--labels", place / "labels", "-o", tmp_path / "b", "--json").json
    assert again["content"] == body["content"]
    assert ok("verify", tmp_path / "a", "--full").out.startswith("ok ")
    assert "[audit]" in ok("show", tmp_path / "a", "--config").out
    other = ok("audit", place / "features", "--views", "neighbours", "--neighbours", "5", "-o", tmp_path / "c").path
    assert "views" in ok("why", tmp_path / "a", other).out
    alone = json.loads((tmp_path / "c/data/audit.json").read_text())
    assert set(alone["flagged"]) == {"neighbours", "combined"}
    assert "quality" not in alone  # nobody knows the truth of the data's own labels
    assert alone["noise_ratio"] < 0.15


def without_cleanlab(tmp_path: Path) -> dict[str, str]:
    """An environment in which cleanlab can't be found."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nreal = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'cleanlab' else real(name, *more)\n"
    )
    import os

    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}


def test_without_cleanlab(place: Path, nmtool: Callable, ok: Callable, tmp_path: Path) -> None:
    env = without_cleanlab(tmp_path)
    ran = nmtool("audit", place / "features", "-o", "a", env=env)
    assert ran.code == 69
    assert "pip install" in ran.err
    assert not (tmp_path / "a").exists()
    views = ("--views", "neighbours,mixture", "--gallery", "0")
    assert ok("audit", place / "features", *views, "-o", "a", "--json", env=env).json["views"] == [
        "mixture",
        "neighbours",
    ]


def features(tmp_path: Path, ok: Callable, X: np.ndarray, y: np.ndarray, **more: np.ndarray) -> str:
    np.savez(tmp_path / "x.npz", X_train=X.astype(np.float32), y_train=y, **more)
    ok("extract", "none", "arrays:x.npz", "-o", "f")
    return "f"


def test_few_and_odd_rows(ok: Callable, tmp_path: Path) -> None:
    """Fewer samples than folds in a class, a class of one, one of none, unlabelled rows, twins, rows of zeros."""
    rng = np.random.default_rng(0)
    y = np.array([0, 0, 0, 2, 2, 3, -1, 2])
    X = rng.normal(size=(8, 5))
    X[1] = X[0]
    X[3] = 0
    name = features(tmp_path, ok, X, y, classes=np.array(["a", "nobody", "=c", "d"]))
    ran = ok("audit", name, "--json")
    body = ran.json
    assert body["n"] == 6
    assert body["left_out"] == {"alone in their class": 1, "unlabelled": 1}
    assert "1 classes have one sample (d)" in ran.err
    found = table(tmp_path / body["artifact"])
    assert found["row"].tolist() == [0, 1, 2, 3, 4, 7]
    assert not set(found["suggested"]) & {1, 3}
    assert np.isfinite(found["combined"]).all()
    assert "'=c" in (tmp_path / body["artifact"] / "data/audit.csv").read_text()


def test_every_label_wrong_and_none(ok: Callable, tmp_path: Path) -> None:
    """Two classes exchanged: nothing in the features can tell. Metrics that need both sorts of labels are null."""
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], 40)
    name = features(tmp_path, ok, rng.normal(size=(80, 6)) + 6 * y[:, None], y, classes=np.array(["a", "b"]))
    np.savez(tmp_path / "people.npz", wrong=1 - y, right=y)
    for key, ratio in (("wrong", 1.0), ("right", 0.0)):
        ok("inject-noise", "arrays:x.npz", "--type", "human", "--human", f"people.npz:{key}", "-o", key)
        body = ok("audit", name, "--labels", key, "--json").json
        assert body["noise_ratio_true"] == ratio
        assert body["quality"]["combined"]["auroc"] is None
        assert body["noise_ratio"] < 0.1


def test_refusals(nmtool: Callable, ok: Callable, tmp_path: Path, place: Path) -> None:
    def refused(code: int, word: str, *argv: object) -> None:
        ran = nmtool("audit", *argv)
        assert ran.code == code, ran.err
        assert word in ran.err
        assert "Traceback" not in ran.err
        assert not ran.out

    refused(66, "no split", f"{place}/features:test")
    refused(65, "labels artifact", place / "features", "--labels", place / "features")
    refused(65, "features artifact", place / "labels")
    refused(2, "--folds", place / "features", "--folds", "1")
    refused(2, "--views", place / "features", "--views", "mixtures")
    name = features(tmp_path, ok, np.eye(4), np.zeros(4, int), classes=np.array(["a", "b"]))
    refused(65, "two such classes", name)


def test_pictures_in_the_gallery(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    """Small images written anew; gone images are said to be, and the audit stands without them."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 6),):
        for label, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for number in range(n):
                pixels = rng.integers(level - 30, level + 30, (130, 160, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg", comment=b"secret place")
    ok("extract", "timm:test_resnet", "folder:photos", "--untrained", "--image-size", "32", "-o", "f")
    argv = ("audit", "f", "--gallery", "3", "--views", "neighbours", "--json")
    body = ok(*argv, "-o", "a").json
    assert body["gallery"] == {"missing": "", "pictures": 3, "samples": 3, "texts": 0}
    kept = pq.read_table(tmp_path / "a/data/gallery.parquet", use_threads=False).to_pylist()
    for line in kept:
        assert line["picture"].startswith(b"\xff\xd8\xff")
        assert b"secret" not in line["picture"]
        assert len(line["picture"]) < 10_000
    ok("report", "a", "-o", "r")
    page = (tmp_path / "r/data/report.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 3
    (tmp_path / "photos").rename(tmp_path / "moved")
    ran = ok(*argv, "-o", "b")
    assert ran.json["gallery"]["missing"] == "the samples could not be read again"
    assert "gallery has no pictures" in ran.err
    assert ok(*argv, "--data", "folder:moved", "-o", "c").json["content"] == body["content"]
    ok("report", "b", "-o", "s")
    page = (tmp_path / "s/data/report.html").read_text()
    assert "<img" not in page
    assert "the samples could not be read again" in page
