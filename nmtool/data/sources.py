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
    "wds": "nmtool.data.wds.open:open_wds",
    "hf": "nmtool.data.hf.open:open_hf",
    "torchvision": "nmtool.data.torchvision.open:open_torchvision",
    "suite": "nmtool.data.suites.open:open_suite",
}
# Those whose URI is a name, looked up below the data root.
_NAMED = frozenset(("torchvision", "suite"))
FORMS = (
    "folder:DIR, table:FILE, wds:DIR/{000..127}.tar, hf:NAME, torchvision:NAME, arrays:FILE.npz, digits or suite:NAME"
)
_BY_SUFFIX = {".parquet": "table", ".csv": "table", ".tsv": "table", ".npz": "arrays", ".tar": "wds"}


def open_dataset(uri: str, *, memo: Memo, data_root: str | Path | None = None) -> Dataset:
    """Open a data URI: its names, labels and digests, no image decoded.

    Args:
        uri: one of the forms of ``FORMS``.
        memo: remembers the digests of what did not change, so that a repeated call reads little.
        data_root: the folder in which ``torchvision:`` and ``suite:`` look; the others have a path in their URI.

    Raises:
        UsageError: no such scheme, or a URI that the scheme can't read.
        NmtoolError: as the source finds.
    """
    scheme, _, rest = uri.partition(":")
    if scheme not in SCHEMES:
        raise _unknown(uri, scheme)
    module, _, function = SCHEMES[scheme].partition(":")
    opener = getattr(importlib.import_module(module), function)
    named = {"data_root": Path(data_root).expanduser() if data_root else None} if scheme in _NAMED else {}
    return cast(Dataset, opener(rest, uri=uri, memo=memo, **named))


def _unknown(uri: str, scheme: str) -> UsageError:
    if os.path.exists(uri):  # noqa: PTH110 (never raises, whatever stands in the URI)
        guess = "folder" if Path(uri).is_dir() else _BY_SUFFIX.get(Path(uri).suffix.lower())
        hint = f"write {guess}:{uri}" if guess else "say what it is"
        return UsageError(f"the path {uri!r} as data", f"a data URI: {FORMS}", hint)
    near = difflib.get_close_matches(scheme, SCHEMES, n=1)
    hint = f"did you mean {near[0]}?" if near else "put one of these before the path"
    return UsageError(f"no data source {scheme!r} (in {uri!r})", f"a data URI: {FORMS}", hint)
