"""Image processors of the ``transformers`` library as nmtool prepares images: bytes of one size, then numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmtool.errors import UsageError


class ProcessorPixels:
    """An image processor of the transformers library, in two steps: to uint8 of one size, then to numbers.

    Args:
        processor: the library's.
        name: the model's, for messages.
        device: where normalisation takes place.

    Raises:
        UsageError: images come out in different sizes, or in anything but three channels of bytes.
    """

    def __init__(self, processor: Any, name: str, device: torch.device | None) -> None:
        self._processor = processor
        shapes = set()
        for shape in ((48, 64, 3), (80, 56, 3)):
            out = self._resized(np.zeros(shape, dtype=np.uint8))
            shapes.add((tuple(out.shape), out.dtype))
        if len(shapes) != 1 or next(iter(shapes))[1] != torch.uint8 or len(next(iter(shapes))[0]) != 3:
            raise UsageError(
                f"the image processor of {name} gives {sorted(map(str, shapes))}", "images of one size, as bytes"
            )
        size = next(iter(shapes))[0]
        self.size: tuple[int, int] = (int(size[1]), int(size[2]))
        p = self._processor
        scale = float(p.rescale_factor) if p.do_rescale else 1.0
        mean, std = (_three(v, device) for v in ((p.image_mean, p.image_std) if p.do_normalize else (0.0, 1.0)))
        # the torchvision processors fold the scale into mean and deviation, the others apply it first
        fused = getattr(p, "backend", "") == "torchvision" and p.do_normalize
        self._scale = 1.0 if fused else scale
        self._mean, self._std = (mean * (1.0 / scale), std * (1.0 / scale)) if fused else (mean, std)

    def described(self) -> dict[str, object]:
        """Which processor, and on which library it computes: that decides pixels, beside its configuration."""
        backend = getattr(self._processor, "backend", "")
        return {"processor": type(self._processor).__name__, "backend": str(backend), "size": list(self.size)}

    def _resized(self, image: npt.NDArray[np.uint8]) -> Tensor:
        from PIL import Image

        out = self._processor(images=Image.fromarray(image), do_rescale=False, do_normalize=False, return_tensors="pt")
        pixels: Tensor = out["pixel_values"][0]
        return pixels

    def crop(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """See ``encoder.Pixels``."""
        return self._resized(image)

    def normalise(self, pixels: Tensor) -> Tensor:
        """See ``encoder.Pixels``."""
        return pixels.to(torch.float32).mul_(self._scale).sub_(self._mean).div_(self._std)


def _three(value: Any, device: torch.device | None) -> Tensor:
    values = [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)] * 3
    return torch.tensor(values, device=device).view(3, 1, 1)
