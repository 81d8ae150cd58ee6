"""The identity of a split: the digest of its ids, labels, class names and the content of every sample.

It depends on nothing else: not on the source that holds the samples, nor on paths, times, order on disk or locale. Two
sources with the same ids, bytes and labels get the same digest. Reads nothing itself, and has the samples read only
when a digest is asked for: what needs ids and labels alone (``SampleIndex.listing``) never waits for their contents.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from nmtool.artifact.format import canonical
from nmtool.artifact.memo import Memo
from nmtool.data.images import POLICY
from nmtool.errors import DataError
from nmtool.records import Labels, SampleIndex, check_digest

FORMAT = 1
_BLOCK = 1 << 14


def split_digest(
    kind: str, classes: Sequence[str], ids: Sequence[str], contents: Iterable[str], labels: npt.NDArray[np.int64]
) -> str:
    """The digest of one split.

    Args:
        kind: what a sample is (``images`` …).
        classes: class names in label order.
        ids: N sample ids, sorted.
        contents: N hex sha256: of the encoded bytes for an image file; see :func:`combined` for what has more parts.
        labels: int64 [N].
    """
    head: dict[str, object] = {"index": FORMAT, "kind": kind, "classes": list(classes)}
    if kind in ("images", "captions"):
        head["images"] = POLICY
    sha = hashlib.sha256(canonical(head) + b"\n")
    # Unambiguous: an id holds no NUL (see check_id), a digest has one length.
    rows = zip(ids, contents, _numbers(labels), strict=True)
    while block := "".join(f"{sample}\0{content}\0{label}\n" for sample, content, label in islice(rows, _BLOCK)):
        sha.update(block.encode())
    return "sha256:" + sha.hexdigest()


def digest_with(index: SampleIndex, others: Mapping[int, str]) -> str:
    """What the digest of a split would be if some samples had other contents; empty where nobody can tell.

    All samples are read for it. So it is known of an earlier state of the data, whose digest was kept, that these
    samples alone have changed since.

    Args:
        index: the split as it is now.
        others: hex sha256 by row.
    """
    if index.contents is None:
        return ""
    mixed = (others.get(row, content) for row, content in enumerate(index.contents()))
    return split_digest(index.kind, index.labels.classes, index.ids, mixed, index.labels.values)


def _numbers(labels: npt.NDArray[np.int64]) -> Iterator[int]:
    for start in range(0, len(labels), _BLOCK):
        yield from labels[start : start + _BLOCK].tolist()


def combined(*parts: str) -> str:
    """Hex sha256 of a sample made of several parts (texts, a file's digest and its caption), each with its length."""
    sha = hashlib.sha256()
    for part in parts:
        body = part.encode()
        sha.update(b"%d:" % len(body) + body)
    return sha.hexdigest()


def numbered_content(content: str, number: float) -> str:
    """Hex sha256 of a sample, itself told by ``content``, whose label is a real number: the index's labels are classes.

    Args:
        content: hex sha256 of the sample without its label.
        number: the label; NaN where there is none.
    """
    return combined(content, repr(float(number)))


def check_id(sample: str, what: str) -> str:
    """A sample id in NFC; raises ``DataError`` where it can't be one.

    Args:
        sample: a path or name as found.
        what: what it is, for the message.
    """
    if not sample or "\0" in sample:
        raise DataError(f"the {what} {sample!r}", "text without NUL characters")
    if sample.isascii():
        return sample
    try:
        sample.encode()
    except UnicodeEncodeError:
        raise DataError(f"the {what} {sample!r} is no valid UTF-8", "a name in UTF-8", "rename it") from None
    return unicodedata.normalize("NFC", sample)


def make_splits(
    *,
    kind: str,
    classes: tuple[str, ...],
    rows: Mapping[str, tuple[Sequence[str], npt.NDArray[np.int64]]],
    contents: Callable[[str], Iterable[str]],
    memo: Memo,
    question: object | Callable[[], object],
    trusted: bool | Callable[[], bool],
) -> dict[str, SampleIndex]:
    """The indexes of a dataset's splits; a digest is worked out or remembered when it is first read.

    Args:
        kind, classes: as in ``Dataset``.
        rows: ids and int64 labels by split.
        contents: makes the hex digests of a split's samples; called only where the memo knows no answer, for one split
            at a time.
        memo: where the answer is kept.
        question: plain JSON that changes whenever a sample's bytes, an id or a label may have changed; or what finds
            it out, called once, before contents.
        trusted: the inputs were old enough, when they were looked at, for ``question`` to be an honest one
            (``files.settled``); or what says so, called after ``question``.
    """
    digests = _Digests(kind, classes, contents, memo, question, trusted)
    for split, (ids, labels) in rows.items():
        digests.splits[split] = SampleIndex(
            split=split,
            ids=ids,
            labels=Labels(values=labels, classes=classes),
            digest=functools.partial(digests.of, split),
            kind=kind,
            contents=functools.partial(contents, split),
        )
    return dict(digests.splits)


class _Digests:
    """The digests of a dataset's splits, one at a time among all threads."""

    def __init__(
        self,
        kind: str,
        classes: tuple[str, ...],
        contents: Callable[[str], Iterable[str]],
        memo: Memo,
        question: object | Callable[[], object],
        trusted: bool | Callable[[], bool],
    ) -> None:
        self.splits: dict[str, SampleIndex] = {}
        self._kind, self._classes, self._contents, self._memo = kind, classes, contents, memo
        self._question, self._trusted = question, trusted
        self._lock = threading.RLock()

    def of(self, split: str) -> str:
        """The digest of one split."""
        with self._lock:
            if callable(self._question):
                self._question = self._question()
            if callable(self._trusted):
                self._trusted = self._trusted()
            asked = ["split", FORMAT, POLICY, self._kind, self._question, split]
            known = self._memo.recall(asked) if self._trusted else None
            if isinstance(known, str):
                return check_digest(known)
            index = self.splits[split]
            digest = split_digest(self._kind, self._classes, index.ids, self._contents(split), index.labels.values)
            if self._trusted:
                self._memo.remember(asked, digest)
            return digest
