"""From settings to runs: which numbers each method uses, and the product of the lists that were asked.

A run is one head with one seed, one share of the training rows and one set of labels. Nothing is read or trained here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from nmtool.errors import UsageError
from nmtool.tune.config import Config
from nmtool.tune.defaults import default
from nmtool.tune.method import method_named

_PROBE = ("loss", "epochs", "batch_size", "lr", "weight_decay", "schedule", "scale", "q")
_SHAPE = ("width", "layers", "activation", "batch_norm", "residual")
_TERMS = ("weight_mse", "weight_cov", "weight_svd", "svd_topk", "mse_reduce")
_TURN = (
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
AXES: Mapping[str, tuple[str, ...]] = {
    "lp": _PROBE,
    "mlp": _PROBE + _SHAPE,
    "nmtune": _PROBE + _SHAPE + _TERMS,
    "turn": _TURN_PROBE + _TURN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How a head is trained on features. AdamW (0.9, 0.999, 1e-8), decoupled decay on every parameter."""

    loss: str
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    schedule: str
    scale: str
    q: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The transformation of ``mlp`` and ``nmtune``: D → width * D → D, counted in linear layers (NMTune Fig. 17)."""

    width: int
    layers: int
    activation: str
    batch_norm: bool
    residual: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """NMTune's regularisers: weights of Eq. 3, 4 and 5, and how Eq. 3 and 5 are read."""

    weight_mse: float
    weight_cov: float
    weight_svd: float
    svd_topk: int
    mse_reduce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetune:
    """TURN's second step (TURN 4.1.2)."""

    tau: float
    cleanse: str
    epochs: int
    lr: float
    weight_decay: float
    batch_size: int
    optimizer: str
    loss: str
    batch_norm: str
    augment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One head to train.

    Attributes:
        index: its number in the artifact.
        method: the method's name.
        seed: of initialisation, order of rows, and the choice of a share of them.
        fraction: share of the training rows, in (0, 1].
        nested: whether shares of one seed lie inside each other.
        labels: which labels artifact, counted from 0; 0 too where none is given.
        probe: how it trains on features.
        shape, terms, finetune: what ``mlp``, ``nmtune`` and ``turn`` add; else None.
    """

    index: int
    method: str
    seed: int
    fraction: float
    labels: int
    probe: Probe
    shape: Shape | None = None
    terms: Terms | None = None
    finetune: Finetune | None = None
    nested: bool = True

    def stack_key(self) -> tuple[object, ...]:
        """Runs with equal keys, and equally many training rows, can train as one stack."""
        p, t = self.probe, self.terms
        terms = None if t is None else (t.svd_topk, t.mse_reduce)
        return (self.method, p.loss, p.epochs, p.batch_size, p.schedule, p.scale, p.q, self.shape, terms)

    def columns(self) -> dict[str, Any]:
        """Every setting of the run by name, None where its method has no such thing; for tables."""
        p, f = self.probe, self.finetune
        row: dict[str, Any] = {"method": self.method, "seed": self.seed, "fraction": self.fraction}
        row |= {k: getattr(p, k) for k in _PROBE}
        if f is not None:
            row |= {"loss": f.loss, "epochs": f.epochs, "lr": f.lr, "weight_decay": f.weight_decay}
            row |= {"batch_size": f.batch_size, "schedule": "constant"}
        probe = {k: getattr(p, k) for k in ("loss", "epochs", "lr", "weight_decay", "batch_size", "schedule")}
        row |= {f"probe_{k}": v if f is not None else None for k, v in probe.items()}
        row |= {k: getattr(f, k, None) for k in ("tau", "cleanse", "augment", "optimizer")}
        row["fft_batch_norm"] = f.batch_norm if f is not None else None
        row |= {k: getattr(self.shape, k, None) for k in _SHAPE}
        row |= {k: getattr(self.terms, k, None) for k in _TERMS}
        row["optimizer"] = row["optimizer"] or "adamw"
        return row

    def to_json(self) -> dict[str, Any]:
        """All of it, nested, as plain JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    def words(self) -> str:
        """The run in a few words, for messages."""
        p = self.probe
        text = f"{self.method}, {p.loss}, seed {self.seed}, lr {p.lr:g}, decay {p.weight_decay:g}"
        return text + (f", fraction {self.fraction:g}" if self.fraction != 1 else "")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return value


def from_json(body: Mapping[str, Any]) -> Run:
    """The run that ``to_json`` wrote."""
    parts: dict[str, Any] = {"probe": Probe, "shape": Shape, "terms": Terms, "finetune": Finetune}
    return Run(**{k: parts[k](**v) if k in parts and v is not None else v for k, v in body.items()})


def axes(config: Config, dim: int) -> dict[str, dict[str, list[Any]]]:
    """The values of every setting in use, unset ones filled in, by ``METHOD/LOSS``: this is what the key holds.

    Args:
        config: what was asked.
        dim: of the features: a default may depend on it.

    Raises:
        UsageError: an unknown method, a number out of range, or one that stands twice.
    """
    out: dict[str, dict[str, list[Any]]] = {}
    for method in _once(config.method, "--method"):
        method_named(method)
        # The default of a number may depend on the loss, so the losses are apart. TURN has losses of its own.
        for loss in [""] if method == "turn" else _once(config.loss, "--loss"):
            lists = {name: _values(config, method, loss, name, dim) for name in AXES[method]}
            out[f"{method}/{loss}" if loss else method] = {**lists, "loss": [loss]} if loss else lists
    return out


def seeds(config: Config) -> tuple[int, ...]:
    """``--seeds``, or the one ``--seed``."""
    chosen = _once(config.seeds if config.seeds is not None else (config.seed,), "--seeds")
    for seed in chosen:
        if not 0 <= seed < 2**63:
            raise UsageError(f"--seeds has {seed}", "whole numbers from 0 to 2**63 - 1")
    return chosen


def expand(config: Config, overlays: int, dim: int) -> tuple[Run, ...]:
    """Every run: the product of methods, each method's own lists, labels, fractions and seeds, in that order.

    Args:
        config: what was asked.
        overlays: number of labels artifacts; 0: the data's own labels.
        dim: of the features.
    """
    fractions = _once(config.fraction, "--fraction")
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise UsageError(f"--fraction has {fraction:g}", "shares above 0 and at most 1")
    runs: list[Run] = []
    for name, lists in axes(config, dim).items():
        method = name.split("/")[0]
        for values in itertools.product(*lists.values()):
            parts = _parts(method, dict(zip(lists, values, strict=True)))
            for labels, fraction, seed in itertools.product(range(max(1, overlays)), fractions, seeds(config)):
                runs.append(
                    Run(
                        index=len(runs),
                        method=method,
                        seed=seed,
                        fraction=fraction,
                        nested=config.nested_fractions,
                        labels=labels,
                        **parts,
                    )
                )
    return tuple(runs)


def _parts(method: str, v: dict[str, Any]) -> dict[str, Any]:
    if method == "turn":
        probe = {k: v[f"probe_{k}"] if f"probe_{k}" in v else v[k] for k in _PROBE}
        return {
            "probe": Probe(**probe),
            "finetune": Finetune(**{k.removeprefix("fft_"): v[k] for k in _TURN}),
        }
    parts: dict[str, Any] = {"probe": Probe(**{k: v[k] for k in _PROBE})}
    if method in ("mlp", "nmtune"):
        parts["shape"] = Shape(**{k: v[k] for k in _SHAPE})
    if method == "nmtune":
        parts["terms"] = Terms(**{k: v[k] for k in _TERMS})
    return parts


def _once(values: tuple[Any, ...], flag: str) -> tuple[Any, ...]:
    if not values:
        raise UsageError(f"{flag} is empty", "at least one value")
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
        raise UsageError(f"{flag} has {twice[0]} twice", "each value once")
    return values


# Smallest value, largest value, whether the smallest itself is allowed.
_RANGES: Mapping[str, tuple[float, float, bool]] = {
    "epochs": (1, 1e6, True),
    "probe_epochs": (1, 1e6, True),
    "fft_epochs": (1, 1e6, True),
    "batch_size": (1, 1e9, True),
    "fft_batch_size": (1, 1e9, True),
    "lr": (0, float("inf"), False),
    "probe_lr": (0, float("inf"), False),
    "fft_lr": (0, float("inf"), False),
    "weight_decay": (0, float("inf"), True),
    "probe_weight_decay": (0, float("inf"), True),
    "fft_weight_decay": (0, float("inf"), True),
    "q": (0, 1, False),
    "tau": (0, 1, True),
    "weight_mse": (0, float("inf"), True),
    "weight_cov": (0, float("inf"), True),
    "weight_svd": (0, float("inf"), True),
    "svd_topk": (1, 1e9, True),
    "width": (1, 1e4, True),
    "layers": (1, 100, True),
}


def _values(config: Config, method: str, loss: str, name: str, dim: int) -> list[Any]:
    given = getattr(config, name)
    if given is None:
        given = default(method, loss, config.preset, name, dim)
    values = _once(given if isinstance(given, tuple) else (given,), "--" + name.replace("_", "-"))
    low, high, closed = _RANGES.get(name, (0, 0, True))
    for value in values if name in _RANGES else ():
        if not (low <= value <= high) or (value == low and not closed):
            wanted = f"{'at least' if closed else 'above'} {low:g}" + (f" and at most {high:g}" if high < 1e6 else "")
            raise UsageError(f"--{name.replace('_', '-')} has {value:g}", wanted)
    return list(values)
