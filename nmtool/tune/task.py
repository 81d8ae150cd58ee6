"""What the data ask for: classes or real numbers, the protocol of images or of texts, and the measure that counts.

Settings left unset are filled in here where they follow from the features, so that a call that spells them out has the
same key. Methods, losses and labels that are for classes alone are refused for real numbers, and the other way round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nmtool.errors import UsageError
from nmtool.tune import defaults
from nmtool.tune.config import HEAD_LOSSES, METRICS, REAL_LOSS, Config
from nmtool.tune.method import METHODS, method_named
from nmtool.tune.prompts import templates

if TYPE_CHECKING:
    from nmtool.tune.inputs import Inputs

# Measures of real numbers; the others are of classes.
REAL_METRICS = ("pearson", "spearman")


def settled(config: Config, found: Inputs) -> Config:
    """The settings with loss, epochs and schedule as the features ask for, where they are unset.

    Raises:
        UsageError: a method, loss, solver, labels or measure that is not for such labels.
    """
    real = found.train.real
    (_check_real if real else _check_classes)(config, found)
    given: dict[str, Any] = {"loss": config.loss or ((REAL_LOSS,) if real else (HEAD_LOSSES[0],))}
    if config.preset == "paper" and found.train.encoder.get("tower") == "text":
        # --probe-epochs are TURN's, and it has no texts
        given |= {"epochs": config.epochs or (defaults.TEXT_EPOCHS,)}
        given |= {"schedule": config.schedule or (defaults.TEXT_SCHEDULE,)}
    if "zeroshot" in config.method:
        given["template"] = templates(config.template)
    return replace(config, **given)


def _check_real(config: Config, found: Inputs) -> None:
    what = f"{found.train.shown}, whose labels are real numbers"
    for name in config.method:
        if not method_named(name).real:
            raise UsageError(
                f"--method {name} on {what}",
                "a method with a head of one output: " + ", ".join(m.name for m in METHODS.values() if m.real),
            )
    if config.loss is not None and config.loss != (REAL_LOSS,):
        raise UsageError(f"--loss {','.join(config.loss)} on {what}", f"--loss {REAL_LOSS}: the others are for classes")
    if config.solver != ("adamw",):
        raise UsageError(f"--solver {','.join(config.solver)} on {what}", "--solver adamw: L-BFGS is for classes")
    if set(config.cleanse or ()) - {"none"}:
        raise UsageError(f"--cleanse {','.join(config.cleanse or ())} on {what}", "--cleanse none: it asks for classes")
    if config.labels:
        raise UsageError(f"--labels on {what}", "its own labels: inject-noise draws classes")
    if config.metric is not None and config.metric not in REAL_METRICS:
        raise UsageError(f"--metric {config.metric} on {what}", "one of " + ", ".join(REAL_METRICS))


def _check_classes(config: Config, found: Inputs) -> None:
    what = f"{found.train.shown}, whose labels are classes"
    if config.loss is not None and REAL_LOSS in config.loss:
        raise UsageError(
            f"--loss {REAL_LOSS} on {what}",
            "one of " + ", ".join(HEAD_LOSSES) + f": {REAL_LOSS} is for numbers",
            "whole numbers are taken for classes: write scores with a decimal point (4.0) in a table, "
            "or as floating y in arrays",
        )
    if config.metric in REAL_METRICS:
        wanted = ", ".join(name for name in METRICS if name not in REAL_METRICS)
        raise UsageError(f"--metric {config.metric} on {what}", f"one of {wanted}")


def metric_of(config: Config, found: Inputs) -> str:
    """The measure that counts: the one asked for, else what the papers report on the suite, else accuracy (Pearson)."""
    plain = REAL_METRICS[0] if found.train.real else "accuracy"
    if config.metric is not None:
        return config.metric
    data = str(found.train.artifact.manifest.origin.get("data") or "")
    if not data.startswith("suite:"):
        return plain
    from nmtool.data.suites.metric import metric_of_suite

    known = metric_of_suite(data.removeprefix("suite:")).replace(" ", "_")
    return known if known in METRICS and (known in REAL_METRICS) == found.train.real else plain
