"""``inject-noise`` on real data through the real command line: exact counts, and what is on record is what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nmtool.artifact.open import open_artifact
from nmtool.artifact.typed import read_labels, read_parquet

Unpack = Callable[[str], Path]


@pytest.fixture(scope="module")
def cifar100(real_data: Unpack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 10,000 training rows (class-balanced) of CIFAR-100."""
    whole = np.load(real_data("cifar100") / "cifar100.npz")
    path = tmp_path_factory.mktemp("cifar") / "cifar100.npz"
    np.savez(path, X_train=whole["X_train"][:10_000], y_train=whole["y_train"][:10_000], classes=whole["classes"])
    coarse = {str(name): int(whole["coarse_of_fine"][i]) for i, name in enumerate(whole["classes"])}
    path.with_name("groups.json").write_text(json.dumps(coarse))
    return path


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.2, 0.3, 0.6, 0.9])
def test_symmetric_ratios_are_exact(ok: Callable, cifar100: Path, tmp_path: Path, ratio: float) -> None:
    body = ok("inject-noise", f"arrays:{cifar100}", "--type", "symmetric", "--ratio", ratio, "--json").json
    artifact = open_artifact(tmp_path / body["artifact"])
    table = read_parquet(artifact, "labels.parquet")
    wrong = table["clean"] != table["noisy"]
    assert np.array_equal(wrong, table["flipped"])
    assert wrong.sum() == body["flipped"] == round(ratio * 10_000)
    assert body["ratio"] == pytest.approx(ratio, abs=1e-4)
    assert np.array_equal(table["clean"], np.load(cifar100)["y_train"])
    assert np.array_equal(table["row"], np.arange(10_000))
    # The matrix on record, against counts made here.
    matrix = np.load(artifact.path / "data/transition.npy")
    counts = np.zeros((100, 100))
    np.add.at(counts, (table["clean"], table["noisy"]), 1)
    np.testing.assert_allclose(matrix, counts / counts.sum(1, keepdims=True), atol=1e-12)


def test_super_classes_are_closed_under_asymmetric_noise(ok: Callable, cifar100: Path, tmp_path: Path) -> None:
    groups = cifar100.with_name("groups.json")
    argv = ("inject-noise", f"arrays:{cifar100}", "--type", "asymmetric", "--ratio", "0.4", "--groups", groups)
    labels = read_labels(open_artifact(tmp_path / ok(*argv).path))
    coarse = json.loads(groups.read_text())
    of = np.array([coarse[name] for name in labels.classes])
    assert labels.flipped.sum() == 4_000
    assert np.array_equal(of[labels.clean], of[labels.noisy])
    targets = {(int(c), int(n)) for c, n in zip(labels.clean, labels.noisy, strict=True) if c != n}
    assert len(targets) == 100  # each class flips to one other


def test_captions_are_swapped_exactly(ok: Callable, real_data: Unpack, tmp_path: Path) -> None:
    root = real_data("flickr8k") / "flickr8k"
    uri = f"table:{root}/captions.tsv?path=image&root=images"
    body = ok("inject-noise", uri, "--type", "captions", "--ratio", "0.3", "--json").json
    table = read_parquet(open_artifact(tmp_path / body["artifact"]), "labels.parquet")
    assert (body["n"], body["flipped"]) == (8_000, 2_400)
    assert np.array_equal(np.sort(table["noisy"]), table["clean"])  # every caption is still there, once
    assert (table["clean"] != table["noisy"]).sum() == 2_400


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ('{"apple": "appel"}', "map.json", "did you mean 'apple'"),
        ('{"apple": "apple"}', "map.json", "itself"),
        ('["apple"]', "map.json", "JSON object"),
        ("apple,bear,bed\n", "map.csv", "two columns"),
        ('{"101": "bear"}', "map.json", "101"),
    ],
)
def test_maps_that_do_not_fit_are_refused(
    nmtool: Callable, cifar100: Path, tmp_path: Path, text: str, name: str, words: str
) -> None:
    (tmp_path / name).write_text(text)
    ran = nmtool("inject-noise", f"arrays:{cifar100}", "--type", "asymmetric", "--ratio", "0.1", "--map", name)
    assert ran.code == 65, ran.err
    assert words in ran.err


def test_a_matrix_says_how_many(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    matrix = np.eye(10) * 0.75 + np.roll(np.eye(10), 1, axis=1) * 0.25
    np.save(tmp_path / "t.npy", matrix)
    ref = ok("inject-noise", "digits", "--type", "matrix", "--matrix", "t.npy")
    labels = read_labels(open_artifact(tmp_path / ref.path))
    for label in range(10):
        n = int((labels.clean == label).sum())
        assert abs(int((labels.flipped & (labels.clean == label)).sum()) - 0.25 * n) < 1
    np.savetxt(tmp_path / "bad.csv", matrix * 2, delimiter=",")
    assert nmtool("inject-noise", "digits", "--type", "matrix", "--matrix", "bad.csv").code == 65
    np.save(tmp_path / "small.npy", np.eye(3))
    assert nmtool("inject-noise", "digits", "--type", "matrix", "--matrix", "small.npy").code == 65


def test_a_matrix_of_many_classes_fits(ok: Callable, tmp_path: Path) -> None:
    classes = 400
    X = np.zeros((classes * 3, 2), np.float32)
    np.savez(tmp_path / "x.npz", X_train=X, y_train=np.arange(classes * 3) % classes)
    rng = np.random.default_rng(0)
    matrix = rng.random((classes, classes))
    np.save(tmp_path / "t.npy", matrix / matrix.sum(1, keepdims=True))
    path = tmp_path / ok("inject-noise", "arrays:x.npz", "--type", "matrix", "--matrix", "t.npy").path
    assert np.array_equal(np.load(path / "data/matrix.npy"), np.load(tmp_path / "t.npy"))
