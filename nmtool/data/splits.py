"""Which splits of a dataset are meant: those named, or the usual ones."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from nmtool.data.dataset import Dataset
from nmtool.errors import InputMissingError, UsageError

_TEST = ("test", "val", "validation")


def choose(dataset: Dataset, names: Sequence[str] = ()) -> list[str]:
    """The splits asked for, in the order asked; where none is, ``train`` and ``test`` (else ``val``, ``validation``).

    Raises:
        InputMissingError: a named split is not there; the message lists those that are.
        UsageError: none was named and none of the usual ones is there (a multi-domain set).
    """
    there = ", ".join(dataset.splits)
    for name in names:
        if name not in dataset.splits:
            near = difflib.get_close_matches(name, dataset.splits, n=1)
            raise InputMissingError(
                f"no split {name!r} in {dataset.uri}",
                f"one of {there}",
                f"did you mean {near[0]}?" if near else "name one of these",
            )
    if names:
        return list(dict.fromkeys(names))
    usual = [name for name in ("train", *_TEST) if name in dataset.splits]
    if not usual:
        raise UsageError(f"{dataset.uri} has no split train, test, val or validation", f"some of {there}", "name them")
    first_test = next((name for name in _TEST if name in usual), None)
    return [name for name in usual if name == "train" or name == first_test]
