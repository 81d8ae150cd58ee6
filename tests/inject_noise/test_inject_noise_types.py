"""Every noise type on real data through the real command line: rates, targets, many ratios and seeds, odd labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session
from nmtool.artifact.typed import read_labels, read_parquet
from nmtool.inject_noise.config import Config
from nmtool.inject_noise.run import run
from nmtool.numerics.seeds import generator

Unpack = Callable[[str], Path]
RATIOS = "0.05,0.1,0.2,0.3,0.6,0.9"


@pytest.fixture(scope="module")
def cifar100(real_data: Unpack) -> Path:
    return real_data("cifar100") / "cifar100.npz"


@pytest.fixture(scope="module")
def cifar100n(real_data: Unpack) -> Path:
    return real_data("cifar10") / "cifar100n_transition.npy"


@pytest.mark.parametrize("more", [(), ("--nested",)])
@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "pairflip"])
def test_realised_is_requested_on_cifar100(
    ok: Callable, cifar100: Path, tmp_path: Path, kind: str, more: tuple[str, ...]
) -> None:
    runs = ok("inject-noise", f"arrays:{cifar100}", "--type", kind, "--ratio", RATIOS, *more, "--json").json["runs"]
    assert [run["ratio_requested"] for run in runs] == [0.05, 0.1, 0.2, 0.3, 0.6, 0.9]
    data = np.load(cifar100)
    before = None
    for body in runs:
        labels = read_labels(open_artifact(tmp_path / body["artifact"]))
        wrong = labels.clean != labels.noisy
        assert abs(wrong.mean() - body["ratio_requested"]) < 1 / 50_000
        assert body["ratio"] == wrong.mean()
        assert np.array_equal(labels.clean, data["y_train"])
        assert body["flips"] == "sha256:" + hashlib.sha256(labels.noisy.astype("<i8").tobytes()).hexdigest()
        per_class = np.bincount(labels.clean[wrong], minlength=100)
        assert set(per_class.tolist()) == {round(500 * body["ratio_requested"])}  # 500 rows a class: exact in each
        if kind == "asymmetric":  # all 20 super-classes are closed, by the data's own file
            of = data["coarse_of_fine"]
            assert np.array_equal(of[labels.clean], of[labels.noisy])
        if more and before is not None:
            flipped = before.flipped
            assert np.array_equal(labels.noisy[flipped], before.noisy[flipped])
        before = labels


def cores(x: np.ndarray, y: np.ndarray, ratio: float, classes: int, rng: Any) -> np.ndarray:
    """CORES' generator, a sample at a time as it is published, but for its cut of out-of-range q: drawn again."""
    q = rng.normal(ratio, 0.1, len(y))
    while (out := (q < 0) | (q > 1)).any():
        q[out] = rng.normal(ratio, 0.1, int(out.sum()))
    w = rng.standard_normal((x.shape[1], classes))
    noisy = []
    for row, own, flip in zip(x, y, q, strict=True):
        scores = row @ w
        scores[own] = -1e6
        p = np.exp(scores - scores.max())
        p = flip * p / p.sum()
        p[own] = 1 - flip
        noisy.append(rng.choice(classes, p=p / p.sum()))
    return np.array(noisy)


def test_instance_noise_on_raw_pixels(ok: Callable, cifar100: Path, tmp_path: Path) -> None:
    ran = ok("inject-noise", f"arrays:{cifar100}", "--type", "instance", "--ratio", "0.4", "--seeds", "0,1", "--json")
    for body in ran.json["runs"]:
        assert abs(body["ratio"] - 0.4) < 0.01
        assert body["inputs"] == "uint8 pixels"
        told = body["concentration"]
        labels = read_labels(open_artifact(tmp_path / body["artifact"]))
        took = np.bincount(labels.noisy[labels.flipped], minlength=100)
        assert told["top_share"] == pytest.approx(took.max() / took.sum())
        assert told["classes_hit"] == (took > 0).sum()
        assert told["biggest_class_share"] == pytest.approx(np.bincount(labels.noisy).max() / 50_000)
    assert ran.err.count("concentration: the most hit class took") == 2
    # the published generator, written anew, floods as much on the same photographs
    data = np.load(cifar100)
    x, y = data["X_train"][:4000].reshape(4000, -1).astype(float), data["y_train"][:4000]
    shares = []
    for seed in range(3):
        noisy = cores(x, y, 0.4, 100, np.random.default_rng(seed))
        assert abs((noisy != y).mean() - 0.4) < 0.03
        took = np.bincount(noisy[noisy != y], minlength=100)
        shares.append(took.max() / took.sum())
    ours = [body["concentration"]["top_share"] for body in ran.json["runs"]]
    assert min(ours) > 0.1
    assert min(shares) > 0.1
    assert all(body["concentration"]["perplexity"] < 1.05 for body in ran.json["runs"])


def test_instance_noise_follows_its_own_weights(ok: Callable, tmp_path: Path) -> None:
    """On saturated pixels the new label is the arg max over the other classes: worked out here from W alone."""
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 256, (300, 4, 4, 3), dtype=np.uint8), rng.integers(0, 7, 300)
    np.savez(tmp_path / "x.npz", X_train=x, y_train=y)
    argv = ("inject-noise", "arrays:x.npz", "--type", "instance", "--ratio", "0.3,0.6", "--seed", "3", "--json")
    w = generator(3, "inject-noise", "instance", "train", "weights").standard_normal((48, 7))
    scores = x.reshape(300, -1) @ w
    scores[np.arange(300), y] = -np.inf
    for more in ((), ("--nested",), ("--workers", "2")):
        for body in ok(*argv, *more).json["runs"]:
            labels = read_labels(open_artifact(tmp_path / body["artifact"]))
            flipped = labels.flipped
            agree = labels.noisy[flipped] == scores.argmax(axis=1)[flipped]
            assert agree.mean() > 0.97  # but for near ties


def test_instance_noise_on_features(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    """Features of another artifact, joined by id; scaled, so that the flips spread."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 20, 2_000)
    np.savez(tmp_path / "f.npz", X_train=rng.standard_normal((2_000, 32)).astype(np.float32) * 50 + 7, y_train=y)
    np.savez(tmp_path / "p.npz", X_train=rng.integers(0, 256, (1_500, 4, 4), dtype=np.uint8), y_train=y[:1500])
    ok("extract", "none", "arrays:f.npz", "-o", "features")
    base = ("inject-noise", "arrays:p.npz", "--type", "instance", "--ratio", "0.4", "--json")
    body = ok(*base, "--features", "features").json
    assert body["inputs"] == "features of split train, z-score / sqrt(length)"
    assert abs(body["ratio"] - 0.4) < 0.05
    assert body["concentration"]["perplexity"] > 10
    assert body["concentration"]["classes_hit"] == 20
    assert ok(*base, "--features", "features:train").json["cached"]
    own = ok("inject-noise", "arrays:f.npz", "--type", "instance", "--ratio", "0.4", "--json").json
    assert own["concentration"]["perplexity"] > 10
    # a sample that the features lack, and splits that are not there
    ran = nmtool("inject-noise", "arrays:f.npz", "--type", "instance", "--ratio", "0.1", "--features", "features:test")
    assert (ran.code, "no split test" in ran.err) == (66, True), ran.err
    np.savez(tmp_path / "more.npz", X_train=np.zeros((2_001, 2), np.float32), y_train=np.arange(2_001) % 3)
    ran = nmtool("inject-noise", "arrays:more.npz", "--type", "instance", "--ratio", "0.1", "--features", "features")
    assert (ran.code, "1 of 2001 samples" in ran.err, "train/002000" in ran.err) == (65, True, True), ran.err


def test_images_of_unequal_size_need_features(nmtool: Callable, tmp_path: Path) -> None:
    for name, size in (("a/1.png", (8, 8)), ("a/2.png", (8, 8)), ("b/3.png", (8, 9)), ("b/4.png", (8, 8))):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (9, 9, 9)).save(path)
    ran = nmtool("inject-noise", "folder:set", "--type", "instance", "--ratio", "0.5")
    assert ran.code == 65
    assert "b/3.png" in ran.err
    assert "--features" in ran.err
    ran = nmtool("inject-noise", "folder:set", "--type", "instance", "--ratio", "0.5", "--instance-input", "features")
    assert ran.code == 2


def test_contents_are_no_part_of_the_key_but_for_pixels(ok: Callable, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", X_train=rng.integers(0, 256, (60, 2, 2), dtype=np.uint8), y_train=y)
    key = {}
    for name in ("one", "two"):
        for kind in ("symmetric", "instance"):
            key[name, kind] = ok("inject-noise", f"arrays:{name}.npz", "--type", kind, "--ratio", "0.3", "--json").json[
                "key"
            ]
    assert key["one", "symmetric"] == key["two", "symmetric"]
    assert key["one", "instance"] != key["two", "instance"]


def test_the_human_matrix_gives_its_rate(ok: Callable, cifar100: Path, cifar100n: Path, tmp_path: Path) -> None:
    body = ok("inject-noise", f"arrays:{cifar100}", "--type", "matrix", "--matrix", cifar100n, "--json").json
    assert abs(body["ratio"] - 0.402) < 0.01
    wanted = np.load(cifar100n)
    realised = np.load(open_artifact(tmp_path / body["artifact"]).path / "data/transition.npy")
    assert abs(realised - wanted).max() <= 1 / 500 + 1e-9  # each cell is floor or ceil of 500 times its probability


def test_ratios_and_seeds_are_a_product(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    argv = ("inject-noise", "digits", "--type", "symmetric", "--nested")
    runs = ok(*argv, "--ratio", "0.05,0.2", "--seeds", "0,7", "-o", "out", "--json").json["runs"]
    names = ["ratio-0.05-seed-0", "ratio-0.05-seed-7", "ratio-0.2-seed-0", "ratio-0.2-seed-7"]
    assert [Path(run["artifact"]).name for run in runs] == names
    assert len({run["flips"] for run in runs}) == 4
    # alone as in company
    alone = ok(*argv, "--ratio", "0.05", "--seed", "7", "--json").json
    assert alone["flips"] == runs[1]["flips"]
    assert alone["key"] == runs[1]["key"]
    one = ok(*argv, "--ratio", "0.05,0.2", "--seeds", "3", "-o", "three", "--json").json["runs"]
    assert [Path(run["artifact"]).name for run in one] == ["ratio-0.05", "ratio-0.2"]
    for bad in (("--seed", "1", "--seeds", "1,2"), ("--seeds", "1,1"), ("--seeds", "")):
        assert nmtool(*argv, "--ratio", "0.1", *bad).code == 2
    assert nmtool(*argv, "--ratio", "0.1,0.1").code == 2


@pytest.mark.parametrize(
    "argv",
    [
        ("--type", "matrix", "--matrix", "t.npy", "--nested"),
        ("--type", "matrix", "--matrix", "t.npy", "--ratio", "0.1"),
        ("--type", "human", "--human", "t.npy", "--seed", "1"),
        ("--type", "human"),
        ("--type", "symmetric", "--ratio", "0.1", "--seed", "-1", "--dry-run"),
        ("--type", "symmetric", "--ratio", "0.1", "--seeds", f"0,{2**63}", "--dry-run"),
        ("--type", "symmetric"),
        ("--type", "symmetric", "--ratio", "1"),
        ("--type", "symmetric", "--ratio", "-0.1"),
        ("--type", "symmetric", "--ratio", "nan"),
        ("--type", "symmetric", "--ratio", "0.1", "--map", "cifar10"),
        ("--type", "asymmetric", "--ratio", "0.1", "--map", "cifar10", "--groups", "cifar100"),
        ("--type", "asymmetric", "--ratio", "0.1"),
        ("--type", "instance", "--ratio", "0.1", "--instance-std", "-1"),
        ("--type", "instance", "--ratio", "0.1", "--instance-input", "raw", "--features", "x"),
        ("--type", "instance", "--ratio", "0.1", "--related", "x"),
        ("--type", "captions", "--ratio", "0.1", "--caption-mode", "until", "--nested"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(nmtool: Callable, tmp_path: Path, argv: tuple[str, ...]) -> None:
    np.save(tmp_path / "t.npy", np.eye(10))
    ran = nmtool("inject-noise", "digits", *argv)
    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err


def test_what_changes_nothing_is_no_part_of_the_key(ok: Callable, tmp_path: Path) -> None:
    argv = ("inject-noise", "digits", "--type", "symmetric", "--dry-run", "--json")
    keys = [ok(*argv, *more).json["key"] for more in (("--ratio", "0"), ("--ratio", "-0.0"))]
    keys.append(ok(*argv, "--ratio", "0", "--ratio-of", "all").json["key"])  # all rows may flip
    assert len(set(keys)) == 1
    (tmp_path / "some.txt").write_text("0\n1\n2\n")
    some = [
        ok(*argv, "--ratio", "0.1", "--related", "some.txt", "--ratio-of", of).json["key"] for of in ("all", "mapped")
    ]
    assert len(set(some)) == 2


def test_several_never_go_into_an_artifact(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    argv = ("inject-noise", "digits", "--type", "symmetric")
    ok(*argv, "--ratio", "0.1", "-o", "out")
    for out in ("out", "out/data", "out/data/x"):
        for more in ((), ("--force",), ("--dry-run",)):
            ran = nmtool(*argv, "--ratio", "0.1,0.2", "-o", out, *more)
            assert (ran.code, "inside the artifact" in ran.err) == (73, True), ran.err
    assert ok("verify", "out", "--full").code == 0
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text("{}")  # many programs have one
    ok(*argv, "--ratio", "0.1,0.2", "-o", "web/noise")


def test_one_class_present_among_two(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X_train=np.zeros((10, 1), np.float32), y_train=np.zeros(10, int), classes=["a", "b"])
    assert ok("inject-noise", "arrays:x.npz", "--type", "symmetric", "--ratio", "0.99", "--json").json["flipped"] == 10
    np.savez(tmp_path / "y.npz", X_train=np.zeros((10, 1), np.float32), y_train=np.zeros(10, int), classes=["a"])
    ran = nmtool("inject-noise", "arrays:y.npz", "--type", "symmetric", "--ratio", "0")
    assert (ran.code, "one class" in ran.err) == (65, True)
    body = ok("inject-noise", "arrays:x.npz", "--type", "symmetric", "--ratio", "0", "--json").json
    assert (body["flipped"], body["ratio"]) == (0, 0)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([-1, 0, 0, 0, 2, 5, 5, 6]), min_size=1, max_size=50).filter(lambda y: max(y) >= 0),
    st.sampled_from(["symmetric", "pairflip", "asymmetric"]),
    st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.99]),
    st.booleans(),
)
def test_odd_labels(
    tmp_path_factory: pytest.TempPathFactory, labels: list[int], kind: str, ratio: float, nested: bool
) -> None:
    """Gaps, rare classes, one sample a class, the unlabelled: counts exact, no self-flip, on record as they are."""
    folder = tmp_path_factory.mktemp("odd")
    y = np.array(labels)
    np.savez(folder / "x.npz", X_train=np.zeros((len(y), 1), np.float32), y_train=y, classes=list("abcdefg"))
    config = Config(
        data=f"arrays:{folder}/x.npz",
        type=kind,
        ratio=(ratio,),
        nested=nested,
        groups="consecutive:7" if kind == "asymmetric" else None,
    )
    artifact = open_artifact(run(config, Session(store=folder))[0].path)
    table, by_class = read_parquet(artifact, "labels.parquet"), read_parquet(artifact, "per_class.parquet")
    clean, noisy = table["clean"], table["noisy"]
    assert clean.tolist() == labels
    assert ((noisy == -1) == (clean == -1)).all()
    assert noisy.max() < 7
    n = int((y >= 0).sum())
    assert (clean != noisy).sum() == int(Fraction(str(ratio)) * n + Fraction(1, 2))
    assert by_class["n"].tolist() == [int((y == c).sum()) for c in range(7)]
    assert by_class["flipped"].tolist() == [int(((clean == c) & (noisy != c)).sum()) for c in range(7)]
    assert by_class["received"].tolist() == [int(((clean != c) & (noisy == c)).sum()) for c in range(7)]


def test_order_on_disk_and_process_are_irrelevant(ok: Callable, tmp_path: Path) -> None:
    """A row's fate depends on the set of (sample id, label) and the seed: not on order, process or locale."""
    rng = np.random.default_rng(0)
    rows = [(f"images/{i:04d}.png", f"class{int(rng.integers(0, 5))}") for i in range(200)]
    (tmp_path / "images").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "images/0000.png")
    for name, _ in rows[1:]:
        os.link(tmp_path / "images/0000.png", tmp_path / name)
    flips = []
    for number, env in enumerate(({}, {"PYTHONHASHSEED": "7", "LC_ALL": "C"}, {"PYTHONHASHSEED": "8"})):
        order = rng.permutation(len(rows)) if number else np.arange(len(rows))
        table = tmp_path / f"{number}.csv"
        table.write_text("path,label\n" + "".join(f"{rows[i][0]},{rows[i][1]}\n" for i in order))
        for extra in ((), ("--nested",)):
            body = ok(
                "inject-noise", f"table:{table}", "--type", "symmetric", "--ratio", "0.3", *extra, "--json", env=env
            ).json
            flips.append((extra, body["flips"], body["content"]))
    assert len(set(flips)) == 2


def test_many_classes_write_no_square(ok: Callable, tmp_path: Path) -> None:
    """5,000 classes, above the limit of 4,000: pairs in place of a matrix."""
    y = np.arange(10_000) % 5_000
    np.savez(tmp_path / "x.npz", X_train=np.zeros((len(y), 1), np.float32), y_train=y)
    body = ok("inject-noise", "arrays:x.npz", "--type", "symmetric", "--ratio", "0.25", "--nested", "--json").json
    artifact = open_artifact(tmp_path / body["artifact"])
    assert not artifact.has("transition.npy")
    assert "pairs.parquet" in body["transition"]
    assert "per_class" not in body
    pairs, labels = read_parquet(artifact, "pairs.parquet"), read_labels(artifact)
    seen: dict[tuple[int, int], int] = {}
    for a, b in zip(labels.clean.tolist(), labels.noisy.tolist(), strict=True):
        seen[a, b] = seen.get((a, b), 0) + 1
    assert (
        dict(zip(zip(pairs["clean"].tolist(), pairs["noisy"].tolist(), strict=True), pairs["n"].tolist(), strict=True))
        == seen
    )
    assert body["flipped"] == 2_500


def test_captions_by_text(ok: Callable, tmp_path: Path) -> None:
    """Equal captions that change places are mismatched pairs, and no mismatched texts."""
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    lines = [{"path": "a.png", "caption": "the same" if i % 2 else f"text {i}", "split": "train"} for i in range(40)]
    for i, line in enumerate(lines):
        os.link(tmp_path / "a.png", tmp_path / f"{i:02d}.png")
        line["path"] = f"{i:02d}.png"
    (tmp_path / "t.tsv").write_text("path\tcaption\tsplit\n" + "".join("\t".join(x.values()) + "\n" for x in lines))
    for mode in ("exact", "random-swaps", "until"):
        body = ok(
            "inject-noise", "table:t.tsv", "--type", "captions", "--ratio", "0.5", "--caption-mode", mode, "--json"
        ).json
        labels = read_labels(open_artifact(tmp_path / body["artifact"]))
        text = [lines[int(s[:2])]["caption"] for s in labels.samples]
        assert body["text_mismatches"] == sum(text[a] != text[b] for a, b in enumerate(labels.noisy))
        assert body["text_mismatches"] < body["flipped"]
        assert body["flipped"] == {"exact": 20}.get(mode, body["flipped"])
        assert body["caption_mode"] == mode
    assert body["flipped"] >= 20


def test_text_takes_label_noise_and_targets_do_not(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(
        "text\tlabel\n" + "".join(f"sentence {i}\t{'no' if i % 3 else 'yes'}\n" for i in range(30))
    )
    body = ok("inject-noise", "table:t.tsv", "--type", "symmetric", "--ratio", "0.2", "--json").json
    assert (body["n"], body["flipped"]) == (30, 6)
    ran = nmtool("inject-noise", "table:t.tsv", "--type", "instance", "--ratio", "0.2")
    assert (ran.code, "--features" in ran.err) == (65, True), ran.err
    (tmp_path / "r.tsv").write_text("text\tlabel\n" + "".join(f"sentence {i}\t{i / 7}\n" for i in range(30)))
    ran = nmtool("inject-noise", "table:r.tsv", "--type", "symmetric", "--ratio", "0.2")
    assert (ran.code, "real numbers" in ran.err) == (65, True), ran.err


def test_every_artifact_says_what_was_done(ok: Callable, tmp_path: Path) -> None:
    body = ok("inject-noise", "digits", "--type", "symmetric", "--ratio", "0.1", "--include-self", "--json").json
    assert body["self_flips"] == "allowed"
    assert body["ratio"] < 0.1
    assert body["generator"].startswith("numpy ")
    manifest = json.loads((tmp_path / body["artifact"] / "manifest.json").read_text())
    assert manifest["recipe"]["config"] == {
        "bernoulli": False,
        "include_self": True,
        "nested": False,
        "ratio": 0.1,
        "ratio_of": "mapped",
        "seed": 0,
        "split": "train",
        "type": "symmetric",
    }
