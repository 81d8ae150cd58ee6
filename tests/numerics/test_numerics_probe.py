"""The probe out of fold: its gradient is autograd's, its folds are fair, and no sample judges itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nmtool.errors import DataError
from nmtool.numerics import probe
from nmtool.numerics.losses import generalized_cross_entropy
from nmtool.numerics.nearest import vote_shares
from nmtool.numerics.probe import Training, centred_unit_rows, out_of_fold_probabilities, stratified_folds

FEW = Training(epochs=3, steps=20)


def test_gradient_is_that_of_each_head_alone() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=g), torch.randint(4, (40,), generator=g)
    fold = torch.arange(40) % 3
    W, bias = torch.randn(6, 12, generator=g), torch.randn(12, generator=g)
    found = probe._gradient(x, y, fold, W, bias, 3, 0.7)
    for head in range(3):
        logits = (x @ W + bias)[:, head * 4 : head * 4 + 4].double().requires_grad_()
        generalized_cross_entropy(logits[fold != head], y[fold != head], 0.7).backward()
        torch.testing.assert_close(found[:, head * 4 : head * 4 + 4].double(), logits.grad, atol=1e-6, rtol=1e-4)


def test_folds_deal_each_class_out_evenly() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 7, 2, 1])
    folds = stratified_folds(labels, 5, np.random.default_rng(0))
    for label, n in enumerate([50, 7, 2, 1]):
        counts = np.bincount(folds[labels == label], minlength=5)
        assert counts.sum() == n
        assert counts.max() - counts.min() <= 1
    other = stratified_folds(labels, 5, np.random.default_rng(1))
    assert (folds != other).any()


def test_a_samples_own_label_changes_nothing_of_what_is_predicted_for_it() -> None:
    digits = load_digits()
    X = centred_unit_rows(torch.from_numpy(digits.data[:300].astype(np.float32)))
    y = torch.from_numpy(digits.target[:300].astype(np.int64))
    folds = torch.arange(300) % 5
    plain = out_of_fold_probabilities(X, y, folds, 10, 0, FEW)
    changed = y.clone()
    changed[7] = (y[7] + 3) % 10
    again = out_of_fold_probabilities(X, changed, folds, 10, 0, FEW)
    torch.testing.assert_close(plain[7], again[7], atol=1e-6, rtol=1e-5)
    assert (plain - again).abs().max() > 1e-4  # others have learnt from it
    in_sample = out_of_fold_probabilities(X, y, torch.zeros(300, dtype=torch.int64), 10, 0, FEW)
    assert in_sample[torch.arange(300), y].mean() > plain[torch.arange(300), y].mean()
    assert plain.sum(1) == pytest.approx(np.ones(300), abs=1e-5)


def test_rows_are_centred_and_of_unit_length_at_any_scale() -> None:
    X = torch.rand(50, 8, generator=torch.Generator().manual_seed(0)) + 5
    plain = centred_unit_rows(X)
    assert torch.linalg.vector_norm(plain, dim=1) == pytest.approx(np.ones(50), abs=1e-5)
    for scale in (1e-25, 1e25):
        torch.testing.assert_close(centred_unit_rows(X * scale), plain, atol=1e-4, rtol=1e-3)
    assert centred_unit_rows(torch.ones(3, 4)).abs().max() == 0


def test_votes_against_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    digits = load_digits()
    X = centred_unit_rows(torch.from_numpy(digits.data[:700].astype(np.float32)))
    y = digits.target[:700].astype(np.int64)
    found = vote_shares(X, torch.from_numpy(y), 9, 10).numpy()
    near = NearestNeighbors(n_neighbors=9, metric="cosine").fit(X.numpy()).kneighbors(return_distance=False)
    wanted = np.stack([np.bincount(y[row], minlength=10) / 9 for row in near])
    assert (np.abs(found - wanted).max(1) < 1e-6).mean() > 0.99  # but for rows as near as one another


def test_twins_never_vote_on_themselves() -> None:
    X = torch.nn.functional.normalize(torch.ones(6, 3), dim=1)
    y = torch.tensor([0, 0, 0, 0, 0, 1])
    found = vote_shares(X, y, 3, 2)
    assert found.sum(1) == pytest.approx(np.ones(6))
    assert vote_shares(X, y, 99, 2)[5].tolist() == pytest.approx([1.0, 0.0])
    assert vote_shares(X, y, 99, 2)[0].tolist() == pytest.approx([0.8, 0.2])


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="two to tell apart"):
        out_of_fold_probabilities(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), torch.arange(3), 1, 0)
