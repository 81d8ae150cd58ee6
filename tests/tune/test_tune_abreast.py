"""Stacks side by side: the same heads as one by one, nothing left running, and one thread of torch for each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Given
from safetensors.numpy import load_file
from test_tune_speed import material
from tune_samples import results, tune

from nmtool.artifact.stage import Silence
from nmtool.errors import DivergedError
from nmtool.tune import abreast, plan, stacks
from nmtool.tune.config import Config
from nmtool.tune.material import Bench
from nmtool.tune.method import method_named


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def bench(advance: Any = lambda done: None) -> Bench:
    return Bench(device=torch.device("cpu"), report=Silence(), advance=advance)


def parts_of(*fractions: float, epochs: int = 1) -> list[tuple[plan.Run, ...]]:
    runs = plan.expand(Config(features="-", fraction=fractions, epochs=(epochs,)), 0, 64)
    return [(run,) for run in runs]


@pytest.mark.parametrize(
    ("costs", "threads", "gain"),
    [
        ([], 4, 1.0),
        ([1.0], 4, 1.0),
        ([1.0, 1.0], 2, 2.0),
        ([1.0, 0.5, 0.1], 2, 1.6),  # the half and the tenth beside the whole
        ([1.0, 0.75, 0.5, 0.25, 0.1], 2, 2.6 / 1.35),  # 1 + 0.25 and 0.75 + 0.5, and the last on either
        ([3.0, 3.0, 2.0, 2.0, 2.0], 2, 12 / 7),  # not the best plan (6 and 6), but the longest first
        ([1.0] * 6, 4, 3.0),
    ],
)
def test_the_gain_of_threads(costs: list[float], threads: int, gain: float) -> None:
    assert abreast.gain(costs, threads) == pytest.approx(gain)


@pytest.mark.usefixtures("two_threads")
def test_results_come_in_order_from_threads_of_one_core_each() -> None:
    seen, at_once = set(), threading.Barrier(2, timeout=20)

    def work(part: plan.Part, at: Bench) -> float:
        if part[0].fraction >= 0.5:  # the two longest begin together
            at_once.wait()
        seen.add((threading.current_thread().name.rpartition("_")[0], torch.get_num_threads()))
        at.advance(1)
        return part[0].fraction

    told: list[int] = []
    parts = parts_of(0.1, 0.5, 0.6, 0.2)
    assert abreast.results(parts, lambda part: True, work, bench(told.append)) == [0.1, 0.5, 0.6, 0.2]
    assert seen == {("nmtool-tune", 1)}
    assert told == [1] * 4
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("fractions", [(0.5,), (0.1, 1.0)], ids=["one stack", "one much longer than the other"])
def test_where_it_does_not_pay_stacks_take_turns(fractions: tuple[float, ...]) -> None:
    def work(part: plan.Part, at: Bench) -> tuple[bool, int]:
        return threading.current_thread() is threading.main_thread(), torch.get_num_threads()

    found = abreast.results(parts_of(*fractions), lambda part: True, work, bench())
    assert found == [(True, 2)] * len(fractions)


@pytest.mark.usefixtures("two_threads")
def test_when_one_fails_the_others_end_and_its_error_is_told() -> None:
    ended: list[float] = []

    def work(part: plan.Part, at: Bench) -> None:
        if part[0].fraction == 0.9:
            raise DivergedError("the ce loss is nan", "a finite loss")
        try:
            for _ in range(2000):
                time.sleep(0.01)
                at.pulse()
        finally:
            ended.append(part[0].fraction)

    with pytest.raises(DivergedError, match="the ce loss is nan"):
        abreast.results(parts_of(1.0, 0.9, 0.8), lambda part: True, work, bench())
    assert ended in ([1.0], [1.0, 0.8])  # the third may have begun in the place of the second
    assert not [t for t in threading.enumerate() if t.name.startswith("nmtool-tune")]


@pytest.mark.parametrize("method", ["lp", "mlp"])
def test_a_stack_in_training_feels_for_the_pulse_in_every_step(method: str) -> None:
    steps: list[int] = []

    def pulse() -> None:
        steps.append(len(steps))
        if len(steps) == 7:
            raise KeyboardInterrupt

    runs = plan.expand(Config(features="", method=(method,), epochs=(2,), batch_size=(8,), width=(1,)), 0, 4)
    with pytest.raises(KeyboardInterrupt):  # 80 rows: in the first epoch
        method_named(method).resolve()(runs, material(80, 4, 2), replace(bench(), pulse=pulse))
    assert len(steps) == 7


@pytest.mark.usefixtures("two_threads")
def test_heads_are_those_that_stacks_in_turn_give(
    pixels: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {
        "method": ("lp",),
        "loss": ("ce", "gce"),
        "fraction": (0.25, 0.5, 1.0),
        "seeds": (0, 1),
        "epochs": 3,
    }
    began = []
    together = abreast._together
    monkeypatch.setattr(abreast, "_together", lambda parts, *rest: began.append(len(parts)) or together(parts, *rest))
    beside = tune(tmp_path / "beside", pixels.features, **asked)
    assert began == [6]  # by loss and by share: the seeds are one stack
    torch.set_num_threads(1)
    in_turn = tune(tmp_path / "turn", pixels.features, **asked)
    assert began == [6]
    assert [row["run"] for row in results(beside)] == list(range(12))
    mine, theirs = (load_file(ref.path / "data" / "heads.safetensors") for ref in (beside, in_turn))
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_allclose(mine[name], tensor, atol=2e-4 * np.abs(tensor).max())
    for a, b in zip(results(beside), results(in_turn), strict=True):
        assert a["sve"] == b["sve"]
        assert abs(a["accuracy"] - b["accuracy"]) <= 1 / a["n"] + 1e-9


def test_a_large_stack_of_light_heads_is_cut_evenly_and_a_heavy_one_is_not() -> None:
    grid = plan.expand(
        Config(features="-", lr=(1e-4, 1e-3, 1e-2), weight_decay=tuple(10.0**-n for n in range(17))), 0, 8
    )
    assert stacks.light(grid[0], 768, 100)
    parts = stacks.light_slices(grid, 768, 100)  # 51 heads of 1.2 MB in 16 MiB: 13 a part at most
    assert [len(part) for part in parts] == [12, 13, 13, 13]
    assert [run for part in parts for run in part] == list(grid)
    assert not stacks.light(grid[0], 2048, 1000)  # 33 MB a head
    (mlp,) = plan.expand(Config(features="-", method=("mlp",)), 0, 8)
    (lbfgs,) = plan.expand(Config(features="-", solver=("lbfgs",)), 0, 8)
    assert not stacks.light(mlp, 8, 2)
    assert not stacks.light(lbfgs, 8, 2)
    (elr,) = plan.expand(Config(features="-", loss=("elr",)), 0, 8)
    assert elr.method == "lp"
    assert not stacks.light(elr, 8, 2)  # its targets are as many as the rows


def test_ctrl_c_ends_all_threads(pixels: Given, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nmtool", "tune", str(pixels.features.path), "--method", "lp", "--seeds", "0"]
    command += ["--fraction", "0.1,0.9,0.95,1.0", "--epochs", "4000", "--batch-size", "8"]
    command += ["-o", str(tmp_path / "heads")]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "training heads, epochs" in line:  # the first such line comes after ten seconds
                break
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(60) == 130
    assert time.monotonic() - began < 15  # a step, and not the minutes that are left
    assert not (tmp_path / "heads").exists()
