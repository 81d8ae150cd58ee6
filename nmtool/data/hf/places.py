"""Images that a dataset does not hold itself, but names by path: where they are, and what each file was.

A path counts from the dataset's folder and may not lead out of it (or, of a dataset from the hub, out of the hub's
cache), be it absolute, by ``..`` or by a link. Looked up when an image or a digest is first asked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from nmtool.data import files
from nmtool.errors import DataError, InputMissingError
from nmtool.records import Int

_SHOWN = 3


class Places:
    """The files that paths lead to. Safe among threads, as it is never changed.

    Attributes:
        rows: where each row's path really leads to, and the file's identity.
        identities: int64 [n, 5], those of all.
        trusted: they were old enough, when they were looked at, for their time stamps to be trusted.
    """

    def __init__(self, paths: Mapping[int, str], roots: Sequence[Path]) -> None:
        """Look at each file once.

        Args:
            paths: path by row.
            roots: the folder that paths count from, then others that they may lead into.

        Raises:
            InputMissingError: files that are not there.
            DataError: a path that leads out, or to what is no file.
        """
        self._roots = [os.path.realpath(root) for root in roots]
        self._base = str(roots[0])
        self.rows: dict[int, tuple[str, files.Identity]] = {}
        missing = []
        for row, path in paths.items():
            found = self._look(path)
            if found is None:
                missing.append(path)
            else:
                self.rows[row] = found
        if missing:
            shown = ", ".join(map(repr, missing[:_SHOWN]))
            raise InputMissingError(
                f"{len(missing)} image files are not there ({shown})",
                "image files below the dataset's folder, or their bytes in it",
                "save it with save_to_disk, which takes the bytes in",
            )
        self.identities: Int = files.stacked([found for _, found in self.rows.values()])
        self.trusted = files.settled(self.identities)

    def read(self, row: int, name: str) -> bytes:
        """The bytes of a row's file."""
        path, (size, mtime_ns, *_) = self.rows[row]
        return files.read(path, size, mtime_ns, name)

    def digest(self, row: int, name: str) -> str:
        """Hex sha256 of the bytes of a row's file."""
        path, expected = self.rows[row]
        return files.digest(path, expected, name)

    def _look(self, path: str) -> tuple[str, files.Identity] | None:
        """Where a path really leads to and what is there; None where nothing is."""
        if not path or "\0" in path or "://" in path:
            raise DataError(f"the image path {path!r}", "a path below the dataset's folder")
        real = os.path.realpath(os.path.join(self._base, path))  # noqa: PTH118
        if not any(os.path.commonpath((root, real)) == root for root in self._roots):
            raise DataError(
                f"the image path {path!r} leads out of the dataset's folder",
                "the bytes in the dataset, or files below its folder",
                "save it with save_to_disk, which takes the bytes in",
            )
        try:
            with files.told(repr(path)):
                found = os.lstat(real)
        except InputMissingError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"the image path {path!r} is no file", "an image file")
        return real, files.identity(found)
