"""Pickled annotations, as CIFAR's batches are: containers, texts, numbers and numpy arrays. Nothing else is loaded.

Unpickling runs whatever a file names; here only the rebuilding of plain numpy arrays is allowed, and every other
name is refused before it is looked up.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from nmtool.errors import DataError

BYTES = 1 << 30
# What numpy 1 and 2 call the pieces of an array's pickle; ``_codecs.encode`` makes bytes in pickles of Python 2 and 3.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): "numpy._core.multiarray",
    ("numpy._core.multiarray", "_reconstruct"): "numpy._core.multiarray",
    ("numpy.core.multiarray", "scalar"): "numpy._core.multiarray",
    ("numpy._core.multiarray", "scalar"): "numpy._core.multiarray",
    ("numpy", "ndarray"): "numpy",
    ("numpy", "dtype"): "numpy",
    ("_codecs", "encode"): "_codecs",
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        try:
            return super().find_class(_ALLOWED[module, name], name)
        except ModuleNotFoundError:  # numpy 1 has no numpy._core
            return super().find_class(module, name)


def load(data: bytes, name: str) -> Any:
    """The object in a pickle of plain things; texts of Python 2 come as bytes.

    Args:
        data: the file's bytes.
        name: what messages call it.

    Raises:
        DataError: it holds or calls anything but containers, texts, numbers and numeric arrays, or is damaged.
    """
    if len(data) > BYTES:
        raise DataError(f"{name} has {len(data)} bytes", f"at most {BYTES}")
    try:
        body = _Plain(io.BytesIO(data), encoding="bytes").load()
    except MemoryError:
        raise
    except Exception as error:  # hostile bytes may raise anything
        raise DataError(
            f"{name} is no pickle of plain arrays ({str(error)[:200]})", "lists, texts, numbers and numpy arrays"
        ) from None
    _check(body, name)
    return body


def _check(body: Any, name: str) -> None:
    """No array of objects anywhere on the outside."""
    parts = body.values() if isinstance(body, dict) else body if isinstance(body, (list, tuple)) else [body]
    if any(isinstance(part, np.ndarray) and part.dtype.hasobject for part in parts):
        raise DataError(f"{name} holds an array of Python objects", "arrays of numbers")
