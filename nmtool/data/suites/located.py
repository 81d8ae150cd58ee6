"""Where the image files of a suite are, and what each was when it was listed.

Paths come from untrusted files: they may not leave the suite's folder, links are not followed, and what is missing is
named. Each folder is resolved once and each file looked at once; a million of them take some 100 bytes each.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from nmtool.data import files
from nmtool.data.index import check_id
from nmtool.data.suites.facts import Suite
from nmtool.errors import DataError, InputMissingError
from nmtool.records import Int


def inside(path: str, suite: Suite, split: str) -> str:
    """A path of an annotation file as a sample id; it has to be relative and may not climb."""
    name = check_id(path, f"path in {suite.title}")
    if name.startswith("/") or "\\" in name or (".." in name and ".." in PurePosixPath(name).parts):
        raise DataError(
            f"the path {path!r} of {suite.title}, split {split}", "one inside the suite's folder", "mend the list"
        )
    return name


class Located:
    """The files of one split, by row; nothing in it changes after it was made."""

    def __init__(self, paths: Sequence[str], root: Path, suite: Suite, split: str) -> None:
        """Look at each file.

        Args:
            paths: N paths below ``root``, checked with ``inside``.
            root: the suite's folder.
            suite, split: for messages.

        Raises:
            InputMissingError: files that are not there.
            DataError: what is no file, or is reached by a link.
        """
        self._paths, self._suite = paths, suite
        self._home = os.path.realpath(root)
        self._really: dict[str, str] = {}
        self.identities: Int = np.zeros((len(paths), 5), dtype=np.int64)
        missing: list[str] = []
        for row, path in enumerate(paths):
            found = self._look(path)
            if found is None:
                missing.append(path)
            else:
                self.identities[row] = found
        if missing:
            shown = ", ".join(repr(path) for path in missing[:5])
            raise InputMissingError(
                f"{len(missing)} of {len(paths)} image files of {suite.title}, split {split}, are not there ({shown})",
                "every file that the official lists name",
                "unpack the archive again",
            )

    def digest(self, row: int, name: str) -> str:
        """Hex sha256 of a file's bytes, which must be those that were listed; ``name`` is for messages."""
        size, mtime, ctime, inode, device = self.identities[row].tolist()
        return files.digest(self._place(self._paths[row]), (size, mtime, ctime, inode, device), name)

    def read(self, row: int, name: str) -> bytes:
        """A file's bytes; see ``files.read``."""
        size, mtime_ns = self.identities[row, :2].tolist()
        return files.read(self._place(self._paths[row]), size, mtime_ns, name)

    def _place(self, path: str) -> str:
        """The path on disk, the folders above the file resolved as they were when it was listed."""
        above, _, last = path.rpartition("/")
        if above not in self._really:
            self._really[above] = os.path.realpath(f"{self._home}/{above}")
            if os.path.commonpath((self._home, self._really[above])) != self._home:
                raise self._link(path)
        return f"{self._really[above]}/{last}"

    def _look(self, path: str) -> files.Identity | None:
        """What a file is; None where it is not there."""
        try:
            found = os.lstat(self._place(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            with files.told(f"{path!r} of {self._suite.title}"):
                raise
        if stat.S_ISLNK(found.st_mode):
            raise self._link(path)
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path!r} of {self._suite.title} is no file", "an image file")
        return files.identity(found)

    def _link(self, path: str) -> DataError:
        return DataError(f"{path!r} of {self._suite.title} goes by a link", "a file inside the suite's folder itself")
