"""Loaded encoders: what every family gives, for images and for texts, and where each family is loaded.

Importing this file imports torch. A family's own module is imported when one of its models is loaded.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from nmtool.encoders.resolved import Resolved
from nmtool.encoders.spec import EncoderSpec
from nmtool.errors import UsageError

# family: module:function of (Resolved, device), which gives an ImageEncoder or a TextEncoder
LOADERS: Mapping[str, str] = {
    "timm": "nmtool.encoders.timm:load",
    "open_clip": "nmtool.encoders.open_clip:load",
    "transformers": "nmtool.encoders.transformers:load",
}


class Pixels(Protocol):
    """How images are prepared, ready to run in many threads.

    Attributes:
        size: height and width that come out.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    def crop(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """RGB uint8 [h, w, 3] of any size, resized and cropped: uint8 [3, H, W]."""

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] on the encoder's device, scaled and normalised to float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEncoder:
    """A loaded image tower.

    Attributes:
        spec: what it is.
        module: the model in evaluation mode, without what the feature has no need of.
        pixels: its preprocessing.
        tap: float [B, D] of a module (this one or a copy of it) and prepared images [B, 3, H, W].
    """

    spec: EncoderSpec
    module: Any
    pixels: Pixels
    tap: Callable[[Any, Tensor], Tensor]

    def features_by(self, module: Any, batch: Tensor) -> Tensor:
        """Features float [B, D] of prepared images [B, 3, H, W] by a copy of the encoder's module."""
        out = self.tap(module, batch)
        return functional.normalize(out, dim=-1) if self.spec.normalize else out

    def features(self, batch: Tensor) -> Tensor:
        """Features float [B, D] of prepared images [B, 3, H, W]."""
        return self.features_by(self.module, batch)

    def compiled(self) -> ImageEncoder:
        """The same, by ``torch.compile``: each shape of a batch is compiled when it is first met, at a cost."""
        return dataclasses.replace(self, tap=torch.compile(self.tap, dynamic=False))

    def prepare(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """RGB uint8 [h, w, 3] as float32 [3, H, W]: the family's own evaluation transform."""
        return self.pixels.normalise(self.pixels.crop(image))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A text, or a pair of texts, in tokens.

    Attributes:
        fields: the model's inputs, a list of numbers each: ``input_ids``, and ``token_type_ids`` where it has those.
        length: how many tokens, padding not counted; 0 where the text has none.
        cut: the text was longer than the model takes.
    """

    fields: Mapping[str, Sequence[int]]
    length: int
    cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatch:
    """Texts padded to one length, on the device.

    Attributes:
        inputs: int64 [B, N] each, by name.
        mask: int64 [B, N], 1 for real tokens, which come first.
        cls: int64 [B], where the class token is; None where there is none.
    """

    inputs: Mapping[str, Tensor]
    mask: Tensor
    cls: Tensor | None


class Tokenizer(Protocol):
    """From texts to tokens to batches, as the model's own library does it."""

    def tokens(self, texts: Sequence[tuple[str, ...]]) -> list[Tokens]:
        """Tokens of each text or pair; raises ``DataError`` for pairs where the model has no encoding of pairs."""

    def batch(self, tokens: Sequence[Tokens], device: torch.device) -> TextBatch:
        """Texts that are encoded together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder:
    """A loaded text tower.

    Attributes:
        spec: what it is.
        module: the model in evaluation mode.
        tokenizer: its own.
        tap: float [B, D] of the module and a batch.
    """

    spec: EncoderSpec
    module: Any
    tokenizer: Tokenizer
    tap: Callable[[Any, TextBatch], Tensor]

    def features(self, batch: TextBatch) -> Tensor:
        """Features float [B, D]; what else is in the batch, and its padding, has no influence on a text's."""
        out = self.tap(self.module, batch)
        return functional.normalize(out, dim=-1) if self.spec.normalize else out


def load(resolved: Resolved, device: torch.device | None = None) -> ImageEncoder | TextEncoder:
    """Build the model and put its weights in; digests are checked against what was resolved.

    Raises:
        UsageError: an architecture or arguments that its library does not know.
        DataError: weights that do not fit: a parameter missing, too many or of another shape; or changed meanwhile.
        UnavailableError: the family's package is not installed.
    """
    if resolved.service is not None:
        raise UsageError(f"openai:{resolved.spec.arch}, which runs at a service", "an encoder that runs here")
    module, _, name = LOADERS.get(resolved.spec.family, "").partition(":")
    if not module:
        raise UsageError(f"the encoder family {resolved.spec.family!r}", "one of " + ", ".join(LOADERS))
    loader = getattr(importlib.import_module(module), name)
    encoder: ImageEncoder | TextEncoder = loader(resolved, device)
    return encoder


def load_image(resolved: Resolved, device: torch.device | None = None) -> ImageEncoder:
    """``load`` for an image tower."""
    encoder = load(resolved, device)
    if not isinstance(encoder, ImageEncoder):
        raise UsageError(f"the text tower of {resolved.spec.arch}", "an image tower")
    return encoder
