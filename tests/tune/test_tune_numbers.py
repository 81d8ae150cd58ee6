"""Numbers against independent ones: scikit-learn's logistic regression, and what noise-robust losses are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Given
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef
from tune_samples import digit_splits, flip, results, table, tune, write_features, write_labels

from nmtool.errors import DataError
from nmtool.tune import plan
from nmtool.tune.config import Config
from nmtool.tune.evaluate import spectrum_of, spectrum_on_device


def test_a_probe_agrees_with_logistic_regression(pixels: Given, store: Path) -> None:
    """Both minimise the cross-entropy over 500 digits, nearly without penalty: within two points of accuracy."""
    splits = digit_splits()
    model = LogisticRegression(C=100.0, max_iter=2000).fit(*splits["train"])
    expected = model.score(*splits["test"])
    row = results(tune(store, pixels.features, lr=0.02, epochs=60, seeds=(0,)))[0]
    assert row["accuracy"] == pytest.approx(expected, abs=0.02)
    assert row["accuracy"] > 0.85


def test_scores_are_scikit_learns(pixels: Given, store: Path) -> None:
    ref = tune(store, pixels.features, lr=0.01, epochs=2)
    row, found = results(ref)[0], table(ref, "predictions.parquet")
    y, p = found["label"], found["predicted"]
    assert row["macro_f1"] == pytest.approx(f1_score(y, p, average="macro", zero_division=0))
    assert row["mean_per_class"] == pytest.approx(balanced_accuracy_score(y, p))
    assert row["matthews"] == pytest.approx(matthews_corrcoef(y, p))
    assert 0 <= row["calibration_error"] <= 1


def test_the_spectrum_is_that_of_the_scaled_features(pixels: Given, store: Path) -> None:
    x = digit_splits()["test"][0].astype(np.float64)
    rows = {r["scale"]: r for r in results(tune(store, pixels.features, scale=("none", "l2", "standardize"), epochs=1))}
    train = digit_splits()["train"][0].astype(np.float64)
    std = train.std(0)
    spaces = {
        "none": x,
        "l2": x / np.linalg.norm(x, axis=1, keepdims=True),
        "standardize": (x - train.mean(0)) / np.where(std > 0, std, 1.0),
    }
    for scale, z in spaces.items():
        sigma = np.linalg.svd(z, compute_uv=False)
        p = sigma[sigma > 0] / sigma.sum()
        assert rows[scale]["sve"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4), scale
        assert rows[scale]["lsvr"] == pytest.approx(-np.log(p.max()), rel=1e-4), scale


def test_the_gram_route_gives_the_same_spectrum() -> None:
    rng = np.random.default_rng(0)
    for shape in ((6000, 200), (200, 6000)):
        z = (rng.normal(size=shape) * np.linspace(1, 9, shape[1])).astype(np.float32)
        assert z.size > 2**20
        sigma = np.linalg.svd(z.astype(np.float64), compute_uv=False)
        p = sigma / sigma.sum()
        found = spectrum_of(z)
        assert found is not None
        assert found == pytest.approx((-(p * np.log(p)).sum(), -np.log(p.max())), rel=1e-6)
    assert spectrum_of(np.zeros((5, 3), dtype=np.float32)) is None


@pytest.mark.parametrize("shape", [(3000, 700), (700, 3000), (40, 30)])
@pytest.mark.parametrize("rank", [0, 25])
def test_the_spectrum_on_a_device_is_that_of_the_host(shape: tuple[int, int], rank: int) -> None:
    """By LAPACK's SVD in float64, full rank and lacking it, far from the origin as Z is."""
    rng = np.random.default_rng(5)
    z = (
        rng.normal(size=shape) + 3.0
        if not rank
        else rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    )
    z = z.astype(np.float32)
    found = spectrum_on_device(torch.from_numpy(z))
    assert found is not None
    sigma = np.linalg.svd(z.astype(np.float64), compute_uv=False)
    p = sigma / sigma.sum()
    # what rounding to float32 leaves beyond the rank is more than 1e-8 of the largest here: it is no rounding of ours
    assert found[0] == pytest.approx(-np.sum(p * np.log(np.maximum(p, 1e-300))), rel=1e-6, abs=2e-6)
    assert found[1] == pytest.approx(-np.log(p[0]), rel=1e-6, abs=1e-6)
    host = spectrum_of(z)
    assert host is not None
    assert found == pytest.approx(host, rel=1e-9)


def test_the_spectrum_on_a_device_of_nothing_and_of_nan() -> None:
    z = torch.zeros(2000, 600)
    assert spectrum_on_device(z) is None
    z[7, 3] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        spectrum_on_device(z)


def test_gce_holds_under_noise_where_ce_does_not(store: Path) -> None:
    """60 % symmetric noise, defaults of each loss; and both far above chance without noise."""
    splits = digit_splits()
    features = write_features(store, splits)
    clean = splits["train"][1]
    noisy = write_labels(store, "train", clean, flip(clean, 0.6, 10))
    both = {
        r["loss"]: r["accuracy"] for r in results(tune(store, features, labels=str(noisy.path), loss=("ce", "gce")))
    }
    assert both["gce"] > both["ce"] + 0.1
    clear = {r["loss"]: r["accuracy"] for r in results(tune(store, features, loss=("ce", "gce")))}
    assert min(clear.values()) > 0.8


def test_several_labels_are_one_axis(pixels: Given, store: Path) -> None:
    clean = digit_splits()["train"][1]
    more = [write_labels(store, "train", clean, flip(clean, ratio, 10)) for ratio in (0.0, 0.2)]
    ref = tune(store, pixels.features, labels=tuple(str(m.path) for m in more), epochs=2, seeds=(0, 1), lr=0.01)
    rows = results(ref)
    assert [r["noise_ratio"] for r in rows] == [0.0, 0.0, 0.2, 0.2]
    assert len({r["labels"] for r in rows}) == 2
    noise = ref.summary["noise"]
    assert isinstance(noise, list)
    assert [n["flipped"] for n in noise] == [0, 100]


def test_defaults_are_the_papers() -> None:
    """Each number as printed: NMTune A.2, B.1 and Eq. 6; TURN 5.1; the authors' code for ``released``."""
    config = Config(features="-", method=("lp", "mlp", "nmtune", "turn"))
    lp, mlp, nmtune, turn = plan.expand(config, 0, 1280)
    assert (lp.probe.lr, lp.probe.weight_decay, lp.probe.epochs, lp.probe.schedule) == (0.1, 0.0, 30, "cosine")
    assert (mlp.probe.lr, mlp.probe.weight_decay, mlp.shape) == (1e-3, 1e-4, nmtune.shape)
    assert nmtune.terms == plan.Terms(weight_mse=0.01, weight_cov=0.01, weight_svd=0.01, svd_topk=1, mse_reduce="row")
    assert turn.finetune is not None
    assert (turn.probe.epochs, turn.probe.loss, turn.probe.q, turn.finetune.epochs) == (20, "gce", 0.7, 4)
    assert (turn.probe.scale, turn.probe.lr) == ("l2", 0.01)  # ours, not printed anywhere
    assert (turn.finetune.tau, turn.finetune.cleanse, turn.finetune.loss) == (0.6, "each", "ce")
    released = plan.expand(Config(features="-", method=("lp", "nmtune"), preset="released"), 0, 1280)
    assert (released[0].probe.lr, released[0].probe.weight_decay) == (0.01, 1e-4)
    assert released[1].terms == plan.Terms(
        weight_mse=1.0, weight_cov=0.04, weight_svd=0.001, svd_topk=5, mse_reduce="elem"
    )
    assert released[1].shape is not None
    assert released[1].shape.batch_norm
    assert released[1].shape.residual
