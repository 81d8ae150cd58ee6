"""The frozen types that flow between rooms, with their invariants.

Arrays are made read-only; what must hold is checked once, at construction, with an error that names what was found,
what was wanted and the remedy. Nothing here reads or writes anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmtool.errors import DataError

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

UNLABELLED = -1
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleIndex:
    """The rows of one split: row i is sample i for ever.

    Attributes:
        split: the split's name, ``train`` or ``photo/train``.
        ids: N sample ids, relative, unique, sorted bytewise.
        labels: int64 labels and class names.
        digest: digest of ids, labels, class names and the content of every sample.
    """

    split: str
    ids: Sequence[str]
    labels: Labels
    digest: str

    def __post_init__(self) -> None:
        check_split(self.split)
        check_digest(self.digest)
        if len(self.ids) == 0:
            raise DataError(f"split {self.split} is empty", "at least one sample")
        if len(self.ids) != len(self.labels.values):
            raise DataError(f"split {self.split} has {len(self.ids)} ids and {len(self.labels.values)} labels")
        previous = b""
        for sample in self.ids:
            now = sample.encode()
            if now <= previous:
                raise DataError(f"sample id {sample!r} in split {self.split}", "unique ids in bytewise order")
            previous = now

    def __len__(self) -> int:
        return len(self.ids)


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
    """

    source: str
    split: str
    ids: Sequence[str]
    features: npt.NDArray[np.floating]
    labels: Labels
    ok: Bool
    content: str

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
