"""Takes rows of a TSV file, chosen by a seed and kept in their order: SST-2 and IMDB are larger than a look needs."""

from __future__ import annotations

import random
import sys
from pathlib import Path


def sampled(source: Path, rows: int, seed: int = 0) -> str:
    """The header and ``rows`` of the lines below it, or all of them where there are no more."""
    header, *lines = source.read_text(encoding="utf-8").splitlines()
    kept = sorted(random.Random(seed).sample(range(len(lines)), min(rows, len(lines))))
    return "\n".join([header, *(lines[k] for k in kept)]) + "\n"


if __name__ == "__main__":
    origin, count, target = sys.argv[1:]
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(sampled(Path(origin), int(count)), encoding="utf-8")
