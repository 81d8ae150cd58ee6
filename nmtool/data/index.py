"""The identity of a split: the digest of its ids, labels, class names and the content of every sample.

It depends on nothing else: not on the source that holds the samples, nor on paths, times, order on disk or locale. Two
sources with the same ids, bytes and labels get the same digest. Reads nothing itself.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nmtool.artifact.format import canonical
from nmtool.artifact.memo import Memo
from nmtool.data.images import POLICY
from nmtool.errors import DataError
from nmtool.records import Labels, SampleIndex, check_digest

FORMAT = 1


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
    rows = zip(ids, contents, labels.tolist(), strict=True)
    sha.update("".join(f"{sample}\0{content}\0{label}\n" for sample, content, label in rows).encode())
    return "sha256:" + sha.hexdigest()


def combined(*parts: str) -> str:
    """Hex sha256 of a sample made of several parts (texts, a file's digest and its caption), each with its length."""
    sha = hashlib.sha256()
    for part in parts:
        body = part.encode()
        sha.update(b"%d:" % len(body) + body)
    return sha.hexdigest()


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
    question: object,
    trusted: bool,
) -> dict[str, SampleIndex]:
    """The indexes of a dataset's splits, their digests remembered.

    Args:
        kind, classes: as in ``Dataset``.
        rows: ids and int64 labels by split.
        contents: makes the hex digests of a split's samples; called only where the memo knows no answer.
        memo: where the answer is kept.
        question: plain JSON that changes whenever a sample's bytes, an id or a label may have changed.
        trusted: the inputs are old enough for ``question`` to be an honest one (``files.settled``).
    """
    asked = ["splits", FORMAT, POLICY, kind, question]
    known = memo.recall(asked) if trusted else None
    if not (isinstance(known, dict) and known.keys() == rows.keys()):
        known = {
            split: split_digest(kind, classes, ids, contents(split), labels) for split, (ids, labels) in rows.items()
        }
        if trusted:
            memo.remember(asked, known)
    return {
        split: SampleIndex(
            split=split,
            ids=tuple(ids),
            labels=Labels(values=labels, classes=classes),
            digest=check_digest(str(known[split])),
        )
        for split, (ids, labels) in rows.items()
    }
