"""ELR, DivideMix and UNICON on features: the loop beside a plain one, its degenerate cases, views, and what decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Given
from safetensors.numpy import load_file
from tune_samples import Notes, digit_splits, flip, results, table, tune, write_features, write_labels

from nmtool.errors import DivergedError, UsageError
from nmtool.tune import plan, semi
from nmtool.tune.config import Config
from nmtool.tune.dividemix import _RULES
from nmtool.tune.inputs import resolve
from nmtool.tune.load import load
from nmtool.tune.material import Bench, Material
from nmtool.tune.rounds import Division, Epoch, together

FEW: dict[str, Any] = {"epochs": 4, "batch_size": 50, "spectra": False}
pairs = pytest.mark.parametrize("method", ["dividemix", "unicon"])


def heads_of(ref: Any) -> dict[str, Any]:
    return dict(load_file(ref.path / "data" / "heads.safetensors"))


def test_elr_is_a_linear_probe_with_that_loss(pixels: Given, store: Path) -> None:
    common: dict[str, Any] = {"labels": str(pixels.labels.path), "elr_lambda": 3.0, "elr_beta": 0.7, **FEW}
    own = tune(store, pixels.features, method="elr", **common)
    lp = tune(store, pixels.features, method="lp", loss="elr", **common)
    assert all(np.array_equal(tensor, heads_of(lp)[name]) for name, tensor in heads_of(own).items())
    row = results(own)[0]
    assert (row["loss"], row["elr_beta"], row["elr_lambda"], row["q"]) == ("elr", 0.7, 3.0, None)


def test_elr_without_its_term_is_cross_entropy(pixels: Given, store: Path) -> None:
    common: dict[str, Any] = {"labels": str(pixels.labels.path), "lr": 0.01, "scale": "l2", **FEW}
    ce = heads_of(tune(store, pixels.features, weight_decay=0.0, **common))
    elr = heads_of(tune(store, pixels.features, weight_decay=0.0, loss="elr", elr_lambda=0.0, **common))
    for name, tensor in ce.items():
        np.testing.assert_allclose(elr[name], tensor, atol=1e-6)


@pytest.mark.parametrize("method", ["elr", "dividemix", "unicon"])
def test_a_stack_equals_runs_trained_alone(pixels: Given, tmp_path: Path, method: str) -> None:
    """Seeds, rates and labels side by side: pairs take differently many steps, and those that are done stand still."""
    clean = digit_splits()["train"][1]
    more = write_labels(tmp_path, "train", clean, flip(clean, 0.8, 10, seed=3))
    every = (str(pixels.labels.path), str(more.path))
    common: dict[str, Any] = {"method": method, "lr": 0.01, **FEW}
    whole = tune(tmp_path / "w", pixels.features, labels=every, seeds=(0, 5), **common)
    tensors, rows = heads_of(whole), results(whole)
    assert len(rows) == 4
    for row in (rows[0], rows[3]):
        labels = every[row["run"] // 2]
        alone = tune(tmp_path / "a", pixels.features, labels=labels, seeds=(row["seed"],), **common)
        for name, tensor in heads_of(alone).items():
            mine = tensors[name.replace("run_0000", f"run_{row['run']:04d}")]
            assert np.abs(mine - tensor).max() <= 2e-3 * np.abs(tensor).max(), name


def material_of(given: Given, labels: str = "") -> Material:
    config = Config(features=str(given.features.path), labels=(labels,) if labels else ())
    return load(resolve(config), torch.device("cpu"), Notes())


@pytest.mark.parametrize("views", [1, 2])
def test_a_step_is_the_published_one(pixels: Given, views: int) -> None:
    """Losses of one step beside a plain loop that mixes features, not logits, and knows of no padding."""
    material = material_of(pixels, str(pixels.labels.path))
    runs = plan.expand(Config(features="-", method=("dividemix",), seeds=(1, 2), batch_size=(8,)), 1, 64)
    if views == 2:
        from nmtool.tune.material import Views

        noise = torch.randn(500, 2, 64, generator=torch.Generator().manual_seed(0)) * 0.1
        material = replace(material, views=Views(X=material.X[:, None] + noise, augment="weak"))
    bench = Bench(device=torch.device("cpu"), report=Notes())
    training = semi._Training(runs, material, bench, _RULES)
    rng = np.random.default_rng(0)
    weight = rng.random(500)
    # 20 labelled rows of the first run, so that its third batch is half empty; 300 of the second
    chosen = [Division(labelled=np.arange(500) < n, weight=weight) for n in (20, 300)]
    epochs = [Epoch(r, training.rows[k], chosen[k], 8, ("t", k)) for k, r in enumerate(runs)]
    step = together(epochs, 2, views, bench.device)
    found = training._losses(0, step, [0, 1], 5)
    for k in range(2):
        expected = plainly(training, material, step, k, views)
        for ours, theirs in zip(found, expected, strict=True):
            assert float(ours[k].detach()) == pytest.approx(theirs, rel=2e-5, abs=1e-6)


def plainly(training: Any, material: Material, step: Any, k: int, views: int) -> tuple[float, float, float]:
    """DivideMix section 3.2, row by row, in float64."""
    nets = [[p[k].detach().double().numpy() for p in net.heads.parameters.values()] for net in training.nets]

    def seen(row: int, view: int) -> Any:
        x = (material.X[row] if material.views is None else material.views.X[row, view]).double().numpy()
        return x / np.linalg.norm(x)

    def p(net: int, x: Any) -> Any:
        e = np.exp(nets[net][0] @ x + nets[net][1][0])
        return e / e.sum()

    wide, free = step.labelled.shape[1], step.unlabelled.shape[1]
    order = [(view, i, True) for view in range(views) for i in range(wide)]
    order += [(view, i, False) for view in range(views) for i in range(free)]
    there = {place for place, full in enumerate(step.filled[k].tolist()) if full}
    x, t = {}, {}
    for place in there:
        view, i, labelled = order[place]
        row = int((step.labelled if labelled else step.unlabelled)[k, i])
        mine = np.mean([p(0, seen(row, v)) for v in range(views)], axis=0)
        if labelled:
            w = float(step.weight[k, i])
            mean = w * np.eye(10)[material.overlays[0].y[row]] + (1 - w) * mine
        else:
            mean = (mine + np.mean([p(1, seen(row, v)) for v in range(views)], axis=0)) / 2
        x[place], t[place] = seen(row, view), mean**2 / (mean**2).sum()
    lam = float(step.mix[k])
    assert 0.5 <= lam <= 1
    assert sorted(int(step.partner[k, place]) for place in there) == sorted(there)
    soft, squared, all_p = [], [], []
    for place in there:
        other = int(step.partner[k, place])
        out = p(0, lam * x[place] + (1 - lam) * x[other])
        target = lam * t[place] + (1 - lam) * t[other]
        all_p.append(out)
        if order[place][2]:
            soft.append(-(target * np.log(out)).sum())
        else:
            squared.append(((out - target) ** 2).mean())
    mean = np.mean(all_p, axis=0)
    return float(np.mean(soft)), float(np.mean(squared)), float((0.1 * np.log(0.1 / mean)).sum())


def test_an_epoch_has_each_labelled_row_once_and_cycles_the_others() -> None:
    (run,) = plan.expand(Config(features="-", method=("unicon",), batch_size=(8,)), 0, 64)
    labelled = np.arange(50) < 29
    epoch = Epoch(run, np.arange(100, 150), Division(labelled=labelled, weight=np.ones(50)), 10, ("t",))
    batches = [epoch.batch(s) for s in range(epoch.steps)]
    assert [len(own) for own, _, _ in batches] == [8, 8, 8, 5]
    assert sorted(np.concatenate([own for own, _, _ in batches])) == list(range(100, 129))
    free = np.concatenate([other for _, _, other in batches])
    assert len(free) == 40
    assert sorted(free[:21]) == list(range(129, 150))


@pairs
def test_noise_of_every_amount_is_defined(tmp_path: Path, method: str) -> None:
    """No label wrong, all of them, two classes, a class of one sample, and rows that nothing tells apart."""
    x, y = digit_splits(120, 60)["train"]
    test = digit_splits(120, 60)["test"]
    single = np.where(np.arange(120) == 5, 9, y % 9)
    cases = {"none": (x, y), "all": (x, (y + 1) % 10), "two": (x, y % 2), "single": (x, single), "same": (x * 0 + 1, y)}
    for name, (rows, labels) in cases.items():
        features = write_features(tmp_path / name, {"train": (rows, labels), "test": test})
        for warm in (0.25, 1.0):
            row = results(tune(tmp_path / name, features, method=method, warmup=warm, p_threshold=0.99, **FEW))[0]
            assert np.isfinite(row["accuracy"]), name


def test_rows_that_nothing_divides_are_told(tmp_path: Path) -> None:
    """Rows of zeros of two classes in equal number, and a head that starts at zero: all losses are ln 2."""
    y = np.arange(40) % 2
    zeros = np.zeros((40, 4), dtype=np.float32)
    features = write_features(tmp_path, {"train": (zeros, y), "test": (zeros, y)}, classes=("a", "b"))
    notes = Notes()
    tune(tmp_path, features, notes, method="dividemix", lr=1e-30, batch_size=40, epochs=3, spectra=False)
    assert any("nothing tells the rows apart" in text for text in notes.warnings)
    notes = Notes()
    tune(tmp_path, write_features(tmp_path, digit_splits()), notes, method="dividemix", p_threshold=1.0, **FEW)
    assert any("rows count as labelled" in text and "lower --p-threshold" in text for text in notes.warnings)


def test_what_is_not_asked_is_settled_by_the_noise(pixels: Given) -> None:
    material = material_of(pixels, str(pixels.labels.path))
    (run,) = plan.expand(Config(features="-", method=("dividemix",)), 1, 64)
    (own,) = plan.expand(Config(features="-", method=("dividemix",), lambda_u=(7.0,)), 1, 64)
    (other,) = plan.expand(Config(features="-", method=("unicon",)), 1, 64)
    for noise, ratio, expected, penalty in (
        ("asymmetric", 0.4, 0.0, True),
        ("pairflip", 0.4, 0.0, True),
        ("symmetric", 0.6, 25.0, False),
        ("symmetric", 0.8, 150.0, False),
        ("instance", 0.9, 25.0, False),
        ("", None, 25.0, False),
    ):
        overlay = replace(material.overlays[0], type=noise, requested=ratio)
        now = replace(material, overlays=(overlay,))
        assert (semi.lambda_of(run, now), semi.penalised(run, now)) == (expected, penalty), noise
        assert (semi.lambda_of(own, now), semi.lambda_of(other, now)) == (7.0, 30.0)


def test_the_labels_artifact_says_its_type(encoded: Given, store: Path) -> None:
    row = results(tune(store, encoded.features, labels=str(encoded.labels.path), method="dividemix", **FEW))[0]
    assert (row["lambda_u"], row["lambda_u_used"]) == (None, 25.0)  # symmetric 40 %
    assert row["selected_last"] > 0
    assert 0 <= row["purity_last"] <= 1


@pairs
def test_one_view_is_told_and_two_are_used(pixels: Given, store: Path, method: str) -> None:
    notes = Notes()
    one = results(tune(store, pixels.features, notes, method=method, **FEW))[0]
    assert one["views"] == 1
    assert any("these features have one view of each row" in text for text in notes.infos)
    splits = digit_splits()
    views = np.stack([splits["train"][0] * 0.9, splits["train"][0]], 1)
    for augment in ("weak", "strong"):
        notes = Notes()
        features = write_features(store, splits, views=views, augment=augment)
        assert results(tune(store, features, notes, method=method, **FEW))[0]["views"] == 2
        assert not any("one view" in text for text in notes.infos)


@pytest.mark.parametrize("method", ["lp", "mlp", "nmtune"])
def test_two_equal_views_are_the_feature_itself(pixels: Given, store: Path, method: str) -> None:
    """Each term is a mean over rows but the covariance, whose divisor is B - 1."""
    splits = digit_splits()
    x = splits["train"][0]
    features = write_features(store, splits, views=np.stack([x, x], 1))
    common: dict[str, Any] = {"method": method, "width": 1, "lr": 1e-3, "weight_cov": 0.0, **FEW}
    once = heads_of(tune(store, features, **common))
    twice = tune(store, features, use_views=True, **common)
    for name, tensor in once.items():
        np.testing.assert_allclose(heads_of(twice)[name], tensor, atol=2e-4 * np.abs(tensor).max())
    assert results(twice)[0]["use_views"] is True
    assert results(twice)[0]["train_accuracy"] <= 1


def test_consistency_is_across_views() -> None:
    from nmtool.numerics import losses
    from nmtool.tune.nmtune import terms_of

    runs = plan.expand(Config(features="-", method=("nmtune",), use_views=True), 0, 8)
    F, Z = torch.randn(1, 12, 8), torch.randn(1, 12, 8)
    terms = terms_of(runs, torch.device("cpu"))(F, Z)
    assert float(terms["mse"]) == pytest.approx(float(losses.consistency(F[:, :6], Z[:, 6:])), rel=1e-6)
    assert float(terms["cov"]) == pytest.approx(float(losses.covariance(Z)), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_views": True, "loss": "elr"}, "remembers one prediction"),
        ({"use_views": True, "solver": "lbfgs"}, "--solver adamw"),
        ({"cleanse": "once", "solver": "lbfgs"}, "--solver adamw"),
        ({"cleanse": "once", "search": True}, "one of them"),
        ({"loss": "elr", "solver": "lbfgs"}, "--loss ce"),
        ({"loss": "elr", "elr_beta": 1.0}, "below 1"),
        ({"method": "dividemix", "sharpen": 0.0}, "--sharpen has 0"),
        ({"method": "unicon", "mixup": -1.0}, "--mixup has -1"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    lists = {k: v if isinstance(v, bool) else (v,) for k, v in settings.items()}
    with pytest.raises(UsageError, match=message):
        plan.expand(Config(features="-", **lists), 1, 64)


def test_views_that_are_not_there_are_refused(pixels: Given, store: Path) -> None:
    with pytest.raises(UsageError, match="has no two views"):
        tune(store, pixels.features, use_views=True)


@pytest.mark.parametrize("method", ["elr", "dividemix", "unicon"])
def test_a_search_finds_their_rate(pixels: Given, store: Path, method: str) -> None:
    settings: dict[str, Any] = {"lr": (1e-3, 3e-2), "weight_decay": (0.0,)}
    ref = tune(store, pixels.features, method=method, search=True, labels=str(pixels.labels.path), **settings, **FEW)
    tried = table(ref, "search.parquet")
    best = int(np.argmax([a if a is not None else -1 for a in tried["accuracy"]]))
    assert results(ref)[0]["found_lr"] == tried["lr"][best]
    assert len(tried["lr"]) == 2


@pairs
def test_what_diverges_is_told_and_loses_a_search(pixels: Given, store: Path, method: str) -> None:
    common: dict[str, Any] = {"method": method, "optimizer": "sgd", "scale": "none", **FEW}
    with pytest.raises(DivergedError, match=r"not finite after epoch .*lower --lr"):
        tune(store, pixels.features, lr=1e38, **common)
    ref = tune(store, pixels.features, lr=(0.01, 1e38), weight_decay=(0.0,), search=True, **common)
    assert table(ref, "search.parquet")["accuracy"][1] is None
    assert results(ref)[0]["found_lr"] == 0.01


@pairs
def test_what_is_divided_is_mostly_clean(tmp_path: Path, method: str) -> None:
    """Half of the labels wrong, on real pixels."""
    splits = digit_splits(900, 800)
    features = write_features(tmp_path, splits)
    clean = splits["train"][1]
    labels = write_labels(tmp_path, "train", clean, flip(clean, 0.5, 10))
    common: dict[str, Any] = {"labels": str(labels.path), "scale": "l2", "lr": 0.05, "epochs": 20, "spectra": False}
    row = results(tune(tmp_path, features, method=method, **common))[0]
    assert row["accuracy"] > 0.7
    assert row["purity_last"] > 0.75
    assert row["recall_last"] > 0.75
