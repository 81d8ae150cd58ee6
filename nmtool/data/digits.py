"""``digits``: scikit-learn's 1,797 handwritten digits, with shifted domains made from digits used nowhere else.

Splits, stratified by class and disjoint in their base digits: ``pretrain`` (797), ``train`` (400), ``test`` (300), and
the remaining 300 in four guises: ``inverted/test``, ``rotated/test`` (20 to 40 degrees either way), ``blurred/test``
and ``textured/test`` (on a coloured background). Images are 32 x 32 RGB. Pixels are made on demand with integers and
the four basic operations only, so that they are the same on every machine. scikit-learn's file is read; scikit-learn is
not imported.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmtool.artifact.memo import Memo
from nmtool.data import files
from nmtool.data.dataset import Dataset, Indexed
from nmtool.data.index import combined, make_splits
from nmtool.errors import DataError, UnavailableError, UsageError
from nmtool.numerics.seeds import generator
from nmtool.records import Int, SampleIndex

VERSION = 1
"""Of the splits and of the pixels; it is part of every digest."""

_PARTS = {"pretrain": 797, "train": 400, "test": 300, "shifted": 300}
_SIDE, _SCALE, _MARGIN = 32, 3, 4
_CLASSES = tuple(str(k) for k in range(10))

Pixels = npt.NDArray[np.uint8]


class _DigitsDataset(Indexed):
    """Pixels of a split are made when its first image is asked for."""

    def __init__(self, *, uri: str, splits: dict[str, SampleIndex], base: Int, members: dict[str, Int]) -> None:
        super().__init__(uri=uri, kind="images", splits=splits, classes=_CLASSES)
        self._base, self._members = base, members
        self._made: dict[str, Pixels] = {}
        self._lock = threading.Lock()

    def image(self, split: str, row: int) -> Pixels:
        """Sample ``row`` as RGB uint8 [32, 32, 3]; see ``Dataset.image``."""
        with self._lock:
            if split not in self._made:
                self._made[split] = _render(split, self._base[self._members[split]])
            pixels = self._made[split]
        return np.array(pixels[row])


def open_digits(where: str, *, uri: str, memo: Memo) -> Dataset:
    """Index the digits.

    Raises:
        UsageError: anything stands after ``digits``.
        UnavailableError: scikit-learn's data file is not there.
    """
    if where:
        raise UsageError(f"the data URI {uri!r}", "digits, with nothing after it")
    table, digest = _read()
    base, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64]
    parts = _parts(labels)
    members = {name: rows for name, rows in parts.items() if name != "shifted"}
    members.update({f"{domain}/test": parts["shifted"] for domain in _DOMAINS})
    splits = make_splits(
        kind="images",
        classes=_CLASSES,
        rows={split: ([f"{split}/{k:04d}" for k in rows], labels[rows]) for split, rows in members.items()},
        contents=lambda split: [combined("digits", str(VERSION), digest, split, str(k)) for k in members[split]],
        memo=memo,
        question=["digits"],
        trusted=False,  # quicker to work out than to look up
    )
    return _DigitsDataset(uri=uri, splits=splits, base=base, members=members)


def _read() -> tuple[Int, str]:
    """The table, int64 [1797, 65]: 64 pixels from 0 to 16, and the label; with its digest."""
    spec = importlib.util.find_spec("sklearn")  # finds the package, doesn't import it
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz" if spec and spec.origin else None
    if path is None or not path.exists():
        raise UnavailableError("scikit-learn's digits are not there", "scikit-learn", "pip install scikit-learn")
    with files.told("scikit-learn's digits.csv.gz"):
        body = gzip.decompress(path.read_bytes())
    cells = body.replace(b"\n", b",").rstrip(b",").split(b",")
    table = np.array(cells).astype(np.float64).astype(np.int64).reshape(-1, 65)
    if len(table) != sum(_PARTS.values()):
        raise DataError(f"{len(table)} digits in scikit-learn's file", str(sum(_PARTS.values())))
    return table, hashlib.sha256(np.ascontiguousarray(table, dtype="<i8").tobytes()).hexdigest()


def _parts(labels: Int) -> dict[str, Int]:
    """Rows of the table by part, sorted. Any run of the interleaved order holds the classes in proportion."""
    order = generator(0, "digits", "split", VERSION).permutation(len(labels))
    counts = np.bincount(labels, minlength=10)
    seen = np.zeros(10, dtype=np.int64)
    place = np.empty(len(labels), dtype=np.int64)
    for row in order:
        label = labels[row]
        # (k + 1/2) / count, as a whole number: exact, so the order is the same everywhere
        place[row] = (2 * seen[label] + 1) * 1_000_000 // (2 * counts[label])
        seen[label] += 1
    interleaved = np.lexsort((labels, place))
    cuts = np.cumsum(list(_PARTS.values()))[:-1]
    return {name: np.sort(rows) for name, rows in zip(_PARTS, np.split(interleaved, cuts), strict=True)}


def _render(split: str, base: Int) -> Pixels:
    """The images of a split, uint8 [n, 32, 32, 3]."""
    grey = _enlarge(base)
    domain, _, rest = split.partition("/")
    colour = _DOMAINS[domain](grey) if rest else np.repeat(grey[..., None], 3, axis=3)
    return np.clip(colour, 0, 255).astype(np.uint8)


def _enlarge(base: Int) -> Int:
    """[n, 8, 8] of 0..16 to [n, 32, 32] of 0..255: three times larger, bilinear, a margin of 4 around."""
    small = base.shape[1]
    weights = np.zeros((small * _SCALE, small), dtype=np.int64)  # in thirds
    for out in range(small * _SCALE):
        low, third = divmod(out - 1, _SCALE)
        weights[out, max(low, 0)] += _SCALE - third
        weights[out, min(low + 1, small - 1)] += third
    large = weights @ base @ weights.T
    large = (255 * large + 8 * _SCALE**2) // (16 * _SCALE**2)
    return np.pad(large, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))


def _inverted(grey: Int) -> Int:
    return np.repeat(255 - grey[..., None], 3, axis=3)


def _rotated(grey: Int) -> Int:
    """Each by its own angle, bilinear, about the centre."""
    rng = generator(0, "digits", "rotated", VERSION)
    n = len(grey)
    # tan(angle / 2) between those of 20 and 40 degrees: sine and cosine then need no library function
    half = (0.17632698 + rng.random(n) * (0.36397023 - 0.17632698)) * rng.choice((-1.0, 1.0), n)
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    y, x = np.mgrid[:_SIDE, :_SIDE] - (_SIDE - 1) / 2
    from_x = cos[:, None, None] * x + sin[:, None, None] * y + (_SIDE - 1) / 2
    from_y = cos[:, None, None] * y - sin[:, None, None] * x + (_SIDE - 1) / 2
    x0, y0 = np.floor(from_x), np.floor(from_y)
    part_x, part_y = from_x - x0, from_y - y0
    out = np.zeros(grey.shape)
    which = np.arange(n)[:, None, None]
    for dy, weight_y in ((0, 1 - part_y), (1, part_y)):
        for dx, weight_x in ((0, 1 - part_x), (1, part_x)):
            at_x, at_y = x0.astype(np.int64) + dx, y0.astype(np.int64) + dy
            inside = (at_x >= 0) & (at_x < _SIDE) & (at_y >= 0) & (at_y < _SIDE)
            values = grey[which, at_y.clip(0, _SIDE - 1), at_x.clip(0, _SIDE - 1)]
            out += np.where(inside, values, 0) * (weight_y * weight_x)
    return np.repeat(np.rint(out).astype(np.int64)[..., None], 3, axis=3)


def _blurred(grey: Int) -> Int:
    """Four passes of the binomial kernel 1 4 6 4 1: about a Gaussian of two pixels."""
    out = grey
    for _ in range(4):
        for axis in (1, 2):
            wide = np.pad(out, [(2, 2) if a == axis else (0, 0) for a in range(3)])
            length = out.shape[axis]
            shifted = [np.take(wide, range(k, k + length), axis=axis) for k in range(5)]
            total = shifted[0] + 4 * shifted[1] + 6 * shifted[2] + 4 * shifted[3] + shifted[4]
            out = (total + 8) // 16
    return np.repeat(out[..., None], 3, axis=3)


def _textured(grey: Int) -> Int:
    """On a background of coloured blotches, four pixels wide, of 0 to 159 in each channel."""
    rng = generator(0, "digits", "textured", VERSION)
    blotches = rng.integers(0, 160, (len(grey), _SIDE // 4, _SIDE // 4, 3))
    background = blotches.repeat(4, axis=1).repeat(4, axis=2)
    ink = grey[..., None]
    return (255 * ink + (255 - ink) * background + 127) // 255


_DOMAINS: dict[str, Callable[[Int], Int]] = {
    "inverted": _inverted,
    "rotated": _rotated,
    "blurred": _blurred,
    "textured": _textured,
}
