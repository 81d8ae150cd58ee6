"""What every suite must do with a miniature of its official layout; used by the tests of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.errors import NmtoolError


def opened(uri: str, root: Path) -> Dataset:
    """The dataset, with nothing remembered."""
    return open_dataset(uri, memo=Memo(None), data_root=root)


def check_rows(uri: str, root: Path) -> Dataset:
    """Ids sorted and unique, labels in range, the same identity on a second opening."""
    first, second = opened(uri, root), opened(uri, root)
    assert first.splits.keys() == second.splits.keys()
    for split, index in first.splits.items():
        ids = list(index.ids)
        assert ids == sorted(set(ids), key=str.encode)
        assert len(ids) == len(index.labels.values) > 0
        assert index.labels.values.min() >= -1
        assert index.labels.values.max() < max(1, len(first.classes))
        assert index.labels.classes == tuple(first.classes)
        assert index.digest == second.splits[split].digest
        assert index.listing == second.splits[split].listing
    return first


def refused(uri: str, root: Path, code: int, *words: str) -> None:
    """Opening fails with this exit code, and the message has these words."""
    with pytest.raises(NmtoolError) as caught:
        opened(uri, root)
    assert caught.value.exit_code == code, caught.value
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
