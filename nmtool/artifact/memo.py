"""A small memory of things that are slow to find out and cheap to check: digests of unchanged files, resolved models.

Derived data only: a lost or damaged memo is made again. Entries are files named by the digest of their question,
written whole and renamed, so that any number of processes can share them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from nmtool.artifact.format import canonical, sha256

_BLOCK = 1 << 20
# A file younger than this may change again within its own time stamp's grain (reliability 5.6).
_SETTLED_S = 2.0


class Memo:
    """Answers by question, under ``root``; with ``root`` None it remembers nothing."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def _path(self, question: object) -> Path:
        assert self._root is not None
        name = hashlib.sha256(canonical(question)).hexdigest()
        return self._root / name[:2] / name[2:]

    def recall(self, question: object) -> Any | None:
        """The remembered answer, or None."""
        if self._root is None:
            return None
        try:
            body = json.loads(self._path(question).read_bytes())
            return body["answer"] if body["question"] == json.loads(canonical(question)) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, question: object, answer: object) -> None:
        """Keep an answer (plain JSON). Failing to is no error: it is only slower next time."""
        if self._root is None:
            return
        path = self._path(question)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            try:
                temporary.write_bytes(canonical({"question": question, "answer": answer}))
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)


def file_identity(path: Path) -> list[object]:
    """What changes when a file does: device, inode, size, both times; with its absolute path."""
    stat = path.stat()
    return [str(path.absolute()), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def is_settled(path: Path) -> bool:
    """Whether a file is old enough for its time stamps to be trusted."""
    stat = path.stat()
    return time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_S


def file_digest(path: Path, memo: Memo) -> str:
    """sha256 of a file's bytes; remembered for as long as the file's stat is the same."""
    question = ["file", *file_identity(path)]
    known = memo.recall(question)
    if isinstance(known, str):
        return known
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha.update(block)
    digest = "sha256:" + sha.hexdigest()
    if is_settled(path) and ["file", *file_identity(path)] == question:
        memo.remember(question, digest)
    return digest


def text_digest(text: str) -> str:
    """sha256 of a text's UTF-8 bytes."""
    return sha256(text.encode())
