"""Tar archives as streams: what is in one, and the bytes of a member. Nothing is ever unpacked to disk.

An archive is untrusted (reliability T3). Its names are ids and never become paths; what could be more than one thing to
two readers is refused, with the member's name: absolute names and ``..``, links, devices and pipes, sparse files, a
name twice, sizes beyond the archive's end, two sizes for one member, names over 4 KiB or no UTF-8, an archive that ends
without its end mark (it was cut) or goes on after it (two were joined).

Read are ustar, GNU (long names, large sizes) and pax archives. An uncompressed one is indexed by stepping from header
to header, and its members are read in place; a compressed one (gzip, bzip2, xz, told by content) is read once from
front to back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nmtool.data import files
from nmtool.data.tarheaders import PlainFile, Source, cut, entries
from nmtool.data.unpack import Unpacked, compression
from nmtool.errors import DataError, StorageError
from nmtool.records import Int

MEMBER_BYTES = 1 << 30
"""What a member may have that is read whole, unless the caller says otherwise."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An uncompressed archive, as it was when it was indexed.

    Attributes:
        path: the file, absolute.
        name: what messages call it.
        identity: of the file; a read finds out when it is another.
    """

    path: Path
    name: str
    identity: files.Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The members of an uncompressed archive, in its order.

    Attributes:
        archive: the file.
        names: of the N regular files.
        offsets, sizes: int64 [N], in bytes: where each one's content is in the archive.
        folders: names of the folders that have an entry of their own.
    """

    archive: Archive
    names: tuple[str, ...]
    offsets: Int
    sizes: Int
    folders: tuple[str, ...]


def index(path: Path, name: str) -> Index:
    """List an uncompressed archive without reading any member's content.

    Args:
        path: the file, absolute.
        name: what messages call it.

    Raises:
        InputMissingError: it is not there.
        DataError: no tar archive, a compressed one, a cut one, or one that holds what is refused (named).
        StorageError: it changed meanwhile.
    """
    with _opened(path, name) as descriptor:
        identity = files.identity(os.fstat(descriptor))
        packed = compression(os.pread(descriptor, 8, 0))
        if packed:
            raise DataError(
                f"{name} is compressed ({packed})", "an uncompressed tar: only it can be read in any order", "unpack it"
            )
        names, places, folders = [], [], []
        for entry in entries(PlainFile(descriptor), name):
            if entry.size < 0:
                folders.append(entry.name)
            else:
                names.append(entry.name)
                places.append(entry[1:])
        if files.identity(os.fstat(descriptor)) != identity:
            raise _changed(name)
    table = np.array(places, dtype=np.int64).reshape(-1, 2)
    return Index(
        archive=Archive(path=path, name=name, identity=identity),
        names=tuple(names),
        offsets=table[:, 0].copy(),
        sizes=table[:, 1].copy(),
        folders=tuple(folders),
    )


def stream_members(
    path: Path,
    name: str,
    *,
    wanted: Callable[[str], bool] = lambda _: True,
    member_bytes: int = MEMBER_BYTES,
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of an archive's regular files, front to back, one in memory at a time.

    Args:
        path: the archive, plain or compressed.
        name: what messages call it.
        wanted: whether a member, by name, is to be read; the others are checked and passed over.
        member_bytes: how many bytes a wanted member may have.

    Raises:
        InputMissingError: it is not there.
        DataError: as ``index``; a wanted member too large; a compressed archive that is damaged, or unpacks to more
            than the limits in ``unpack``.
        StorageError: it changed meanwhile.
    """
    with _opened(path, name) as descriptor:
        identity = files.identity(os.fstat(descriptor))
        source: Source = (
            Unpacked(descriptor, name) if compression(os.pread(descriptor, 8, 0)) else PlainFile(descriptor)
        )
        for entry in entries(source, name):
            if entry.size < 0 or not wanted(entry.name):
                continue
            if entry.size > member_bytes:
                raise DataError(f"{entry.name!r} in {name} has {entry.size} bytes", f"at most {member_bytes}")
            data = source.take(entry.offset, entry.size)
            if len(data) < entry.size:
                raise cut(name, entry.name)
            yield entry.name, data
        if files.identity(os.fstat(descriptor)) != identity:
            raise _changed(name)


@contextlib.contextmanager
def reading(archive: Archive) -> Iterator[Callable[[int, int], bytes]]:
    """``take(offset, size)`` of an archive, for many small reads in a row.

    Raises:
        StorageError: the archive is not, before and after, as it was indexed.
    """
    with _opened(archive.path, archive.name) as descriptor:
        _check(archive, descriptor)
        yield PlainFile(descriptor).take
        _check(archive, descriptor)


class Reader:
    """Reads members in place; keeps the archives last used open. Safe among threads."""

    def __init__(self, keep: int = 16) -> None:
        """Args: keep: how many archives stay open."""
        self._keep = keep
        self._open: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, _close_all, self._open)

    def read(self, archive: Archive, offset: int, size: int) -> bytes:
        """The ``size`` bytes at ``offset``; raises ``StorageError`` if the archive is not as it was indexed."""
        return b"".join(self._chunks(archive, offset, size, size))

    def digest(self, archive: Archive, offset: int, size: int) -> str:
        """Hex sha256 of the ``size`` bytes at ``offset``; raises as ``read``."""
        sha = hashlib.sha256()
        for chunk in self._chunks(archive, offset, size, _CHUNK):
            sha.update(chunk)
        return sha.hexdigest()

    def _chunks(self, archive: Archive, offset: int, size: int, step: int) -> Iterator[bytes]:
        with files.told(archive.name), self._borrowed(archive) as descriptor:
            _check(archive, descriptor)
            end = offset + size
            while offset < end:
                data = os.pread(descriptor, min(step, end - offset), offset)
                if not data:
                    raise _changed(archive.name)
                yield data
                offset += len(data)
            _check(archive, descriptor)

    @contextlib.contextmanager
    def _borrowed(self, archive: Archive) -> Iterator[int]:
        """A descriptor of one's own: another thread may close the kept one at any time."""
        with self._lock:
            kept = self._open.get(archive.path)
            if kept is None:
                try:
                    kept = os.open(archive.path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    raise _changed(archive.name) from None
                self._open[archive.path] = kept
                if len(self._open) > self._keep:
                    os.close(self._open.popitem(last=False)[1])
            else:
                self._open.move_to_end(archive.path)
            own = os.dup(kept)
        try:
            yield own
        finally:
            os.close(own)


def _close_all(descriptors: OrderedDict[Path, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[int]:
    with files.told(name):
        # not blocking: a pipe in the archive's place must not hang the run
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DataError(f"{name} is no file", "a tar archive")
            yield descriptor
        finally:
            os.close(descriptor)


def _check(archive: Archive, descriptor: int) -> None:
    if files.identity(os.fstat(descriptor)) != archive.identity:
        raise _changed(archive.name)


def _changed(name: str) -> StorageError:
    return StorageError(f"{name} changed after it was indexed", "data at rest", "run again when it is complete")
