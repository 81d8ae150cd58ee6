"""``nmtool predict`` of runs that fine-tuned a backbone: what is on record, bit for bit; refused where it was lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nmtool.cli import run

SAME = ("run", "split", "sample", "label", "predicted", "confidence")
ONE = ("--fft-epochs", "1", "--fft-lr", "1e-3", "--no-spectra", "--device", "cpu", "--workers", "1")


@dataclass(frozen=True)
class Made:
    """Real photographs, real weights, and heads of two calls that differ in ``--keep-backbone`` alone.

    Attributes:
        folder: where all of it lies.
        features: before any fine-tuning.
        kept: runs lp, fft, lora, turn and turn by adapters, with their backbones.
        bare: fft and lora without the flag.
    """

    folder: Path
    features: Path
    kept: Path
    bare: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, real_data: Callable[[str], Path], real_weights: Path) -> Made:
    folder = tmp_path_factory.mktemp("tuned")
    source = real_data("pacs") / "pacs" / "photo"
    for split, count in (("train", 8), ("test", 9)):
        for kind in ("dog", "guitar", "house"):
            (folder / "photos" / split / kind).mkdir(parents=True)
            for file in sorted((source / split / kind).iterdir())[:count]:
                shutil.copy(file, folder / "photos" / split / kind)
    shutil.copy(real_weights / "mobilenetv1_025.in1k_tf_quant.fp16.safetensors", folder / "w.safetensors")

    def stage(*argv: str) -> Path:
        env = {**os.environ, "NMTOOL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        words = [sys.executable, "-m", "nmtool", *argv]
        done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=folder, env=env)
        assert done.returncode == 0, done.stderr
        return folder / done.stdout.strip()

    arch = ("--arch", "mobilenetv1_100", "--model-kwargs", "channel_multiplier=0.25", "--model-kwargs", "pad_type=same")
    weights, photos = str(folder / "w.safetensors"), f"folder:{folder / 'photos'}"
    features = stage("extract", weights, photos, *arch, "--image-size", "64", "--device", "cpu", "--workers", "1")
    every = ("--method", "lp,fft,lora,turn", "--tune-backbone", "full,lora", "--epochs", "2", "--probe-epochs", "2")
    kept = stage("tune", str(features), *every, *ONE, "--keep-backbone", "--scale", "standardize")
    bare = stage("tune", str(features), "--method", "fft,lora", *ONE, "--scale", "standardize")
    return Made(folder, features, kept, bare)


def table(path: Path, *runs: int) -> dict[str, Any]:
    """Columns of a table, of some runs or of all."""
    found = pq.read_table(path, use_threads=False)
    columns = {name: column.to_numpy() for name, column in zip(found.column_names, found.columns, strict=True)}
    mine = np.isin(columns["run"], runs or np.unique(columns["run"]))
    return {name: values[mine] for name, values in columns.items()}


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name in SAME:
        assert np.array_equal(ours[name], theirs[name]), name


def test_predictions_are_those_on_record(ok: Callable, made: Made, tmp_path: Path) -> None:
    """Full fine-tuning, adapters, TURN by both, and a head on features, in one call on the split that tune judged."""
    asked = ("--split", "test", "--probabilities", "--device", "cpu", "--json")
    body = ok("predict", made.kept, f"folder:{made.folder / 'photos'}", "-o", "p.parquet", *asked).json
    ours, theirs = table(tmp_path / "p.parquet"), table(made.kept / "data" / "predictions.parquet")
    assert body["runs"] == [0, 1, 2, 3, 4]
    assert_same(ours, theirs)
    shares = np.stack(ours["probabilities"])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    assert np.array_equal(shares.max(1), ours["confidence"])
    results = pq.read_table(made.kept / "data" / "results.parquet", use_threads=False).to_pydict()
    assert [s["accuracy"] for s in body["results"]] == results["accuracy"]
    assert len({tuple(table(tmp_path / "p.parquet", i)["confidence"]) for i in range(5)}) == 5, "no run is another"


def test_a_backbone_that_was_kept_needs_nothing_else(
    ok: Callable, nmtool: Callable, made: Made, tmp_path: Path
) -> None:
    """The heads alone, elsewhere: neither the features nor the weights that they came from are at hand."""
    shutil.copytree(made.kept, tmp_path / "heads")
    shutil.move(made.folder / "w.safetensors", made.folder / "gone")
    shutil.move(made.features, made.folder / "moved")
    photos = f"folder:{made.folder / 'photos'}"
    stored = made.kept / "data" / "predictions.parquet"
    try:
        ok("predict", "heads", photos, "-o", "p.parquet", "--split", "test", "--run", "1,3", "--device", "cpu")
        assert_same(table(tmp_path / "p.parquet"), table(stored, 1, 3))
        ran = ok("predict", "heads", photos, "-o", "p.parquet", "--split", "test", "--run", "4", "--device", "cpu")
        assert "its merged weights are taken" in ran.err
        np.testing.assert_allclose(
            table(tmp_path / "p.parquet")["confidence"], table(stored, 4)["confidence"], atol=1e-4
        )
        moved = ("--trained-on", made.folder / "moved")
        ran = nmtool("predict", made.bare, photos, "-o", "no.parquet", "--run", "1", *moved)
        assert (ran.code, ran.out) == (66, "")
        assert "--model" in ran.err
        assert not (tmp_path / "no.parquet").exists()
        now = ("--model", made.folder / "gone.safetensors", "--split", "test", "--device", "cpu")
        shutil.copy(made.folder / "gone", made.folder / "gone.safetensors")
        ok("predict", made.bare, photos, "-o", "p.parquet", "--run", "1", *moved, *now)
        assert_same(table(tmp_path / "p.parquet"), table(made.bare / "data" / "predictions.parquet", 1))
    finally:
        shutil.move(made.folder / "gone", made.folder / "w.safetensors")
        shutil.move(made.folder / "moved", made.features)


def test_what_was_not_kept_is_refused_with_the_flag(
    ok: Callable, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapters are kept in any case; all weights where asked, under another key."""
    assert made.kept.name.rpartition("-")[2] != made.bare.name.rpartition("-")[2]
    photos = f"folder:{made.folder / 'photos'}"
    np.savez(tmp_path / "f.npz", X_test=np.zeros((3, 9), np.float32), y_test=np.arange(3))
    for argv, code, words in (
        ((made.bare, photos, "--run", "0"), 65, "with --keep-backbone"),
        ((made.kept, made.features, "--run", "1"), 65, "give nmtool predict the images themselves"),
        ((made.bare, made.features), 65, "run 0 is of method fft: its head belongs to the backbone"),
        ((made.kept, photos, "--run", "1", "--split", "nope"), 66, "has no split 'nope'; expected one of test, train"),
        ((made.kept, f"arrays:{tmp_path / 'f.npz'}", "--run", "1"), 65, "holds features; expected images"),
        ((made.kept, photos, "--on-error", "stop"), 2, "--on-error is 'stop'"),
    ):
        assert run(["predict", *map(str, argv), "-o", str(tmp_path / "p.parquet")]) == code
        out, err = capsys.readouterr()
        assert not out
        assert words in err, err
        assert "Traceback" not in err
    assert not (tmp_path / "p.parquet").exists()
    ran = ok("predict", made.bare, photos, "-o", "p.parquet", "--split", "test", "--device", "cpu")
    assert "1 runs are left out" in ran.err
    assert_same(table(tmp_path / "p.parquet"), table(made.bare / "data" / "predictions.parquet", 1))
    assert run(["export", str(made.kept), "--run", "1", "-o", str(tmp_path / "head.onnx")]) == 65
    assert "belongs to the backbone that it fine-tuned" in capsys.readouterr().err


def test_images_that_can_not_be_read(ok: Callable, nmtool: Callable, made: Made, tmp_path: Path) -> None:
    """An error, or a row left out; those of the others stay what they were."""
    shutil.copytree(made.folder / "photos" / "test", tmp_path / "new")
    (tmp_path / "new" / "dog" / "a.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    asked = ("predict", made.kept, "folder:new", "-o", "p.parquet", "--run", "1,3", "--device", "cpu")
    ran = nmtool(*asked)
    assert (ran.code, ran.out) == (65, "")
    assert "--on-error skip" in ran.err
    ran = ok(*asked, "--on-error", "skip")
    assert "1 images of split" in ran.err
    ours, theirs = table(tmp_path / "p.parquet"), table(made.kept / "data" / "predictions.parquet", 1, 3)
    assert len(ours["run"]) == 54
    assert np.array_equal(ours["predicted"], theirs["predicted"])
    np.testing.assert_allclose(ours["confidence"], theirs["confidence"], atol=1e-5)
