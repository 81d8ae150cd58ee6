"""A gzip, bzip2 or xz file as a stream that is read once, in bounded memory. Refuses what unpacks to too much."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable
from typing import IO, Protocol

from nmtool.errors import DataError

RATIO = 1000
"""Unpacked bytes for one packed byte, beyond a first allowance; real archives of images or texts stay under 20."""
ALLOWANCE = 256 << 20
TOTAL_BYTES = 2 << 40
MEMORY_BYTES = 256 << 20
"""What an xz file's dictionary may take; ``xz -9`` asks for 65 MiB."""

_CHUNK = 1 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def compression(start: bytes) -> str:
    """``gzip``, ``bzip2``, ``xz`` or ``zstd`` by a file's first bytes; empty for anything else."""
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")


class Unpacked:
    """The unpacked bytes of a compressed file, at offsets that never fall."""

    def __init__(self, descriptor: int, name: str) -> None:
        """Args: descriptor: the file, at its start; it stays the caller's. name: what messages call it."""
        self.size: int | None = None
        self._name, self._at = name, 0
        packed = open(descriptor, "rb", closefd=False)  # noqa: SIM115 (the descriptor is the caller's)
        kind = compression(os.pread(descriptor, 8, 0))
        if kind not in _OPENERS:
            raise DataError(
                f"{name} is compressed with {kind or 'an unknown program'}", "gzip, bzip2 or xz", "unpack it"
            )
        self._stream = _OPENERS[kind](packed)
        self._limit = min(TOTAL_BYTES, ALLOWANCE + RATIO * os.fstat(descriptor).st_size)

    def take(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``, which is not before where the last call ended; fewer at the end."""
        while self._at < offset:
            if not self._read(min(_CHUNK, offset - self._at)):
                return b""
        parts = []
        while size and (part := self._read(min(_CHUNK, size))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(
                f"{self._name} can't be unpacked ({str(error)[:200]})",
                "a whole compressed file",
                "make or copy it again",
            ) from None
        self._at += len(data)
        if self._at > self._limit:
            raise DataError(
                f"{self._name} unpacks to over {self._limit} bytes, far more than any data set",
                f"at most {RATIO} times its size",
                "unpack it yourself if you trust it",
            )
        return data


class _Xz:
    """Like ``lzma.LZMAFile``, which can't be told how much memory it may take."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._unpack: lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        while True:
            if self._unpack is None or self._unpack.eof:
                rest = self._unpack.unused_data.lstrip(b"\0") if self._unpack else b""
                while not rest and (block := self._packed.read(_CHUNK)):
                    rest = block.lstrip(b"\0")  # streams are padded with zeros
                if not rest:
                    return b""
                self._unpack = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_BYTES)
            else:
                rest = self._packed.read(_CHUNK) if self._unpack.needs_input else b""
                if not rest and self._unpack.needs_input:
                    raise EOFError("it ends too early")
            data = self._unpack.decompress(rest, size)
            if data:
                return data


def _gzip(packed: IO[bytes]) -> _Stream:
    return gzip.GzipFile(fileobj=packed, mode="rb")


_OPENERS: dict[str, Callable[[IO[bytes]], _Stream]] = {"gzip": _gzip, "bzip2": bz2.BZ2File, "xz": _Xz}
