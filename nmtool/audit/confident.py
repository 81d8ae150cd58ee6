"""Confident learning (Northcutt et al. 2021), by cleanlab: its scores and its choice. An optional package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings

import numpy as np

from nmtool.errors import UnavailableError
from nmtool.numerics.mislabelled import Predicted
from nmtool.records import Bool, Float, Int


def check_there() -> str:
    """cleanlab's version; raises ``UnavailableError`` where it is not installed."""
    if importlib.util.find_spec("cleanlab") is None:
        raise UnavailableError(
            "the package cleanlab is not installed",
            "cleanlab 2.8 or newer, for the view confident",
            "pip install 'nmtool[audit]', or leave the view out: --views mixture,neighbours",
        )
    return importlib.metadata.version("cleanlab")


def confident(predicted: Predicted, given: Int) -> tuple[Float, Bool]:
    """1 - self-confidence of each given label, float64 [n], and whether cleanlab calls it an issue, bool [n].

    Of its scores self-confidence is cleanlab's default, and was the better one on every set that was measured
    (normalised margin lost 0.01 to 0.03 of AUROC). Issues are pruned by noise rate, its default, too.

    Args:
        predicted: [n, C] out-of-fold probabilities.
        given: int64 [n] in [0, C), each class there.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    wide = predicted.astype(np.float64)
    wide /= wide.sum(1, keepdims=True)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of classes in which nothing is confident: they have no issues
        scores = get_label_quality_scores(given, wide, method="self_confidence")
        issues = find_label_issues(given, wide, n_jobs=1)
    return 1.0 - np.asarray(scores, dtype=np.float64), np.asarray(issues, dtype=np.bool_)
