"""k nearest neighbours: votes by hand, agreement with scikit-learn, ties, bounded memory, and odd data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Given
from safetensors.numpy import load_file
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier
from tune_samples import Notes, digit_splits, flip, results, table, tune, write_features

from nmtool.errors import UsageError
from nmtool.tune import knn
from nmtool.tune.plan import Neighbours


def by_hand(asked: Any, trained: Any, y: Any, k: int, temperature: float | None, classes: int) -> tuple[Any, Any]:
    """Predictions and confidences in float64, row by row: the definition, written again."""
    cosines = cosine_similarity(asked.astype(np.float64), trained.astype(np.float64))
    predicted, confidence = [], []
    for row in cosines:
        order = np.argsort(-row, kind="stable")[:k]
        weights = np.exp(row[order] / temperature) if temperature else np.ones(len(order))
        totals = np.bincount(y[order], weights, classes)
        winner = next(c for c in y[order] if totals[c] >= totals.max() * (1 - 1e-12))
        predicted.append(winner)
        confidence.append(totals[winner] / weights.sum())
    return np.array(predicted), np.array(confidence)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_the_votes_are_those_of_the_definition(pixels: Given, store: Path, weights: str) -> None:
    """All but a few rows whose k-th neighbour is a near tie in float32."""
    ref = tune(store, pixels.features, method="knn", k=(1, 5, 20), knn_weights=weights)
    found = table(ref, "predictions.parquet")
    splits = digit_splits()
    for number, k in enumerate((1, 5, 20)):
        mine = found["run"] == number
        predicted, confidence = by_hand(
            splits["test"][0], *splits["train"], k, 0.07 if weights == "distance" else None, 10
        )
        assert np.mean(found["predicted"][mine] == predicted) > 0.99
        assert np.mean(np.abs(found["confidence"][mine] - confidence) < 1e-4) > 0.99


def test_one_neighbour_is_scikit_learns(pixels: Given, store: Path) -> None:
    splits = digit_splits()
    reference = KNeighborsClassifier(1, metric="cosine").fit(*splits["train"])
    row = results(tune(store, pixels.features, method="knn", k=1))[0]
    assert row["accuracy"] == pytest.approx(reference.score(*splits["test"]), abs=1 / 400 + 1e-9)
    assert (row["k"], row["loss"], row["lr"], row["best_epoch"]) == (1, "none", None, 1)


def test_noisy_labels_vote(pixels: Given, store: Path) -> None:
    splits = digit_splits()
    noisy = flip(splits["train"][1], 0.4, 10)
    ref = tune(store, pixels.features, method="knn", k=20, knn_weights="uniform", labels=str(pixels.labels.path))
    predicted, _ = by_hand(splits["test"][0], splits["train"][0], noisy, 20, None, 10)
    assert np.mean(table(ref, "predictions.parquet")["predicted"] == predicted) > 0.98


def test_a_run_does_not_depend_on_its_company(pixels: Given, tmp_path: Path) -> None:
    """k, weights, fractions and seeds of one call share a search, and give what each gives alone, bit for bit."""
    many: dict[str, Any] = {"k": (1, 7), "knn_weights": ("uniform", "distance"), "seeds": (0, 1)}
    ref = tune(tmp_path / "all", pixels.features, method="knn", fraction=(0.3, 1.0), **many)
    rows, found = results(ref), table(ref, "predictions.parquet")
    assert len(rows) == 16
    for row in (rows[0], rows[6], rows[13]):
        alone = tune(
            tmp_path / "alone",
            pixels.features,
            method="knn",
            k=row["k"],
            knn_weights=row["knn_weights"],
            fraction=row["fraction"],
            seeds=(row["seed"],),
        )
        own = table(alone, "predictions.parquet")
        mine = found["run"] == row["run"]
        for name in ("predicted", "confidence"):
            assert np.array_equal(own[name], found[name][mine])
    whole = [r["accuracy"] for r in rows if r["fraction"] == 1.0 and r["k"] == 7 and r["knn_weights"] == "uniform"]
    assert whole[0] == whole[1]  # a seed chooses shares, and nothing else


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small whole numbers, whose products are exact: many ties, and the earlier row wins whatever the blocks."""
    rng = np.random.default_rng(0)
    asked = torch.from_numpy(rng.integers(0, 3, (70, 4)).astype(np.float32))
    trained = torch.from_numpy(rng.integers(0, 3, (300, 4)).astype(np.float32))
    views = [torch.arange(300), torch.from_numpy(np.sort(rng.permutation(300)[:37]))]
    found = []
    for block in (32768, 64, 7):
        monkeypatch.setattr("nmtool.numerics.nearest._TRAINED", block)
        found.append(knn.nearest(asked, trained, views, 11))
    products = (asked @ trained.T).numpy()
    for view, *several in zip(views, *found, strict=True):
        expected = np.argsort(-products[:, view.numpy()], axis=1, kind="stable")[:, :11]
        for cosines, positions in several:
            assert np.array_equal(positions.numpy(), expected)
            assert np.array_equal(cosines.numpy(), np.take_along_axis(products[:, view.numpy()], expected, 1))


def test_equal_votes_go_to_the_nearest() -> None:
    labels = torch.tensor([[3, 1, 1, 3], [2, 0, 0, 0]])
    cosines = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, -0.7, -0.8]])
    how = Neighbours(k=4, knn_weights="uniform", temperature=None)
    predicted, confidence = knn.winners(knn.votes(cosines, labels, how, 5), labels)
    assert predicted.tolist() == [3, 0]
    assert confidence.tolist() == [0.5, 0.75]
    sharp = Neighbours(k=4, knn_weights="distance", temperature=0.01)
    assert knn.winners(knn.votes(cosines, labels, sharp, 5), labels)[0].tolist() == [3, 2]


def test_more_neighbours_than_rows(store: Path) -> None:
    features = write_features(store, digit_splits(3, 40))
    notes = Notes()
    rows = results(tune(store, features, notes, method="knn", k=(3, 50), knn_weights="uniform"))
    assert any("1 of 2 runs have fewer training rows than neighbours (3 rows; knn, k 50" in w for w in notes.warnings)
    assert rows[0]["accuracy"] == rows[1]["accuracy"]


def test_rows_of_zeros_are_like_nothing_and_break_nothing(store: Path) -> None:
    splits = digit_splits(50, 40)
    splits["train"][0][3] = 0
    splits["test"][0][7] = 0
    row = results(tune(store, write_features(store, splits), method="knn", k=5))[0]
    assert np.isfinite(row["accuracy"])


def test_ten_thousand_classes_stay_small() -> None:
    """Shares of votes are made for as many rows as fit, not for all."""
    generator = torch.Generator().manual_seed(0)
    trained, asked = torch.randn(2000, 8, generator=generator), torch.randn(3000, 8, generator=generator)
    labels = torch.randint(0, 10_000, (2000,), generator=generator)
    voters = knn.Voters(
        how=Neighbours(k=5, knn_weights="uniform", temperature=None), rows=torch.arange(2000), labels=labels
    )
    sizes = [len(block[0][0]) for block in knn.ask(asked, trained, [voters], 1_000_000)]
    assert max(sizes) <= 16
    assert sum(sizes) == 3000
    predicted, confidence = knn.predict(asked, trained, [voters], 10_000)[0]
    expected, _ = by_hand(asked.numpy(), trained.numpy(), labels.numpy(), 5, None, 10_000)
    assert np.mean(predicted == expected) > 0.99
    assert np.all(confidence >= 0.2 - 1e-6)


@pytest.mark.parametrize("scale", ["standardize", "l2"])
def test_scaling_comes_first(pixels: Given, store: Path, scale: str) -> None:
    splits = digit_splits()
    x, y = splits["train"]
    asked = splits["test"][0]
    if scale == "standardize":
        std = x.std(0)
        std[std <= 1e-6 * np.maximum(np.abs(x.mean(0)), std.max())] = 1
        x, asked = (x - x.mean(0)) / std, (asked - splits["train"][0].mean(0)) / std
    predicted, _ = by_hand(asked, x, y, 5, 0.07, 10)
    ref = tune(store, pixels.features, method="knn", k=5, scale=scale)
    assert np.mean(table(ref, "predictions.parquet")["predicted"] == predicted) > 0.98


def test_the_head_is_its_rows_and_labels(pixels: Given, store: Path) -> None:
    ref = tune(store, pixels.features, method="knn", fraction=0.2, labels=str(pixels.labels.path))
    tensors = load_file(ref.path / "data" / "heads.safetensors")
    rows, labels = tensors["run_0000.neighbours.rows"], tensors["run_0000.neighbours.labels"]
    noisy = table(pixels.labels, "labels.parquet")["noisy"]
    assert np.array_equal(labels, noisy[rows])
    assert len(rows) == results(ref)[0]["n_train"]


def test_wrong_numbers_are_refused(pixels: Given, store: Path) -> None:
    for settings, words in (
        ({"k": (0,)}, "--k has 0; expected at least 1"),
        ({"k": (1, 1)}, "--k has 1 twice"),
        ({"temperature": 0.0}, "--temperature has 0; expected above 0"),
        ({"search": True}, "--search with --method knn"),
    ):
        with pytest.raises(UsageError, match=words):
            tune(store, pixels.features, method="knn", **settings)


def test_seeds_that_choose_no_rows_are_told(pixels: Given, store: Path) -> None:
    """At the whole split the runs are equal; a share of it each seed chooses for itself, and nothing is said."""
    for settings, name in (({"method": "knn"}, "knn"), ({"solver": "lbfgs"}, "lp --solver lbfgs")):
        notes = Notes()
        rows = results(tune(store, pixels.features, notes, seeds=(0, 1), fraction=(0.2, 1.0), **settings))
        by_share = {f: [r["accuracy"] for r in rows if r["fraction"] == f] for f in (0.2, 1.0)}
        assert by_share[1.0][0] == by_share[1.0][1]
        assert by_share[0.2][0] != by_share[0.2][1]
        said = [line for line in notes.warnings if "of several seeds" in line]
        assert [line.partition(":")[0] for line in said] == [name]
        notes = Notes()
        tune(store, pixels.features, notes, seeds=(0, 1), fraction=0.2, **settings)
        tune(store, pixels.features, notes, seeds=(0,), **settings)
        assert not [line for line in notes.warnings if "of several seeds" in line]
