"""What the papers report on a suite, by its name alone: nothing is looked for on disk."""

from __future__ import annotations

from nmtool.data.suites.catalogue import PARTS
from nmtool.data.suites.facts import Metric
from nmtool.data.suites.open import suite_named


def metric_of_suite(where: str) -> Metric:
    """The measure of ``NAME`` or ``NAME/MEMBER``; a member that has facts of its own answers for itself.

    Raises:
        UsageError: no such suite.
    """
    name, _, member = where.partition("/")
    suite = suite_named(name, f"suite:{where}")
    part = next((part for part in PARTS.get(suite.name, ()) if part.name == f"{suite.name}/{member}"), suite)
    return part.metric
