"""A stack of heads is what its heads are alone; AdamW is PyTorch's; gradients are those of float64 autograd."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Given
from safetensors.numpy import load_file
from torch import nn
from tune_samples import results, tune

from nmtool.encoders import device
from nmtool.numerics import losses
from nmtool.tune import mlp, plan, stacks, subset
from nmtool.tune.config import Config
from nmtool.tune.heads import LinearHeads
from nmtool.tune.mlp import MlpHeads
from nmtool.tune.nmtune import Regularisers
from nmtool.tune.optimise import StackAdamW, factor


def heads_of(ref: Any) -> dict[str, Any]:
    return dict(load_file(ref.path / "data" / "heads.safetensors"))


@pytest.mark.parametrize(
    ("method", "scale", "loss"), [("lp", "none", "ce"), ("lp", "standardize", "gce"), ("nmtune", "l2", "ce")]
)
def test_a_stack_equals_heads_trained_alone(pixels: Given, tmp_path: Path, method: str, scale: str, loss: str) -> None:
    """To 2e-4 of each tensor's largest value after 30 steps: batched products round otherwise than single ones."""
    common: dict[str, Any] = {"method": method, "scale": scale, "loss": loss, "epochs": 3, "batch_size": 50, "width": 1}
    lists: dict[str, Any] = {"lr": (1e-3, 3e-3), "weight_decay": (0.0, 0.1), "seeds": (0, 5), "fraction": (0.5, 1.0)}
    whole = tune(tmp_path / "stack", pixels.features, **common, **lists)
    tensors, rows = heads_of(whole), results(whole)
    assert len(rows) == 16
    for row in (rows[0], rows[5], rows[10], rows[15]):
        single = {k: (row[k],) for k in ("lr", "weight_decay", "fraction")}
        alone = tune(tmp_path / "alone", pixels.features, **common, **single, seeds=(row["seed"],))
        for name, tensor in heads_of(alone).items():
            mine = tensors[name.replace("run_0000", f"run_{row['run']:04d}")]
            assert np.abs(mine - tensor).max() <= 2e-4 * np.abs(tensor).max(), name
        assert abs(results(alone)[0]["accuracy"] - row["accuracy"]) <= 1 / row["n"] + 1e-9


def test_a_stack_cut_for_memory_gives_the_same(pixels: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common: dict[str, Any] = {"method": "mlp", "epochs": 2, "seeds": (0, 1, 2), "width": 2}
    whole = heads_of(tune(tmp_path / "whole", pixels.features, **common))
    monkeypatch.setattr(stacks, "PLANNED_BYTES", {"cpu": 1})
    cut = heads_of(tune(tmp_path / "cut", pixels.features, **common))
    assert whole.keys() == cut.keys()
    for name in whole:
        np.testing.assert_allclose(cut[name], whole[name], atol=2e-4 * np.abs(whole[name]).max())


def runs_of(**settings: Any) -> tuple[plan.Run, ...]:
    return plan.expand(Config(features="-", **settings), 0, 64)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_stack_adamw_is_torchs_adamw(schedule: str) -> None:
    runs = runs_of(lr=(0.1, 0.01), weight_decay=(0.0, 0.2), schedule=(schedule,), seeds=(0, 1))
    runs = tuple(sorted(runs, key=lambda r: (r.probe.lr, r.probe.weight_decay)))
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(len(runs), 7, 3, generator=generator)
    steps = [torch.randn(start.shape, generator=generator) for _ in range(12)]
    stack = {"w": start.clone().requires_grad_()}
    ours = StackAdamW(stack, runs, len(steps))
    for gradient in steps:
        stack["w"].grad = gradient.clone()
        ours.step()
    for k, run in enumerate(runs):
        single = nn.Parameter(start[k].clone())
        theirs = torch.optim.AdamW([single], lr=run.probe.lr, weight_decay=run.probe.weight_decay)
        for step, gradient in enumerate(steps):
            theirs.param_groups[0]["lr"] = run.probe.lr * factor(schedule, step, len(steps))
            single.grad = gradient[k].clone()
            theirs.step()
        torch.testing.assert_close(stack["w"][k], single, rtol=1e-6, atol=1e-6)


def test_the_cosine_is_torchs_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert 0.3 * factor("cosine", step, 20) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        cosine.step()
    assert factor("cosine", 20, 20) == pytest.approx(0)
    assert factor("linear", 20, 20) == 0


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_stacks_products_are_those_of_each_head(count: int, shared: bool) -> None:
    """Logits and closed-form gradients by PyTorch's own layer and autograd, where heads share their rows and not."""
    heads = LinearHeads(runs_of(seeds=tuple(range(count))), 7, 7, torch.device("cpu"))  # as many classes as dimensions
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1 if shared else count, 11, 7, generator=generator)
    slope = torch.randn(count, 11, 7, generator=generator)
    with torch.no_grad():
        heads.parameters["classifier.bias"].copy_(torch.randn(count, 1, 7, generator=generator))
    logits = heads.classify(x)
    heads.learn(x, slope)
    assert logits.shape == (count, 11, 7)
    for k in range(count):
        own = heads.export(k)
        layer = nn.Linear(7, 7)
        layer.load_state_dict({"weight": own["classifier.weight"], "bias": own["classifier.bias"]})
        expected = layer(x[0 if shared else k])
        torch.testing.assert_close(logits[k], expected, rtol=1e-5, atol=1e-5)
        expected.backward(slope[k])
        for name, wanted in (("weight", layer.weight.grad), ("bias", layer.bias.grad)):
            got = heads.parameters[f"classifier.{name}"].grad
            assert got is not None
            assert wanted is not None
            torch.testing.assert_close(got[k].reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5)


def whole(heads: MlpHeads, name: str, kept: torch.Tensor) -> torch.Tensor:
    """A weight [in, out] or a vector of one head, as a network in one piece has it."""
    return heads.whole(name, kept) if name.endswith("weight") else kept.flatten()


def reference_loss(p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor, terms: plan.Terms) -> torch.Tensor:
    """NMTune Eq. 3 to 6 for one head, written again from the paper with autograd's own SVD."""
    hidden = (x @ p["mlp.0.weight"] + p["mlp.0.bias"]).clamp_min(0)
    z = hidden @ p["mlp.1.weight"] + p["mlp.1.bias"]
    logits = z @ p["classifier.weight"] + p["classifier.bias"]
    ce = nn.functional.cross_entropy(logits, y)
    unit = [a / a.norm(dim=1, keepdim=True) for a in (x, z)]
    mse = ((unit[0] - unit[1]) ** 2).sum(1).mean()
    c = torch.cov(z.T)
    cov = ((c - torch.diag(torch.diagonal(c))) ** 2).sum() / z.shape[1]
    sigma = torch.linalg.svdvals(z)
    svd = -sigma[: terms.svd_topk].mean() / sigma.sum()
    return ce + terms.weight_mse * mse + terms.weight_cov * cov + terms.weight_svd * svd


@pytest.mark.parametrize("rows", [24, 9])
@pytest.mark.parametrize("topk", [1, 5])
def test_nmtune_gradients_are_those_of_float64_autograd(rows: int, topk: int) -> None:
    runs = runs_of(
        method=("nmtune",), seeds=(0, 1), weight_mse=(0.5,), weight_cov=(0.3,), weight_svd=(2.0,), svd_topk=(topk,)
    )
    dim, classes = 12, 4
    heads = MlpHeads(runs, dim, classes, torch.device("cpu"))
    terms = Regularisers(runs, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(runs), rows, dim, generator=generator) + 0.5
    y = torch.randint(0, classes, (len(runs), rows), generator=generator)
    z = heads.transform(x, training=True)
    total = losses.cross_entropy(heads.classify(z), y)
    for name, value in terms(x, z).items():
        total = total + terms.weights[name] * value
    total.sum().backward()
    for k, run in enumerate(runs):
        assert run.terms is not None
        p = {n: whole(heads, n, t.detach()[k]).double().requires_grad_() for n, t in heads.parameters.items()}
        expected = reference_loss(p, x[k].double(), y[k], run.terms)
        expected.backward()
        assert total[k].item() == pytest.approx(expected.item(), rel=1e-5)
        for name, tensor in p.items():
            slopes, want = heads.parameters[name].grad, tensor.grad
            assert slopes is not None
            assert want is not None
            got = whole(heads, name, slopes[k]).double()
            assert (got - want).abs().max() <= 2e-5 * want.abs().max() + 1e-7, name


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize(("dim", "width", "parts"), [(6, 2, 4), (7, 2, 2), (5, 1, 1)])
def test_batch_norm_and_residual_are_torchs(layers: int, dim: int, width: int, parts: int) -> None:
    """Also where hidden layers are computed in parts, whatever divides them."""
    runs = runs_of(method=("mlp",), seeds=(0, 1), preset="released", layers=(layers,), width=(width,))
    heads = MlpHeads(runs, dim, 3, torch.device("cpu"))
    assert heads.parts == (parts if layers > 1 else 1)
    generator = torch.Generator().manual_seed(2)
    batches = torch.randn(4, 2, 10, dim, generator=generator)
    for k in range(2):
        own = heads.export(k)
        widths = [dim, *[dim * width] * (layers - 1), dim]
        pieces: list[nn.Module] = []
        for i in range(layers):
            layer = nn.Linear(widths[i], widths[i + 1])
            layer.load_state_dict({"weight": own[f"mlp.{i}.weight"], "bias": own[f"mlp.{i}.bias"]})
            pieces += [layer] if i == layers - 1 else [layer, nn.BatchNorm1d(dim * width), nn.ReLU()]
        reference = nn.Sequential(*pieces)
        fresh = MlpHeads(runs, dim, 3, torch.device("cpu"))
        for batch in batches:
            got = fresh.transform(batch, training=True)[k]
            torch.testing.assert_close(got, reference(batch[k]) + batch[k], rtol=1e-5, atol=1e-5)
        reference.eval()
        again = MlpHeads(runs, dim, 3, torch.device("cpu"))
        for j in range(2):
            again.restore(j, fresh.export(1 - j))  # the other head's
        for stack, place in ((fresh, k), (again, 1 - k)):
            x = batches[0][k].expand(2, -1, -1)  # no dimension but the heads' is shared
            got = stack.transform(x, training=False)[place]
            torch.testing.assert_close(got, reference(batches[0][k]) + batches[0][k], rtol=1e-5, atol=1e-5)


def test_numbers_do_not_depend_on_parts_and_libraries(
    pixels: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 2e-4 of each tensor's largest value, as of a stack and its heads alone."""
    common: dict[str, Any] = {"method": "nmtune", "epochs": 2, "seeds": (0, 1), "width": 2}
    as_it_is = heads_of(tune(tmp_path / "any", pixels.features, **common))
    monkeypatch.setattr(device, "_onednn_keeps_float32", lambda: False)
    in_parts = heads_of(tune(tmp_path / "parts", pixels.features, **common))
    monkeypatch.setattr(mlp, "_PARTS", 1)
    in_one = heads_of(tune(tmp_path / "one", pixels.features, **common))
    assert as_it_is.keys() == in_parts.keys() == in_one.keys()
    for name, tensor in in_one.items():
        for other in (as_it_is, in_parts):
            np.testing.assert_allclose(other[name], tensor, atol=2e-4 * np.abs(tensor).max(), err_msg=name)


def test_shares_are_stratified_nested_and_never_empty() -> None:
    y = np.repeat([0, 1, 2, -1], [100, 10, 1, 5])
    for seed in (0, 1):
        shares = [set(subset.share(y, seed, f).tolist()) for f in (0.05, 0.29, 0.5, 1.0)]
        assert all(a <= b for a, b in pairwise(shares))
        counts = [np.bincount(y[list(s)], minlength=3).tolist() for s in shares]
        assert counts == [[5, 1, 1], [29, 2, 1], [50, 5, 1], [100, 10, 1]]
    assert subset.share(y, 0, 0.5).tolist() != subset.share(y, 1, 0.5).tolist()
    apart = [set(subset.share(y, 0, f, nested=False).tolist()) for f in (0.05, 0.29, 0.5, 1.0)]
    nested = [set(subset.share(y, 0, f).tolist()) for f in (0.05, 0.29, 0.5, 1.0)]
    assert [len(rows) for rows in apart] == [len(rows) for rows in nested]
    assert not apart[1] <= apart[2]


def test_all_methods_of_a_seed_start_alike(pixels: Given, tmp_path: Path) -> None:
    """Seeds compare like with like: the classifier's start and the order of rows do not depend on method or share."""
    tiny: dict[str, Any] = {"method": ("lp", "mlp"), "lr": 1e-30, "epochs": 1, "scale": "none", "fraction": (0.5, 1.0)}
    tensors = heads_of(tune(tmp_path, pixels.features, **tiny))
    first = tensors["run_0000.classifier.weight"]
    assert all(np.array_equal(t, first) for n, t in tensors.items() if n.endswith("classifier.weight"))
    order = subset.order(np.arange(10), 7, 1)
    assert sorted(order.tolist()) == list(range(10))
    assert not np.array_equal(order, subset.order(np.arange(10), 7, 2))


def test_stacks_join_what_can_train_together() -> None:
    from nmtool.tune.material import Overlay

    y = np.arange(100) % 4
    overlay = Overlay(name="", shown="", y=y, ratio=None)
    runs = runs_of(method=("lp", "mlp"), loss=("ce", "gce"), seeds=(0, 1, 2), fraction=(0.5, 1.0), lr=(0.1, 0.2))
    groups = stacks.stacks(runs, [overlay])
    assert sorted(len(g) for g in groups) == [6] * 8
    assert sorted(r.index for g in groups for r in g) == [r.index for r in runs]
    assert all(replace(g[0], seed=0).stack_key() == r.stack_key() for g in groups for r in g)
