"""From settings to runs: the product of the lists that were asked, and under ``--search`` the candidates of each run.

A run is one head with one seed, one share of the training rows and one set of labels. Nothing is read or trained here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from nmtool.errors import UsageError
from nmtool.tune.axes import (
    ADAPTERS,
    BATCH_TERMS,
    EARLY,
    LBFGS,
    NEIGHBOURS,
    PROBE,
    SEARCHED,
    SEMI,
    SHAPE,
    TERMS,
    TURN,
    TURN_LATER,
    WHITE_BOX,
    axes,
    once,
)
from nmtool.tune.config import Config
from nmtool.tune.defaults import PROBE_SCALE
from nmtool.tune.method import method_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How a head is trained on features. AdamW (0.9, 0.999, 1e-8), decoupled decay on every parameter.

    What takes no steps (L-BFGS, k nearest neighbours) has one epoch, and zeros for what it has not.
    """

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
class Logistic:
    """Logistic regression by L-BFGS: scikit-learn's ``C`` (inverse of the L2 penalty), and its most iterations."""

    C: float
    max_iter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """k nearest neighbours by cosine: how many, and how they are weighed (``temperature``: see ``knn``)."""

    k: int
    knn_weights: str
    temperature: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Early:
    """Early-learning regularisation: memory of the targets in [0, 1), and the regulariser's weight."""

    elr_beta: float
    elr_lambda: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Semi:
    """What ``dividemix`` and ``unicon`` add: see ``semi``. ``p_threshold`` is DivideMix's alone.

    ``lambda_u`` None and ``warmup_penalty`` auto are settled by the labels' type of noise.
    """

    warmup: float
    ramp: float
    lambda_u: float | None
    sharpen: float
    mixup: float
    warmup_penalty: str
    optimizer: str
    p_threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleansing:
    """Training on what TURN's mixtures call clean: when, above which posterior, after which linear probe."""

    cleanse: str
    tau: float
    probe: Probe


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
class WhiteBox:
    """What fine-tuning a backbone may have beside ``Finetune``; TURN as it was has none of it.

    Attributes:
        schedule: learning rate by step.
        amp: none, bf16 or fp16.
        accumulate: parts in which a step's images go through the backbone.
        weight_cov, weight_svd, svd_topk: NMTune's terms on the encoder's output; weight 0: none.
        elr_beta, elr_lambda: of the loss ``elr``; else None.
        lora_rank, lora_alpha, lora_dropout, lora_targets: of adapters; rank 0: all weights learn.
    """

    schedule: str = "constant"
    amp: str = "none"
    accumulate: int = 1
    weight_cov: float = 0.0
    weight_svd: float = 0.0
    svd_topk: int = 1
    elr_beta: float | None = None
    elr_lambda: float | None = None
    lora_rank: int = 0
    lora_alpha: int = 0
    lora_dropout: float = 0.0
    lora_targets: str = ""


# Fields of a run that came after the first version, and are left out of its JSON where they are not used.
_LATE = frozenset(
    {"logistic", "neighbours", "searched", "holdout"}
    | {"early", "semi", "cleansing", "views", "white_box", "templates", "amp"}
)


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
        logistic, neighbours: what ``lp --solver lbfgs`` and ``knn`` have instead of steps; else None.
        searched: the share that ``--search`` held out to find its rate and decay, or its C; 0: they were given.
        templates: prompts of ``zeroshot``; else empty.
        holdout: a candidate of a search: the share of its training rows that it is not trained but judged on.
        early, semi, cleansing: what the loss ``elr``, ``dividemix`` and ``unicon``, and ``--cleanse`` add; else None.
        views: train on two augmented views of each row.
        white_box: what fine-tuning has beside ``finetune``; None: nothing.
        amp: ``bf16`` where a head on features is trained in mixed precision; else empty.
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
    logistic: Logistic | None = None
    neighbours: Neighbours | None = None
    searched: float = 0.0
    holdout: float = 0.0
    early: Early | None = None
    semi: Semi | None = None
    cleansing: Cleansing | None = None
    views: bool = False
    white_box: WhiteBox | None = None
    templates: tuple[str, ...] = ()
    amp: str = ""

    @property
    def probed(self) -> bool:
        """Whether a head is trained on features first, or alone."""
        return self.method not in WHITE_BOX

    @property
    def solver(self) -> str:
        """``lbfgs``; '' for AdamW and where nothing is solved."""
        return "lbfgs" if self.logistic is not None else ""

    def found(self) -> dict[str, Any]:
        """The settings that a search looks for, and their values here."""
        return {name: getattr(self.logistic or self.probe, name) for name in SEARCHED[self.solver]}

    def at(self, values: Mapping[str, Any]) -> Run:
        """The same run with other values of what a search looks for."""
        if self.logistic is not None:
            return replace(self, logistic=replace(self.logistic, **values))
        return replace(self, probe=replace(self.probe, **values))

    def stack_key(self) -> tuple[object, ...]:
        """Runs with equal keys, and equally many training rows, can train as one stack."""
        p, t = self.probe, self.terms
        terms = None if t is None else (t.svd_topk, t.mse_reduce)
        probe = (p.loss, p.epochs, p.batch_size, p.schedule, p.scale, p.q)
        added = (self.early, self.semi, self.cleansing, self.views, self.templates, self.amp)
        return (self.method, self.solver, *probe, self.shape, terms, self.holdout, *added)

    def columns(self) -> dict[str, Any]:
        """Every setting of the run by name, None where its method has no such thing; for tables."""
        p, f = self.probe, self.finetune
        row: dict[str, Any] = {"method": self.method, "seed": self.seed, "fraction": self.fraction}
        row |= {k: getattr(p, k) for k in PROBE}
        if f is not None:
            row |= {"loss": f.loss, "epochs": f.epochs, "lr": f.lr, "weight_decay": f.weight_decay}
            row |= {"batch_size": f.batch_size, "schedule": "constant"}
        probe = {k: getattr(p, k) for k in ("loss", "epochs", "lr", "weight_decay", "batch_size", "schedule")}
        row |= {f"probe_{k}": v if f is not None and self.probed else None for k, v in probe.items()}
        row |= {k: getattr(f, k, None) for k in ("tau", "cleanse", "augment", "optimizer")}
        row |= self._added()
        row["fft_batch_norm"] = f.batch_norm if f is not None else None
        row |= {k: getattr(self.shape, k, None) for k in SHAPE}
        row |= {k: getattr(self.terms, k, None) for k in TERMS}
        row["optimizer"] = row["optimizer"] or "adamw"
        if p.loss == "mse":
            row["q"] = None
        if self.logistic is not None or self.neighbours is not None or self.templates:
            row |= {k: None for k in PROBE if k not in ("loss", "scale")}
            row["optimizer"] = "lbfgs" if self.logistic is not None else None
            row |= _plain(self.logistic or self.neighbours) or {"templates": " | ".join(self.templates)}
        if not self.probed:
            row |= {"tau": None, "cleanse": None}
            row["q"] = self.probe.q or None
        if self.white_box is not None:
            more = _plain(self.white_box)
            row |= {k: v for k, v in more.items() if self.white_box.lora_rank or not k.startswith("lora_")}
        if self.searched:
            # Apart from what was asked: runs that differ only in what their searches found are one line of a report.
            row |= {"search_holdout": self.searched} | {f"found_{k}": v for k, v in self.found().items()}
            row |= dict.fromkeys(self.found())
        return row

    def _added(self) -> dict[str, Any]:
        """Columns of what came later, where the run has it: tables of other runs stay as they were."""
        row: dict[str, Any] = {}
        if self.early is not None:
            row |= {"q": None, **_plain(self.early)}
        if self.semi is not None:
            row |= {"q": None, "loss": None, **_plain(self.semi)}
        if self.cleansing is not None:
            row |= {"tau": self.cleansing.tau, "cleanse": self.cleansing.cleanse}
            row |= {f"probe_{k}": getattr(self.cleansing.probe, k) for k in PROBE if k not in ("q", "scale")}
        if self.views:
            row["use_views"] = True
        if self.amp:
            row["amp"] = self.amp
        return row

    def to_json(self) -> dict[str, Any]:
        """All of it, nested, as plain JSON; what came later and is not used is left out."""
        body = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return {k: v for k, v in body.items() if v or k not in _LATE}

    def words(self) -> str:
        """The run in a few words, for messages."""
        p, nearest = self.probe, self.neighbours
        if self.templates:
            what = f"{len(self.templates)} templates, seed {self.seed}"
        elif nearest is not None:
            what = f"k {nearest.k}, {nearest.knn_weights}, seed {self.seed}"
        elif self.logistic is not None:
            what = f"lbfgs, seed {self.seed}, C {self.logistic.C:g}"
        elif self.finetune is not None and not self.probed:
            f = self.finetune
            what = f"{f.loss}, seed {self.seed}, lr {f.lr:g}, decay {f.weight_decay:g}"
        else:
            what = f"{p.loss}, seed {self.seed}, lr {p.lr:g}, decay {p.weight_decay:g}"
        return f"{self.method}, {what}" + (f", fraction {self.fraction:g}" if self.fraction != 1 else "")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return list(value) if isinstance(value, tuple) else value


def from_json(body: Mapping[str, Any]) -> Run:
    """The run that ``to_json`` wrote."""
    parts: dict[str, Any] = {
        "probe": Probe,
        "shape": Shape,
        "terms": Terms,
        "finetune": Finetune,
        "logistic": Logistic,
        "neighbours": Neighbours,
        "early": Early,
        "semi": Semi,
        "cleansing": lambda probe, **v: Cleansing(probe=Probe(**probe), **v),
        "white_box": WhiteBox,
    }
    given = {k: parts[k](**v) if k in parts and v is not None else v for k, v in body.items()}
    return Run(**given | {"templates": tuple(body.get("templates", ()))})


def seeds(config: Config) -> tuple[int, ...]:
    """``--seeds``, or the one ``--seed``."""
    chosen = once(config.seeds if config.seeds is not None else (config.seed,), "--seeds")
    for seed in chosen:
        if not 0 <= seed < 2**63:
            raise UsageError(f"--seeds has {seed}", "whole numbers from 0 to 2**63 - 1")
    return chosen


def seeds_of(config: Config, method: str) -> tuple[int, ...]:
    """``seeds``; of a method that draws nothing the first alone: runs of the others would be equal."""
    return seeds(config)[: None if method_named(method).drawn else 1]


def expand(config: Config, overlays: int, dim: int, column: str = "") -> tuple[Run, ...]:
    """Every run: the product of methods, each method's own lists, labels, fractions and seeds, in that order.

    A method that draws nothing has one seed, the first.
    Under ``--search`` the lists that are searched are no product: a run has their first values until ``settle``.

    Args:
        config: what was asked.
        overlays: number of labels artifacts; 0: the data's own labels.
        dim: of the features.
        column: of TURN's Table 8 that the encoder belongs to.
    """
    fractions = once(config.fraction, "--fraction")
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise UsageError(f"--fraction has {fraction:g}", "shares above 0 and at most 1")
    runs: list[Run] = []
    draws = range(max(1, overlays))
    for name, lists in axes(config, dim, column).items():
        method = name.split("/")[0]
        looked = SEARCHED["lbfgs" if "solver" in lists else ""] if config.search else ()
        for values in itertools.product(*(v[:1] if k in looked else v for k, v in lists.items())):
            parts = _parts(method, dict(zip(lists, values, strict=True)))
            for labels, fraction, seed in itertools.product(draws, fractions, seeds_of(config, method)):
                runs.append(
                    Run(
                        index=len(runs),
                        method=method,
                        seed=seed,
                        fraction=fraction,
                        nested=config.nested_fractions,
                        labels=labels,
                        searched=config.search_holdout if config.search else 0.0,
                        **parts,
                    )
                )
    return tuple(runs)


def candidates(config: Config, runs: tuple[Run, ...], dim: int) -> dict[int, tuple[Run, ...]]:
    """For each run of a search, by its index, a run for every point of the grid; numbered on from the last run."""
    grids = {}
    for name, lists in axes(config, dim).items():
        method, loss = name.split("/")[:2]
        solver = "lbfgs" if "solver" in lists else ""
        grids[method, loss, solver] = [dict(zip(SEARCHED[solver], v, strict=True)) for v in _grid(lists, solver)]
    number = itertools.count(len(runs))
    return {
        run.index: tuple(
            replace(run.at(point), index=next(number), searched=0.0, holdout=run.searched)
            for point in grids[run.method, run.probe.loss, run.solver]
        )
        for run in runs
    }


def _grid(lists: Mapping[str, list[Any]], solver: str) -> itertools.product[tuple[Any, ...]]:
    return itertools.product(*(sorted(lists[name]) for name in SEARCHED[solver]))


_NO_STEPS: Mapping[str, Any] = {"epochs": 1, "batch_size": 0, "lr": 0.0, "weight_decay": 0.0, "schedule": "", "q": 0.0}


def _white_box(v: Mapping[str, Any]) -> WhiteBox | None:
    """What of it a run has; None where TURN is as it was."""
    names = (*TURN_LATER, *BATCH_TERMS, *EARLY, *ADAPTERS)
    given = {k.removeprefix("fft_"): v[k] for k in names if k in v}
    return WhiteBox(**given) if given else None


def _parts(method: str, v: dict[str, Any]) -> dict[str, Any]:
    if method == "knn":
        nearest = {"temperature": None, **{k: v[k] for k in NEIGHBOURS if k in v}}
        return {"probe": Probe(loss="none", scale=v["scale"], **_NO_STEPS), "neighbours": Neighbours(**nearest)}
    if method == "zeroshot":
        return {"probe": Probe(loss="none", scale="l2", **_NO_STEPS), "templates": tuple(v["templates"])}
    if "solver" in v:
        solved = Logistic(**{k: v[k] for k in LBFGS})
        return {"probe": Probe(loss=v["loss"], scale=v["scale"], **_NO_STEPS), "logistic": solved}
    if method == "turn":
        probe = {k: v[f"probe_{k}"] if f"probe_{k}" in v else v[k] for k in PROBE}
        return {
            "probe": Probe(**probe),
            "finetune": Finetune(**{k.removeprefix("fft_"): v[k] for k in TURN}),
            "white_box": _white_box(v),
        }
    if method in WHITE_BOX:
        probe = {"loss": v["loss"], "scale": v["scale"], **_NO_STEPS, "epochs": 0, "q": v.get("q", 0.0)}
        tuned = {k.removeprefix("fft_"): v[k] for k in TURN if k in v}
        return {
            "probe": Probe(**probe),
            "finetune": Finetune(**tuned, loss=v["loss"], cleanse="none", tau=0.0),
            "white_box": _white_box(v),
        }
    # a loss that has no q is not told apart by it
    parts: dict[str, Any] = {"probe": Probe(**{k: v[k] for k in PROBE if k != "q"}, q=v.get("q", 0.0))}
    if "elr_beta" in v:
        parts["early"] = Early(**{k: v[k] for k in EARLY})
    if "warmup" in v:
        parts["semi"] = Semi(**{k: v[k] for k in (*SEMI, "p_threshold") if k in v})
    if "cleanse" in v:
        probe = {k: v[f"probe_{k}"] for k in ("loss", "epochs", "lr", "weight_decay", "q")}
        shared = {"batch_size": v["batch_size"], "schedule": v["schedule"], "scale": PROBE_SCALE}
        parts["cleansing"] = Cleansing(cleanse=v["cleanse"], tau=v["tau"], probe=Probe(**probe, **shared))
    if "use_views" in v:
        parts["views"] = True
    if "amp" in v:
        parts["amp"] = v["amp"]
    if method in ("mlp", "nmtune"):
        parts["shape"] = Shape(**{k: v[k] for k in SHAPE})
    if method == "nmtune":
        parts["terms"] = Terms(**{k: v[k] for k in TERMS})
    return parts
