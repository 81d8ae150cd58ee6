"""What the samples of a Hugging Face dataset hold beside id and label: images, captions, texts, and their digests.

Cells are read one at a time, and for digests a shard at a time; never a whole column of images. Safe among threads.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmtool.artifact.memo import Memo
from nmtool.data.hf.arrow import ArrowShard, Leaf
from nmtool.data.hf.columns import Roles
from nmtool.data.hf.places import Places
from nmtool.data.hf.store import Store
from nmtool.data.images import FILE_BYTES, BrokenSample
from nmtool.data.index import combined
from nmtool.errors import DataError
from nmtool.records import Float, Int

_TEXT = 64 << 20


class Samples:
    """Images, captions and texts by stored row."""

    def __init__(
        self,
        store: Store,
        roles: Roles,
        splits: Mapping[str, Int],
        *,
        targets: Float | None,
        roots: Sequence[Path],
        memo: Memo,
    ) -> None:
        """Read nothing yet.

        Args:
            store: the shards.
            roles: which column is what.
            splits: stored rows int64 [n] by split, in the order of the ids.
            targets: float64 [stored rows], for regression; else None.
            roots: the folder that image paths count from, then others that they may lead into.
            memo: remembers which files hold all their images.
        """
        self._store, self._roles, self._splits, self._targets = store, roles, splits, targets
        self._roots, self._memo = roots, memo
        named = [role for role in ("text", "text_b", "caption") if role in roles.columns]
        self._texts: list[Leaf] = [(roles.columns[role],) for role in named]
        self._digests: dict[int, npt.NDArray[np.uint8]] = {}
        self._hashed: dict[int, npt.NDArray[np.uint8]] = {}
        self._found: Places | None = None
        self._lock = threading.Lock()

    def image(self, split: str, row: int, name: str) -> bytes:
        """The bytes of a row's image file."""
        at = int(self._splits[split][row])
        shard, place = self._store.place(at)
        data: bytes | None = None
        if self._roles.data is not None:
            try:
                data = self._store.shards[shard].cell(self._roles.data, int(place), FILE_BYTES)
            except OverflowError as error:
                raise BrokenSample(f"{name} has {error} bytes", f"an image file of at most {FILE_BYTES}") from None
        if data is None and at in (places := self.places()).rows:
            data = places.read(at, name)
        if not data:
            raise BrokenSample(f"{name} has no image in its row", "the bytes of an image file")
        return data

    def texts(self, split: str, row: int) -> tuple[str, ...]:
        """The texts of a row, or its caption."""
        at = int(self._splits[split][row])
        shard, place = self._store.place(at)
        try:
            return tuple(
                self._text(self._store.shards[shard].cell(leaf, int(place), _TEXT), leaf, at) for leaf in self._texts
            )
        except OverflowError as error:
            raise DataError(f"the text of sample {row} has {error} bytes", f"at most {_TEXT}") from None

    def contents(self, split: str) -> Iterator[str]:
        """Hex digests of the samples of a split."""
        shards, places = self._store.place(self._splits[split])
        for number in np.unique(shards).tolist():
            if number not in self._digests:
                self._digests[number] = self._digested(number)
        for number, place in zip(shards.tolist(), places.tolist(), strict=True):
            yield self._digests[number][place].tobytes().hex()

    def _digested(self, number: int) -> npt.NDArray[np.uint8]:
        """uint8 [rows, 32]: the digests of a shard's samples, in one pass over each of its columns that count."""
        shard, start = self._store.shards[number], int(self._store.starts[number])
        out = np.empty((shard.rows, 32), dtype=np.uint8)
        texts = [shard.cells(leaf) for leaf in self._texts]
        images = self._images(number)
        for row in range(shard.rows):
            parts = [next(images)] if images is not None else []
            parts += [self._text(next(t), leaf, start + row) for t, leaf in zip(texts, self._texts, strict=True)]
            if self._targets is not None:
                parts.append(repr(float(self._targets[start + row])))
            bare = self._roles.kind == "images" and self._targets is None
            whole = parts[0] if bare else combined(*parts)
            out[row] = np.frombuffer(bytes.fromhex(whole), np.uint8)
        return out

    def _images(self, number: int) -> Iterator[str] | None:
        """Hex sha256 of the image of every row of a shard."""
        if self._roles.kind == "text":
            return None
        shard, start = self._store.shards[number], int(self._store.starts[number])
        leaf, rows = self._roles.data, self.places().rows
        hashed = self._hashed.get(number)

        def digests() -> Iterator[str]:
            cells = shard.cells(leaf) if leaf is not None and hashed is None else iter([None] * shard.rows)
            for row, data in enumerate(cells):
                if data is None and start + row in rows:
                    yield self.places().digest(start + row, rows[start + row][0])
                elif hashed is not None:
                    yield hashed[row].tobytes().hex()
                else:
                    yield hashlib.sha256(data or b"").hexdigest()

        return digests()

    def _text(self, data: bytes | None, leaf: Leaf, row: int) -> str:
        if data is None:
            raise DataError(f"stored row {row} of column {leaf[0]!r} is empty", "text in every row", "take the row out")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise DataError(f"stored row {row} of column {leaf[0]!r} is no UTF-8", "text in UTF-8") from None

    def places(self) -> Places:
        """The image files that rows name and do not hold, looked at once."""
        with self._lock:
            if self._found is None:
                self._found = Places(self._by_path(), self._roots)
            return self._found

    def _by_path(self) -> dict[int, str]:
        """Path by row, of the rows that have a path and no bytes."""
        data, path = self._roles.data, self._roles.path
        if path is None:
            return {}
        rows = np.unique(np.concatenate(list(self._splits.values())))
        if data is not None:
            absent = np.concatenate([self._absent(number, data) for number in range(len(self._store.shards))])
            rows = rows[absent[rows]]
        if not len(rows):
            return {}
        found = zip(rows.tolist(), self._store.column(path, rows).to_pylist(), strict=True)
        return {row: name for row, name in found if name is not None}

    def _absent(self, number: int, leaf: Leaf) -> npt.NDArray[np.bool_]:
        """bool [rows]: where a shard has no image. What a Parquet file takes to tell is hashed on the way."""
        shard = self._store.shards[number]
        if isinstance(shard, ArrowShard):
            return shard.nulls(leaf)
        question = ["hf-held", list(leaf), os.fsencode(shard.path).hex(), list(shard.identity)]
        absent = np.zeros(shard.rows, dtype=bool)
        if shard.settled and self._memo.recall(question) is True:
            return absent
        hashed = np.empty((shard.rows, 32), dtype=np.uint8)
        for row, data in enumerate(shard.cells(leaf)):
            absent[row] = data is None
            hashed[row] = np.frombuffer(hashlib.sha256(data or b"").digest(), np.uint8)
        self._hashed[number] = hashed
        if shard.settled and not absent.any():
            self._memo.remember(question, True)
        return absent
