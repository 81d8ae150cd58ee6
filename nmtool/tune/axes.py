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
# What fine-tuning came to have later, under TURN only where it is other than this: so older keys still hold.
TURN_LATER: Mapping[str, Any] = {"fft_schedule": "constant", "amp": "none", "accumulate": 1}
ADAPTERS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets")
EARLY = ("elr_beta", "elr_lambda")
BATCH_TERMS = ("weight_cov", "weight_svd", "svd_topk")
FFT = (
    "fft_epochs",
    "fft_lr",
    "fft_weight_decay",
    "fft_batch_size",
    "fft_optimizer",
    "fft_schedule",
    "fft_batch_norm",
    "augment",
    "scale",
    *BATCH_TERMS,
    "amp",
    "accumulate",
)
LBFGS = ("C", "max_iter")
SEMI = ("warmup", "ramp", "lambda_u", "sharpen", "mixup", "warmup_penalty", "optimizer")
CLEANSED = ("cleanse", "tau", "probe_loss", "probe_epochs", "probe_lr", "probe_weight_decay")
_SEMI_PROBE = tuple(name for name in PROBE if name not in ("loss", "q"))
NEIGHBOURS = ("k", "knn_weights", "temperature")
# By method, and by method and solver where that is another than AdamW.
AXES: Mapping[str, tuple[str, ...]] = {
    "lp": PROBE,
    "lp/lbfgs": ("scale", *LBFGS),
    "elr": PROBE,
    "dividemix": (*_SEMI_PROBE, *SEMI, "p_threshold"),
    "unicon": _SEMI_PROBE + SEMI,
    "mlp": PROBE + SHAPE,
    "nmtune": PROBE + SHAPE + TERMS,
    "turn": _TURN_PROBE + TURN,
    "turn/lora": _TURN_PROBE + TURN + ADAPTERS,
    **{f"fft/{loss}": FFT + more for loss, more in (("ce", ()), ("gce", ("q",)), ("elr", EARLY))},
    **{f"lora/{loss}": FFT + more + ADAPTERS for loss, more in (("ce", ()), ("gce", ("q",)), ("elr", EARLY))},
    "knn": ("scale", *NEIGHBOURS),
}
_SEMI_METHODS = ("dividemix", "unicon")
# Methods that may be trained on what a cleansing leaves, or on views.
ON_ROWS = ("lp", "mlp", "nmtune")
WHITE_BOX = ("fft", "lora")
# What --search looks for.
SEARCHED: Mapping[str, tuple[str, ...]] = {"lbfgs": ("C",), "": ("lr", "weight_decay")}


def axes(config: Config, dim: int, column: str = "") -> dict[str, dict[str, list[Any]]]:
    """The values of every setting in use, unset ones filled in, by ``METHOD[/LOSS[/SOLVER]]``.

    Args:
        config: what was asked.
        dim: of the features: a default may depend on it.
        column: of TURN's Table 8 that the encoder belongs to, as ``backbones.column_of`` says.

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
            names = AXES.get(f"{method}/{solver or loss}") or AXES[method]
            lists = {n: _values(config, method, loss, solver, n, dim, column) for n in names}
            if method == "turn":
                lists |= _later(config, lists, solver, dim, column)
            if loss and method in WHITE_BOX:
                _check_parts(config, method, lists)
            if method == "knn" and "distance" not in lists["knn_weights"]:
                del lists["temperature"]
            if loss:
                lists["loss"] = [loss]
            # What a loss does not know tells no runs apart; ce keeps the first value, as older keys have it.
            if loss == "mse":
                lists.pop("q", None)
            elif loss == "ce" and "q" in lists:
                lists["q"] = lists["q"][:1]
            # (fft and lora have their own list by loss)
            if loss == "elr" and method not in WHITE_BOX:
                del lists["q"]
                lists |= {n: _values(config, method, loss, solver, n, dim) for n in EARLY}
            if solver and method != "turn":
                lists["solver"] = [solver]
            name = "/".join(part for part in (method, loss, solver) if part)
            if method in ON_ROWS and not solver:
                lists |= _precision(config, method)
                out |= _by_cleansing(config, method, name, lists, dim)
            else:
                out[name] = lists
    return out


def _variants(config: Config, method: str) -> list[tuple[str, str]]:
    """Losses and solvers of a method, '' where it has none of its own. (AdamW is '': it was there first.)

    The default of a number may depend on the loss, so the losses are apart. TURN has losses of its own.
    """
    if method == "turn":
        return [("", "" if how == "full" else how) for how in once(config.tune_backbone, "--tune-backbone")]
    if method in ("knn", "zeroshot"):
        return [("", "")]
    if method in _SEMI_METHODS:
        return [("ce", "")]
    if method == "elr":
        return [("elr", "")]
    losses = once(config.loss or ("ce",), "--loss")
    if method in WHITE_BOX:
        return [(loss, "") for loss in losses]
    solvers = once(config.solver, "--solver") if method == "lp" else ("adamw",)
    if "lbfgs" in solvers and losses != ("ce",):
        other = next(loss for loss in losses if loss != "ce")
        raise UsageError(f"--solver lbfgs with --loss {other}", "--loss ce: L-BFGS solves logistic regression")
    if "lbfgs" in solvers and (config.use_views or set(config.cleanse or ()) - {"none"}):
        raise UsageError("--solver lbfgs with --use-views or --cleanse", "--solver adamw")
    if config.use_views and "elr" in losses:
        raise UsageError("--use-views with --loss elr", "--loss ce or gce: ELR remembers one prediction of a row")
    return [(loss, "" if s == "adamw" else s) for loss, s in itertools.product(losses, solvers)]


def _precision(config: Config, method: str) -> dict[str, list[Any]]:
    """That heads are trained in mixed precision, where they are: so older keys still hold."""
    if config.amp == "fp16":
        raise UsageError(
            f"--amp fp16 with --method {method}", "none or bf16 for heads on features", "fft, lora and turn take fp16"
        )
    return {"amp": [config.amp]} if config.amp != "none" else {}


def _by_cleansing(
    config: Config, method: str, name: str, lists: dict[str, list[Any]], dim: int
) -> dict[str, dict[str, list[Any]]]:
    """Lists with and without cleansing, apart: what is not cleansed has no threshold that would tell it apart."""
    if config.use_views:
        lists = {**lists, "use_views": [True]}
    when = _values(config, method, "", "", "cleanse", dim)
    out = {name: lists} if "none" in when else {}
    when = [word for word in when if word != "none"]
    if when:
        more = {n: _values(config, method, "", "", n, dim) for n in CLEANSED if n != "cleanse"}
        q = list(once(config.q, "--q")) if "gce" in more["probe_loss"] else [0.0]
        out[f"{name}/cleansed"] = {**lists, "cleanse": when, **more, "probe_q": q}
    return out


def _later(config: Config, lists: Mapping[str, list[Any]], solver: str, dim: int, column: str) -> dict[str, list[Any]]:
    """What TURN came to have later, where it is other than it was."""
    later = {n: _values(config, "turn", "", solver, n, dim, column) for n in TURN_LATER}
    _check_parts(config, "turn", {**lists, **later})
    return {n: v for n, v in later.items() if v != [TURN_LATER[n]]}


def _check_parts(config: Config, method: str, lists: Mapping[str, list[Any]]) -> None:
    """Parts of a step can't have the terms of a whole one."""
    if config.accumulate > min(lists["fft_batch_size"]):
        raise UsageError(
            f"--accumulate {config.accumulate} with --fft-batch-size {min(lists['fft_batch_size'])}",
            "at least one image a part",
        )
    if config.accumulate > 1 and any(value for n in ("weight_cov", "weight_svd") for value in lists.get(n, ())):
        raise UsageError(
            f"--accumulate {config.accumulate} with NMTune's terms ({method})",
            "--accumulate 1: covariance and singular values are of all images of a step at once",
        )


def _check_search(config: Config) -> None:
    if not config.search:
        return
    if set(config.cleanse or ()) - {"none"} and set(config.method) & set(ON_ROWS):
        raise UsageError(
            "--search with --cleanse",
            "one of them",
            "search first, then give what was found by --lr and --weight-decay",
        )
    for method in config.method:
        if not method_named(method).fit:
            raise UsageError(
                f"--search with --method {method}",
                "methods whose heads are fitted to features alone: lp, elr, mlp, nmtune, dividemix, unicon",
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
    "warmup": (0, 1, True),
    "ramp": (0, 1, True),
    "p_threshold": (0, 1, True),
    "lambda_u": (0, _INF, True),
    "sharpen": (0, _INF, False),
    "mixup": (0, _INF, False),
    "C": (0, _INF, False),
    "max_iter": (1, 1e6, True),
    "k": (1, 1e6, True),
    "temperature": (0, _INF, False),
    "q": (0, 1, False),
    "accumulate": (1, 1e6, True),
    "elr_beta": (0, 1, True),
    "elr_lambda": (0, _INF, True),
    "lora_rank": (1, 1e4, True),
    "lora_alpha": (0, _INF, False),
    "lora_dropout": (0, 0.95, True),
    "tau": (0, 1, True),
    "weight_mse": (0, _INF, True),
    "weight_cov": (0, _INF, True),
    "weight_svd": (0, _INF, True),
    "svd_topk": (1, 1e9, True),
    "width": (1, 1e4, True),
    "layers": (1, 100, True),
}


def _values(config: Config, method: str, loss: str, solver: str, name: str, dim: int, column: str = "") -> list[Any]:
    given = getattr(config, name)
    if given is None and config.search and name in SEARCHED[solver]:
        given = grid(method, name)
    if given is None:
        given = default(method, loss, config.preset, name, dim, column, solver == "lora")
    flag = "--" + name.replace("_", "-")
    values = once(given if isinstance(given, tuple) else (given,), flag)
    low, high, closed = _RANGES.get(name, (0, 0, True))
    for value in values if name in _RANGES else ():
        if value is None:  # settled later, by the labels
            continue
        if name == "elr_beta" and value == 1:
            raise UsageError("--elr-beta has 1", "from 0 to below 1: the targets would never learn")
        if not (low <= value <= high) or (value == low and not closed):
            wanted = f"{'at least' if closed else 'above'} {low:g}" + (f" and at most {high:g}" if high < 1e6 else "")
            raise UsageError(f"{flag} has {value:g}", wanted)
    return list(values)
