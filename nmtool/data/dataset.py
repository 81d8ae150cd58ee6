"""The shape of a dataset: splits of rows whose identity is fixed before anything is decoded. Opens nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from nmtool.errors import DataError
from nmtool.records import Float, SampleIndex


class Dataset(Protocol):
    """What every data URI opens to. Making one reads names, labels and digests, never a decoded image.

    All methods may be called from several threads at once.

    Attributes:
        uri: as the user gave it (it may hold a path: never part of a key).
        kind: what a sample is: ``images``, ``features`` (ready made), ``text`` or ``captions`` (image and caption).
        splits: one index a split, by name; row i of a split is sample i for ever.
        classes: class names in label order, the same for all splits; empty where there are no class labels.
        left_out: how many directory entries were not taken as samples, by reason (``hidden``, ``links``, ``other``).
        remarks: sentences that whoever uses the data should read: a size that is not the official one, for example.
    """

    @property
    def uri(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def splits(self) -> Mapping[str, SampleIndex]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def left_out(self) -> Mapping[str, int]: ...

    @property
    def remarks(self) -> tuple[str, ...]: ...

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        """Sample ``row`` as RGB uint8 [H, W, 3], the caller's own copy.

        Raises:
            BrokenSample: it can't be decoded safely, or is not what was indexed; the message names its id.
            DataError: samples of this kind are no images.
        """

    def features(self, split: str) -> npt.NDArray[np.floating[Any]]:
        """All rows of a split that holds ready-made features, float [n, D]; raises ``DataError`` for other kinds."""

    def caption(self, split: str, row: int) -> str:
        """The caption of sample ``row``; raises ``DataError`` where there are none."""

    def text(self, split: str, row: int) -> tuple[str, ...]:
        """The text of sample ``row``, or its pair of texts; raises ``DataError`` where there are none."""

    def targets(self, split: str) -> Float | None:
        """Real-number labels float64 [n] (regression), NaN where there is none; None where the labels are classes."""


class Indexed:
    """A dataset's index, and the refusals of one that has no images, features, captions or texts to give.

    The sources derive from it and override what they do have.
    """

    def __init__(
        self,
        *,
        uri: str,
        kind: str,
        splits: Mapping[str, SampleIndex],
        classes: tuple[str, ...],
        left_out: Mapping[str, int] | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        self.uri, self.kind, self.classes = uri, kind, classes
        self.splits = MappingProxyType(dict(sorted(splits.items())))
        self.left_out = MappingProxyType(dict(left_out or {}))
        self.remarks = tuple(remarks)

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        """Refused: see ``Dataset.image``."""
        self._refuse("images")

    def features(self, split: str) -> npt.NDArray[np.floating[Any]]:
        """Refused: see ``Dataset.features``."""
        self._refuse("features")

    def caption(self, split: str, row: int) -> str:
        """Refused: see ``Dataset.caption``."""
        self._refuse("captions")

    def text(self, split: str, row: int) -> tuple[str, ...]:
        """Refused: see ``Dataset.text``."""
        self._refuse("texts")

    def targets(self, split: str) -> Float | None:
        """None: see ``Dataset.targets``."""
        return None

    def _refuse(self, wanted: str) -> NoReturn:
        raise DataError(f"{self.uri} holds {self.kind}, no {wanted}", f"data with {wanted}", "name another data URI")
