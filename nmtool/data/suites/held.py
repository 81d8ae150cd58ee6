"""A suite's samples as a dataset gives them: images by path, images by row of an array, texts by row.

Refuses a file that is no longer the one indexed, and an image that is nothing but its border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.data.dataset import Indexed
from nmtool.data.images import BrokenSample, decode
from nmtool.data.suites.located import Located
from nmtool.records import Float

Pixels = npt.NDArray[np.uint8]


class FilesDataset(Indexed):
    """Images by path; a file that is no longer the one indexed is refused."""

    def __init__(
        self,
        *,
        located: Mapping[str, Located],
        captions: Mapping[str, list[str]],
        border: int,
        **facts: Any,
    ) -> None:
        super().__init__(**facts)
        self._located, self._captions, self._border = located, captions, border

    def image(self, split: str, row: int) -> Pixels:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        name = self.splits[split].ids[row]
        image = decode(self._located[split].read(row, name), name=name)
        return _without_border(image, self._border, name) if self._border else image

    def caption(self, split: str, row: int) -> str:
        """The caption of sample ``row``."""
        return self._captions[split][row] if self._captions.get(split) else super().caption(split, row)


class ArraysDataset(Indexed):
    """Images by row of an array."""

    def __init__(self, *, readers: Mapping[str, Callable[[int, int], Pixels]], **facts: Any) -> None:
        super().__init__(**facts)
        self._readers = readers

    def image(self, split: str, row: int) -> Pixels:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        row = range(len(self.splits[split]))[row]
        return np.array(self._readers[split](row, row + 1)[0], dtype=np.uint8)


class TextDataset(Indexed):
    """Texts by row."""

    def __init__(
        self, *, texts: Mapping[str, Sequence[tuple[str, ...]]], targets: Mapping[str, Float | None], **facts: Any
    ) -> None:
        super().__init__(**facts)
        self._texts, self._targets = texts, targets

    def text(self, split: str, row: int) -> tuple[str, ...]:
        """The text, or the pair of texts, of sample ``row``."""
        return tuple(self._texts[split][row])

    def targets(self, split: str) -> Float | None:
        """Real-number labels float64 [n], NaN where there is none; None where the labels are classes."""
        return self._targets[split]


def _without_border(image: Pixels, border: int, name: str) -> Pixels:
    if min(image.shape[:2]) <= 2 * border:
        height, width = image.shape[:2]
        raise BrokenSample(f"{name} is {width} x {height} pixels", f"more than its border of {border} at each side")
    return np.ascontiguousarray(image[border:-border, border:-border])
