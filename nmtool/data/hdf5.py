"""Arrays in HDF5 files, by rows: only the rows asked for are read. h5py is an optional package.

The file is untrusted: what leads out of it (external links, external storage, virtual datasets), filters that need a
plug-in and chunks that unpack to too much are refused. A file that changes after it was opened is noticed at the next
read.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.data import files
from nmtool.errors import DataError, UnavailableError

_CHUNK_BYTES = 1 << 30
# deflate, shuffle, fletcher32, szip, nbit, scale-offset, LZF: what h5py has built in
_FILTERS = frozenset((1, 2, 3, 4, 5, 6, 32000))


class Hdf5Array:
    """One array of an HDF5 file: its header, read at once, and its rows, read on demand. Safe among threads."""

    def __init__(self, path: Path, key: str) -> None:
        """Read the header.

        Args:
            path: the file.
            key: the array's name in it.

        Raises:
            UnavailableError: h5py is not there.
            InputMissingError: no such file.
            DataError: no HDF5 file, damaged, no such array, or one that is stored elsewhere.
        """
        self.path, self.key = path, key
        self._lock = threading.Lock()
        self._open: Any = None
        self._process = 0
        self.identity = files.identity(files.regular(path, path.name))
        with self._lock:
            array = self._array()
            self.shape: tuple[int, ...] = tuple(int(n) for n in array.shape)
            self.dtype: np.dtype[Any] = array.dtype

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows ``start`` to ``stop``."""
        with self._lock, self._parsing():
            if files.identity(self.path.stat()) != self.identity:
                raise DataError(
                    f"{self.path.name} changed while it was being read", "data at rest", "run again when it is complete"
                )
            return np.asarray(self._array()[start:stop])

    def _array(self) -> Any:
        """The open array; a process that was forked opens its own."""
        if self._open is None or self._process != os.getpid():
            h5py = _h5py()
            with self._parsing():
                file = h5py.File(self.path, "r", locking=False)
                self._open, self._process = _checked(h5py, file, self.key, self.path.name), os.getpid()
        return self._open

    @contextlib.contextmanager
    def _parsing(self) -> Iterator[None]:
        """HDF5 tells of damage by OSError, RuntimeError and others, mostly without a number."""
        with files.told(self.path.name):
            try:
                yield
            except (DataError, UnavailableError, MemoryError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise DataError(
                    f"{self.path.name} is no sound HDF5 file ({str(error)[:200]})",
                    "the official file, unpacked",
                    "fetch it again",
                ) from None


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")  # not a plain import: it has no types
    except ImportError:
        raise UnavailableError(
            "h5py is not installed", "h5py, for HDF5 files", "pip install 'nmtool[suites]'"
        ) from None


def _checked(h5py: Any, file: Any, key: str, name: str) -> Any:
    """An array that is in the file itself and can be read with what is built in."""
    kind = file.get(key, getclass=True, getlink=True)
    if kind is None:
        raise DataError(f"{name} has no array {key!r}", f"one called {key!r}; it has {sorted(file)[:5]}")
    if kind is not h5py.HardLink or not isinstance(file[key], h5py.Dataset):
        raise DataError(f"{key!r} of {name} is a link or a group", "an array in the file itself")
    array = file[key]
    if array.external or array.is_virtual:
        raise DataError(f"the array {key!r} of {name} is stored in other files", "an array in the file itself")
    made = array.id.get_create_plist()
    strange = {int(made.get_filter(k)[0]) for k in range(made.get_nfilters())} - _FILTERS
    if strange:
        raise DataError(f"the array {key!r} of {name} has the filters {sorted(strange)}", "gzip, LZF, shuffle or none")
    if not isinstance(array.dtype, np.dtype) or array.dtype.hasobject or array.shape is None:
        raise DataError(f"the array {key!r} of {name} has the type {array.dtype}", "an array of numbers")
    if array.chunks and math.prod(array.chunks) * array.dtype.itemsize > _CHUNK_BYTES:
        raise DataError(f"the array {key!r} of {name} has chunks of {array.chunks}", f"at most {_CHUNK_BYTES} bytes")
    return array
