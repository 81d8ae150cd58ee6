"""Where the image files that a table names are, and what each was when it was first looked at.

Looked up when an image or a digest is first asked for, each file once. No link is followed, and none leads out of the
table's folder.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from nmtool.data import files
from nmtool.data.columns import TableFile
from nmtool.data.rows import Members, Rows, plain
from nmtool.errors import DataError, InputMissingError
from nmtool.records import Int


class Places:
    """The image files of a table's rows. Safe among threads."""

    def __init__(self, tables: Sequence[TableFile], root: str, rows: Rows) -> None:
        """Look at nothing yet.

        Args:
            tables: the files, in the order of ``rows``.
            root: folder, relative to a table's, that its paths start from; empty for the table's own.
            rows: those of the tables.

        Raises:
            DataError: the root leads out of a table's folder.
        """
        self._rows, self._root = rows, root
        self._tables = [_Folder(table, root) for table in tables]
        self._known: Mapping[str, Int] = {}
        self._trusted = False
        self._lock = threading.Lock()

    def identities(self) -> Int:
        """Identities int64 [n, 5] of the files of all rows, split after split.

        Raises:
            InputMissingError: image files that are not there.
            DataError: what is no file, or is reached by a link.
        """
        self._look()
        return np.concatenate([self._known[split] for split in self._rows.splits])

    def trusted(self) -> bool:
        """Whether all files were old enough for their time stamps to be trusted, when they were looked at."""
        self._look()
        return self._trusted

    def of(self, split: str, row: int) -> tuple[str, str, files.Identity]:
        """The file of one row: its path on disk, its path in the table, and its identity."""
        self._look()
        members = self._rows.splits[split]
        assert members.paths is not None
        path = members.paths[row]
        size, mtime, ctime, inode, device = self._known[split][row].tolist()
        return self._folder(members).place(path), path, (size, mtime, ctime, inode, device)

    def _look(self) -> None:
        with self._lock:
            if self._known:
                return
            known = {split: self._identities(members) for split, members in self._rows.splits.items()}
            for folder in self._tables:
                folder.check()
            self._trusted = all(files.settled(each) for each in known.values())
            self._known = known

    def _identities(self, members: Members) -> Int:
        assert members.paths is not None
        out = np.zeros((len(members.ids), 5), dtype=np.int64)
        folder, before = self._folder(members), ""
        for row, path in enumerate(members.paths):
            out[row] = out[row - 1] if path == before else folder.look(path)  # rows with one path stand together
            before = path
        return out

    def _folder(self, members: Members) -> _Folder:
        """The folder of a split: where there are several tables, each is a split."""
        return self._tables[int(np.searchsorted(self._rows.starts, members.at[0], side="right")) - 1]


class _Folder:
    """The folder of one table."""

    def __init__(self, table: TableFile, root: str) -> None:
        self._table, self._root = table, root
        folder = table.path.parent
        self._base = str(folder / plain(root, "root=") if root else folder)
        self._home = os.path.realpath(folder)
        self._really: dict[str, str] = {}
        self._missing: dict[str, None] = {}

    def place(self, path: str) -> str:
        """Where a path leads to, links of the folders above it resolved."""
        above, last = os.path.split(os.path.join(self._base, path))  # noqa: PTH118 (a hundred thousand times)
        if above not in self._really:
            self._really[above] = os.path.realpath(above)
        return os.path.join(self._really[above], last)  # noqa: PTH118

    def look(self, path: str) -> files.Identity:
        """The identity of a file; of zeros where it is not there, which ``check`` then tells."""
        with files.told(f"{path!r} of {self._table.name}"):
            try:
                found = os.lstat(os.path.join(self._base, path))  # noqa: PTH118
            except (FileNotFoundError, NotADirectoryError):
                self._missing[path] = None
                return 0, 0, 0, 0, 0
        if stat.S_ISLNK(found.st_mode) or os.path.commonpath((self._home, self.place(path))) != self._home:
            raise DataError(
                f"the path {path!r} in {self._table.name} goes by a link", "a file inside the table's folder itself"
            )
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"the path {path!r} in {self._table.name} is no file", "an image file")
        return files.identity(found)

    def check(self) -> None:
        """Raise ``InputMissingError`` where files were not there."""
        if self._missing:
            shown = ", ".join(map(repr, list(self._missing)[:5]))
            raise InputMissingError(
                f"{len(self._missing)} image files of {self._table.name} are not there ({shown})",
                f"paths relative to the table's folder{' and root=' + self._root if self._root else ''}",
                "mend the paths, name their folder with root=FOLDER, or take the rows out",
            )
