"""``digits``: the demo's data, against scikit-learn's own copy; and the choice of splits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.data.splits import choose
from nmtool.errors import InputMissingError, UsageError

DOMAINS = ("inverted", "rotated", "blurred", "textured")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("digits", memo=Memo(None))


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    return bunch.images, bunch.target


def bases(data: Dataset, split: str) -> list[int]:
    return [int(sample.rsplit("/", 1)[1]) for sample in data.splits[split].ids]


def grey(data: Dataset, split: str) -> np.ndarray:
    return np.stack([data.image(split, row) for row in range(len(data.splits[split]))]).astype(float).mean(3)


def test_every_digit_is_in_one_part(digits: Dataset, reference: tuple[np.ndarray, np.ndarray]) -> None:
    sizes = {"pretrain": 797, "train": 400, "test": 300, **{f"{d}/test": 300 for d in DOMAINS}}
    assert {name: len(split) for name, split in digits.splits.items()} == sizes
    used = [base for split in ("pretrain", "train", "test", "inverted/test") for base in bases(digits, split)]
    assert sorted(used) == list(range(1797))
    assert all(bases(digits, f"{d}/test") == bases(digits, "inverted/test") for d in DOMAINS)
    for name, split in digits.splits.items():
        assert np.array_equal(split.labels.values, reference[1][bases(digits, name)])
    assert digits.classes == tuple("0123456789")


def test_the_parts_are_stratified(digits: Dataset, reference: tuple[np.ndarray, np.ndarray]) -> None:
    share = np.bincount(reference[1]) / 1797
    for split in digits.splits.values():
        assert np.abs(np.bincount(split.labels.values, minlength=10) - share * len(split)).max() <= 2


def test_plain_digits_are_scikit_learns_enlarged(digits: Dataset, reference: tuple[np.ndarray, np.ndarray]) -> None:
    for split in ("pretrain", "train", "test"):
        for row in (0, len(digits.splits[split]) - 1):
            image = digits.image(split, row)
            assert image.shape == (32, 32, 3)
            assert image.dtype == np.uint8
            small = reference[0][bases(digits, split)[row]]
            # the middle pixel of each 3 x 3 cell is the original pixel, of 0 to 16
            assert np.abs(image[5:28:3, 5:28:3, 0] - small * 255 / 16).max() <= 0.5
            assert image[:4].max() == image[:, :4].max() == image[28:].max() == image[:, 28:].max() == 0
            assert np.array_equal(image[..., 0], image[..., 2])


def enlarged(reference: np.ndarray) -> np.ndarray:
    """Bilinear, three times, with a margin: scipy's, as an independent reference."""
    from scipy.ndimage import map_coordinates

    at = np.clip((np.arange(24) + 0.5) / 3 - 0.5, 0, 7)
    grid = np.meshgrid(at, at, indexing="ij")
    return np.stack([np.pad(map_coordinates(image, grid, order=1), 4) for image in reference]) * 255 / 16


def test_domains_are_what_they_are_called(digits: Dataset, reference: tuple[np.ndarray, np.ndarray]) -> None:
    from scipy.ndimage import gaussian_filter, rotate

    plain = enlarged(reference[0][bases(digits, "inverted/test")])
    assert np.abs(grey(digits, "inverted/test") - (255 - plain)).max() <= 1
    blurred = grey(digits, "blurred/test")
    assert np.abs(blurred - gaussian_filter(plain, (0, 2, 2), mode="constant")).max() < 6
    rotated = grey(digits, "rotated/test")
    angles = np.arange(-40, 41, 2)
    for row in range(0, 300, 25):
        away = [np.abs(rotate(plain[row], a, reshape=False, order=1) - rotated[row]).mean() for a in angles]
        assert 18 <= abs(angles[int(np.argmin(away))]) <= 40
        assert min(away) < 4
    textured = np.stack([digits.image("textured/test", row) for row in range(300)]).astype(float)
    assert textured[plain > 254].min() > 250
    background = textured[plain == 0]
    assert background.max() <= 159
    assert 75 < background.mean() < 85
    assert background.std() > 40


def test_digits_are_the_same_every_time(digits: Dataset) -> None:
    again = open_dataset("digits", memo=Memo(None))
    for name, split in again.splits.items():
        assert split.digest == digits.splits[name].digest
        assert np.array_equal(again.image(name, 7), digits.image(name, 7))
    assert len({split.digest for split in again.splits.values()}) == 7
    digits.image("train", 0)[:] = 9
    assert np.array_equal(digits.image("train", 0), again.image("train", 0))


def test_domains_are_shifted_and_still_legible(digits: Dataset) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    train = np.concatenate([grey(digits, "pretrain"), grey(digits, "train")]).reshape(1197, -1)
    labels = np.concatenate([digits.splits[name].labels.values for name in ("pretrain", "train")])
    model = KNeighborsClassifier(3).fit(train, labels)
    score = {
        n: model.score(grey(digits, n).reshape(300, -1), digits.splits[n].labels.values)
        for n in digits.splits
        if "test" in n
    }
    assert score["test"] > 0.95
    assert all(score[f"{domain}/test"] < score["test"] for domain in DOMAINS)
    back = KNeighborsClassifier(3).fit(255 - train, labels)
    inverted = grey(digits, "inverted/test").reshape(300, -1)
    assert back.score(inverted, digits.splits["inverted/test"].labels.values) > 0.95
    assert score["rotated/test"] > 0.5


def test_splits_are_chosen_by_name_or_custom(digits: Dataset) -> None:
    assert choose(digits) == ["train", "test"]
    assert choose(digits, ["rotated/test", "train", "rotated/test"]) == ["rotated/test", "train"]
    with pytest.raises(InputMissingError, match=r"'tset'.*blurred/test, .*train.*did you mean test") as caught:
        choose(digits, ["train", "tset"])
    assert caught.value.exit_code == 66


class _Named:
    uri = "x"

    def __init__(self, *names: str) -> None:
        self.splits = dict.fromkeys(sorted(names))


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (["train"], ["train"]),
        (["validation", "train", "extra"], ["train", "validation"]),
        (["validation", "val", "train"], ["train", "val"]),
        (["test", "val"], ["test"]),
    ],
)
def test_usual_splits(there: list[str], chosen: list[str]) -> None:
    assert choose(_Named(*there)) == chosen  # type: ignore[arg-type]


def test_a_multi_domain_set_has_to_be_told() -> None:
    with pytest.raises(UsageError, match="photo/train"):
        choose(_Named("photo/train", "photo/test"))  # type: ignore[arg-type]
