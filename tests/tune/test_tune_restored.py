"""Heads read back from an artifact: the runs and tensors that were written; what is no head is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Given
from tune_samples import tune

from nmtool.errors import CorruptError, DataError, InputMissingError, UsageError
from nmtool.tune import plan
from nmtool.tune.config import Config
from nmtool.tune.restored import choose_runs, on_features, read_heads


def test_a_head_is_written_and_read_without_loss(pixels: Given, store: Path) -> None:
    ref = tune(store, pixels.features, method=("lp", "nmtune"), preset="released", width=2, epochs=2, seeds=(0, 3))
    heads = read_heads(str(ref.path))
    assert [r.index for r in choose_runs(heads, "all")] == [0, 1, 2, 3]
    assert (heads.dim, len(heads.classes), heads.split, heads.encoder) == (64, 10, "train", {})
    for run in choose_runs(heads, "3,0"):
        head, _ = heads.head(run, torch.device("cpu"))
        for name, tensor in head.export(0).items():
            assert np.array_equal(tensor.numpy(), heads.tensors[f"run_{run.index:04d}.{name}"])


def test_tensors_that_do_not_fit_are_refused(pixels: Given, store: Path) -> None:
    heads = read_heads(str(tune(store, pixels.features, epochs=1).path))
    run = heads.runs[0]
    name = "run_0000.classifier.weight"
    lacking: dict[str, Any] = {k: v for k, v in heads.tensors.items() if k != name}
    for tensors in (lacking, {**heads.tensors, name: np.zeros((10, 63), dtype=np.float32)}):
        with pytest.raises(CorruptError, match=r"the tensors of run 0 .*classifier\.weight"):
            replace(heads, tensors=tensors).head(run, torch.device("cpu"))


def test_runs_are_chosen_by_number(pixels: Given, store: Path) -> None:
    heads = read_heads(str(tune(store, pixels.features, epochs=1).path))
    with pytest.raises(InputMissingError, match=r"has no run 1; expected 0$"):
        choose_runs(heads, "1")
    for words in ("", "x", "0,", "-"):
        with pytest.raises(UsageError, match="all, or numbers"):
            choose_runs(heads, words)


def test_turns_heads_belong_to_their_backbones() -> None:
    runs = plan.expand(Config(features="-", method=("lp", "turn")), 0, 64)
    kept, others = on_features(runs, asked=False)
    assert ([r.method for r in kept], others) == (["lp"], 1)
    for given, asked in ((runs, True), (runs[1:], False)):
        with pytest.raises(DataError, match="run 1 is of method turn: its head belongs to the backbone"):
            on_features(given, asked=asked)


def test_runs_of_older_artifacts_are_read() -> None:
    """Settings that came later are left out where they are not used, and may be missing."""
    run = plan.expand(Config(features="-"), 0, 64)[0]
    body = json.loads(json.dumps(run.to_json()))
    assert set(body) == {
        *("index", "method", "seed", "fraction", "labels", "probe", "shape", "terms", "finetune", "nested")
    }
    assert plan.from_json(body) == run
