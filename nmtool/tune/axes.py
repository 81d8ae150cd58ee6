"""Which settings each method has, and their values: what was asked, else the default. This is what the key holds.

A setting that a method does not have is neither read nor checked for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from nmtool.errors import UsageError
from nmtool.tune.config import Config
from nmtool.tune.defaults import default, grid
from nmtool.tune.method import method_named

PROBE = ("loss", "epochs", "batch_size", "lr", "weight_decay", "schedule", "scale", "q")
SHAPE = ("width", "layers", "activation", "batch_norm", "residual")
TERMS = ("weight_mse", "weight_cov", "weight_svd", "svd_topk", "mse_reduce")
TURN = (
    "tau",
    "cleanse",
    "fft_epochs",
    "fft_lr",
    "fft_weight_decay",
    "fft_batch_size",
    "fft_optimizer",
    "fft_loss",
    "fft_batch_norm",
    "augment",
)
_TURN_PROBE = ("probe_loss", "probe_epochs", "batch_size", "probe_lr", "probe_weight_decay", "schedule", "scale", "q")
LBFGS = ("C", "max_iter")
NEIGHBOURS = ("k", "knn_weights", "temperature")
# By method, and by method and solver where that is another than AdamW.
AXES: Mapping[str, tuple[str, ...]] = {
    "lp": PROBE,
    "lp/lbfgs": ("scale", *LBFGS),
    "mlp": PROBE + SHAPE,
    "nmtune": PROBE + SHAPE + TERMS,
    "turn": _TURN_PROBE + TURN,
    "knn": ("scale", *NEIGHBOURS),
}
# What --search looks for.
SEARCHED: Mapping[str, tuple[str, ...]] = {"lbfgs": ("C",), "": ("lr", "weight_decay")}


def axes(config: Config, dim: int) -> dict[str, dict[str, list[Any]]]:
    """The values of every setting in use, unset ones filled in, by ``METHOD[/LOSS[/SOLVER]]``.

    Args:
        config: what was asked.
        dim: of the features: a default may depend on it.

    Raises:
        UsageError: an unknown method, a number out of range, or one that stands twice; a combination that is not there.
    """
    _check_search(config)
    out: dict[str, dict[str, list[Any]]] = {}
    for method in once(config.method, "--method"):
        method_named(method)
        for loss, solver in _variants(config, method):
            if method == "zeroshot":  # the prompts are averaged: all of them are one value
                out[method] = {"templates": [list(config.template)]}
                continue
            names = AXES[f"{method}/{solver}" if solver else method]
            lists = {n: _values(config, method, loss, solver, n, dim) for n in names}
            if method == "knn" and "distance" not in lists["knn_weights"]:
                del lists["temperature"]
            if loss:
                lists["loss"] = [loss]
            if solver:
                lists["solver"] = [solver]
            out["/".join(part for part in (method, loss, solver) if part)] = lists
    return out


def _variants(config: Config, method: str) -> list[tuple[str, str]]:
    """Losses and solvers of a method, '' where it has none of its own. (AdamW is '': it was there first.)

    The default of a number may depend on the loss, so the losses are apart. TURN has losses of its own.
    """
    if method in ("turn", "knn", "zeroshot"):
        return [("", "")]
    losses = once(config.loss or ("ce",), "--loss")
    solvers = once(config.solver, "--solver") if method == "lp" else ("adamw",)
    if "lbfgs" in solvers and losses != ("ce",):
        raise UsageError("--solver lbfgs with --loss gce", "--loss ce: L-BFGS solves logistic regression")
    return [(loss, "" if s == "adamw" else s) for loss, s in itertools.product(losses, solvers)]


def _check_search(config: Config) -> None:
    if not config.search:
        return
    for method in config.method:
        if not method_named(method).fit:
            raise UsageError(
                f"--search with --method {method}",
                "methods whose heads are fitted to features alone: lp, mlp, nmtune",
                "ask for it in a call of its own; its lists are tried one by one",
            )
    if not 0 < config.search_holdout < 1:
        raise UsageError(f"--search-holdout has {config.search_holdout:g}", "above 0 and below 1")


def once(values: tuple[Any, ...], flag: str) -> tuple[Any, ...]:
    """The values, none of them twice; raises ``UsageError``."""
    if not values:
        raise UsageError(f"{flag} is empty", "at least one value")
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
        raise UsageError(f"{flag} has {twice[0]} twice", "each value once")
    return values


_INF = float("inf")
# Smallest value, largest value, whether the smallest itself is allowed.
_RANGES: Mapping[str, tuple[float, float, bool]] = {
    "epochs": (1, 1e6, True),
    "probe_epochs": (1, 1e6, True),
    "fft_epochs": (1, 1e6, True),
    "batch_size": (1, 1e9, True),
    "fft_batch_size": (1, 1e9, True),
    "lr": (0, _INF, False),
    "probe_lr": (0, _INF, False),
    "fft_lr": (0, _INF, False),
    "weight_decay": (0, _INF, True),
    "probe_weight_decay": (0, _INF, True),
    "fft_weight_decay": (0, _INF, True),
    "C": (0, _INF, False),
    "max_iter": (1, 1e6, True),
    "k": (1, 1e6, True),
    "temperature": (0, _INF, False),
    "q": (0, 1, False),
    "tau": (0, 1, True),
    "weight_mse": (0, _INF, True),
    "weight_cov": (0, _INF, True),
    "weight_svd": (0, _INF, True),
    "svd_topk": (1, 1e9, True),
    "width": (1, 1e4, True),
    "layers": (1, 100, True),
}


def _values(config: Config, method: str, loss: str, solver: str, name: str, dim: int) -> list[Any]:
    given = getattr(config, name)
    if given is None and config.search and name in SEARCHED[solver]:
        given = grid(method, name)
    if given is None:
        given = default(method, loss, config.preset, name, dim)
    flag = "--" + name.replace("_", "-")
    values = once(given if isinstance(given, tuple) else (given,), flag)
    low, high, closed = _RANGES.get(name, (0, 0, True))
    for value in values if name in _RANGES else ():
        if not (low <= value <= high) or (value == low and not closed):
            wanted = f"{'at least' if closed else 'above'} {low:g}" + (f" and at most {high:g}" if high < 1e6 else "")
            raise UsageError(f"{flag} has {value:g}", wanted)
    return list(values)
