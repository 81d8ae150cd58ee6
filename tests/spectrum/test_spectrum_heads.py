"""The spectrum of the transformed space of heads: what tune has on record, and Z computed here in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from nmtool.errors import DataError
from nmtool.numerics.singular import largest_singular_value_ratio, singular_value_entropy
from nmtool.numerics.transformed import transformed


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pixels of digits as an array file."""
    x, y = load_digits(return_X_y=True)
    path = tmp_path_factory.mktemp("digits") / "d.npz"
    np.savez(
        path,
        X_train=(x[:400] / 16).astype(np.float32),
        y_train=y[:400],
        X_test=(x[400:700] / 16).astype(np.float32),
        y_test=y[400:700],
    )
    return path


SHAPES = (
    ("--method", "lp,nmtune"),
    (
        "--method",
        "mlp",
        "--batch-norm",
        "--residual",
        "--scale",
        "standardize",
        "--activation",
        "gelu",
        "--layers",
        "3",
    ),
)


@pytest.mark.parametrize("shape", SHAPES, ids=["plain", "everything"])
def test_it_is_what_tune_has_on_record(
    digits: Path, ok: Callable[..., Any], tmp_path: Path, shape: tuple[str, ...]
) -> None:
    ok("extract", "none", f"arrays:{digits}", "-o", "features")
    ok("tune", "features", *shape, "--seeds", "0,1", "--epochs", "3", "-o", "heads")
    told = ok("spectrum", "features:test", "--heads", "heads", "-o", "spectrum", "--json").json["results"]
    on_record = pq.read_table(tmp_path / "heads" / "data" / "results.parquet").to_pylist()
    assert [(r["run"], r["method"], r["seed"], r["split"]) for r in told] == [
        (r["run"], r["method"], r["seed"], "test") for r in on_record
    ]
    for mine, theirs in zip(told, on_record, strict=True):
        assert mine["n"] == theirs["n"]
        assert mine["sve"] == pytest.approx(theirs["sve"], abs=1e-4)
        assert mine["lsvr"] == pytest.approx(theirs["lsvr"], abs=1e-4)
    assert len({r["sve"] for r in told}) > 1
    one = ok("spectrum", "features:test", "--heads", "heads", "--run", "1", "-o", "one", "--json").json["results"]
    assert [r["run"] for r in one] == [1]
    assert one[0]["sve"] == told[1]["sve"]
    for number, runs in enumerate((("--run", "0,1"), ("--run", "0", "--run", "1"))):
        both = ok("spectrum", "features:test", "--heads", "heads", *runs, "-o", f"both-{number}", "--json").json
        assert [row["run"] for row in both["results"]] == [0, 1]
    again = ok("spectrum", "features:test", "--heads", "heads", "-o", "spectrum", "--json").json
    assert again["cached"] is True
    sigma = np.load(tmp_path / "spectrum" / "data" / "sigma-0.npy")
    assert singular_value_entropy(sigma) == pytest.approx(told[0]["sve"])
    assert largest_singular_value_ratio(sigma) == pytest.approx(told[0]["lsvr"])
    ok("report", "spectrum", "heads", "--format", "markdown", "-o", "report")
    assert "Z of " in (tmp_path / "report" / "data" / "report.md").read_text()


def test_a_network_against_plain_pytorch(tmp_path: Path) -> None:
    """Batch normalisation, residual and scaling, layer by layer."""
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    tensors = {
        **{"scale.mean": draw(5), "scale.std": 0.5 + draw(5), "residual.scale": draw(5)},
        **{
            "mlp.0.weight": draw(20, 5) - 0.5,
            "mlp.0.bias": draw(20),
            "mlp.1.weight": draw(5, 20),
            "mlp.1.bias": draw(5),
        },
        **{"norm.0.mean": draw(20), "norm.0.var": draw(20), "norm.0.scale": draw(20), "norm.0.bias": draw(20)},
    }
    F = draw(7, 5)
    x = (F - tensors["scale.mean"]) / tensors["scale.std"]
    first, norm, last = torch.nn.Linear(5, 20), torch.nn.BatchNorm1d(20), torch.nn.Linear(20, 5)
    net = torch.nn.Sequential(first, norm, torch.nn.Tanh(), last).double().eval()
    with torch.no_grad():
        for module, name in ((first, "mlp.0"), (last, "mlp.1")):
            module.weight.copy_(tensors[f"{name}.weight"])
            module.bias.copy_(tensors[f"{name}.bias"])
        norm.weight.copy_(tensors["norm.0.scale"])
        norm.bias.copy_(tensors["norm.0.bias"])
        norm.running_mean.copy_(tensors["norm.0.mean"])
        norm.running_var.copy_(tensors["norm.0.var"])
        wanted = tensors["residual.scale"] * net(x) + x
    found = transformed(F, tensors, scale="standardize", activation="tanh")
    assert torch.allclose(found, wanted, atol=1e-12)
    unit = transformed(F, {}, scale="l2")
    assert torch.allclose(unit, functional.normalize(F, dim=1))
    with pytest.raises(DataError, match="activation 'sine'"):
        transformed(F, tensors, scale="none", activation="sine")
    with pytest.raises(DataError, match="do not fit"):
        transformed(F[:, :4], tensors, scale="none", activation="tanh")


def test_refusals(digits: Path, ok: Callable[..., Any], nmtool: Callable[..., Any], tmp_path: Path) -> None:
    ok("extract", "none", f"arrays:{digits}", "-o", "features")
    ok("tune", "features", "--method", "knn", "-o", "heads")
    knn = ok("spectrum", "features:test", "--heads", "heads", "--json", "-o", "z").json["results"][0]
    raw = ok("spectrum", "features:test", "--json", "-o", "f").json["results"][0]
    assert knn["sve"] == pytest.approx(raw["sve"])
    for argv, code, words in (
        (("features:test", "--run", "0"), 2, "without --heads"),
        (("features:test", "--heads", "heads", "--run", "7"), 66, "has no run 7"),
        (("features:test", "--heads", "heads", "--run", "x"), 2, "--run is 'x'"),
        (("features:test", "--heads", "features"), 65, "is a features artifact"),
    ):
        ran = nmtool("spectrum", *argv, "-o", "no")
        assert (ran.code, words in ran.err) == (code, True), ran.err
    x = np.random.default_rng(0).normal(size=(20, 9)).astype(np.float32)
    np.savez(tmp_path / "n.npz", X_test=x, y_test=np.arange(20) % 2)
    ok("extract", "none", "arrays:n.npz", "-o", "narrow")
    ran = nmtool("spectrum", "narrow", "--heads", "heads", "-o", "no")
    assert ran.code == 65
    assert "has 9 dimensions; expected 64" in ran.err
