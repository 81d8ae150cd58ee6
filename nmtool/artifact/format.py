"""What an artifact looks like on disk: strict canonical JSON, the sealed manifest, the file table, the names allowed.

Reads and writes bytes handed to it; opens no file itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nmtool import __version__
from nmtool.errors import CorruptError, DataError, NewerFormatError
from nmtool.records import InputRef

FORMAT = 1
KINDS = ("labels", "backbone", "features", "spectrum", "heads", "audit", "report")
MANIFEST, TABLE, README = "manifest.json", "files.jsonl", "README.txt"

# Caps before parsing: a damaged or hostile file must not cost memory (reliability T5).
MANIFEST_BYTES = 1 << 20
TABLE_BYTES = 256 << 20

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{n}{i}" for n in ("com", "lpt") for i in range(1, 10)}


def sha256(*parts: bytes | bytearray | memoryview) -> str:
    """``sha256:`` and the hex digest of the parts, one after the other."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return "sha256:" + sha.hexdigest()


def _plain(value: Any) -> Any:
    """Check and normalise a value for canonical JSON: NFC text, finite numbers, text keys."""
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value)
        text.encode("utf-8")  # a lone surrogate raises here, and not in the middle of a commit
        return text
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"the number {value}", "a finite number: JSON has no other")
        return value
    if isinstance(value, Mapping):
        out = {_plain(str(k)): _plain(v) for k, v in value.items()}
        if len(out) != len(value):
            raise DataError("two keys that are equal once normalised")
        return out
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def canonical(value: Any) -> bytes:
    """Canonical JSON: UTF-8, sorted keys, no spaces, NFC text, floats by repr, NaN refused."""
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def parse(data: bytes, what: str, cap: int = MANIFEST_BYTES) -> Any:
    """Strict JSON: refuses NaN, duplicate keys, bad UTF-8 and anything over ``cap`` bytes (``CorruptError``)."""

    def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a key stands twice")
        return out

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    if len(data) > cap:
        raise CorruptError(f"{what} has {len(data)} bytes", f"at most {cap}")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=no_twins, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{what} does not parse ({error})", "canonical JSON", "make the artifact again") from None


def slug(text: str) -> str:
    """A name safe for a path, from any text: ``[a-z0-9._-]{1,64}``, no leading dot, no reserved name."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", ascii_text).strip("-._")[:64].strip("-._")
    return "x-" + name if name.split(".")[0] in _RESERVED else name or "x"


def check_inside(path: str) -> str:
    """A file-table path: ``data/…`` of plain parts, none of which climbs; raises ``CorruptError``."""
    parts = path.split("/")
    if len(parts) < 2 or len(parts) > 12 or parts[0] != "data" or not all(_PART.fullmatch(part) for part in parts):
        raise CorruptError(f"the file table names {path[:200]!r}", "a plain relative path below data/")
    return path


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class FileEntry:
    """One payload file: path below the artifact, size in bytes, sha256."""

    path: str
    size: int
    sha256: str


def table_bytes(entries: Iterable[FileEntry]) -> bytes:
    """``files.jsonl``: a line a file, sorted by path. Its digest is the artifact's ``content``."""
    lines = [canonical({"path": e.path, "size": e.size, "sha256": e.sha256}) + b"\n" for e in sorted(entries)]
    return b"".join(lines)


def parse_table(data: bytes, where: str) -> tuple[FileEntry, ...]:
    """Read ``files.jsonl`` strictly; raises ``CorruptError``."""
    if len(data) > TABLE_BYTES:
        raise CorruptError(f"{where} has {len(data)} bytes", f"at most {TABLE_BYTES}")
    entries = []
    for number, line in enumerate(data.splitlines(), start=1):
        row = parse(line, f"{where} line {number}")
        if not isinstance(row, dict) or set(row) != {"path", "size", "sha256"}:
            raise CorruptError(f"{where} line {number} has other fields", "path, size and sha256")
        if not isinstance(row["path"], str) or not isinstance(row["size"], int) or not isinstance(row["sha256"], str):
            raise CorruptError(f"{where} line {number} has fields of other types", "text, a number and text")
        entries.append(FileEntry(path=check_inside(row["path"]), size=row["size"], sha256=row["sha256"]))
    if table_bytes(entries) != data or len({e.path for e in entries}) != len(entries):
        raise CorruptError(f"{where} is not in canonical form", "sorted lines, each path once")
    return tuple(entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The positive evidence that an artifact is whole; written last. ``seal`` covers all other fields."""

    kind: str
    key: str
    content: str
    nmtool: str
    created: str
    command: str
    config: Mapping[str, Any]
    inputs: tuple[InputRef, ...]
    recipe: Mapping[str, Any]
    summary: Mapping[str, Any]
    origin: Mapping[str, Any]
    made: Mapping[str, Any]
    files: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The manifest's file, sealed."""
        body = {
            "format": FORMAT,
            "kind": self.kind,
            "key": self.key,
            "content": self.content,
            "nmtool": self.nmtool,
            "created": self.created,
            "command": self.command,
            "config": self.config,
            "inputs": [{"role": i.role, "kind": i.kind, "key": i.key, "content": i.content} for i in self.inputs],
            "recipe": self.recipe,
            "summary": self.summary,
            "origin": self.origin,
            "made": self.made,
            "files": self.files,
        }
        body["seal"] = sha256(canonical(body))
        data = json.dumps(_plain(body), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        if len(data) > MANIFEST_BYTES:
            raise DataError(f"a manifest of {len(data)} bytes", f"at most {MANIFEST_BYTES}", "shorten the settings")
        return data


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read and check a manifest; raises ``NewerFormatError`` or ``CorruptError``."""
    body = parse(data, where)
    if not isinstance(body, dict) or not isinstance(body.get("format"), int):
        raise CorruptError(f"{where} is no manifest", f"an object with format {FORMAT}")
    if body["format"] > FORMAT:
        raise NewerFormatError(
            f"{where} has format {body['format']}, written by nmtool {body.get('nmtool', '?')}",
            f"format {FORMAT} at most (this is nmtool {__version__})",
            f"install nmtool >= {body.get('nmtool', 'that version')}",
        )
    seal = body.pop("seal", None)
    try:
        true = sha256(canonical(body))
    except (ValueError, TypeError) as error:
        raise CorruptError(f"{where} holds what no manifest can ({error})", "an unchanged manifest") from None
    if seal != true:
        raise CorruptError(f"the seal of {where} does not match", "an unchanged manifest", "make the artifact again")
    try:
        inputs = tuple(InputRef(**i) for i in body.pop("inputs"))
        body.pop("format")
        manifest = Manifest(inputs=inputs, **body)
    except (KeyError, TypeError) as error:
        raise CorruptError(f"{where} lacks a field ({error})", "a manifest of this format") from None
    if manifest.to_bytes() != data:  # white space is sealed, too: any changed bit is a changed file
        raise CorruptError(f"{where} is not written as nmtool writes it", "an unchanged manifest")
    return manifest


def readme_bytes(kind: str, version: str) -> bytes:
    """``README.txt``: two lines for whoever finds the folder."""
    return f"A {kind} artifact of nmtool {version}.\nnmtool show and nmtool verify read it.\n".encode()
