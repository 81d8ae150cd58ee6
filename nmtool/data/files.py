"""Input files as untrusted, changing things: their identity, their digests, and reads that notice a change meanwhile.

Opens for reading only, and follows no link in the last place of a path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from nmtool.data.images import FILE_BYTES, BrokenSample
from nmtool.errors import DataError, InputMissingError, PermissionDeniedError, StorageError
from nmtool.records import Int

Identity = tuple[int, int, int, int, int]
"""Of a file: size, mtime_ns, ctime_ns, inode, device."""

_BLOCK = 1 << 20
_NAMES = 1 << 14
# Without waiting: a pipe that took a file's place would be waited for without end.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# A file younger than this may change again within its own time stamp's grain (reliability 5.6).
_SETTLED_NS = 2_000_000_000


def identity(found: os.stat_result) -> Identity:
    """What changes when a file does."""
    # 63 bits of the inode: some network file systems use all 64, and identities are kept as int64 arrays
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & (2**63 - 1), found.st_dev


def stacked(identities: Sequence[Identity]) -> Int:
    """Identities as one int64 [n, 5] array."""
    return np.array(identities, dtype=np.int64).reshape(-1, 5)


def settled(identities: Int) -> bool:
    """Whether all files are old enough, now, for their time stamps to be trusted."""
    return time.time_ns() - int(identities[:, 1:3].max(initial=0)) > _SETTLED_NS


def listing_digest(names: Iterable[str], identities: Int) -> str:
    """sha256 over names and identities, in the order given: the question that a remembered index answers."""
    sha, source, between = hashlib.sha256(), iter(names), ""
    while block := list(islice(source, _NAMES)):
        sha.update((between + "\0".join(block)).encode())
        between = "\0"
    sha.update(b"\0\0")
    sha.update(np.ascontiguousarray(identities).data)
    return "sha256:" + sha.hexdigest()


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn the operating system's refusals into the error family; ``what`` names the thing being read."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputMissingError(f"{what} is not there", "a path that exists", "check the data URI") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{what} may not be read", "", "change its permissions") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise InputMissingError(f"{what} is not the sort of path expected ({error.strerror})") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputMissingError(f"{what} is a link", "a file or folder itself; links are not followed") from error
        raise StorageError(f"{what} can't be read ({error.strerror or error})", "", "check the disk") from error


def regular(path: Path, name: str) -> os.stat_result:
    """The stat of a file that may be opened: a pipe in its place would be waited for without end.

    Raises:
        InputMissingError: it is not there.
        DataError: it is no file.
    """
    with told(name):
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{name} is no file", "a file itself")
    return found


def place(where: str, what: str, scheme: str) -> tuple[Path, os.stat_result]:
    """The absolute path of a data URI's file or folder, and its stat.

    Raises:
        InputMissingError: it is not there.
        PermissionDeniedError: the way to it is barred.
    """
    after = f"{scheme}:" if scheme.isalnum() else scheme
    missing = InputMissingError(f"no {what} {where!r}", f"a {what} that exists", f"check the path after {after}")
    if not where or "\0" in where:
        raise missing
    with contextlib.suppress(RuntimeError):  # "~" of a user who has no home
        where = str(Path(where).expanduser())
    path = Path(where).absolute()
    try:
        with told(f"the {what} {where!r}"):
            return path, path.stat()
    except InputMissingError:
        raise missing from None


def digest(path: str | Path, expected: Identity, name: str) -> str:
    """Hex sha256 of a file's bytes, which must be, before and after, the file that was listed.

    Raises:
        DataError: it changed or went away since.
    """
    sha = hashlib.sha256()
    try:
        with told(name):
            descriptor = os.open(path, _OPEN)
            try:
                before = identity(os.fstat(descriptor))
                while block := os.read(descriptor, _BLOCK):
                    sha.update(block)
                after = identity(os.fstat(descriptor))
            finally:
                os.close(descriptor)
    except InputMissingError:
        before = after = (-1, 0, 0, 0, 0)
    if not before == after == expected:
        raise DataError(f"{name} changed while it was being read", "data at rest", "run again when it is complete")
    return sha.hexdigest()


def read(path: str | Path, size: int, mtime_ns: int, name: str) -> bytes:
    """The bytes of one sample's file, which must still have the size and time of the index.

    Raises:
        BrokenSample: it is over 64 MiB.
        StorageError: it went away, or changed since it was indexed or while it was being read. No broken sample: what
            is wrong may be gone in a minute, and a row must not stay marked for it.
    """
    if size > FILE_BYTES:
        raise BrokenSample(f"{name} has {size} bytes", f"an image file of at most {FILE_BYTES}")
    changed = StorageError(f"{name} changed after it was indexed", "data at rest", "run again when it is complete")
    try:
        with told(name):
            descriptor = os.open(path, _OPEN)
            with open(descriptor, "rb", buffering=0) as stream:
                before = os.fstat(descriptor)
                data = stream.read(size + 1) or b""
                while data and len(data) <= size and (more := stream.read(size + 1 - len(data))):
                    data += more
                after = os.fstat(descriptor)
    except InputMissingError:
        raise changed from None
    if len(data) != size or any((s.st_size, s.st_mtime_ns) != (size, mtime_ns) for s in (before, after)):
        raise changed
    return data
