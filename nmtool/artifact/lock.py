"""Who works on what: owner records, their liveness, and an advisory lock.

The lock only saves duplicate work; correctness never rests on it (on Lustre, GPFS and some NFS ``flock`` succeeds for
everybody). What keeps results right is private staging and the commit by rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nmtool.errors import BusyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, named so that its death can be proven: a reused pid has another start time."""

    host: str
    boot: str
    pid_namespace: str
    pid: int
    started: str

    def to_bytes(self) -> bytes:
        """JSON for ``owner.json``."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Owner | None:
        """Read ``owner.json``; None where it is torn or strange (then nobody can be proven dead)."""
        try:
            body = json.loads(data)
            return Owner(**body)
        except (ValueError, TypeError):
            return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat; '' where the process (or /proc) is not there, or the process is a zombie."""
    text = _read(f"/proc/{pid}/stat")
    fields = text.rpartition(")")[2].split()
    if not fields or fields[0] in ("Z", "X"):
        return ""
    return fields[19]


def this_process() -> Owner:
    """The running process."""
    with contextlib.suppress(OSError):
        return Owner(
            host=socket.gethostname(),
            boot=_read("/proc/sys/kernel/random/boot_id"),
            pid_namespace=os.readlink("/proc/self/ns/pid"),
            pid=os.getpid(),
            started=_start_time(os.getpid()),
        )
    return Owner(host=socket.gethostname(), boot="", pid_namespace="", pid=os.getpid(), started="")


def is_dead(owner: Owner | None) -> bool:
    """Whether the owner is *provably* dead: same host, boot and pid namespace, and no such process any more.

    A reboot of the same host proves it too. Anything that can't be proven is alive.
    """
    me = this_process()
    if owner is None or owner.host != me.host:
        return False
    if owner.boot and me.boot and owner.boot != me.boot:
        return True
    if owner.pid_namespace != me.pid_namespace:
        return False
    if not me.started:  # no /proc: a signal 0 is the best we have
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
    return _start_time(owner.pid) != owner.started


@contextlib.contextmanager
def advisory_lock(path: Path, wait: float, what: str) -> Iterator[None]:
    """Hold ``flock`` on ``path``; the holder may unlink it. Raises ``BusyError`` after ``wait`` seconds.

    A file system without locks is let through: the worst case is work done twice.
    """
    deadline = time.monotonic() + wait
    while True:
        fd = _open(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            late = time.monotonic() >= deadline
            error = _busy(fd, what, wait) if late else None
            os.close(fd)
            if error is not None:
                raise error from None
            time.sleep(0.05)
            continue
        except OSError:
            break  # no locks here
        if _is_named(fd, path):
            break
        os.close(fd)  # the holder before us unlinked it: what we hold is nobody's lock any more
    try:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, this_process().to_bytes(), 0)
        yield
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    """Open the lock file, making its folder again where an ending run just swept it away."""
    for _ in range(1000):
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
    raise BusyError(f"{path.parent} keeps vanishing", "a folder that stays")


def _is_named(fd: int, path: Path) -> bool:
    """Whether ``path`` still names the file that ``fd`` has open."""
    try:
        there, here = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _busy(fd: int, what: str, wait: float) -> BusyError:
    age = time.time() - os.fstat(fd).st_mtime
    owner = Owner.from_bytes(os.pread(fd, 4096, 0))
    who = f"pid {owner.pid} on {owner.host}, for {age:.0f} s" if owner else "another run"
    waited = f" (waited {wait:g} s)" if wait else ""
    return BusyError(f"{what} is being made by {who}{waited}", "", "wait for it with --lock-wait SECONDS, or try later")
