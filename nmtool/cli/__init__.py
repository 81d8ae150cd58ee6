"""The command line: flags → Config → room.run → one line on stdout, and an exit code. Nothing is computed here.

Importing this package loads no torch, timm, zarr or scikit-learn; a room's ``run`` is imported inside its command.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
import traceback
import types
import warnings
from collections.abc import Iterator

from nmtool.console import Console
from nmtool.errors import NmtoolError, StoppedError

# Errors in what was typed, which all ranks of torchrun meet alike, and how long those that follow keep them to
# themselves: meanwhile rank 0 says it, and torchrun stops the others.
_TYPED, _PATIENCE_S = (2, 66, 78), 10.0
# Errors of the disk, and what one can do about each.
_DISK = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "free some space, or raise the limit (ulimit -f)",
    errno.EIO: "look at the disk",
    errno.EROFS: "choose another -o or --store",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close some programs",
}


def main() -> None:
    """Entry point of ``nmtool`` and ``python -m nmtool``."""
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Everything is committed, or kept. A process that ends while a library's threads (Arrow's) still start is aborted
    # in their destructors, with another exit code than ours (2 of 8 runs that failed early): leave without them.
    os._exit(code)


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code; an expected error is one message on stderr."""
    # Before torch is loaded: threads that spin at barriers slow each other down badly where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import typer

    from nmtool.cli.app import app, console_from

    console = console_from(argv)
    with _stop_on_signals(), warnings.catch_warnings():
        if not console.verbose:
            warnings.simplefilter("ignore")
        try:
            code = app(argv, standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except NmtoolError as error:
            return _told(str(error), error.exit_code, console)
        except BaseException as error:
            if isinstance(error, typer.Exit):
                return error.exit_code
            return _unwind(error, console)


def _follows() -> bool:
    """Whether this is one of ``torchrun``'s processes, but not its rank 0."""
    return bool(os.environ.get("MASTER_ADDR")) and os.environ.get("RANK", "0") not in ("", "0")


def _told(message: str, code: int, console: Console) -> int:
    """Say an expected error, and give its exit code; of a wrong command, rank 0 alone speaks."""
    if code in _TYPED and _follows():
        try:
            time.sleep(_PATIENCE_S)
        except StoppedError:
            return code
    console.error(message)
    return code


def _unwind(error: BaseException, console: Console) -> int:
    """The exit code of an error that is not ours: usage, a signal, the operating system, or a defect."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error}\n")
        return 2
    usage = _usage_message(error)
    if usage is not None:
        return _told(usage, 2, console)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        console.error("stopped by Ctrl-C; what was finished is kept, run the same command to go on")
        return 130
    if isinstance(error, StoppedError):
        if _follows():  # torchrun stops it where another rank failed, or was stopped itself
            return 143
        console.error("stopped by SIGTERM; what was finished is kept, run the same command to go on")
        return 143
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):  # typer exits 1 on it
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return 141
    if isinstance(error, OSError):
        return _system(error, console)
    if isinstance(error, MemoryError):
        console.error(f"out of memory ({error}); try a smaller --batch-size or fewer --workers")
        return 74
    text = "".join(traceback.format_exception(error))
    sys.stderr.write(text)
    console.error(f"this is a defect of nmtool: {type(error).__name__}: {error}")
    return 1


def _usage_message(error: BaseException) -> str | None:
    """The message of a click or typer usage error, whichever of their classes it is."""
    if hasattr(error, "format_message") and getattr(error, "exit_code", None) in (1, 2):
        context = getattr(error, "ctx", None)
        hint = f"; see {context.command_path} --help" if context is not None else ""
        return str(error.format_message()).rstrip(".") + hint
    return None


def _system(error: OSError, console: Console) -> int:
    """sysexits for errors of the operating system; an unforeseen one is a defect."""
    where = f"{error.filename}: " if error.filename else ""
    what = f"{where}{error.strerror or error}"
    if error.errno in _DISK:
        # elsewhere it is another artifact, and nothing of this one is there
        end = "" if error.errno == errno.EROFS else " and run the same command to go on"
        console.error(f"{what}; what was finished is kept; {_DISK[error.errno]}{end}")
        return 74
    if error.errno in (errno.EACCES, errno.EPERM):
        console.error(f"{what}; check who owns it, or choose another -o or --store")
        return 77
    if error.errno in (errno.ENOENT, errno.EISDIR) and error.filename:
        console.error(what)
        return 66
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
        console.error(what)
        return 73
    sys.stderr.write("".join(traceback.format_exception(error)))
    console.error(f"this is a defect of nmtool, or of the file system: {what}")
    return 74 if error.errno else 1


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM unwind, so that journals are kept and nothing is left half-written.

    A library that is just being imported may swallow what is raised in it (a bare ``except``): each second it is raised
    again, unless it is on its way already.
    """
    asked: list[type[BaseException]] = []

    def stop(number: int, frame: types.FrameType | None) -> None:
        asked[:] = [StoppedError if number == signal.SIGTERM else KeyboardInterrupt]
        signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
        raise asked[0]()

    def again(number: int, frame: types.FrameType | None) -> None:
        error = sys.exc_info()[1]
        while error is not None:
            if isinstance(error, (StoppedError, KeyboardInterrupt)):
                return
            error = error.__context__
        if asked:
            raise asked[0]()

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGALRM: again}
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job, or nohup
        del handlers[signal.SIGINT]
    try:
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
