"""Files of the Hugging Face hub: from its local cache, else fetched once into it. Opens and judges none of them.

The hub's own client does the work, so proxies, tokens and ``HF_HUB_OFFLINE`` are honoured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nmtool.errors import UnavailableError


def find(repo: str, names: Sequence[str], who: str, or_else: str) -> Path:
    """The first of some files of a repository that is there: looked for in the cache first, then on the hub.

    Args:
        repo: ``ORGANISATION/NAME``.
        names: file names, the preferred first.
        who: whose weights they are, for the message.
        or_else: what else the user can do.

    Raises:
        UnavailableError: none of them is in the cache, and the hub has none or can't be reached.
    """
    import huggingface_hub as hf
    from huggingface_hub.errors import EntryNotFoundError

    for name in names:
        found = hf.try_to_load_from_cache(repo, name)
        if isinstance(found, str):
            return Path(found)
    why = "it has none of these files"
    try:
        _look(hf)
        for name in names:
            try:
                return Path(hf.hf_hub_download(repo, name, etag_timeout=10))
            except EntryNotFoundError:
                continue
    except Exception as error:  # the hub's client raises its HTTP library's errors too, and those change with it
        why = _first_line(error)
    where = " or ".join(f"{_snapshots(hf, repo)}/*/{name}" for name in names)
    raise UnavailableError(
        f"the weights of {who} are neither in {where} nor to be had from the hub ({why})", "", or_else
    )


def folder(repo: str, needed: Sequence[str], patterns: Sequence[str], who: str, or_else: str) -> Path:
    """The local snapshot of a repository, fetched first where one of the needed files is not in the cache.

    Args:
        repo: ``ORGANISATION/NAME``, or a name alone.
        needed: a snapshot that holds all of these (``A|B``: either) counts as whole.
        patterns: which files are fetched.
        who, or_else: as for ``find``.

    Raises:
        UnavailableError: it is not in the cache, and the hub does not have it or can't be reached.
    """
    import huggingface_hub as hf

    found = hf.try_to_load_from_cache(repo, needed[0])
    if isinstance(found, str):
        here = Path(found).parent
        if all(any((here / name).is_file() for name in either.split("|")) for either in needed):
            return here
    try:
        _look(hf)
        return Path(hf.snapshot_download(repo, allow_patterns=list(patterns), etag_timeout=10))
    except Exception as error:
        raise UnavailableError(
            f"{who} is neither in {_snapshots(hf, repo)} nor to be had from the hub ({_first_line(error)})",
            "",
            or_else,
        ) from None


def _look(hf: Any) -> None:
    """One look first, by the hub's own client: its downloads would try for half a minute."""
    hf.get_session().head(hf.constants.ENDPOINT, timeout=5)


def _snapshots(hf: Any, repo: str) -> Path:
    return Path(hf.constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--")) / "snapshots"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:160]
