"""The headers of a tar archive, one after the other, each checked before it is believed; contents are passed over.

Read are ustar, GNU (long names, large sizes) and pax headers. What could be more than one thing to two readers is
refused, with the member's name: see ``tars``. Formats: POSIX.1-2017 ``pax``; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from nmtool.errors import DataError

MAX_MEMBERS = 10_000_000
NAME_BYTES = 4096

_BLOCK = 512
_CHUNK = 1 << 20
_PAX_BYTES = 1 << 20
_OCTAL_LIMIT = 8**11
_FILE, _FOLDER = b"0\x007", b"5"
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}


class Entry(NamedTuple):
    """One member: its name without ``./`` and doubled slashes, and where its bytes are. A folder has the size -1."""

    name: str
    offset: int
    size: int


class Source(Protocol):
    """Where headers and contents are taken from, at offsets that never fall."""

    size: int | None

    def take(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""


class PlainFile:
    """An uncompressed archive by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size: int | None = os.fstat(descriptor).st_size

    def take(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        while data and len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
            data += more
        return data


def entries(source: Source, name: str) -> Iterator[Entry]:
    """The members in order, checked; every reader of archives goes through here."""
    offset, last, seen = 0, "", set()
    more: dict[str, str] = {}
    while True:
        header = source.take(offset, _BLOCK)
        if len(header) < _BLOCK:
            if not offset:
                raise DataError(f"{name} is {'no tar archive' if header else 'empty'}", "a tar archive")
            raise cut(name, last)
        if header.count(0) == _BLOCK:
            if more:
                raise cut(name, last)
            _check_tail(source, offset + _BLOCK, name)
            return
        if not _sound(header):
            what = f"{name} is damaged after {last!r}" if offset else f"{name} is no tar archive"
            raise DataError(what, "a tar archive, whole", "make or copy it again")
        kind, size = header[156:157], _number(header[124:136], name)
        offset += _BLOCK
        if kind in b"LKxg":
            more.update(_extension(kind, source, offset, size, name))
        else:
            entry = _entry(header, kind, size, offset, more, name)
            last, size, more = entry.name, max(entry.size, 0), {}
            if last in seen:
                raise DataError(f"{last!r} stands twice in {name}", "each name once", "make the archive again")
            if last:  # "./" itself is a folder without a name
                seen.add(last)
                if len(seen) > MAX_MEMBERS:
                    raise DataError(f"{name} has over {MAX_MEMBERS} members", "fewer", "split it into shards")
                if source.size is not None and offset + size > source.size:
                    raise cut(name, last)
                yield entry
        offset += -(-size // _BLOCK) * _BLOCK


def _entry(header: bytes, kind: bytes, size: int, offset: int, more: dict[str, str], name: str) -> Entry:
    """The member that a header, with the extensions before it, describes; raises ``DataError`` if it is refused."""
    raw = more.get("path")
    if raw is None:
        text = header[:100].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0" and header[345]:
            text = header[345:500].split(b"\0", 1)[0] + b"/" + text
        raw = _text(text, name)
    if kind in _REFUSED:
        raise DataError(f"{raw!r} in {name} is {_REFUSED[kind]}", "regular files and folders", "take it out")
    if any(key.startswith("GNU.sparse") for key in more):
        raise DataError(f"{raw!r} in {name} is a sparse file", "regular files and folders", "tar without --sparse")
    if kind not in _FILE and kind != _FOLDER:
        raise DataError(f"{raw!r} in {name} is of type {kind!r}", "regular files and folders", "take it out")
    if "size" in more:
        size = _resized(size, more["size"], raw, name)
    clean = _safe(raw, name)
    if kind == _FOLDER or raw.endswith("/"):
        if size:
            raise DataError(f"the folder {raw!r} in {name} has {size} bytes", "none", "make the archive again")
        return Entry(clean, offset, -1)
    if not clean:
        raise DataError(f"a file named {raw!r} in {name}", "a name", "make the archive again")
    return Entry(clean, offset, size)


def _resized(size: int, text: str, member: str, name: str) -> int:
    """The pax header's size. Where both fields can hold it, they have to agree: readers differ in which they trust."""
    real = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
    if real < 0 or (real != size and real < _OCTAL_LIMIT):
        raise DataError(
            f"{member!r} in {name} has two sizes, {size} and {text[:40]!r}", "one", "make the archive again"
        )
    return real


def _safe(raw: str, name: str) -> str:
    """A member's name in its plain form; it may not leave the archive's folder."""
    if len(raw.encode()) > NAME_BYTES:
        raise DataError(f"a name of {len(raw.encode())} bytes in {name} ({raw[:60]!r} …)", f"at most {NAME_BYTES}")
    if "\0" in raw:
        raise DataError(f"the name {raw[:200]!r} in {name}", "text without NUL characters")
    parts = raw.split("/")
    if raw.startswith("/") or ".." in parts:
        raise DataError(f"the name {raw!r} in {name} leads out of the archive", "a relative name without '..'")
    return raw if "" not in parts and "." not in parts else "/".join(part for part in parts if part not in ("", "."))


def _extension(kind: bytes, source: Source, offset: int, size: int, name: str) -> dict[str, str]:
    """What a GNU or pax header says about the member after it."""
    limit = NAME_BYTES + 1 if kind in b"LK" else _PAX_BYTES
    data = source.take(offset, size) if size <= limit else b""
    if len(data) < size:
        if size <= limit:
            raise cut(name, "")
        raise DataError(f"a header of {size} bytes in {name}", f"at most {limit}", "make the archive again")
    if kind in b"LK":
        text = data.removesuffix(b"\0")
        return {"path": _text(text, name)} if kind == b"L" else {}
    records = _records(data, name)
    if kind == b"g":
        bad = [key for key in records if key in ("path", "size") or key.startswith("GNU.sparse")]
        if bad:
            raise DataError(f"a global header in {name} sets {bad[0]!r}", "one a member", "make the archive again")
        return {}
    return {key: text for key, text in records.items() if key in ("path", "size") or key.startswith("GNU.sparse")}


def _records(data: bytes, name: str) -> dict[str, str]:
    """A pax header's ``LENGTH KEY=VALUE`` records."""
    found: dict[str, str] = {}
    wrong = DataError(f"a pax header in {name} is damaged", "LENGTH KEY=VALUE records", "make the archive again")
    at = 0
    while at < len(data):
        digits = data[at : at + 20].split(b" ", 1)[0]
        if not digits.isdigit():
            raise wrong
        record = data[at : at + int(digits)]
        key, sep, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) != int(digits) or not sep or record[-1:] != b"\n":
            raise wrong
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse"):
            found[_text(key, name)] = _text(value, name)
        at += len(record)
    return found


def _text(raw: bytes, name: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise DataError(f"the name {raw[:200]!r} in {name} is no UTF-8", "a name in UTF-8", "rename it") from None


def _number(field: bytes, name: str) -> int:
    """A header's number: octal digits, or GNU's base 256 for what is too large for them."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    else:
        digits = field.split(b"\0", 1)[0].strip(b" ")
        if digits and (not digits.isdigit() or b"8" in digits or b"9" in digits):
            raise DataError(f"a size {field!r} in {name}", "octal digits", "make the archive again")
        value = int(digits or b"0", 8)
    if value >= 1 << 62:
        raise DataError(f"a member of {value} bytes in {name}", "a size that can be", "make the archive again")
    return value


def _sound(header: bytes) -> bool:
    """Whether a header's check sum is right; some old programs summed signed bytes."""
    digits = header[148:156].strip(b" \0")
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        return False
    wanted = int(digits, 8)
    total = sum(header) - sum(header[148:156]) + 8 * 32
    high = sum(byte > 127 for byte in header) if total != wanted else 0
    return wanted in (total, total - 256 * high)


def _check_tail(source: Source, offset: int, name: str) -> None:
    """After the end mark there may be nothing but padding."""
    while data := source.take(offset, _CHUNK):
        if data.count(0) != len(data):
            raise DataError(
                f"{name} goes on after its end mark", "one archive", "if two were joined, keep them as two files"
            )
        offset += len(data)


def cut(name: str, last: str) -> DataError:
    after = f" in or after {last!r}" if last else ""
    return DataError(f"{name} ends too early{after}", "a whole tar archive, with its end mark", "make or copy it again")
