"""Another JPEG decoder than Pillow's, on a GPU, where the user asks for it and its pixels agree.

No decoder has another's very pixels (inverse transform, chroma upsampling), so which one made them is part of the key,
and before it is used the first photographs of the data are decoded both ways. Refuses one that is further from Pillow's
than ``FARTHEST`` and ``MEAN`` allow. What it can't take (grey, CMYK, a file without an end) goes to Pillow, which alone
decides what is broken.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from nmtool.data.dataset import Dataset
from nmtool.data.images import BrokenSample, jpegs_by
from nmtool.encoders.encoder import Pixels
from nmtool.errors import UnavailableError

# Levels of 255, after resizing and cropping. Ours: a single level is below what float16 features keep.
FARTHEST, MEAN = 16, 0.5
FIRST = 16

Decoder = Callable[[bytes], npt.NDArray[np.uint8]]


def decoder_on(device: str) -> Decoder:
    """torchvision's decoder on a device (``cpu``: its own libjpeg), giving RGB uint8 [H, W, 3] in memory."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    def decoded(data: bytes) -> npt.NDArray[np.uint8]:
        whole = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels: npt.NDArray[np.uint8] = (
            decode_jpeg(whole, mode=ImageReadMode.RGB, device=device).permute(1, 2, 0).cpu().contiguous().numpy()
        )
        return pixels

    return decoded


def difference(dataset: Dataset, splits: Sequence[str], pixels: Pixels, decoder: Decoder) -> tuple[int, float]:
    """Largest and mean difference in levels of the first images of the data, by Pillow and by the decoder."""
    largest, means = 0, []
    rows = ((name, row) for name in splits for row in range(len(dataset.splits[name])))
    for split, row in itertools.islice(rows, FIRST):
        try:
            ours = pixels.crop(dataset.image(split, row)).numpy().astype(np.int16)
            with jpegs_by(decoder):
                theirs = pixels.crop(dataset.image(split, row)).numpy().astype(np.int16)
        except BrokenSample:
            continue
        apart = np.abs(ours - theirs)
        largest = max(largest, int(apart.max()))
        means.append(float(apart.mean()))
    return largest, max(means, default=0.0)


@contextlib.contextmanager
def decoding(where: str, dataset: Dataset, splits: Sequence[str], pixels: Pixels) -> Iterator[None]:
    """Decode JPEG files where the user says while in here.

    Args:
        where: ``cpu`` (Pillow), ``cuda``, or ``torchvision-cpu`` (for tests: a real second decoder).
        dataset, splits, pixels: what is checked first.

    Raises:
        UnavailableError: there is no CUDA device, or its pixels do not agree.
    """
    if where == "cpu":
        yield
        return
    if where == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UnavailableError("--decode cuda, and torch sees no CUDA device", "", "take --decode cpu")
    decoder = decoder_on(where.removeprefix("torchvision-"))
    largest, mean = difference(dataset, splits, pixels, decoder)
    if largest > FARTHEST or mean > MEAN:
        raise UnavailableError(
            f"JPEG pixels of {where} are up to {largest} levels from Pillow's, {mean:.2f} in the mean",
            f"at most {FARTHEST} and {MEAN} on the first {FIRST} images",
            "take --decode cpu",
        )
    with jpegs_by(decoder):
        yield
