"""Which samples to trust: mixture models on losses, and balanced draws from what they call clean (TURN §4.1.2).

Nothing in here sees a true label but :func:`purity_and_recall`, which judges a selection afterwards. It refuses losses
that are not finite, and it never lets a class fall empty: TURN's N_min would drag the whole selection to zero.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmtool.errors import DataError

Float = NDArray[np.float64]
Index = NDArray[np.int64]


def _labels_of(labels: ArrayLike, n: int, classes: int | None) -> Index:
    array = np.asarray(labels)
    if array.shape != (n,) or (n and array.dtype.kind not in "iu"):
        raise DataError(f"labels of shape {array.shape} and dtype {array.dtype}", f"{n} whole numbers")
    result = array.astype(np.int64)
    if n and (result.min() < -1 or (classes is not None and result.max() >= classes)):
        raise DataError(f"labels from {result.min()} to {result.max()}", f"-1, or from 0 to below {classes}")
    return result


def _losses_of(losses: ArrayLike) -> Float:
    array = np.asarray(losses, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"losses of shape {array.shape}", "one dimension")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise DataError(f"{bad} of {array.size} losses that are not finite", "finite losses", "did the probe diverge?")
    return array


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What the mixture models made of the losses.

    Attributes:
        posterior: [N] float64 in [0, 1]: probability of the component with the lower mean; 0 for unlabelled rows.
        fallback_classes: classes with fewer than two samples or constant loss, whose samples all count as clean.
    """

    posterior: Float
    fallback_classes: tuple[int, ...]


def _posterior(
    values: Float, *, max_iter: int, tol: float, reg_covar: float, n_init: int, normalise: bool, seed: int
) -> Float | None:
    """Posterior of the low component for one group of losses [n]; None where two components make no sense."""
    from sklearn.mixture import GaussianMixture

    if values.size < 2 or values.min() == values.max():
        return None
    if normalise:
        values = (values - values.min()) / (values.max() - values.min())
    column = values[:, None]
    model = GaussianMixture(
        2, max_iter=max_iter, tol=tol, reg_covar=reg_covar, n_init=n_init, init_params="kmeans", random_state=seed
    )
    with warnings.catch_warnings():
        # stopping after max_iter is the published setting, not a defect
        warnings.simplefilter("ignore")
        model.fit(column)
    # smaller mean; between equal means the heavier component
    low = min((0, 1), key=lambda k: (model.means_[k, 0], -model.weights_[k]))
    posterior: Float = model.predict_proba(column)[:, low]
    return posterior


def clean_posterior_with_notes(
    losses: ArrayLike,
    labels: ArrayLike,
    *,
    classes: int | None = None,
    per_class: bool = True,
    max_iter: int = 20,
    tol: float = 1e-2,
    reg_covar: float = 5e-4,
    n_init: int = 1,
    normalise: bool = True,
    seed: int = 0,
) -> Mixture:
    """As :func:`clean_posterior`, and which classes were too small for a mixture."""
    # scikit-learn's own dependency; its mixture must be loaded first, for the limit to reach its threads
    import sklearn.mixture  # noqa: F401
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    values = _losses_of(losses)
    groups = _labels_of(labels, values.size, classes)
    present = [int(c) for c in np.unique(groups[groups >= 0])]
    if per_class:
        order = np.argsort(groups, kind="stable")
        bounds = np.searchsorted(groups[order], [*present, np.iinfo(np.int64).max])
        members = {c: order[bounds[i] : bounds[i + 1]] for i, c in enumerate(present)}
    else:
        members = {-1: np.flatnonzero(groups >= 0)}
    posterior = np.zeros(values.size)
    fallback: list[int] = []
    # one thread: a class is too little work for more, and on a busy machine the threads of k-means wait for each other,
    # which was measured to make it eleven times slower; the numbers are the same
    with threadpool_limits(limits=1):
        for c, rows in members.items():
            fitted = _posterior(
                values[rows],
                max_iter=max_iter,
                tol=tol,
                reg_covar=reg_covar,
                n_init=n_init,
                normalise=normalise,
                seed=seed,
            )
            if fitted is None:
                fallback.extend([c] if per_class else present)
            posterior[rows] = 1.0 if fitted is None else fitted
    return Mixture(posterior=posterior, fallback_classes=tuple(fallback))


def clean_posterior(
    losses: ArrayLike,
    labels: ArrayLike,
    *,
    classes: int | None = None,
    per_class: bool = True,
    max_iter: int = 20,
    tol: float = 1e-2,
    reg_covar: float = 5e-4,
    n_init: int = 1,
    normalise: bool = True,
    seed: int = 0,
) -> Float:
    """p_l (TURN §4.1.2): posterior of the component with the lower mean of a two-Gaussian mixture on the losses.

    Defaults: a mixture for each class of the *noisy* label, on losses scaled to [0, 1] within the class, k-means start,
    20 iterations, tolerance 1e-2, variance floor 5e-4 (the first author's DENEB code; with sklearn's own floor of 1e-6
    the *lowest* losses of a class may be called noisy). Classes with fewer than two samples or constant loss get 1.

    Args:
        losses: [N] cross-entropy of each sample, finite.
        labels: [N] noisy labels; unlabelled rows (-1) get 0.
        classes: number of classes, where labels are to be checked against it.
        per_class: one mixture for each class, or one for all samples (DivideMix).
        max_iter, tol, reg_covar, n_init: as in ``sklearn.mixture.GaussianMixture``.
        normalise: min-max scaling of the losses within the class, or of all.
        seed: of the k-means start; the same for each class.

    Returns:
        [N] float64 in [0, 1]; compare with a threshold by strict >.

    Raises:
        DataError: losses that are not finite, labels out of range or of another length.
    """
    return clean_posterior_with_notes(
        losses,
        labels,
        classes=classes,
        per_class=per_class,
        max_iter=max_iter,
        tol=tol,
        reg_covar=reg_covar,
        n_init=n_init,
        normalise=normalise,
        seed=seed,
    ).posterior


@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced:
    """A class-balanced draw.

    Attributes:
        rows: sorted int64 row numbers, ``per_class`` for each class present in the labels.
        per_class: N_min.
        empty_classes: classes present of which nothing was selected; each gave its sample of lowest loss.
    """

    rows: Index
    per_class: int
    empty_classes: tuple[int, ...]


def balanced_sample(
    selected: ArrayLike,
    labels: ArrayLike,
    *,
    losses: ArrayLike,
    classes: int,
    rng: np.random.Generator,
) -> Balanced:
    """N_min samples of each class, drawn uniformly without replacement from those selected (TURN §4.1.2).

    N_min is the smallest number selected over the classes *present* in the labels. A class of which nothing was
    selected first takes its sample of lowest loss, so that N_min is at least 1.

    Args:
        selected: [N] bool, such as ``clean_posterior(…) > 0.6``.
        labels: [N] noisy labels in [0, classes), or -1 for rows that take no part.
        losses: [N], finite.
        classes: number of classes.
        rng: source of the draw.

    Raises:
        DataError: shapes that don't fit, labels out of range, no labelled row at all.
    """
    values = _losses_of(losses)
    groups = _labels_of(labels, values.size, classes)
    chosen = np.array(selected)
    if chosen.dtype != np.bool_ or chosen.shape != values.shape:
        raise DataError(f"a selection of shape {chosen.shape} and dtype {chosen.dtype}", f"{values.size} booleans")
    chosen &= groups >= 0
    present = np.unique(groups[groups >= 0])
    if present.size == 0:
        raise DataError("no labelled row", "at least one")
    counts = np.bincount(groups[chosen], minlength=classes)
    empty = tuple(int(c) for c in present if counts[c] == 0)
    for c in empty:
        rows = np.flatnonzero(groups == c)
        chosen[rows[values[rows].argmin()]] = True
    per_class = max(1, int(counts[present].min()))
    order = rng.permutation(np.flatnonzero(chosen))
    order = order[np.argsort(groups[order], kind="stable")]
    grouped = groups[order]
    place = np.arange(order.size) - np.searchsorted(grouped, grouped)
    return Balanced(rows=np.sort(order[place < per_class]), per_class=per_class, empty_classes=empty)


def purity_and_recall(selected_rows: ArrayLike, clean: ArrayLike, noisy: ArrayLike) -> tuple[float, float]:
    """How good a selection is, judged with the true labels: (share of it that is right, share of the right it has).

    Args:
        selected_rows: distinct row numbers, or a [N] mask.
        clean: [N] true labels.
        noisy: [N] labels used.

    Returns:
        both in [0, 1]; purity is nan for an empty selection, recall is nan where no label is right.

    Raises:
        DataError: labels of unequal length, rows out of range.
    """
    right = np.asarray(clean) == np.asarray(noisy)
    if np.shape(clean) != np.shape(noisy) or right.ndim != 1:
        raise DataError(f"labels of shapes {np.shape(clean)} and {np.shape(noisy)}", "one dimension, as many of each")
    rows = np.asarray(selected_rows)
    rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.unique(rows).astype(np.int64)
    if rows.size and (rows[0] < 0 or rows[-1] >= right.size):
        raise DataError(f"rows from {rows[0]} to {rows[-1]}", f"from 0 to below {right.size}")
    hits, correct = int(right[rows].sum()), int(right.sum())
    return (hits / rows.size if rows.size else float("nan"), hits / correct if correct else float("nan"))
