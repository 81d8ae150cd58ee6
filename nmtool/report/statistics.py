"""Mean and spread over runs. Pure functions; nothing is rounded here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """What some runs measured.

    Attributes:
        mean: arithmetic mean.
        std: sample standard deviation (ddof = 1); None for one run, which has no spread.
        n: number of runs with a value.
    """

    mean: float
    std: float | None
    n: int


def summarise(values: Iterable[float | None]) -> Stat | None:
    """Mean and sample standard deviation of the values that are finite numbers; None where there is none."""
    known = [float(v) for v in values if v is not None and math.isfinite(v)]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return Stat(mean=mean, std=None, n=1)
    square = math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1)
    return Stat(mean=mean, std=math.sqrt(square), n=len(known))


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values if all of them are there, else None: a mean over other targets would be another mean."""
    known = list(values)
    if not known or any(v is None or not math.isfinite(v) for v in known):
        return None
    return math.fsum(v for v in known if v is not None) / len(known)
