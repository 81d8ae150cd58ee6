"""Augmented views: the same for an image alone, in any batch, with any workers, after an interruption; keyed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extract_samples import CONFIG, extract

import nmtool.extract.images as images
import nmtool.extract.write as write
from nmtool.artifact.lock import this_process
from nmtool.artifact.open import open_artifact, verify
from nmtool.artifact.stage import Session
from nmtool.artifact.typed import read_features, read_views
from nmtool.data.sources import open_dataset
from nmtool.encoders.encoder import load_image
from nmtool.encoders.resolve import resolve
from nmtool.errors import InputMissingError, UsageError
from nmtool.extract.views import _OPERATIONS, Views, augmented


def orphan(store: Path) -> None:
    """Make the owner of the one staging folder a process that is provably dead: this one, started at another time."""
    (file,) = store.rglob("owner.json")
    file.write_bytes(dataclasses.replace(this_process(), started="1").to_bytes())


def picture(height: int = 37, width: int = 53) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("augment", ["weak", "strong"])
def test_a_view_depends_on_seed_sample_and_number_alone(augment: str) -> None:
    image = picture()
    two = Views(count=2, augment=augment, seed=0)
    assert two.of(image, "a.jpg", (24, 32)).shape == (2, 3, 24, 32)
    five = dataclasses.replace(two, count=5).of(image, "a.jpg", (24, 32))
    np.testing.assert_array_equal(five[:2], two.of(image, "a.jpg", (24, 32)))
    assert len({view.tobytes() for view in five}) == 5
    other = [two.of(image, "b.jpg", (24, 32)), dataclasses.replace(two, seed=1).of(image, "a.jpg", (24, 32))]
    for changed in other:
        assert not np.array_equal(changed, five[:2])


def test_weak_views_stay_near_the_image_and_crop_as_stated() -> None:
    """A horizontal ramp: a view is a ramp over at least the width that 0.8 of the area at ratio 3/4 leaves."""
    ramp = np.broadcast_to(np.linspace(0, 250, 100, dtype=np.uint8)[None, :, None], (100, 100, 3)).copy()
    flipped = 0
    for k in range(60):
        view = augmented(ramp, (50, 50), "weak", np.random.default_rng(k)).astype(float)
        row = view[25, :, 0]
        flipped += row[0] > row[-1]
        assert 0.97 * np.sqrt(0.8 * 0.75) * 250 * 0.8 * 0.8 < abs(row[-1] - row[0]) <= 255
        assert np.all(np.diff(row) >= 0) or np.all(np.diff(row) <= 0)
        np.testing.assert_allclose(view, np.broadcast_to(view[:1], view.shape), atol=1)
    assert 15 <= flipped <= 45


@pytest.mark.parametrize("name", sorted(_OPERATIONS))
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (17, 9)])
def test_every_operation_takes_every_strength_and_shape(name: str, shape: tuple[int, int]) -> None:
    from PIL import Image

    low, high, operation = _OPERATIONS[name]
    image = Image.fromarray(picture(*shape))
    for value in np.linspace(low, high, 5):
        out = operation(image, float(value))
        assert (out.size, out.mode) == (image.size, "RGB")
    for extreme in ((1, 200), (200, 1), (1, 1)):
        for k in range(5):
            assert augmented(picture(*extreme), (8, 8), "strong", np.random.default_rng(k)).shape == (8, 8, 3)


def test_clean_features_are_those_without_views(photos: Path, session: Session, tmp_path: Path) -> None:
    plain = extract(session, photos)
    both = extract(session, photos, views=3)
    assert plain.key != both.key
    artifact = open_artifact(both.path)
    verify(artifact, (1, 1))
    for split, n in (("train", 24), ("test", 6)):
        table = read_features(artifact, split)
        np.testing.assert_array_equal(table.features, read_features(open_artifact(plain.path), split).features)
        views = read_views(artifact, split)
        assert views.shape == (n, 3, 96)
        assert np.isfinite(views).all()
        rows = np.concatenate([views, table.features[:, None]], axis=1)
        for a in range(4):
            for b in range(a):
                assert np.abs(rows[:, a] - rows[:, b]).max(axis=1).min() > 1e-4
    assert both.summary["views"] == {"count": 3, "augment": "weak", "seed": 0, "policy": 1}
    with pytest.raises(InputMissingError, match="holds no augmented views"):
        read_views(open_artifact(plain.path), "train")


def test_one_image_alone_has_the_same_views(photos: Path, session: Session) -> None:
    """Encoded by hand, by itself, from the model's own parts."""
    ref = extract(session, photos, views=2, augment="strong", view_seed=7)
    stored = read_views(open_artifact(ref.path), "test")
    resolved = resolve(
        CONFIG.model, arch=None, kwargs={}, untrained=True, seed=0, overrides=CONFIG.overrides(), memo=session.memo
    )
    encoder = load_image(resolved)
    dataset = open_dataset(f"folder:{photos}", memo=session.memo)
    for row in (4, 1):
        views = Views(count=2, augment="strong", seed=7)
        pixels = views.of(dataset.image("test", row), dataset.splits["test"].ids[row], (32, 32))
        for k in range(2):
            with torch.inference_mode():
                mine = encoder.features(encoder.pixels.normalise(torch.from_numpy(pixels[k : k + 1]))).numpy()[0]
            np.testing.assert_allclose(stored[row, k], mine, rtol=1e-4, atol=1e-5)


def test_workers_and_an_interruption_change_nothing(
    photos: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "MOST_ROWS", 5)
    asked: dict[str, Any] = {"views": 2, "batch_size": 5}
    whole = extract(session, photos, **asked)
    many = extract(dataclasses.replace(session, store=tmp_path / "many"), photos, workers=3, **asked)
    assert many.content == whole.content

    broken = dataclasses.replace(session, store=tmp_path / "broken")
    own, seen = images.encode, []

    def stop(*given: Any) -> Any:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(1)
        return own(*given)

    monkeypatch.setattr(images, "encode", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(broken, photos, **asked)
    monkeypatch.setattr(images, "encode", own)
    orphan(broken.store)
    again = extract(broken, photos, **asked)
    assert again.content == whole.content
    assert again.summary["encoded"] < whole.summary["encoded"]  # type: ignore[operator]


def test_a_chunk_is_done_only_with_its_views(
    photos: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the views and the features of a chunk, and its views lost: both are made again."""
    whole = extract(session, photos, views=2)
    other = dataclasses.replace(session, store=tmp_path / "other")
    own = write.arrays.ArrayWriter.write

    def stop(self: Any, chunk: int, block: Any, note: str = "") -> None:
        if block.ndim == 2:
            raise KeyboardInterrupt
        own(self, chunk, block, note)

    monkeypatch.setattr(write.arrays.ArrayWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(other, photos, views=2)
    monkeypatch.setattr(write.arrays.ArrayWriter, "write", own)
    assert list(other.store.rglob("views/c/0/0/0"))
    orphan(other.store)
    assert extract(other, photos, views=2).content == whole.content


def test_views_are_part_of_the_key(photos: Path, session: Session) -> None:
    plan = dataclasses.replace(session, dry_run=True)
    changes: list[dict[str, Any]] = [
        {},
        {"views": 1},
        {"views": 2},
        {"views": 2, "augment": "strong"},
        {"views": 2, "view_seed": 1},
    ]
    assert len({extract(plan, photos, **change).key for change in changes}) == len(changes)
    assert extract(plan, photos, views=2, workers=3).key == extract(plan, photos, views=2).key


def test_a_broken_image_has_no_views(photos: Path, session: Session) -> None:
    whole = extract(session, photos, views=2)
    bad = photos / "test" / "cat" / "001.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    ref = extract(session, photos, views=2, on_error="skip")
    table, views = read_features(open_artifact(ref.path), "test"), read_views(open_artifact(ref.path), "test")
    assert list(np.flatnonzero(~table.ok)) == [1]
    assert np.isnan(views[1]).all()
    good = [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(views[good], read_views(open_artifact(whole.path), "test")[good])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": -1}, "--views is -1"),
        ({"views": 17}, "0 to 16"),
        ({"views": 1, "view_seed": -1}, "--view-seed is -1"),
        ({"augment": "strong"}, "without --views"),
    ],
)
def test_refusals(photos: Path, session: Session, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        extract(session, photos, **change)


def test_ready_made_features_have_no_views(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "f.npz"
    np.savez(file, X_train=np.zeros((4, 3), np.float32), y_train=np.arange(4) % 2)
    with pytest.raises(UsageError, match="for what is no image"):
        extract(session, f"arrays:{file}", model="none", views=1, untrained=False, image_size=None)
