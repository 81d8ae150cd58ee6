"""Which of the cached augmented views an epoch sees."""

from __future__ import annotations


def pair_of(epoch: int, views: int) -> tuple[int, int]:
    """Two of ``views``: they take turns from epoch to epoch."""
    return (2 * epoch) % views, (2 * epoch + 1) % views
