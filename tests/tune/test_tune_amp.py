"""``--amp bf16`` of heads on features: products of rounded factors, all else as in float32, and in the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Given
from safetensors.numpy import load_file
from tune_samples import results, tune

from nmtool.errors import UsageError
from nmtool.numerics import losses
from nmtool.tune import plan, products
from nmtool.tune.config import Config
from nmtool.tune.heads import LinearHeads
from nmtool.tune.mlp import MlpHeads

CPU = torch.device("cpu")


def tensors(ref: Any) -> dict[str, Any]:
    return dict(load_file(ref.path / "data" / "heads.safetensors"))


def runs_of(method: str, amp: str, **settings: Any) -> tuple[plan.Run, ...]:
    return plan.expand(Config(features="-", method=(method,), amp=amp, **settings), 0, 16)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """To eight bits of mantissa, in float64."""
    return x.to(torch.bfloat16).double()


@pytest.mark.parametrize("kind", ["one", "stack"])
def test_a_product_is_that_of_rounded_factors(kind: str) -> None:
    """Value and both gradients in float64; what a CPU gives is rounded once more, to 2^-8 of each number."""
    rng = torch.Generator().manual_seed(0)
    shape = (3,) if kind == "stack" else (1,)
    x = torch.randn(*shape, 5, 40, generator=rng).requires_grad_()
    w = torch.randn(*shape, 40, 7, generator=rng).requires_grad_()
    slope = torch.randn(*shape, 5, 7, generator=rng)
    y = products.rounded(x, w)
    y.backward(slope)
    assert x.grad is not None
    assert w.grad is not None
    wanted = (
        (y, rounded(x) @ rounded(w)),
        (x.grad, rounded(slope) @ rounded(w).mT),
        (w.grad, rounded(x).mT @ rounded(slope)),
    )
    for found, exact in wanted:
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_a_linear_heads_step_is_that_of_rounded_factors(shared: bool) -> None:
    heads = LinearHeads(runs_of("lp", "bf16", seeds=(0, 1)), 16, 5, CPU)
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(1 if shared else 2, 9, 16, generator=rng)
    y = torch.randint(5, (2, 9), generator=rng)
    with torch.no_grad():
        logits = heads.classify(x, training=True)
        _, slope = losses.loss_and_slope(logits, y)
        heads.learn(x, slope)
    weight = heads.parameters["classifier.weight"]
    exact = rounded(x) @ rounded(weight.detach()).mT
    torch.testing.assert_close(logits.double(), exact, rtol=2**-8, atol=1e-5)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.double(), rounded(slope).mT @ rounded(x), rtol=2**-8, atol=1e-6)
    # what is asked of a head that is trained is in float32
    torch.testing.assert_close(heads.classify(x), x @ weight.detach().mT, rtol=1e-5, atol=1e-5)


def test_an_mlp_is_asked_in_float32_and_trained_in_bfloat16() -> None:
    heads, full = (MlpHeads(runs_of("mlp", amp, seeds=(3,)), 16, 5, CPU) for amp in ("bf16", "none"))
    x = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        asked, trained = (heads.transform(x, training=training) for training in (False, True))
        torch.testing.assert_close(asked, full.transform(x, training=False), rtol=1e-5, atol=1e-5)
    apart = float((asked - trained).abs().max() / asked.abs().max())
    assert 1e-4 < apart < 2e-2


@pytest.mark.parametrize("method", ["lp", "mlp", "nmtune"])
def test_heads_of_a_real_set(pixels: Given, tmp_path: Path, method: str) -> None:
    """Other numbers under another key, and about as right: a hundredth of the test rows may change sides."""
    common: dict[str, Any] = {"method": method, "epochs": 4, "seeds": (0, 1), "batch_size": 50}
    full = tune(tmp_path / "store", pixels.features, **common)
    half = tune(tmp_path / "store", pixels.features, amp="bf16", **common)
    assert half.content != full.content
    mine, theirs = tensors(half), tensors(full)
    assert mine.keys() == theirs.keys()
    weight = "run_0000.classifier.weight"
    assert mine[weight].dtype == np.float32
    apart = np.abs(mine[weight] - theirs[weight]).max() / np.abs(theirs[weight]).max()
    assert 1e-5 < apart < 0.2
    for a, b in zip(results(half), results(full), strict=True):
        assert abs(a["accuracy"] - b["accuracy"]) <= 0.01
        assert a["amp"] == "bf16"
        assert b.get("amp") is None


def test_what_can_not_be_had_is_refused(pixels: Given, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--amp fp16 with --method mlp"):
        tune(tmp_path, pixels.features, method="mlp", amp="fp16")


def test_older_keys_hold() -> None:
    plain = runs_of("lp", "none")[0]
    assert "amp" not in plain.to_json()
    assert plan.from_json(runs_of("lp", "bf16")[0].to_json()).amp == "bf16"
    assert runs_of("lp", "bf16", solver=("lbfgs",))[0].amp == ""  # which is solved in float64
