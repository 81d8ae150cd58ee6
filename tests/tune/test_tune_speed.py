"""What was made for speed, at its edges: the bench of Table 14 at tiny sizes, many classes, rates that diverge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nmtool.artifact.stage import Silence
from nmtool.errors import DivergedError
from nmtool.tune import stacks
from nmtool.tune.config import Config
from nmtool.tune.heads import LinearHeads
from nmtool.tune.material import Bench, Material, Overlay, Target
from nmtool.tune.method import method_named
from nmtool.tune.plan import Run, expand
from tests.bench import table14


def test_the_work_of_table_14_runs_at_any_size() -> None:
    done = table14.workload(torch.device("cpu"), batch_size=32, epochs=1, dim=6, share=0.002, most=3)
    assert done.runs == 3 * 3 * 3  # sets, methods, seeds
    assert done.seconds > 0
    # of the probe of CIFAR-10 alone: 100 rows are 4 steps of two products of 32 x 6 x 10
    assert done.operations > 3 * 4 * 2 * (2 * 32 * 6 * 10)


def material(rows: int, dim: int, classes: int) -> Material:
    rng = np.random.default_rng(0)
    y = np.arange(rows, dtype=np.int64) % classes
    X = torch.from_numpy(rng.normal(size=(rows, dim)).astype(np.float32))
    ids = [str(i) for i in range(rows)]
    target = Target(source="", shown="", split="", role="id", rows=np.arange(rows), ids=ids, X=X, y=y)
    overlay = Overlay(name="", shown="", y=y, ratio=None)
    names = tuple(str(c) for c in range(classes))
    return Material(X=X, ids=ids, clean=y, overlays=(overlay,), classes=names, targets=(target,))


def tuned(rows: int, dim: int, classes: int, **settings: Any) -> tuple[tuple[Run, ...], list[Any]]:
    asked: dict[str, Any] = {"epochs": (2,), "batch_size": (16,), "scale": ("none",), **settings}
    runs = expand(Config(features="", **asked), 0, dim)
    at = Bench(device=torch.device("cpu"), report=Silence(), spectra=False)
    return runs, method_named(runs[0].method).resolve()(runs, material(rows, dim, classes), at)


@pytest.mark.parametrize("method", ["lp", "mlp", "nmtune"])
@pytest.mark.parametrize(
    ("rows", "dim", "batch"), [(1, 5, 16), (9, 1, 16), (5, 40, 16), (33, 3, 16), (7, 4, 1)], ids=str
)
def test_one_row_one_dimension_and_fewer_rows_than_dimensions_are_defined(
    method: str, rows: int, dim: int, batch: int
) -> None:
    _, outcomes = tuned(rows, dim, min(rows, 3), method=(method,), batch_size=(batch,), seeds=(0, 1))
    for outcome in outcomes:
        assert all(np.isfinite(tensor).all() for tensor in outcome.tensors.values())
        assert 0 <= outcome.scores[0].accuracy <= 1


def test_ten_thousand_classes_fit_the_memory_planned() -> None:
    runs = expand(Config(features="", method=("lp",), seeds=tuple(range(40))), 0, 768)
    cost = LinearHeads.bytes_per_head(runs[0], 768, 10_000)
    assert cost >= 16 * 768 * 10_000  # parameter, gradient and two moments
    parts = stacks.slices(runs, lambda run: cost, "cpu")
    assert len(parts) > 1
    assert all(len(part) * cost <= stacks.PLANNED_BYTES["cpu"] for part in parts)
    _, outcomes = tuned(64, 8, 10_000, method=("lp",), epochs=(1,))
    assert outcomes[0].tensors["classifier.weight"].shape == (10_000, 8)


@pytest.mark.parametrize("method", ["mlp", "nmtune"])
def test_a_rate_that_diverges_is_named(method: str) -> None:
    with pytest.raises(DivergedError, match=r"the \w+ loss is \S+ in epoch \d+, step \d+ .*lr 1e\+30"):
        tuned(64, 8, 4, method=(method,), lr=(1e30,), epochs=(4,))
