"""Plain files that verbs write where the user asks, outside any artifact: whole and durable, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from nmtool.errors import CannotCreateError


def check_free(path: Path) -> None:
    """Refuse a place where no file can be put, before the work: raises ``CannotCreateError``."""
    if path.is_dir():
        raise CannotCreateError(f"{path} is a folder", "a file's name", "choose another -o")
    if path.exists() and not path.is_file():
        raise CannotCreateError(f"{path} is no regular file", "a file's name", "choose another -o")
    if not path.parent.is_dir():
        raise CannotCreateError(f"{path.parent} is no folder", "a folder to put the file in", "make it, or choose -o")


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole: private name in the same folder, fsync, rename. A file that is there is replaced.

    Raises:
        CannotCreateError: a folder or device is there, or there is no folder to put it in.
        OSError: as the operating system finds (disk full, permission).
    """
    check_free(path)
    # a link is written through, as a shell's > does
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # network file systems may not know how; the file itself is safe
            os.fsync(folder)
    finally:
        os.close(folder)
