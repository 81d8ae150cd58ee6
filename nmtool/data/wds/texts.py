"""The parts of WebDataset samples that hold no image: labels, captions, texts and JSON, from their bytes.

They are untrusted: sizes are capped, text is UTF-8, JSON an object, and what is none is refused by its member's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nmtool.data.index import check_id
from nmtool.errors import DataError

TEXT_BYTES = 1 << 20
"""What a caption, text or JSON part may have."""

Cell = str | int | None


def text_of(data: bytes, key: str, name: str) -> str:
    """A caption or text from its part's bytes: of a text part, or the value of a JSON part's ``key``."""
    if not key:
        return decoded(data, name).rstrip("\r\n")
    value = json_of(data, name).get(key)
    if not isinstance(value, str):
        raise DataError(f"{key!r} in {name} is {type(value).__name__}", "text")
    return value


def json_of(data: bytes, name: str) -> Mapping[str, Any]:
    """A JSON part, which has to be an object."""
    try:
        value = json.loads(decoded(data, name))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is no JSON ({str(error)[:100]})", "a JSON object", "mend or remove it") from None
    if not isinstance(value, dict):
        raise DataError(f"{name} holds a JSON {type(value).__name__}", "a JSON object", "mend or remove it")
    return value


def decoded(data: bytes, name: str) -> str:
    """A part's text; raises ``DataError`` where it is no UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{name} is no UTF-8 ({data[:40]!r})", "text in UTF-8", "mend or remove it") from None


def cell_of(value: object, name: str) -> Cell:
    """A label as one sample has it."""
    if isinstance(value, str):
        return check_id(value.strip(), f"label {name}")
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62):
        return value
    raise DataError(f"the label {name} is {str(value)[:60]}", "a class number or name")
