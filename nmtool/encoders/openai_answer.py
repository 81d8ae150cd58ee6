"""What an embeddings service answers, read with suspicion: count, order, lengths, types. It guesses nothing."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.encoders.openai_plan import MOST_DIMENSIONS
from nmtool.errors import UnavailableError


class TornError(Exception):
    """An answer that is no JSON: cut off, or not from the service. It is asked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Embeddings of some texts.

    Attributes:
        vectors: float32 [n, D], in the order of the texts; may hold values that are not finite.
        tokens: as the service counted them for its bill; None where it does not say.
        model: the service's own name for the model; may be empty.
    """

    vectors: npt.NDArray[np.float32]
    tokens: int | None
    model: str


def parse(body: bytes, count: int, dim: int | None, who: str) -> Answer:
    """Read an answer for ``count`` texts, of length ``dim`` where that is known. ``who`` names the service in errors.

    Raises:
        TornError: no JSON.
        UnavailableError: JSON that is not what the protocol says, or vectors of another length.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise TornError(f"an answer of {len(body)} bytes that is no JSON") from None
    items = found.get("data") if isinstance(found, dict) else None
    if not isinstance(items, list):
        raise UnavailableError(f'{who} answered without a list "data"', "an answer of the embeddings protocol")
    if len(items) != count:
        raise UnavailableError(f"{who} answered {len(items)} embeddings for {count} texts", "one for each")
    rows: list[npt.NDArray[np.float32] | None] = [None] * count
    for item in items:
        place = item.get("index") if isinstance(item, dict) else None
        if type(place) is not int or not 0 <= place < count:
            has = "an index of no text" if isinstance(item, dict) and "index" in item else "no index"
            raise UnavailableError(f"{who} answered an embedding with {has}", f"index 0 to {count - 1}: whose it is")
        if rows[place] is not None:
            raise UnavailableError(f"{who} answered two embeddings with index {place}", "one for each text")
        rows[place] = _vector(item.get("embedding"), who)
    lengths = sorted({row.size for row in rows if row is not None})
    wanted = dim if dim is not None else lengths[0]
    if lengths != [wanted]:
        other = next(length for length in lengths if length != wanted)
        raise UnavailableError(
            f"{who} answered an embedding of length {other}",
            f"{wanted}, as {'was asked for or answered before' if dim is not None else 'the others of one answer'}",
            "another model answers under this name, or it does not know --dimensions",
        )
    return Answer(
        vectors=np.stack([row for row in rows if row is not None]), tokens=_tokens(found), model=_model(found)
    )


def _vector(value: object, who: str) -> npt.NDArray[np.float32]:
    """A list of numbers, or base64 of little-endian float32."""
    if isinstance(value, str):
        try:
            raw = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raw = b"?"
        if len(raw) % 4:
            raise UnavailableError(f"{who} answered a text for an embedding", "numbers, or base64 of float32")
        found = np.frombuffer(raw, dtype="<f4").astype(np.float32)
    elif isinstance(value, list) and all(type(v) in (int, float) or v is None for v in value):
        # null is what JSON has in place of NaN
        with np.errstate(over="ignore"):
            found = np.array([math.nan if v is None else _float(v) for v in value], dtype=np.float64).astype(np.float32)
    else:
        raise UnavailableError(f"{who} answered an embedding that is no list of numbers", "numbers, or base64")
    if not 1 <= found.size <= MOST_DIMENSIONS:
        raise UnavailableError(f"{who} answered an embedding of length {found.size}", f"1 to {MOST_DIMENSIONS}")
    return found


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _tokens(found: Mapping[str, Any]) -> int | None:
    usage = found.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(name) for name in ("total_tokens", "prompt_tokens")]
    return next((n for n in counts if type(n) is int and 0 <= n < 1 << 53), None)


def _model(found: Mapping[str, Any]) -> str:
    name = found.get("model")
    return name if isinstance(name, str) else ""


def complaint(body: bytes) -> tuple[str, str]:
    """What a service says of a request that it does not answer: its words, and its code for it. Not to be shown as
    they are: they may hold the key."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    said: object = found
    for name in ("error", "detail", "message"):
        if isinstance(said, dict) and name in said:
            inner = said[name]
            if isinstance(inner, dict):
                return str(inner.get("message") or ""), str(inner.get("code") or inner.get("type") or "")
            return str(inner), ""
    return "", ""
