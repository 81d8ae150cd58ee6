"""The frozen types that flow between rooms, with their invariants.

Arrays are made read-only; what must hold is checked once, at construction, with an error that names what was found,
what was wanted and the remedy. Nothing here reads or writes anything.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from nmtool.errors import DataError

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

UNLABELLED = -1
LISTING = 1
"""Format of ``SampleIndex.listing``."""

_BLOCK = 1 << 16
# Below this many texts plain Python is quicker than importing pyarrow.
_FEW = 100_000
_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,63})?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _frozen(array: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    out = np.array(array, dtype=dtype, copy=True)
    out.flags.writeable = False
    return out


def check_split(name: str) -> str:
    """Return ``name`` if it can name a split (it becomes a folder of the feature store), else raise ``DataError``."""
    if not _SPLIT.fullmatch(name):
        raise DataError(
            f"a split named {name!r}",
            "letters, digits, '.', '_' and '-', at most one '/' between a domain and a split",
            "rename the folder or map the split column",
        )
    return name


def check_digest(digest: str) -> str:
    """Return ``digest`` if it reads ``sha256:`` and 64 hex digits, else raise ``DataError``."""
    if not _DIGEST.fullmatch(digest):
        raise DataError(f"the digest {digest[:80]!r}", "sha256: and 64 hexadecimal digits")
    return digest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TextColumn(Sequence[str]):
    """Many texts in little memory, and otherwise an immutable list of them: Arrow's ``large_string`` layout.

    Fifteen million sample ids take half a gigabyte so, and two as Python's own texts. A lone surrogate, which has no
    UTF-8, is refused with ``UnicodeEncodeError``.

    Attributes:
        data: uint8 [bytes], the texts in UTF-8, one after the other.
        offsets: int64 [n + 1], where each begins; the first is 0, the last the number of bytes.
    """

    data: npt.NDArray[np.uint8]
    offsets: Int

    def __post_init__(self) -> None:
        for name in ("data", "offsets"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextColumn:
        """These texts; a column is returned as it is."""
        if isinstance(texts, TextColumn):
            return texts
        parts, lengths, source = [], [], iter(texts)
        while block := list(islice(source, _BLOCK)):
            body = "".join(block)
            if body.isascii():
                parts.append(body.encode())
                lengths.append(np.fromiter(map(len, block), np.int64, len(block)))
            else:
                encoded = [text.encode() for text in block]
                parts.append(b"".join(encoded))
                lengths.append(np.fromiter(map(len, encoded), np.int64, len(block)))
        data = np.frombuffer(b"".join(parts), dtype=np.uint8)
        return cls(data=data, offsets=offsets_of(np.concatenate(lengths) if lengths else np.zeros(0, np.int64)))

    @classmethod
    def joined(cls, parts: Sequence[TextColumn]) -> TextColumn:
        """The texts of all parts, in their order; one part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        starts = offsets_of(np.array([len(part.data) for part in parts], dtype=np.int64))
        offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts[:-1], strict=True)]
        data = [np.zeros(0, np.uint8), *(part.data for part in parts)]
        return cls(data=np.concatenate(data), offsets=np.concatenate([*offsets, starts[-1:]]))

    @classmethod
    def from_arrow(cls, array: Any) -> TextColumn:
        """A pyarrow array of texts, chunked or not, its memory shared where it is one piece of ``large_string``.

        Raises:
            ValueError: there are nulls, or bytes that are no UTF-8.
        """
        import pyarrow as pa

        array = array.cast(pa.large_string())
        if array.null_count:
            raise ValueError("nulls among texts")
        if isinstance(array, pa.ChunkedArray):
            array = (
                array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays([pa.array([], array.type), *array.chunks])
            )
        array.validate(full=True)
        _, offsets, data = array.buffers()
        if not len(array):
            return cls.of(())
        cuts = np.frombuffer(offsets, np.int64, len(array) + 1, array.offset * 8)
        body = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
        return cls(data=body[cuts[0] : cuts[-1]], offsets=cuts - cuts[0] if cuts[0] else cuts)

    def to_arrow(self) -> Any:
        """The same memory as a pyarrow ``LargeStringArray``."""
        import pyarrow as pa

        return pa.LargeStringArray.from_buffers(len(self), pa.py_buffer(self.offsets), pa.py_buffer(self.data))

    def take(self, rows: npt.ArrayLike) -> TextColumn:
        """The texts of these rows, in the order of ``rows``."""
        import pyarrow as pa

        return TextColumn.from_arrow(self.to_arrow().take(pa.array(np.asarray(rows, dtype=np.int64))))

    def first_out_of_order(self) -> int:
        """The first row whose text is not after the one before it, bytewise; -1 where all rise and none is twice."""
        if len(self) < max(2, _FEW):  # the order of code points is that of their UTF-8
            return next((row for row, (a, b) in enumerate(pairwise(self), 1) if a >= b), -1)
        import pyarrow.compute as pc

        texts = self.to_arrow()
        wrong = pc.index(pc.greater_equal(texts.slice(0, len(self) - 1), texts.slice(1)), True).as_py()
        return int(wrong) + 1 if wrong >= 0 else -1

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, row: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> TextColumn: ...
    def __getitem__(self, row: SupportsIndex | slice) -> str | TextColumn:
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            if step != 1:
                return TextColumn.of(self[at] for at in range(start, stop, step))
            cuts = self.offsets[start : max(start, stop) + 1]
            return TextColumn(data=self.data[cuts[0] : cuts[-1]], offsets=cuts - cuts[0])
        at = range(len(self))[row]
        return self.data[self.offsets[at] : self.offsets[at + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            cuts = self.offsets[start : start + _BLOCK + 1]
            body = self.data[cuts[0] : cuts[-1]].tobytes()
            spans = pairwise((cuts - cuts[0]).tolist())
            if body.isascii():
                text = body.decode("ascii")
                yield from [text[a:b] for a, b in spans]
            else:
                yield from [body[a:b].decode() for a, b in spans]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TextColumn):
            return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.data, other.data)
        if isinstance(other, (list, tuple)):
            return len(self) == len(other) and all(map(operator.eq, self, other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"TextColumn({len(self)}: {shown}{', …' if len(self) > 3 else ''})"


def offsets_of(lengths: Int) -> Int:
    """int64 [n + 1]: 0 and the running sums of int64 [n]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Class labels of the rows of one split.

    Attributes:
        values: int64 [N]; -1 is unlabelled, else 0 <= value < len(classes). Gaps are allowed.
        classes: the C class names, in label order.
    """

    values: Int
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _frozen(self.values, np.int64))
        bad = np.flatnonzero((self.values < UNLABELLED) | (self.values >= len(self.classes)))
        if bad.size:
            shown = ", ".join(f"row {row}: {self.values[row]}" for row in bad[:5])
            raise DataError(
                f"{bad.size} labels out of range ({shown})", f"-1 (unlabelled) or 0 to {len(self.classes) - 1}"
            )


@dataclass(frozen=True, slots=True, init=False, eq=False)
class SampleIndex:
    """The rows of one split: row i is sample i for ever.

    Attributes:
        split: the split's name, ``train`` or ``photo/train``.
        ids: N sample ids, relative, unique, sorted bytewise.
        labels: int64 labels and class names.
        kind: what a sample is (``images`` …); empty where nobody said.
        contents: reads all samples and gives the hex sha256 of each, as they enter the digest; None where nobody said.
    """

    split: str
    ids: TextColumn
    labels: Labels
    kind: str
    contents: Callable[[], Iterable[str]] | None = field(repr=False)
    _digest: str | Callable[[], str] = field(repr=False)
    _known: dict[str, str] = field(repr=False)
    _lock: Any = field(repr=False)

    def __init__(
        self,
        *,
        split: str,
        ids: Iterable[str],
        labels: Labels,
        digest: str | Callable[[], str],
        kind: str = "",
        contents: Callable[[], Iterable[str]] | None = None,
    ) -> None:
        """Check what must hold of the rows.

        Args:
            split, ids, labels, kind, contents: as the attributes.
            digest: the digest, or what works it out when it is first read.
        """
        check_split(split)
        if isinstance(digest, str):
            check_digest(digest)
        column = TextColumn.of(ids)
        if len(column) == 0:
            raise DataError(f"split {split} is empty", "at least one sample")
        if len(column) != len(labels.values):
            raise DataError(f"split {split} has {len(column)} ids and {len(labels.values)} labels")
        wrong = 0 if not column[0] else column.first_out_of_order()
        if wrong >= 0:
            raise DataError(f"sample id {column[wrong]!r} in split {split}", "unique ids in bytewise order")
        given = {"split": split, "ids": column, "labels": labels, "kind": kind, "contents": contents}
        for name, value in {**given, "_digest": digest, "_known": {}, "_lock": threading.RLock()}.items():
            object.__setattr__(self, name, value)

    @property
    def digest(self) -> str:
        """Digest of ids, labels, class names and the content of every sample; worked out when it is first read.

        Raises:
            NmtoolError: a sample's content can't be read.
        """
        if isinstance(self._digest, str):
            return self._digest
        with self._lock:
            if "digest" not in self._known:
                self._known["digest"] = check_digest(self._digest())
            return self._known["digest"]

    @property
    def listing(self) -> str:
        """Digest of kind, ids, labels and class names only: no sample is read for it.

        sha256 of a line of JSON (class names, kind, format, number of rows), then the ids' lengths in UTF-8 bytes, the
        ids' bytes, and the labels; numbers as little-endian int64.
        """
        with self._lock:
            if "listing" not in self._known:
                self._known["listing"] = _listing(self)
            return self._known["listing"]

    def __len__(self) -> int:
        return len(self.ids)


def _listing(index: SampleIndex) -> str:
    head = {"classes": list(index.labels.classes), "kind": index.kind, "listing": LISTING, "n": len(index)}
    sha = hashlib.sha256(json.dumps(head, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    for numbers in (np.diff(index.ids.offsets).astype("<i8"), index.ids.data, index.labels.values.astype("<i8")):
        sha.update(numbers.data)
    return "sha256:" + sha.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyLabels:
    """An overlay of labels for one split, joined to features or images by sample id.

    Attributes:
        samples: N sample ids.
        split: the split they belong to.
        clean, noisy: int64 [N]; for captions the row whose caption the sample has.
        classes: class names; empty for captions.
    """

    samples: Sequence[str]
    split: str
    clean: Int
    noisy: Int
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "clean", _frozen(self.clean, np.int64))
        object.__setattr__(self, "noisy", _frozen(self.noisy, np.int64))
        if not len(self.samples) == len(self.clean) == len(self.noisy):
            raise DataError(f"{len(self.samples)} samples, {len(self.clean)} clean and {len(self.noisy)} noisy labels")

    @property
    def flipped(self) -> Bool:
        """bool [N]: where the noisy label is not the clean one."""
        return np.asarray(self.clean != self.noisy)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureTable:
    """The features of one split, in memory.

    Attributes:
        source: where they were read from, as the user named it; for messages and tables only.
        split: the split's name.
        ids: N sample ids.
        features: float [N, D]; NaN where ``ok`` is False.
        labels: int64 labels and class names.
        ok: bool [N]: the sample could be read and encoded.
        content: content digest of the artifact they come from.
        targets: float64 [N] labels that are real numbers, NaN where there is none; None where labels are classes.
    """

    source: str
    split: str
    ids: Sequence[str]
    features: npt.NDArray[np.floating]
    labels: Labels
    ok: Bool
    content: str
    targets: Float | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.features.ndim != 2 or len(self.features) != n or len(self.ok) != n or len(self.labels.values) != n:
            raise DataError(
                f"split {self.split} of {self.source}: {n} ids, features {self.features.shape}, {len(self.ok)} marks",
                "one row of features, one label and one mark a sample",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Singular values of a feature matrix and what is read off them.

    Attributes:
        sigma: float64 [r], descending, all >= 0.
        rows, dim: shape of the matrix.
        preprocess: raw, center, l2 or l2_rowcenter.
        rank: numerical rank.
        sve, lsvr: singular value entropy and largest singular value ratio, in nats (NMTune Eq. 1 and 2).
    """

    sigma: Float
    rows: int
    dim: int
    preprocess: str
    rank: int
    sve: float
    lsvr: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", _frozen(self.sigma, np.float64))
        if self.sigma.ndim != 1 or np.any(self.sigma < 0) or np.any(np.diff(self.sigma) > 0):
            raise DataError("singular values that are negative or out of order", "a descending sequence >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRef:
    """An input of a stage, by content: the digest goes into the key, the path does not.

    Attributes:
        role: what the input is for (``data``, ``model``, ``features``, ``labels``, ``ood`` …).
        kind: an artifact kind, or ``index`` (raw data) or ``weights`` (a file).
        key: the artifact's key; empty for what is no artifact.
        content: digest of the bytes.
    """

    role: str
    kind: str
    key: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRef:
    """What a stage returns: one artifact on disk, or (``planned``) the one that would be made.

    Attributes:
        path: the artifact's directory.
        kind, key, content: as in its manifest; ``content`` is empty where it is only planned.
        cached: it was there already.
        seconds: wall time of this call's work.
        summary: the manifest's summary (plain JSON values).
        planned: ``--dry-run``: nothing was written.
        work: in words, what a miss would have to do.
    """

    path: Path
    kind: str
    key: str
    content: str
    cached: bool
    seconds: float
    summary: Mapping[str, object] = field(default_factory=dict)
    planned: bool = False
    work: str = ""
