"""Random streams with names, all derived from one seed.

Every random choice takes its stream from ``generator(seed, "stage", "what", ...)``, so that adding a draw in one place
never moves the numbers of another. It refuses to touch global random state, and knows neither clocks nor processes.
"""

from __future__ import annotations

import hashlib
import json
import operator

import numpy as np

from nmtool.errors import UsageError

LARGEST_SEED = 2**63 - 1


def _digest(purpose: str, seed: int, names: tuple[str | int, ...]) -> bytes:
    """SHA-256 of a canonical text of seed and names; ``1`` and ``"1"`` differ, and so do ("a", "b") and ("ab",)."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise UsageError(f"seed {seed!r}", "a whole number", "give an integer, such as 0") from None
    if isinstance(seed, bool) or not 0 <= number <= LARGEST_SEED:
        raise UsageError(f"seed {seed!r}", f"a whole number from 0 to {LARGEST_SEED}", "choose another seed")
    canonical: list[str | int] = [purpose, number]
    for name in names:
        # json writes True as true: bools stay apart from 0 and 1, as they should
        canonical.append(name if isinstance(name, (str, bool)) else operator.index(name))
    return hashlib.sha256(json.dumps(canonical, ensure_ascii=True, separators=(",", ":")).encode("ascii")).digest()


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """The child generator of ``seed`` that bears ``names``.

    The same arguments give the same stream in every process, on every platform and under every ``PYTHONHASHSEED``;
    different names give independent streams.

    Args:
        seed: 0 to 2**63 - 1.
        names: words and whole numbers that say what the stream is for; their order matters.

    Raises:
        UsageError: the seed is out of range or no whole number.
    """
    entropy = int.from_bytes(_digest("numpy", seed, names), "big")
    # PCG64 by name, not default_rng: numpy is free to change what default_rng stands for
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def torch_seed(seed: int, *names: str | int) -> int:
    """A whole number in [0, 2**63) for ``torch.Generator().manual_seed``, derived as in :func:`generator`.

    Raises:
        UsageError: the seed is out of range or no whole number.
    """
    return int.from_bytes(_digest("torch", seed, names)[:8], "big") >> 1
