"""Arrays in an ``.npz`` file, by rows: of a large uncompressed array only the rows asked for are read.

The file is untrusted: Python objects (pickles) are refused, shapes are checked against the bytes that are there before
memory is taken. A file that changes after it was opened is noticed at the next read.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nmtool.data import files
from nmtool.errors import DataError

# What a compressed array may take when unpacked; an uncompressed one is read by rows and has no limit.
UNPACKED_BYTES = 16 << 30
_LOCAL_HEADER = 30
_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One array of an npz file.

    Attributes:
        key: its name.
        shape, dtype, fortran: as its header says.
        offset: where its first byte stands in the file; -1 where it is compressed.
    """

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def by_rows(self) -> bool:
        """Whether rows can be read alone."""
        return self.offset >= 0 and not self.fortran and len(self.shape) > 0


class Npz:
    """An npz file: its members' headers, read at once, and their contents, read on demand. Safe among threads."""

    def __init__(self, path: Path, name: str) -> None:
        """Read the headers.

        Args:
            path: the file.
            name: what messages call it.

        Raises:
            InputMissingError: no such file.
            DataError: no npz file, damaged, or with Python objects in it.
        """
        self.path, self.name = path, name
        if not path.is_dir():  # which opening it says better
            files.regular(path, name)
        with files.told(name), path.open("rb") as stream:
            self.identity = files.identity(os.fstat(stream.fileno()))
            self.settled = files.settled(files.stacked([self.identity]))
            with self._parsing(), zipfile.ZipFile(stream) as archive:
                found = [_member(archive, stream, info, name) for info in archive.infolist()]
        self.members = {member.key: member for member in found if member is not None}

    @contextlib.contextmanager
    def _parsing(self) -> Iterator[None]:
        """Readers fed hostile bytes may raise anything, even EINVAL for a place before the file's start."""
        try:
            yield
        except (DataError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise DataError(
                f"{self.name} is no sound npz file ({str(error)[:200]})", "what numpy.savez writes", "save it again"
            ) from None

    def whole(self, key: str) -> npt.NDArray[Any]:
        """All of an array."""
        member = self.members[key]
        if member.by_rows:
            return self.rows(key, 0, member.shape[0])
        with files.told(self.name), self.path.open("rb") as stream:
            self._check(stream)
            with self._parsing(), np.load(stream, allow_pickle=False) as archive:
                return _native(archive[key])

    def rows(self, key: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows ``start`` to ``stop`` of an array that can be read by rows."""
        member = self.members[key]
        with files.told(self.name), self.path.open("rb", buffering=0) as stream:
            self._check(stream)
            data = _pread(stream.fileno(), (stop - start) * member.row_bytes, member.offset + start * member.row_bytes)
        if len(data) != (stop - start) * member.row_bytes:
            raise self._changed()
        return _native(np.frombuffer(data, dtype=member.dtype).reshape(stop - start, *member.shape[1:]))

    def blocks(self, key: str) -> Iterator[npt.NDArray[Any]]:
        """All rows in order, some megabytes at a time."""
        member = self.members[key]
        if not member.by_rows:
            yield self.whole(key)
            return
        step = max(1, _BLOCK // max(1, member.row_bytes))
        for start in range(0, member.shape[0], step):
            yield self.rows(key, start, min(start + step, member.shape[0]))

    def _check(self, stream: IO[bytes]) -> None:
        if files.identity(os.fstat(stream.fileno())) != self.identity:
            raise self._changed()

    def _changed(self) -> DataError:
        return DataError(
            f"{self.name} changed while it was being read", "data at rest", "run again when it is complete"
        )


def _native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A contiguous, writeable copy in this machine's byte order."""
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    parts = []
    while size and (part := os.pread(descriptor, min(size, 1 << 30), offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _member(archive: zipfile.ZipFile, stream: IO[bytes], info: zipfile.ZipInfo, name: str) -> Member | None:
    """The header of one member; None for what is no array."""
    if not info.filename.endswith(".npy"):
        return None
    key = info.filename.removesuffix(".npy")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"array {key!r} of {name} in npy format {version}", "format 1.0 or 2.0: a plain array")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(member)
        header = member.tell()
    if dtype.hasobject:
        raise DataError(
            f"array {key!r} of {name} holds Python objects",
            "plain numbers or texts: unpickling runs code",
            "save it again with a plain dtype, such as np.array(names, dtype=str)",
        )
    size = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or header + size != info.file_size:
        raise DataError(f"array {key!r} of {name} says {list(shape)} {dtype} and has {info.file_size - header} bytes")
    offset = -1
    if info.compress_type == zipfile.ZIP_STORED:
        stream.seek(info.header_offset)
        local = stream.read(_LOCAL_HEADER)
        lengths = struct.unpack("<HH", local[26:30])
        offset = info.header_offset + _LOCAL_HEADER + sum(lengths) + header
    elif size > UNPACKED_BYTES:
        raise DataError(
            f"array {key!r} of {name} unpacks to {size} bytes",
            f"at most {UNPACKED_BYTES} where compressed",
            "save it with numpy.savez (not savez_compressed): it is then read by rows",
        )
    return Member(key=key, shape=tuple(shape), dtype=dtype, fortran=bool(fortran), offset=offset)
