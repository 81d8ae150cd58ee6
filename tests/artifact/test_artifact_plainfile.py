"""Plain files: whole or not at all, in the place of what was there, and nothing left beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nmtool.artifact import plainfile
from nmtool.errors import CannotCreateError


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for data in (b"first, and longer", b"second"):
        plainfile.write_file(path, data)
        assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_what_is_there_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        plainfile.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a.bin")
    plainfile.write_file(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "a.bin").read_bytes() == b"data"


def test_places_that_can_not_be(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is no regular file"),
        (tmp_path / "no" / "a", "is no folder"),
    ):
        with pytest.raises(CannotCreateError, match=words) as caught:
            plainfile.write_file(path, b"")
        assert caught.value.exit_code == 73
