"""Any rows of a split through an encoder, into memory: for those that are encoded again. Knows nothing of artifacts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from nmtool.data.dataset import Dataset
from nmtool.encoders.device import thread_count
from nmtool.encoders.encoder import ImageEncoder, TextEncoder
from nmtool.errors import UsageError
from nmtool.extract.batches import Job, pool_of
from nmtool.extract.images import decode, encode
from nmtool.extract.jpeg import decoding
from nmtool.extract.texts import NO_TOKENS, batches_of, encode_texts, texts_of

Block = npt.NDArray[np.float32]
# features float32 [N, D] or, with K views, [N, 1 + K, D]; by row why it has none (NaN there); and the digest of what
# can't be decoded
Rows = tuple[Block, dict[int, str], dict[int, str]]


def encode_rows(
    dataset: Dataset, encoder: object, split: str, rows: Sequence[int], job: Job, device: torch.device
) -> Rows:
    """Features of these rows, and marks.

    Raises:
        UsageError: an encoder that is neither of images nor of texts on this machine.
    """
    if isinstance(encoder, ImageEncoder):
        return _images(dataset, encoder, split, rows, job, device)
    if isinstance(encoder, TextEncoder):
        return _texts(dataset, encoder, split, rows, job, device)
    raise UsageError(f"encoding single rows with {job.model}", "a model that runs here")


def _images(
    dataset: Dataset, encoder: ImageEncoder, split: str, rows: Sequence[int], job: Job, device: torch.device
) -> Rows:
    errors: dict[int, str] = {}
    contents: dict[int, str] = {}
    parts = []
    with decoding(job.decode, dataset, [split], encoder.pixels), pool_of(thread_count(job.workers)) as pool:
        for at in range(0, len(rows), job.batch_size):
            some = rows[at : at + job.batch_size]
            decoded = list(pool.map(lambda row: decode(dataset, encoder.pixels, split, row, job.views), some))
            parts.append(encode(encoder, [d[0] for d in decoded], job, device))
            errors |= {row: d[1] for row, d in zip(some, decoded, strict=True) if d[1]}
            contents |= {row: d[2] for row, d in zip(some, decoded, strict=True) if d[2]}
    block: Block = np.concatenate(parts).astype(np.float32, copy=False)
    block[[k for k, row in enumerate(rows) if row in errors]] = np.nan
    return block, errors, contents


def _texts(
    dataset: Dataset, encoder: TextEncoder, split: str, rows: Sequence[int], job: Job, device: torch.device
) -> Rows:
    tokens = encoder.tokenizer.tokens(texts_of(dataset, split, rows))
    block = np.full((len(rows), encoder.spec.dim), np.nan, dtype=np.float32)
    for places in batches_of([t.length for t in tokens], job.batch_size):
        block[places] = encode_texts(encoder, [tokens[k] for k in places], job, device)
    return block, {row: NO_TOKENS for row, t in zip(rows, tokens, strict=True) if not t.length}, {}
