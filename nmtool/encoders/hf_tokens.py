"""Tokenizers of the ``transformers`` library: texts and pairs to tokens, cut at the model's maximum, padded at the end.

Padding is marked in the mask and comes after the real tokens, also where the tokenizer would put it first: so that it
has no influence on models that count positions, and the last real token is where its length says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nmtool.encoders.encoder import TextBatch, Tokens
from nmtool.encoders.transformers_plan import SENTENCES
from nmtool.errors import DataError, UsageError

_SANE = 1_000_000  # tokenizers that know no maximum say 10 ** 30


class HFTokens:
    """A tokenizer with the limits of its model.

    Args:
        tokenizer: the library's.
        model: whose limits hold.
        folder: where both come from.
        max_length: tokens at most; None: the least of what tokenizer, model and folder say.

    Attributes:
        has_class: texts begin (or end) with a class token.
        two_way: tokens see what comes after them: no decoder.

    Raises:
        UsageError: ``max_length`` is more than the model takes.
    """

    def __init__(self, tokenizer: Any, model: Any, folder: Path, max_length: int | None) -> None:
        self._tokenizer = tokenizer
        most = _most(tokenizer, model, folder)
        if max_length is not None and most is not None and max_length > most:
            raise UsageError(f"--max-length is {max_length}", f"at most {most}, as {folder.name} was built")
        self._length = max_length or most or 512
        first = tokenizer("a")["input_ids"]
        self._class = tokenizer.cls_token_id if tokenizer.cls_token_id in first else None
        self._pad = next((n for n in (tokenizer.pad_token_id, tokenizer.eos_token_id) if n is not None), 0)
        self.has_class = self._class is not None
        self.two_way = bool(model.config.is_encoder_decoder)

    def described(self) -> dict[str, object]:
        """For the key: which tokenizer, how much of a text, what becomes of the rest."""
        return {
            "tokenizer": type(self._tokenizer).__name__,
            "max_length": self._length,
            "truncation": "longest_first",
            "padding": "right",
        }

    def tokens(self, texts: Sequence[tuple[str, ...]]) -> list[Tokens]:
        """See ``encoder.Tokenizer``; of a pair that is too long, the longer text loses its end first."""
        if not texts:
            return []
        if len({len(parts) for parts in texts}) != 1:
            raise DataError("single texts and pairs of texts in one split", "one kind")
        whole = self._encoded(texts, cut=False)
        long = [row for row, ids in enumerate(whole["input_ids"]) if len(ids) > self._length]
        if long:
            again = self._encoded([texts[row] for row in long], cut=True)
            for name, values in whole.items():
                for row, value in zip(long, again[name], strict=True):
                    values[row] = value
        cut = set(long)
        return [
            Tokens(
                fields={name: values[row] for name, values in whole.items()},
                length=len(whole["input_ids"][row]),
                cut=row in cut,
            )
            for row in range(len(texts))
        ]

    def _encoded(self, texts: Sequence[tuple[str, ...]], cut: bool) -> dict[str, list[Any]]:
        columns = [list(column) for column in zip(*texts, strict=True)]
        limit = {"truncation": "longest_first", "max_length": self._length} if cut else {"truncation": False}
        out = self._tokenizer(*columns, padding=False, return_attention_mask=False, verbose=False, **limit)
        return {name: list(out[name]) for name in out if name in self._names}

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for name in self._tokenizer.model_input_names if name != "attention_mask")

    def batch(self, tokens: Sequence[Tokens], device: torch.device | None) -> TextBatch:
        """See ``encoder.Tokenizer``."""
        width = max(t.length for t in tokens)
        fill = {"input_ids": self._pad, "token_type_ids": self._tokenizer.pad_token_type_id}
        inputs = {
            name: torch.tensor(
                [[*t.fields[name], *[fill.get(name, 0)] * (width - t.length)] for t in tokens], device=device
            )
            for name in tokens[0].fields
        }
        lengths = torch.tensor([t.length for t in tokens], device=device)
        mask = (torch.arange(width, device=device)[None] < lengths[:, None]).long()
        cls = None
        if self._class is not None:
            cls = (inputs["input_ids"] == self._class).int().argmax(1)
        return TextBatch(inputs=inputs, mask=mask, cls=cls)

    def probe(self, device: str) -> TextBatch:
        """A small batch to try the model with, on any device."""
        real = self.batch(self.tokens([("a",), ("b",)]), None)
        return TextBatch(
            inputs={name: values.to(device) for name, values in real.inputs.items()},
            mask=real.mask.to(device),
            cls=None if real.cls is None else real.cls.to(device),
        )


def _most(tokenizer: Any, model: Any, folder: Path) -> int | None:
    """Tokens that tokenizer, model and sentence-transformers' settings all take; None where none of them says."""
    limits = [int(tokenizer.model_max_length)] if 0 < tokenizer.model_max_length < _SANE else []
    positions = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin count positions from behind the padding's number
        limits.append(positions - _first_position(model))
    try:
        own = json.loads((folder / SENTENCES).read_bytes()).get("max_seq_length")
        limits += [own] if isinstance(own, int) and own > 0 else []
    except (OSError, ValueError, AttributeError):
        pass
    return min(limits, default=None)


def _first_position(model: Any) -> int:
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0
