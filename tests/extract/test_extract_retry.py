"""``--retry-failed``: what failed is encoded again, all else taken as it is, but nothing that may have changed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extract_samples import extract

import nmtool.extract.images as images
import nmtool.extract.write as write
from nmtool.artifact.open import open_artifact, verify
from nmtool.artifact.stage import Session
from nmtool.artifact.typed import FAILED, read_features, read_views
from nmtool.data.images import BrokenSample
from nmtool.errors import DataError, UsageError

BROKEN = ("train/cat/003.jpg", "train/dog/011.jpg", "test/dog/000.jpg")


@pytest.fixture
def damaged(photos: Path, tmp_path: Path) -> Path:
    """Three photographs cut short; whole ones lie in ``whole``."""
    shutil.copytree(photos, tmp_path / "whole")
    for name in BROKEN:
        (photos / name).write_bytes((photos / name).read_bytes()[:300])
    return photos


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which rows are decoded from now on."""
    seen: list[tuple[str, int]] = []
    own = images.decode

    def counted(dataset: Any, pixels: Any, split: str, row: int, views: Any) -> Any:
        seen.append((split, row))
        return own(dataset, pixels, split, row, views)

    monkeypatch.setattr("nmtool.extract.rows.decode", counted)
    monkeypatch.setattr(images, "decode", counted)
    return seen


def mend(damaged: Path, tmp_path: Path, *names: str) -> None:
    for name in names:
        shutil.copy(tmp_path / "whole" / name, damaged / name)


def same(a: Path, b: Path) -> None:
    """The same rows in both, to the bits that batches of another size may change."""
    for split in ("train", "test"):
        first, second = (read_features(open_artifact(path), split) for path in (a, b))
        np.testing.assert_array_equal(first.ok, second.ok)
        np.testing.assert_array_equal(np.asarray(list(first.ids)), np.asarray(list(second.ids)))
        np.testing.assert_array_equal(first.labels.values, second.labels.values)
        np.testing.assert_allclose(first.features, second.features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("on_error", ["skip", "fail"])
def test_mended_files_are_filled_in_and_nothing_else_is_read(
    damaged: Path, session: Session, tmp_path: Path, decoded: list[Any], on_error: str
) -> None:
    before = extract(session, damaged, on_error="skip", views=1)
    mend(damaged, tmp_path, *BROKEN)
    decoded.clear()
    ref = extract(session, damaged, on_error=on_error, views=1, retry_failed=True)
    assert sorted(decoded) == [("test", 3), ("train", 3), ("train", 23)]
    assert ref.key != before.key
    assert (ref.summary["encoded"], ref.summary["filled"]) == (3, 3)
    assert ref.summary["taken_from"] == before.content
    artifact = open_artifact(ref.path)
    verify(artifact, (1, 1))
    assert not artifact.has(FAILED)
    fresh = extract(dataclasses.replace(session, store=tmp_path / "fresh"), damaged, on_error=on_error, views=1)
    assert fresh.key == ref.key
    same(ref.path, fresh.path)
    for split in ("train", "test"):
        new, old = (read_views(open_artifact(path), split) for path in (ref.path, fresh.path))
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    decoded.clear()
    assert extract(session, damaged, on_error=on_error, views=1, retry_failed=True).cached
    assert decoded == []


@pytest.mark.parametrize(
    "how",
    [
        {"amp": "bf16", "dtype": "float16"},
        pytest.param(
            {"compile": True},
            marks=pytest.mark.skipif(
                not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler"
            ),
        ),
    ],
)
def test_what_is_filled_in_is_encoded_like_the_rest(
    damaged: Path, session: Session, tmp_path: Path, decoded: list[Any], how: dict[str, Any]
) -> None:
    """In mixed precision, or compiled, as the rows that are taken over; the summary says so."""
    extract(session, damaged, on_error="skip", **how)
    mend(damaged, tmp_path, *BROKEN)
    decoded.clear()
    ref = extract(session, damaged, on_error="skip", retry_failed=True, **how)
    assert len(decoded) == 3
    elsewhere = dataclasses.replace(session, store=tmp_path / "fresh")
    fresh, plain = extract(elsewhere, damaged, on_error="skip", **how), extract(elsewhere, damaged, on_error="skip")
    assert ref.key == fresh.key != plain.key
    assert {name: ref.summary.get(name) for name in how} == how
    for split, rows in (("train", [3, 23]), ("test", [3])):
        mine, wanted, other = (
            read_features(open_artifact(r.path), split).features[rows].astype(np.float64) for r in (ref, fresh, plain)
        )
        near = np.abs(mine - wanted).max()
        assert near <= 1e-5 * np.abs(wanted).max()
        if "amp" in how:
            assert np.abs(other - wanted).max() > 100 * max(near, 1e-7)  # float32's would show


def test_some_mended_and_then_the_rest(damaged: Path, session: Session, tmp_path: Path, decoded: list[Any]) -> None:
    extract(session, damaged, on_error="skip")
    mend(damaged, tmp_path, BROKEN[0])
    half = extract(session, damaged, on_error="skip", retry_failed=True)
    assert (half.summary["encoded"], half.summary["filled"]) == (3, 1)
    assert {k: v["skipped"] for k, v in half.summary["splits"].items()} == {"test": 1, "train": 1}  # type: ignore[attr-defined]
    mend(damaged, tmp_path, *BROKEN[1:])
    decoded.clear()
    last = extract(session, damaged, on_error="skip", retry_failed=True)
    assert len(decoded) == 2  # from the one that has less to do
    assert all(read_features(open_artifact(last.path), split).ok.all() for split in ("train", "test"))


def test_a_change_beside_the_failed_rows_is_seen(
    damaged: Path, session: Session, tmp_path: Path, decoded: list[Any]
) -> None:
    """Another file was changed, too: nothing is taken over."""
    extract(session, damaged, on_error="skip")
    mend(damaged, tmp_path, *BROKEN)
    shutil.copy(damaged / "train" / "dog" / "001.jpg", damaged / "train" / "dog" / "002.jpg")
    decoded.clear()
    extract(session, damaged, on_error="skip", retry_failed=True)
    assert len(decoded) == 30
    assert any("all rows are encoded" in line for line in session.report.lines)  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", [{"image_size": 40}, {"dtype": "float16"}, {"seed": 1}, {"views": 1}])
def test_features_of_another_encoder_are_not_taken(
    damaged: Path, session: Session, tmp_path: Path, decoded: list[Any], change: dict[str, Any]
) -> None:
    extract(session, damaged, on_error="skip")
    mend(damaged, tmp_path, *BROKEN)
    decoded.clear()
    extract(session, damaged, on_error="skip", retry_failed=True, **change)
    assert len(decoded) == 30


def test_still_broken_changes_nothing(damaged: Path, session: Session, decoded: list[Any]) -> None:
    before = extract(session, damaged, on_error="skip")
    inode = before.path.stat().st_ino
    decoded.clear()
    again = extract(session, damaged, on_error="skip", retry_failed=True)
    assert (again.key, again.content, again.cached) == (before.key, before.content, True)
    assert again.path.stat().st_ino == inode
    assert len(decoded) == 3
    with pytest.raises(DataError, match="can't be read"):
        extract(session, damaged, on_error="fail", retry_failed=True)


def test_the_same_bytes_that_decode_now_are_filled_under_the_same_key(
    photos: Path, session: Session, monkeypatch: pytest.MonkeyPatch, decoded: list[Any]
) -> None:
    """A decoder that fails on good files (an old library, say), and then no longer."""
    own = images.decode

    def failing(dataset: Any, pixels: Any, split: str, row: int, views: Any) -> Any:
        out = own(dataset, pixels, split, row, views)
        return (out[0] * 0, str(BrokenSample("no such codec")), "", out[3]) if (split, row) == ("train", 5) else out

    monkeypatch.setattr(images, "decode", failing)
    before = extract(session, photos, on_error="skip")
    monkeypatch.setattr(images, "decode", own)
    plan = extract(dataclasses.replace(session, dry_run=True), photos, on_error="skip", retry_failed=True)
    assert plan.work.startswith("encode 1 samples that failed")
    decoded.clear()
    after = extract(session, photos, on_error="skip", retry_failed=True)
    assert (after.key, after.path) == (before.key, before.path)
    assert after.content != before.content
    assert decoded == [("train", 5)]
    table = read_features(open_artifact(after.path), "train")
    assert table.ok.all()
    assert np.isfinite(table.features[5]).all()
    assert [p.name for p in after.path.parent.iterdir() if p.name != ".nmtool-staging"] == [after.path.name]


def test_digests_of_failed_samples_are_kept_through_an_interruption(
    damaged: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nmtool.artifact.lock import this_process

    monkeypatch.setattr(write, "MOST_ROWS", 5)
    whole = extract(session, damaged, on_error="skip")
    broken = dataclasses.replace(session, store=tmp_path / "broken")
    with monkeypatch.context() as patch:
        patch.setattr("nmtool.extract.encode.finish", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extract(broken, damaged, on_error="skip")
    (file,) = broken.store.rglob("owner.json")
    file.write_bytes(dataclasses.replace(this_process(), started="1").to_bytes())
    again = extract(broken, damaged, on_error="skip")
    assert again.summary["encoded"] == 0
    assert again.content == whole.content
    kept = json.loads(open_artifact(again.path).read(FAILED))
    assert {split: sorted(map(int, rows)) for split, rows in kept.items()} == {"test": [3], "train": [3, 23]}


def test_images_with_scores_are_mended_and_a_changed_score_is_seen(
    damaged: Path, session: Session, tmp_path: Path, decoded: list[Any]
) -> None:
    """The digests that were kept of broken images are those of their rows, labels and all."""
    table, names = damaged / "t.csv", sorted(str(p.relative_to(damaged)) for p in damaged.rglob("*.jpg"))

    def write(scores: list[float]) -> None:
        rows = (f"{name},{score},{name.partition('/')[0]}" for name, score in zip(names, scores, strict=True))
        table.write_text("\n".join(["path,label,split", *rows]) + "\n")

    scores = [k / 7 for k in range(len(names))]
    write(scores)
    before = extract(session, f"table:{table}", on_error="skip", views=1)
    mend(damaged, tmp_path, *BROKEN)
    decoded.clear()
    ref = extract(session, f"table:{table}", on_error="skip", views=1, retry_failed=True)
    assert sorted(decoded) == [("test", 3), ("train", 3), ("train", 23)]
    assert ref.summary["taken_from"] == before.content
    fresh = extract(dataclasses.replace(session, store=tmp_path / "fresh"), f"table:{table}", on_error="skip", views=1)
    assert fresh.key == ref.key
    same(ref.path, fresh.path)
    for path in (ref.path, fresh.path):
        for split in ("train", "test"):
            found = read_features(open_artifact(path), split)
            wanted = dict(zip(names, scores, strict=True))
            assert found.targets is not None
            assert found.targets.tolist() == [wanted[name] for name in found.ids]
            assert found.ok.all()
    for name in BROKEN:
        (damaged / name).write_bytes(b"broken again")
    extract(session, f"table:{table}", on_error="skip", views=1)
    mend(damaged, tmp_path, *BROKEN[1:])
    scores[names.index("train/cat/000.jpg")] += 0.5
    write(scores)
    decoded.clear()
    extract(session, f"table:{table}", on_error="skip", views=1, retry_failed=True)
    assert len(decoded) == 30
    assert any("all rows are encoded" in line for line in session.report.lines)  # type: ignore[attr-defined]


def test_refusals(photos: Path, session: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--retry-failed and --force"):
        extract(dataclasses.replace(session, force=True), photos, retry_failed=True)
    file = tmp_path / "f.npz"
    np.savez(file, X_train=np.zeros((4, 3), np.float32), y_train=np.arange(4) % 2)
    with pytest.raises(UsageError, match="a model that runs here"):
        extract(session, f"arrays:{file}", model="none", untrained=False, image_size=None, retry_failed=True)
