"""JPEG files by a second decoder (torchvision's on the CPU; no CUDA device here): checked first, used, in the key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from extract_samples import extract
from PIL import Image

from nmtool.artifact.memo import Memo
from nmtool.artifact.stage import Session
from nmtool.data.images import BrokenSample, decode, jpegs_by
from nmtool.data.sources import open_dataset
from nmtool.encoders.spec import Preprocessing
from nmtool.encoders.timm import Pixels
from nmtool.errors import UnavailableError, UsageError
from nmtool.extract import jpeg

SPEC = Preprocessing(
    size=(96, 96), interpolation="bicubic", crop_pct=0.875, crop_mode="center", mean=(0.5,) * 3, std=(0.5,) * 3
)


class Counting:
    """torchvision's decoder, off by some levels."""

    def __init__(self, shift: int = 0) -> None:
        self.calls, self.shift, self._decode = 0, shift, jpeg.decoder_on("cpu")

    def __call__(self, data: bytes) -> npt.NDArray[np.uint8]:
        self.calls += 1
        return (self._decode(data).astype(np.int16) + self.shift).clip(0, 255).astype(np.uint8)


def test_a_second_decoder_agrees_on_real_photographs(real_data: Callable[[str], Path]) -> None:
    dataset = open_dataset(f"folder:{real_data('pacs') / 'pacs'}", memo=Memo(None))
    near, far = Counting(), Counting(shift=40)
    largest, mean = jpeg.difference(dataset, ["photo/train"], Pixels(SPEC), near)
    assert near.calls == jpeg.FIRST
    assert largest <= jpeg.FARTHEST
    assert mean <= jpeg.MEAN
    largest, mean = jpeg.difference(dataset, ["photo/train"], Pixels(SPEC), far)
    assert largest > jpeg.FARTHEST
    assert mean > jpeg.MEAN


def test_one_that_disagrees_is_refused_and_one_that_agrees_is_used(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(f"folder:{photos}", memo=Memo(None))
    used = Counting()
    monkeypatch.setattr(jpeg, "decoder_on", lambda device: used)
    with jpeg.decoding("torchvision-cpu", dataset, ["train"], Pixels(SPEC)):
        before = used.calls
        dataset.image("train", 0)
        assert used.calls == before + 1
    dataset.image("train", 0)
    assert used.calls == before + 1
    monkeypatch.setattr(jpeg, "decoder_on", lambda device: Counting(shift=40))
    with (
        pytest.raises(UnavailableError, match="--decode cpu"),
        jpeg.decoding("torchvision-cpu", dataset, ["train"], Pixels(SPEC)),
    ):
        raise AssertionError("decoded with it")


def test_pillow_keeps_what_the_other_does_not_take(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    files = {"grey.jpg": Image.fromarray(noise[..., 0]), "turned.jpg": Image.fromarray(noise), "a.png": None}
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, image in files.items():
        (image or Image.fromarray(noise)).save(tmp_path / name, **({"exif": exif} if name == "turned.jpg" else {}))
    used = Counting()
    for name, calls in (("grey.jpg", 0), ("a.png", 0), ("turned.jpg", 1)):
        data = (tmp_path / name).read_bytes()
        wanted = decode(data)
        with jpegs_by(used):
            found = decode(data)
        assert used.calls == calls
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).max() <= jpeg.FARTHEST
    with jpegs_by(used), pytest.raises(BrokenSample):
        decode((tmp_path / "turned.jpg").read_bytes()[:-200])


def test_the_decoder_is_part_of_the_key(photos: Path, session: Session) -> None:
    plan = dataclasses.replace(session, dry_run=True)
    assert extract(plan, photos, decode="cuda").key != extract(plan, photos).key
    with pytest.raises(UsageError, match="--decode cuda"):
        extract(plan, _features(photos.parent), model="none", untrained=False, image_size=None, decode="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_it_is_refused(photos: Path, session: Session) -> None:
    with pytest.raises(UnavailableError, match="CUDA") as caught:
        extract(session, photos, decode="cuda")
    assert caught.value.exit_code == 69


def _features(folder: Path) -> str:
    np.savez(folder / "ready.npz", X_train=np.eye(4, dtype=np.float32), y_train=np.arange(4))
    return f"arrays:{folder / 'ready.npz'}"
