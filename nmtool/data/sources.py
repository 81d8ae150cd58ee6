"""From a data URI to a dataset: a literal table of schemes, resolved on use. Nothing heavy is imported before."""

from __future__ import annotations

import difflib
import importlib
import os
from pathlib import Path
from typing import cast

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.errors import UsageError

SCHEMES = {
    "folder": "nmtool.data.folder:open_folder",
    "table": "nmtool.data.table:open_table",
    "arrays": "nmtool.data.arrays:open_arrays",
    "digits": "nmtool.data.digits:open_digits",
}
_BY_SUFFIX = {".parquet": "table", ".csv": "table", ".tsv": "table", ".npz": "arrays"}


def open_dataset(uri: str, *, memo: Memo) -> Dataset:
    """Open a data URI: its names, labels and digests, no image decoded.

    Args:
        uri: ``folder:DIR``, ``table:FILE…``, ``arrays:FILE.npz`` or ``digits``.
        memo: remembers the digests of what did not change, so that a repeated call reads little.

    Raises:
        UsageError: no such scheme, or a URI that the scheme can't read.
        NmtoolError: as the source finds.
    """
    scheme, _, rest = uri.partition(":")
    if scheme not in SCHEMES:
        raise _unknown(uri, scheme)
    module, _, function = SCHEMES[scheme].partition(":")
    opener = getattr(importlib.import_module(module), function)
    return cast(Dataset, opener(rest, uri=uri, memo=memo))


def _unknown(uri: str, scheme: str) -> UsageError:
    forms = "folder:DIR, table:FILE, arrays:FILE.npz or digits"
    if os.path.exists(uri):  # noqa: PTH110 (never raises, whatever stands in the URI)
        guess = "folder" if Path(uri).is_dir() else _BY_SUFFIX.get(Path(uri).suffix.lower())
        hint = f"write {guess}:{uri}" if guess else "say what it is"
        return UsageError(f"the path {uri!r} as data", f"a data URI: {forms}", hint)
    near = difflib.get_close_matches(scheme, SCHEMES, n=1)
    hint = f"did you mean {near[0]}?" if near else "put one of these before the path"
    return UsageError(f"no data source {scheme!r} (in {uri!r})", f"a data URI: {forms}", hint)
