"""open_clip's tokenizers: every text padded to the context length, cut where it is longer. Refuses pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from open_clip import factory
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from nmtool.encoders.encoder import TextBatch, Tokens
from nmtool.errors import DataError


class ClipTokenizer:
    """open_clip's tokenizer of an architecture: every text padded to the context length.

    Args:
        arch: the architecture.
        folder: the files of a tokenizer from the hub; None: the one that comes with open_clip.
        length: the context length.
    """

    def __init__(self, arch: str, folder: Path | None, length: int) -> None:
        text = (factory.get_model_config(arch) or {}).get("text_cfg", {})
        self._length = length
        more = dict(text.get("tokenizer_kwargs") or {})
        self._own = folder is None
        if folder is None:
            self._tokenizer = SimpleTokenizer(context_length=self._length, **more)
        else:
            mode = text.get("tokenizer_mode")
            self._tokenizer = HFTokenizer(str(folder), context_length=self._length, tokenizer_mode=mode, **more)

    def tokens(self, texts: Sequence[tuple[str, ...]]) -> list[Tokens]:
        """See ``encoder.Tokenizer``; a text that is too long loses its end, the closing token excepted."""
        if any(len(parts) != 1 for parts in texts):
            raise DataError(
                "pairs of texts for a text tower of open_clip",
                "one text a sample: CLIP has no encoding of pairs",
                "take a transformers: model, or leave text_b out of the data",
            )
        return [self._one(parts[0]) for parts in texts]

    def _one(self, text: str) -> Tokens:
        ids = self._tokenizer([text])[0].tolist()
        return Tokens(fields={"input_ids": ids}, length=self._real(ids), cut=self._whole(text) > self._length)

    def _whole(self, text: str) -> int:
        """Tokens before anything is cut, the opening and closing ones included."""
        if self._own:
            return len(self._tokenizer.encode(text)) + 2
        return len(self._tokenizer.tokenizer([self._tokenizer.clean_fn(text)], verbose=False)["input_ids"][0])

    def _real(self, ids: Sequence[int]) -> int:
        """Tokens up to the padding: to the closing token for open_clip's own, whose padding is a word's number."""
        if self._own:
            return ids.index(self._tokenizer.eot_token_id) + 1
        pad = self._tokenizer.tokenizer.pad_token_id
        return next((n for n in range(len(ids), 0, -1) if ids[n - 1] != pad), 1)

    def batch(self, tokens: Sequence[Tokens], device: torch.device) -> TextBatch:
        """See ``encoder.Tokenizer``."""
        ids = torch.tensor([t.fields["input_ids"] for t in tokens], device=device)
        lengths = torch.tensor([t.length for t in tokens], device=device)
        mask = (torch.arange(ids.shape[1], device=device)[None] < lengths[:, None]).long()
        return TextBatch(inputs={"text": ids}, mask=mask, cls=None)
