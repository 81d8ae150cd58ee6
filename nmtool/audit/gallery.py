"""The most suspicious samples to look at: small pictures written anew, or the beginnings of texts.

Samples are read from where ``extract`` read them, and must be those that were encoded. Where that can't be, the gallery
is without them and says why: an audit needs features alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nmtool.artifact.memo import Memo
from nmtool.artifact.stage import Reporter
from nmtool.audit.config import Config
from nmtool.audit.inputs import Inputs, Judged
from nmtool.data.again import open_again
from nmtool.data.dataset import Dataset
from nmtool.data.images import BrokenSample, thumbnail
from nmtool.errors import NmtoolError
from nmtool.records import Int

SIDE = 96
TEXT = 200
"""Pixels a side and characters, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Pictures (image files) or texts of some samples, in their order, and why there are none ('' where there are)."""

    pictures: list[bytes]
    texts: list[str]
    missing: str


def gallery(inputs: Inputs, judged: Judged, chosen: Int, config: Config, memo: Memo, report: Reporter) -> Gallery:
    """Read the chosen samples again (positions among the judged ones)."""
    none = [b""] * len(chosen), [""] * len(chosen)
    if not len(chosen):
        return Gallery(pictures=none[0], texts=none[1], missing="none asked for")
    if _encoder(inputs).get("family") == "none":
        return _without(*none, "the features came ready made")
    try:
        dataset = open_again(
            inputs.features,
            inputs.split,
            shown=inputs.shown,
            memo=memo,
            data=config.data,
            data_root=config.data_root,
        )
    except NmtoolError as error:
        report.warning(f"the gallery has no pictures: {error}")
        return _without(*none, "the samples could not be read again")
    rows = [int(judged.rows[at]) for at in chosen]
    return Gallery(
        pictures=[_picture(dataset, inputs.split, row) for row in rows],
        texts=[_text(dataset, inputs.split, row) for row in rows],
        missing="",
    )


def _without(pictures: list[bytes], texts: list[str], why: str) -> Gallery:
    return Gallery(pictures=pictures, texts=texts, missing=why)


def _encoder(inputs: Inputs) -> Mapping[str, Any]:
    body = inputs.features.manifest.recipe.get("config", {}).get("encoder")
    return body if isinstance(body, Mapping) else {"family": "none"}


def _picture(dataset: Dataset, split: str, row: int) -> bytes:
    if dataset.kind not in ("images", "captions"):
        return b""
    try:
        return thumbnail(dataset.image(split, row), SIDE)
    except BrokenSample:  # it was encoded, and its digest held: a decoder of another version
        return b""


def _text(dataset: Dataset, split: str, row: int) -> str:
    if dataset.kind != "text":
        return ""
    whole = " ⏐ ".join(dataset.text(split, row))
    return whole if len(whole) <= TEXT else whole[: TEXT - 1] + "…"
