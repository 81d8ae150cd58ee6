"""The error family: what can be expected to go wrong, each with its exit code.

An expected error is told in one message, *what was found, what was expected, what to do*; the command line prints it
and exits with the class's code. Anything else that escapes is a defect (exit 1, traceback in the log). The codes are
public and never renumbered.
"""

from __future__ import annotations


class NmtoolError(Exception):
    """Base of every expected error.

    Args:
        found: what was found, naming the value or the place.
        expected: what was wanted instead; may be empty where it is obvious.
        remedy: what the user can do now; may be empty where there is nothing to do.
    """

    exit_code = 1

    def __init__(self, found: str, expected: str = "", remedy: str = "") -> None:
        super().__init__(found, expected, remedy)
        self.found, self.expected, self.remedy = found, expected, remedy

    def __str__(self) -> str:
        parts = [self.found]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.remedy:
            parts.append(self.remedy)
        return "; ".join(part.rstrip(".;") for part in parts)


class UsageError(NmtoolError):
    """A flag or an operand that can't be understood, or a combination that makes no sense."""

    exit_code = 2


class DataError(NmtoolError, ValueError):
    """Data that was read and is not fit for what was asked."""

    exit_code = 65


class InputMissingError(NmtoolError, FileNotFoundError):
    """An input path, split or artifact that is not there."""

    exit_code = 66

    def __str__(self) -> str:
        return NmtoolError.__str__(self)


class UnavailableError(NmtoolError):
    """An optional package, a device, a hub or a service that is not there."""

    exit_code = 69


class DivergedError(NmtoolError, ArithmeticError):
    """A loss that is no longer finite."""

    exit_code = 70


class CannotCreateError(NmtoolError):
    """The output can't be put where it was asked for."""

    exit_code = 73


class StorageError(NmtoolError):
    """I/O error, disk full, quota."""

    exit_code = 74


class BusyError(NmtoolError):
    """Another live run holds the same recipe."""

    exit_code = 75


class CorruptError(NmtoolError):
    """An artifact that is damaged or incomplete."""

    exit_code = 76


class PermissionDeniedError(NmtoolError):
    """The operating system does not let us."""

    exit_code = 77


class ConfigError(NmtoolError):
    """A configuration file that can't be understood."""

    exit_code = 78


class NewerFormatError(NmtoolError):
    """An artifact written by a newer nmtool."""

    exit_code = 79


class StoppedError(BaseException):
    """SIGTERM arrived: unwind, keep the journal, exit 143.

    Not an ``NmtoolError``: nothing may catch it on the way but ``finally`` blocks.
    """

    exit_code = 143
