"""Opening artifacts for reading: checks at three levels. Never writes, never follows a link."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nmtool.artifact.format import (
    MANIFEST,
    README,
    TABLE,
    TABLE_BYTES,
    FileEntry,
    Manifest,
    parse,
    parse_manifest,
    parse_table,
    readme_bytes,
    sha256,
)
from nmtool.errors import CorruptError, DataError, InputMissingError, UsageError
from nmtool.records import ArtifactRef, InputRef

_AGAIN = "make it again with --force"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An artifact that passed the light check: sealed manifest, file table, names and sizes."""

    path: Path
    manifest: Manifest
    files: tuple[FileEntry, ...]

    def ref(self, *, cached: bool = True, seconds: float = 0.0) -> ArtifactRef:
        """The record that a stage returns for it."""
        m = self.manifest
        return ArtifactRef(
            path=self.path,
            kind=m.kind,
            key=m.key,
            content=m.content,
            cached=cached,
            seconds=seconds,
            summary=m.summary,
        )

    def as_input(self, role: str) -> InputRef:
        """The record that cites it in a recipe."""
        return InputRef(role=role, kind=self.manifest.kind, key=self.manifest.key, content=self.manifest.content)

    def has(self, name: str) -> bool:
        """Whether the payload holds ``data/NAME``."""
        return any(entry.path == f"data/{name}" for entry in self.files)

    def read(self, name: str) -> bytes:
        """A payload file's bytes, checked against its recorded digest; raises ``CorruptError``."""
        entry = next((e for e in self.files if e.path == f"data/{name}"), None)
        if entry is None:
            raise CorruptError(f"{self.path} has no data/{name}", f"a whole {self.manifest.kind} artifact", _AGAIN)
        data = _read_regular(self.path / entry.path, entry.size)
        if sha256(data) != entry.sha256:
            raise CorruptError(f"{self.path / entry.path} has other bytes than recorded", entry.sha256, _AGAIN)
        return data

    def json(self, name: str) -> object:
        """A payload file that is JSON, checked."""
        return parse(self.read(name), str(self.path / "data" / name), cap=TABLE_BYTES)


def is_artifact(path: Path) -> bool:
    """Whether ``path`` holds a manifest (not whether it is whole)."""
    return (path / MANIFEST).is_file()


def open_artifact(path: Path, kind: str | tuple[str, ...] = ()) -> Artifact:
    """Open an artifact after the light check.

    Raises:
        InputMissingError: no such directory.
        CorruptError: no manifest (unfinished work is never a result), a broken seal, missing, extra or resized files.
        NewerFormatError: written by a newer nmtool.
        DataError: of another kind than ``kind``.
    """
    if not path.exists():
        raise InputMissingError(f"{path} does not exist", "the path of an artifact")
    if not path.is_dir() or not is_artifact(path):
        raise CorruptError(f"{path} holds no {MANIFEST}", "a finished artifact", "run the stage that makes it again")
    manifest = parse_manifest(_read_regular(path / MANIFEST), str(path / MANIFEST))
    wanted = (kind,) if isinstance(kind, str) else kind
    if wanted and manifest.kind not in wanted:
        article = "an" if manifest.kind[0] in "aeiou" else "a"
        raise DataError(f"{path} is {article} {manifest.kind} artifact", "a " + " or ".join(wanted) + " artifact")
    table = _read_regular(path / TABLE, cap=TABLE_BYTES)
    if sha256(table) != manifest.content:
        raise CorruptError(f"{path / TABLE} is not the table that the manifest seals", manifest.content, _AGAIN)
    files = parse_table(table, str(path / TABLE))
    check_files(path, files)
    if _read_regular(path / README, cap=4096) != readme_bytes(manifest.kind, manifest.nmtool):
        raise CorruptError(f"{path / README} has other bytes than were written", "an unchanged artifact", _AGAIN)
    return Artifact(path=path, manifest=manifest, files=files)


def check_files(root: Path, files: Iterable[FileEntry]) -> None:
    """Names and sizes under ``root/data`` are exactly those of the table, all regular files; else ``CorruptError``."""
    found = dict(walk_data(root))
    for entry in files:
        size = found.pop(entry.path, None)
        if size is None:
            raise CorruptError(f"{root / entry.path} is missing", "all files of the table", _AGAIN)
        if size != entry.size:
            raise CorruptError(f"{root / entry.path} has {size} bytes", f"{entry.size}", _AGAIN)
    if found:
        raise CorruptError(f"{root / min(found)} is not in the file table", "no other file", "remove it, or " + _AGAIN)
    strays = sorted(p.name for p in root.iterdir() if p.name not in ("data", MANIFEST, TABLE, README))
    if strays:
        raise CorruptError(f"{root / strays[0]} does not belong there", "an artifact as it was committed")


def walk_data(root: Path) -> Iterable[tuple[str, int]]:
    """(path below root, size) of each regular file below ``root/data``; raises ``CorruptError`` on anything else."""
    pending = [root / "data"]
    while pending:
        folder = pending.pop()
        if not folder.is_dir() or folder.is_symlink():
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield Path(entry.path).relative_to(root).as_posix(), entry.stat(follow_symlinks=False).st_size
                else:
                    raise CorruptError(f"{entry.path} is no regular file", "plain files and folders only")


def _read_regular(path: Path, size: int | None = None, cap: int = 1 << 40) -> bytes:
    """A regular file's bytes without following a link."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CorruptError(f"{path} is missing", "", _AGAIN) from None
    except OSError as error:
        if path.is_symlink():
            raise CorruptError(f"{path} is a link", "a regular file") from None
        raise error
    with os.fdopen(fd, "rb") as stream:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > cap or (size is not None and info.st_size != size):
            wanted = f"a regular file of {size} bytes" if size is not None else f"a regular file of at most {cap} bytes"
            raise CorruptError(f"{path} has {info.st_size} bytes", wanted, _AGAIN)
        return stream.read()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a verification read: files and bytes hashed, of how many files in all."""

    files: int
    of: int
    bytes: int


def parse_slice(text: str) -> tuple[int, int]:
    """``I/N`` with 1 <= I <= N; raises ``UsageError``."""
    left, _, right = text.partition("/")
    if left.isdigit() and right.isdigit() and 1 <= int(left) <= int(right):
        return int(left), int(right)
    raise UsageError(f"--slice {text!r}", "I/N with 1 <= I <= N, for example 3/7")


def verify(artifact: Artifact, part: tuple[int, int]) -> Verified:
    """Hash every N-th file again, beginning with the I-th (``part`` = (I, N)); N runs cover each file once.

    Raises:
        CorruptError: naming every file whose bytes are not those recorded.
    """
    index, count = part
    chosen = artifact.files[index - 1 :: count]
    bad = []
    for entry in chosen:
        sha = hashlib.sha256()
        with (artifact.path / entry.path).open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
        if "sha256:" + sha.hexdigest() != entry.sha256:
            bad.append(entry.path)
    if bad:
        shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise CorruptError(f"{len(bad)} of {len(chosen)} files of {artifact.path} changed: {shown}", "", _AGAIN)
    return Verified(files=len(chosen), of=len(artifact.files), bytes=sum(e.size for e in chosen))
