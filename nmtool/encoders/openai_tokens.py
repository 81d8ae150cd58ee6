"""How many tokens a text has, before a service is asked: for batches and for an estimate of the cost.

By ``tiktoken`` where it is installed and knows the model; else a third of the UTF-8 bytes, rounded up, which is more
than English has (about four bytes a token) and about what other scripts have.
"""

from __future__ import annotations

from collections.abc import Callable

_BYTES = 3
_LONG = 100_000  # characters above which an estimate must do: exact counts are slow for strange texts


def token_counter(model: str) -> tuple[Callable[[str], int], str]:
    """A function that counts a text's tokens, and in words how it does. Every text counts one at least."""

    def by_bytes(text: str) -> int:
        return max(1, -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES))

    try:
        import tiktoken

        encoding = tiktoken.encoding_for_model(model)
    except Exception:  # not installed, a model it does not know, or its vocabulary neither cached nor reachable
        return by_bytes, "bytes / 3"

    def exactly(text: str) -> int:
        return max(1, len(encoding.encode_ordinary(text))) if len(text) <= _LONG else by_bytes(text)

    return exactly, "tiktoken"
