"""Singular values of a feature matrix, and the two numbers the papers read off them.

What is exact is done exactly (LAPACK); what is too large for that goes through a mergeable D x D sum in float64, which
costs half the digits of the small values and says so. It refuses matrices with values that are not finite: a spectrum
of the rows that happen to be left would be another spectrum. It needs numpy alone; torch tensors are read without
importing torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmtool.errors import DataError, UsageError

Float = NDArray[np.float64]
Preprocess = Literal["raw", "center", "l2", "l2_rowcenter"]

# elements up to which the matrix is held and decomposed as it is: 256 MiB of float64
EXACT_BELOW = 2**25

_EPS = float(np.finfo(np.float64).eps)


def _as_float64(values: Any) -> Float:
    """Any array or tensor as float64; bfloat16 and CUDA tensors go by their own methods, numpy can't read them."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _as_matrix(values: Any, first_row: int = 0) -> Float:
    matrix = _as_float64(values)
    if matrix.ndim != 2:
        raise DataError(f"features of shape {matrix.shape}", "rows by dimensions")
    bad = ~np.isfinite(matrix).all(axis=1)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} of {bad.size} rows with a value that is not finite, "
            f"the first of them row {first_row + int(bad.argmax())}",
            "finite features",
            "extract again, or leave these rows out",
        )
    return matrix


def _check(preprocess: str) -> Preprocess:
    if preprocess not in get_args(Preprocess):
        raise UsageError(f"spectrum preprocessing {preprocess!r}", "one of " + ", ".join(get_args(Preprocess)))
    return cast(Preprocess, preprocess)


def _rowwise(matrix: Float, preprocess: Preprocess) -> Float:
    """The part of the preprocessing that looks at one row at a time; rows of zeros stay zero."""
    if preprocess in ("raw", "center"):
        return matrix
    norms = np.sqrt(np.square(matrix).sum(axis=1, keepdims=True))
    matrix = matrix / np.where(norms > 0, norms, 1.0)
    if preprocess == "l2_rowcenter":
        matrix = matrix - matrix.mean(axis=1, keepdims=True)
    return matrix


def _direct(matrix: Float, preprocess: Preprocess) -> Float:
    matrix = _rowwise(matrix, preprocess)
    if preprocess == "center":
        matrix = matrix - matrix.mean(axis=0)
    return np.asarray(np.linalg.svd(matrix, compute_uv=False), dtype=np.float64)


class GramAccumulator:
    """Sums from which the singular values of any number of rows follow: O(D²) memory, float64, mergeable.

    Blocks may come in any order and be spread over accumulators that are merged in the end. What is kept is the scatter
    about the mean, not the raw sum of squares, so that ``center`` loses no digits where the mean is large.

    Values below about 1e-8 * sqrt(D) of the largest can't be told from rounding noise and are returned as 0.

    Args:
        preprocess: as in :func:`singular_values`; its row-wise part is applied to each block.

    Raises:
        UsageError: an unknown preprocessing.
    """

    def __init__(self, preprocess: Preprocess = "raw") -> None:
        self.preprocess: Preprocess = _check(preprocess)
        self.count = 0
        self._mean: Float | None = None
        self._scatter: Float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions seen so far; (0, 0) before the first block."""
        return self.count, 0 if self._mean is None else self._mean.size

    def update(self, block: ArrayLike) -> None:
        """Add rows: [n, D], finite.

        Raises:
            DataError: values that are not finite, or another D than before.
        """
        rows = _rowwise(_as_matrix(block, self.count), self.preprocess)
        if rows.shape[0]:
            mean = rows.mean(axis=0)
            centred = rows - mean
            self._add(rows.shape[0], mean, centred.T @ centred)

    def merge(self, other: GramAccumulator) -> None:
        """Add all rows that ``other`` has seen; ``other`` stays as it is.

        Raises:
            UsageError: the two preprocess differently.
            DataError: the two have another D.
        """
        if other.preprocess != self.preprocess:
            raise UsageError(f"sums preprocessed {other.preprocess!r}", f"{self.preprocess!r}, as the sums they join")
        if other._mean is not None and other._scatter is not None:
            self._add(other.count, other._mean, other._scatter)

    def _add(self, count: int, mean: Float, scatter: Float) -> None:
        """Chan's pairwise update of count, mean and scatter."""
        if self._mean is None or self._scatter is None:
            self.count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        if mean.size != self._mean.size:
            raise DataError(f"rows of {mean.size} dimensions", f"{self._mean.size}, as the rows before")
        total = self.count + count
        step = mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(step, step) * (self.count * (count / total))
        self._mean += step * (count / total)
        self.count = total

    def singular_values(self) -> Float:
        """Descending, [min(rows, D)], float64.

        Raises:
            DataError: no rows yet.
        """
        if self._mean is None or self._scatter is None or self._mean.size == 0:
            raise DataError("no features", "at least one row and one dimension")
        gram = self._scatter
        if self.preprocess != "center":
            gram = gram + self.count * np.outer(self._mean, self._mean)
        squares = np.linalg.eigvalsh(gram)[::-1][: min(self.shape)]
        noise = squares[0] * _EPS * self._mean.size
        values: Float = np.sqrt(np.where(squares > max(noise, 0.0), squares, 0.0))
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """Singular values of a stream of blocks.

    Attributes:
        values: [min(N, D)] float64, descending.
        shape: (N, D).
        method: ``svd`` (exact) or ``gram`` (values below about 1e-8 * sqrt(D) of the largest are 0).
    """

    values: Float
    shape: tuple[int, int]
    method: Literal["svd", "gram"]


def singular_values_streaming(
    blocks: Iterable[ArrayLike], *, preprocess: Preprocess = "raw", exact_below: int = EXACT_BELOW
) -> Streamed:
    """Singular values of the rows of all blocks together; exact while they fit, by their Gram matrix beyond.

    Args:
        blocks: arrays [n_i, D] with the same D; read once, in order.
        preprocess: as in :func:`singular_values`.
        exact_below: number of elements (N * D) up to which all blocks are held and decomposed by LAPACK.

    Raises:
        DataError: no rows, unequal D, values that are not finite.
        UsageError: an unknown preprocessing.
    """
    sums = GramAccumulator(preprocess)
    held: list[Float] = []
    rows = elements = 0
    for block in blocks:
        matrix = _as_matrix(block, rows)
        if held and matrix.shape[1] != held[0].shape[1]:
            raise DataError(f"rows of {matrix.shape[1]} dimensions", f"{held[0].shape[1]}, as the rows before")
        rows, elements = rows + matrix.shape[0], elements + matrix.size
        if sums.count == 0 and elements <= exact_below:
            # a copy: the caller may fill one buffer again and again
            held.append(matrix.copy() if np.may_share_memory(matrix, block) else matrix)
            continue
        for early in held:
            sums.update(early)
        held.clear()
        sums.update(matrix)
    if sums.count:
        return Streamed(values=sums.singular_values(), shape=sums.shape, method="gram")
    if elements == 0:
        raise DataError("no features", "at least one row and one dimension")
    matrix = np.concatenate(held)
    held.clear()
    return Streamed(values=_direct(matrix, sums.preprocess), shape=(rows, matrix.shape[1]), method="svd")


def singular_values(X: Any, *, preprocess: Preprocess = "raw") -> Float:
    """Singular values of a feature matrix, largest first.

    Preprocessing: ``raw`` nothing (NMTune Eq. 1); ``center`` subtracts each column's mean; ``l2`` scales each row to
    length 1; ``l2_rowcenter`` does that and then subtracts each row's own mean (the authors' released code).

    Matrices up to 2**25 elements, and all that are wider than tall, are decomposed by LAPACK; larger ones by their
    Gram matrix, where values below about 1e-8 * sqrt(D) of the largest come out as 0.

    Args:
        X: [N, D] array or tensor, on any device; computed in float64.
        preprocess: see above.

    Returns:
        [min(N, D)] float64.

    Raises:
        DataError: empty, not two-dimensional, or values that are not finite (the bad rows are counted).
        UsageError: an unknown preprocessing.
    """
    wanted = _check(preprocess)
    matrix = _as_matrix(X)
    if matrix.size == 0:
        raise DataError(f"features of shape {matrix.shape}", "at least one row and one dimension")
    if matrix.size <= EXACT_BELOW or matrix.shape[0] <= matrix.shape[1]:
        return _direct(matrix, wanted)
    sums = GramAccumulator(wanted)
    step = max(1, EXACT_BELOW // matrix.shape[1])
    for start in range(0, matrix.shape[0], step):
        sums.update(matrix[start : start + step])
    return sums.singular_values()


def _shares(sigma: Any) -> Float:
    """sigma / sum(sigma), checked; scaled first, so that neither huge nor tiny values leave the range of floats."""
    values = _as_float64(sigma).ravel()
    if values.size == 0:
        raise DataError("no singular values", "at least one")
    if not np.isfinite(values).all() or values.min() < 0:
        raise DataError(f"singular values from {values.min()} to {values.max()}", "finite numbers of 0 or more")
    if values.max() == 0:
        raise DataError("singular values that are all 0", "at least one above 0", "the features are all zero")
    values = values / values.max()
    shares: Float = values / values.sum()
    return shares


def rank(sigma: Any, shape: tuple[int, int], dtype: Any = np.float64) -> int:
    """Numerical rank: how many values exceed sigma_1 * max(shape) * eps, the tolerance of ``numpy.linalg.matrix_rank``.

    Args:
        sigma: singular values, in any order.
        shape: (N, D) of the matrix.
        dtype: the floating-point type that the features were computed in: its rounding is what counts as zero.
    """
    values = _as_float64(sigma).ravel()
    if values.size == 0:
        return 0
    return int((values > values.max() * max(shape) * float(np.finfo(dtype).eps)).sum())


def singular_value_entropy(sigma: Any) -> float:
    """SVE = -sum_j p_j ln p_j with p_j = sigma_j / sum(sigma) (NMTune Eq. 1), in nats; 0 ln 0 = 0.

    Args:
        sigma: [r] singular values, in any order, 0 or more.

    Returns:
        from 0 (one value dominates) to ln r (all equal).

    Raises:
        DataError: no values, negative or not finite ones, or all 0.
    """
    shares = _shares(sigma)
    shares = shares[shares > 0]
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def largest_singular_value_ratio(sigma: Any) -> float:
    """LSVR = -ln(sigma_1 / sum(sigma)) (NMTune Eq. 2), in nats; *larger* where sigma_1 dominates less.

    Args:
        sigma: [r] singular values, in any order, 0 or more.

    Returns:
        from 0 to ln r; never above the singular value entropy.

    Raises:
        DataError: no values, negative or not finite ones, or all 0.
    """
    return max(0.0, -float(np.log(_shares(sigma).max())))
