"""What ``extract`` asks of an embeddings service, from settings and environment: URL, limits, and no secret. Light."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from nmtool.artifact.stage import Session
from nmtool.data.dataset import Dataset
from nmtool.encoders.openai_plan import public_url
from nmtool.encoders.openai_tokens import token_counter
from nmtool.encoders.resolved import Resolved, Service
from nmtool.errors import DataError, UsageError
from nmtool.extract.config import Config

_KEY_NAME = "OPENAI_API_KEY"
PREFIX = "openai:"


def settled(config: Config, session: Session) -> Config:
    """The configuration with the service's URL as it may be written down.

    The URL is ``--base-url``, else for ``openai:`` ``$OPENAI_BASE_URL``.

    Raises:
        UsageError: limits out of range, or the key where a manifest would hold it.
    """
    url = config.base_url or ((session.secret("OPENAI_BASE_URL") or "") if config.model.startswith(PREFIX) else "")
    if url:
        url, dropped = public_url(url)
        if dropped:
            session.report.warning(
                f"userinfo and query of the base URL are not used; the key is read from ${_KEY_NAME} alone"
            )
    config = dataclasses.replace(config, base_url=url or None)
    if config.model.startswith(PREFIX):
        _check(config, session)
    return config


def asked_of(config: Config) -> Service:
    """What settled settings ask of a service; ``Service()`` where nothing."""
    return Service(
        base_url=config.base_url or "",
        dimensions=config.dimensions,
        revision=config.revision or "",
        separator=config.pair_separator,
    )


def _check(config: Config, session: Session) -> None:
    if config.dtype == "bfloat16":
        raise UsageError("--dtype bfloat16 with MODEL openai:", "float32 or float16: nothing is computed here")
    if not 1 <= config.batch_tokens <= 1 << 30:
        raise UsageError(f"--batch-tokens is {config.batch_tokens}", "1 to 2**30")
    if not 0 <= config.max_retries <= 100:
        raise UsageError(f"--max-retries is {config.max_retries}", "0 to 100")
    if not 0 < config.timeout <= 86_400:
        raise UsageError(f"--timeout is {config.timeout}", "more than 0, at most 86400 seconds")
    if config.price is not None and config.price < 0:
        raise UsageError(f"--price is {config.price}", "0 or more")
    if not 0 <= config.workers <= 256:
        raise UsageError(f"--workers is {config.workers}", "0 to 256")
    key = (session.secret(_KEY_NAME) or "").strip()
    if len(key) >= 8 and key in session.command + repr(config):
        raise UsageError(
            f"the key of ${_KEY_NAME} stands in a flag or operand", "it in the environment alone: manifests keep flags"
        )


def text_of(dataset: Dataset, split: str, row: int, separator: str | None) -> str:
    """A sample's text as it is sent: its caption, its text, or its pair joined.

    Raises:
        DataError: a pair without a separator.
    """
    if dataset.kind == "captions":
        return dataset.caption(split, row)
    parts = dataset.text(split, row)
    if len(parts) > 1 and separator is None:
        raise DataError(
            f"pairs of texts in split {split}",
            "single texts: an embeddings service has no encoding of pairs",
            "--pair-separator TEXT sends each pair as one text, with this between",
        )
    return (separator or "").join(parts)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Texts that can be sent, counted.

    Attributes:
        texts: how many are not empty.
        tokens: about how many tokens they have, and ``by``: counted how.
        longest, shortest: (split, row) of a text that has most and least; None where there is none.
    """

    texts: int
    tokens: int
    by: str
    longest: tuple[str, int] | None
    shortest: tuple[str, int] | None


def census(dataset: Dataset, splits: Sequence[str], model: str, separator: str | None) -> Census:
    """Look at every text once."""
    count, by = token_counter(model)
    texts = tokens = 0
    most: tuple[int, str, int] | None = None
    least: tuple[int, str, int] | None = None
    for split in splits:
        for row in range(len(dataset.splits[split])):
            text = text_of(dataset, split, row, separator)
            if not text:
                continue
            size = (count(text), split, row)
            texts += 1
            tokens += size[0]
            most = size if most is None or size[0] > most[0] else most
            least = size if least is None or size[0] < least[0] else least
    return Census(
        texts=texts,
        tokens=tokens,
        by=by,
        longest=most[1:] if most else None,
        shortest=least[1:] if least else None,
    )


def work(dataset: Dataset, splits: Sequence[str], resolved: Resolved, price: float | None) -> str:
    """In words, what a miss will ask for, and what it costs."""
    assert resolved.service is not None
    found = census(dataset, splits, resolved.spec.arch, resolved.service.separator)
    cost = "" if price is None else f", about {found.tokens / 1e6 * price:.4g} at {price:g} per million tokens"
    return (
        f"ask {resolved.spec.preparation['service']} for embeddings of {found.texts} texts in {len(splits)} splits by "
        f"{resolved.spec.arch}: about {found.tokens} tokens ({found.by}){cost}"
    )


def batches_of(texts: Sequence[str], count: Callable[[str], int], items: int, tokens: int) -> list[list[int]]:
    """Places of texts that are sent in one request, in order; a text with more than ``tokens`` goes alone."""
    out: list[list[int]] = []
    size = 0
    for place, text in enumerate(texts):
        own = count(text)
        if not out or len(out[-1]) >= items or size + own > tokens:
            out.append([])
            size = 0
        out[-1].append(place)
        size += own
    return out
