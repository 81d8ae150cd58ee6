"""Augmented views of an image, each drawn from a stream of its own: (seed, sample id, view), and nothing else.

So a view does not depend on batches, workers, order, or on where a run was interrupted.

- ``weak``: random resized crop, horizontal flip, colour jitter: the chain of TURN, appendix A.2.2 (for photographs).
  It states no strengths. The crop has 0.8 to 1 of the area, as NMTune's code; the jitter is ours: brightness, contrast
  and saturation times 0.8 to 1.2 each, in this order.
- ``strong``: the same crop and flip, then RandAugment as FixMatch's: 3 of 14 operations, each of a strength drawn
  from its range, and a grey square of up to half the image's side.

The crop is resized (bicubic) to the encoder's input, as in training; then the encoder's own mean and deviation apply.
The policy is versioned, and the version is part of the key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nmtool.errors import UsageError
from nmtool.numerics.seeds import LARGEST_SEED, generator

if TYPE_CHECKING:
    from PIL import Image

POLICY = 1
MOST_VIEWS = 16
AREA, RATIO = (0.8, 1.0), (3 / 4, 4 / 3)
JITTER = (0.8, 1.2)
OPERATIONS = 3
GREY = (127, 127, 127)


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Which views are taken.

    Attributes:
        count: 1 to 16 a sample.
        augment: ``weak`` or ``strong``.
        seed: 0 to 2**63 - 1.
    """

    count: int
    augment: str
    seed: int

    def __post_init__(self) -> None:
        """Check the ranges; raises ``UsageError``."""
        if not 1 <= self.count <= MOST_VIEWS:
            raise UsageError(f"--views is {self.count}", f"0 to {MOST_VIEWS}")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"--view-seed is {self.seed}", f"0 to {LARGEST_SEED}")

    def to_json(self) -> dict[str, object]:
        """Plain JSON for keys: everything that decides the pixels."""
        return {"count": self.count, "augment": self.augment, "seed": self.seed, "policy": POLICY}

    def of(self, image: npt.NDArray[np.uint8], sample: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The views of one image: uint8 [count, 3, H, W].

        Args:
            image: RGB uint8 [h, w, 3].
            sample: its id.
            size: H and W.
        """
        streams = (generator(self.seed, "view", self.augment, sample, k) for k in range(self.count))
        return np.stack([augmented(image, size, self.augment, rng) for rng in streams]).transpose(0, 3, 1, 2)


def augmented(
    image: npt.NDArray[np.uint8], size: tuple[int, int], augment: str, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """One view, uint8 [H, W, 3]."""
    from PIL import Image

    box = _box(image.shape[1], image.shape[0], rng)
    view = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    view = _jittered(view, rng) if augment == "weak" else _randaugmented(view, rng)
    return np.array(view, dtype=np.uint8)


def _box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a crop of some of the area; the greatest of a fitting shape where none is met."""
    for _ in range(10):
        area = width * height * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * RATIO[1]))), min(height, max(1, round(width / RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _jittered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for name in ("brightness", "contrast", "color"):
        image = _enhanced(image, name, rng.uniform(*JITTER))
    return image


def _randaugmented(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    names = list(_OPERATIONS)
    for at in rng.integers(len(names), size=OPERATIONS):
        low, high, operation = _OPERATIONS[names[int(at)]]
        image = operation(image, rng.uniform(low, high))
    side = round(rng.uniform(0, 0.5) * min(image.size))
    x, y = (int(rng.integers(length)) for length in image.size)
    corner = (max(0, x - side // 2), max(0, y - side // 2))
    image.paste(GREY, (*corner, min(image.width, corner[0] + side), min(image.height, corner[1] + side)))
    return image


def _enhanced(image: Image.Image, name: str, factor: float) -> Image.Image:
    from PIL import ImageEnhance

    kind = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "color": ImageEnhance.Color,
        "sharpness": ImageEnhance.Sharpness,
    }[name]
    out: Image.Image = kind(image).enhance(factor)
    return out


def _toned(image: Image.Image, name: str, *value: int) -> Image.Image:
    from PIL import ImageOps

    out: Image.Image = getattr(ImageOps, name)(image, *value)
    return out


def _moved(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Each pixel from a x + b y + c, d x + e y + f; grey where that is outside."""
    from PIL import Image

    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=GREY)


def _of(name: str) -> Callable[[Any, float], Any]:
    return lambda image, value: _enhanced(image, name, value)


# FixMatch's pool (Sohn 2020, appendix D): name: least and greatest strength, operation.
_OPERATIONS: Mapping[str, tuple[float, float, Callable[[Any, float], Any]]] = {
    "autocontrast": (0, 1, lambda image, v: _toned(image, "autocontrast")),
    "brightness": (0.05, 0.95, _of("brightness")),
    "color": (0.05, 0.95, _of("color")),
    "contrast": (0.05, 0.95, _of("contrast")),
    "equalize": (0, 1, lambda image, v: _toned(image, "equalize")),
    "identity": (0, 1, lambda image, v: image),
    "posterize": (4, 8, lambda image, v: _toned(image, "posterize", int(v))),
    "rotate": (-30, 30, lambda image, v: image.rotate(v, fillcolor=GREY)),
    "sharpness": (0.05, 0.95, _of("sharpness")),
    "shear_x": (-0.3, 0.3, lambda image, v: _moved(image, (1, v, 0, 0, 1, 0))),
    "shear_y": (-0.3, 0.3, lambda image, v: _moved(image, (1, 0, 0, v, 1, 0))),
    "solarize": (0, 256, lambda image, v: _toned(image, "solarize", int(v))),
    "translate_x": (-0.3, 0.3, lambda image, v: _moved(image, (1, 0, v * image.width, 0, 1, 0))),
    "translate_y": (-0.3, 0.3, lambda image, v: _moved(image, (1, 0, 0, 0, 1, v * image.height))),
}
