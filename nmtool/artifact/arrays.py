"""The Zarr policy, and the only user of Zarr: what is written can't be read wrong without an error.

Zarr v3, no shards, no compressor, chunks of about 8 MiB, ``bytes(little)`` + ``crc32c``, NaN fill for floats. Missing
chunks read as fill values in Zarr, so completeness is the file table's business: arrays are read only from an artifact
whose table was checked, and every chunk file is looked for.

Zarr makes the metadata. The chunks, which under this policy are plain little-endian values and their checksum, are
written and read here: through Zarr's event loop one chunk went at a time, at a third of the speed of ``np.save``. Tests
compare every byte with what Zarr writes.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nmtool.artifact.open import Artifact
from nmtool.errors import CorruptError, DataError

if TYPE_CHECKING:
    from nmtool.artifact.stage import Staging

CHUNK_BYTES = 8 << 20
_READERS = 4
_AGAIN = "make the artifact again with --force"
_DTYPES = {"float16", "float32", "float64", "int64", "uint16", "bool"}


def rows_per_chunk(dim: int, dtype: npt.DTypeLike) -> int:
    """Rows of ``dim`` values that make a chunk of about 8 MiB; at least one."""
    return max(1, CHUNK_BYTES // (dim * np.dtype(dtype).itemsize))


def _fill(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return float("nan")
    return False if dtype.kind == "b" else (-1 if dtype.kind == "i" else 0)


class ArrayWriter:
    """Writes one array chunk by chunk through a staging folder; knows which chunks are there already. Thread-safe.

    Args:
        staging: where the run works.
        store: the Zarr store's folder below ``data/`` (``features.zarr``).
        name: the array's path in the store (``train/features``).
        shape: full shape; chunks run along the first axis.
        dtype: element type.
        chunk_rows: rows a chunk.
    """

    def __init__(
        self, staging: Staging, store: str, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, chunk_rows: int
    ) -> None:
        import zarr
        from zarr.codecs import BytesCodec, Crc32cCodec
        from zarr.storage import LocalStore

        class Sealing(LocalStore):
            """A local store whose every write goes through the staging: hashed, fsynced, journalled."""

            async def _set(self, key: str, value: Any, exclusive: bool = False) -> None:
                if not (exclusive and staging.has(f"{store}/{key}")):
                    staging.write(f"{store}/{key}", value.as_buffer_like())

            def set_sync(self, key: str, value: Any) -> None:
                staging.write(f"{store}/{key}", value.as_buffer_like())

        chunk_rows = max(1, min(chunk_rows, shape[0]))
        self.rows, self.chunk_rows = shape[0], chunk_rows
        self._staging, self._chunks = staging, f"{store}/{name}/c"
        self._shape = shape
        self._dtype = kind = np.dtype(dtype)
        staging._make_parents(f"data/{store}/x")
        if not staging.has(f"{store}/{name}/zarr.json"):
            _groups(staging, store, name)
            zarr.create_array(
                Sealing(staging.path / "data" / store),
                name=name,
                shape=shape,
                chunks=(chunk_rows, *shape[1:]),
                dtype=kind,
                serializer=BytesCodec(endian="little") if kind.itemsize > 1 else BytesCodec(endian=None),
                compressors=[Crc32cCodec()],
                filters=None,
                fill_value=_fill(kind),
                config={"write_empty_chunks": True},
            )

    @property
    def chunks(self) -> int:
        """How many chunks the array has."""
        return -(-self.rows // self.chunk_rows)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """First and past-the-last row of a chunk."""
        return chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.rows)

    def _path(self, chunk: int) -> str:
        return self._chunks + f"/{chunk}" + "/0" * (len(self._shape) - 1)

    def is_done(self, chunk: int) -> bool:
        """Whether a chunk is written and journalled."""
        return self._staging.has(self._path(chunk))

    def note(self, chunk: int) -> str:
        """What was noted with a chunk that is done."""
        return self._staging.note(self._path(chunk))

    def write(self, chunk: int, block: npt.NDArray[Any], note: str = "") -> None:
        """Write a whole chunk. Partial chunks are refused: they would be read, changed and written.

        Args:
            chunk: its number.
            block: [rows, ...], converted to the array's type.
            note: see ``Staging.write``.
        """
        start, stop = self.bounds(chunk)
        if block.shape != (stop - start, *self._shape[1:]):
            raise DataError(f"a block of shape {block.shape} for rows {start} to {stop}", f"{stop - start} rows")
        little = np.ascontiguousarray(block, dtype=self._dtype.newbyteorder("<"))
        parts = [_bytes_of(little)]
        if stop - start < self.chunk_rows:  # a chunk at the edge is as long as the others, filled up
            shape = (self.chunk_rows - (stop - start), *self._shape[1:])
            parts.append(_bytes_of(np.full(shape, _fill(self._dtype), dtype=little.dtype)))
        self._staging.write(
            self._path(chunk), *(part.data for part in parts), struct.pack("<I", _crc32c(parts)), note=note
        )


def _bytes_of(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _crc32c(parts: Sequence[npt.NDArray[np.uint8]]) -> int:
    """CRC-32C of the parts, one after the other: the library that Zarr's own codec uses."""
    import google_crc32c

    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)  # it takes an array, and no memoryview
    return int(crc)


def _groups(staging: Staging, store: str, name: str) -> None:
    """Group metadata of the store and of each folder above the array."""
    body = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}, indent=2).encode()
    parts = name.split("/")[:-1]
    for depth in range(len(parts) + 1):
        path = "/".join([store, *parts[:depth], "zarr.json"])
        if not staging.has(path):
            staging.write(path, body)


def read_array(artifact: Artifact, store: str, name: str, start: int = 0, stop: int | None = None) -> Any:
    """Rows ``start:stop`` of an array, checksums verified; raises ``CorruptError`` where a chunk is damaged."""
    folder = artifact.path / "data" / store / name / "c"
    shape, chunk_rows, dtype = _layout(artifact, store, name)
    stop = shape[0] if stop is None else min(stop, shape[0])
    tail = "/0" * (len(shape) - 1)
    block = np.empty((max(stop - start, 0), *shape[1:]), dtype=dtype)

    def read(chunk: int) -> None:
        first, until = chunk * chunk_rows, min((chunk + 1) * chunk_rows, stop)
        path, wanted = folder / f"{chunk}{tail}", max(first, start)
        if wanted == first and until - first == chunk_rows:
            _read_chunk(path, block[first - start : until - start])
        else:  # the checksum is over the whole chunk, also where only some of its rows are wanted
            whole = np.empty((chunk_rows, *shape[1:]), dtype=dtype)
            _read_chunk(path, whole)
            block[wanted - start : until - start] = whole[wanted - first : until - first]

    chunks = range(start // chunk_rows, -(-stop // chunk_rows)) if start < stop else range(0)
    if len(chunks) < 2:
        for chunk in chunks:
            read(chunk)
    else:  # memory that is touched first, and copies of the kernel's pages, are as slow as one core
        with ThreadPoolExecutor(min(_READERS, len(chunks)), thread_name_prefix="nmtool-reader") as pool:
            futures = [pool.submit(read, chunk) for chunk in chunks]
            try:
                for future in futures:  # in order: of several damaged chunks the first is told
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)
    return block.astype(dtype.newbyteorder("="), copy=False)


def _read_chunk(path: Path, into: npt.NDArray[Any]) -> None:
    """One chunk file into memory, its length and checksum verified. Not mapped: a file cut meanwhile is an error."""
    values = _bytes_of(into)
    view = values.data
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as stream:
            size = os.fstat(fd).st_size
            filled = 0
            while filled < len(view) and (count := stream.readinto(view[filled:])):
                filled += count
            stored = stream.read(5)
    except FileNotFoundError:
        raise CorruptError(f"{path} is missing", "every chunk of the array", _AGAIN) from None
    except OSError as error:
        raise CorruptError(f"{path} can't be read ({error})", "the chunk as it was written", _AGAIN) from None
    if size != len(view) + 4 or filled != len(view) or len(stored) != 4:
        raise CorruptError(f"{path} is damaged ({size} bytes)", f"{len(view) + 4} bytes", _AGAIN)
    if struct.unpack("<I", stored)[0] != _crc32c([values]):
        raise CorruptError(f"{path} is damaged (its checksum differs)", "the chunk as it was written", _AGAIN)


def array_shape(artifact: Artifact, store: str, name: str) -> tuple[tuple[int, ...], int]:
    """Shape and rows a chunk, from metadata that must be of this policy; raises ``CorruptError``."""
    shape, rows, _ = _layout(artifact, store, name)
    return shape, rows


def _layout(artifact: Artifact, store: str, name: str) -> tuple[tuple[int, ...], int, np.dtype[Any]]:
    """Shape, rows a chunk and stored type."""
    meta = artifact.json(f"{store}/{name}/zarr.json")
    where = f"{artifact.path}/data/{store}/{name}/zarr.json"
    if not isinstance(meta, dict) or meta.get("zarr_format") != 3 or meta.get("data_type") not in _DTYPES:
        raise CorruptError(f"{where} is not of this format", "Zarr v3, a plain number type")
    codecs = [c.get("name") for c in meta.get("codecs", [])]
    if codecs != ["bytes", "crc32c"]:
        raise CorruptError(f"{where} names codecs {codecs}", "bytes and crc32c alone")
    shape = tuple(int(n) for n in meta["shape"])
    chunk = tuple(int(n) for n in meta["chunk_grid"]["configuration"]["chunk_shape"])
    count = sum(1 for e in artifact.files if e.path.startswith(f"data/{store}/{name}/c/"))
    if len(shape) < 1 or chunk[1:] != shape[1:] or count != -(-shape[0] // chunk[0]):
        raise CorruptError(
            f"{where} speaks of shape {shape} in chunks {chunk}, {count} chunk files", "one file a chunk"
        )
    return shape, chunk[0], np.dtype(meta["data_type"]).newbyteorder("<")


def split_names(artifact: Artifact, store: str) -> list[str]:
    """The splits of a feature store: every group that holds an array named ``features``."""
    tail = "/features/zarr.json"
    head = f"data/{store}/"
    return sorted(
        e.path[len(head) : -len(tail)] for e in artifact.files if e.path.startswith(head) and e.path.endswith(tail)
    )


def store_path(artifact: Artifact, store: str) -> Path:
    """Where a Zarr store of an artifact lies."""
    return artifact.path / "data" / store
