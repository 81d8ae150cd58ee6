"""Result rows of many heads artifacts, joined with their lineage and averaged over seeds.

What is averaged is what was asked for in the same way; every setting that differs separates. Nothing is dropped
silently: a run that two artifacts hold (the same recipe row, the same numbers) counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmtool.report.gather import Run
from nmtool.report.lineage import Origin, content_of
from nmtool.report.statistics import Stat, mean, summarise
from nmtool.report.table import NONE, share, shown

MEASURES = (
    "accuracy",
    "macro_f1",
    "mean_per_class",
    "matthews",
    "calibration_error",
    "best_accuracy",
    "sve",
    "lsvr",
    "pearson",
    "spearman",
)
FIRST = ("method", "loss", "model", "pretrain_noise", "pretrain_type", "label_noise", "label_type", "fraction")
OTHERS = (
    *("lr", "weight_decay", "epochs", "batch_size", "optimizer", "schedule", "scale", "q", "preset"),
    *("width", "layers", "activation", "batch_norm", "residual"),
    *("weight_mse", "weight_cov", "weight_svd", "svd_topk", "mse_reduce"),
    *("probe_loss", "probe_epochs", "probe_lr", "probe_weight_decay", "probe_batch_size", "probe_schedule"),
    *("tau", "cleanse", "augment", "fft_batch_norm"),
    *("elr_beta", "elr_lambda", "use_views"),
    *("warmup", "ramp", "p_threshold", "lambda_u", "sharpen", "mixup", "warmup_penalty"),
    *("amp", "accumulate", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets"),
)
NO_SETTING = frozenset(
    {
        "run",
        "seed",
        "seeds",
        "source",
        "split",
        "role",
        "n",
        "features",
        "untrained",
        "train",
        "test",
        "ood",
        "labels",
        "metric",
        "metric_value",
        *MEASURES,
    }
)
SHARES = ("pretrain_noise", "label_noise", "fraction")
ID, MEAN = "", "mean"  # targets beside the named ones

TITLES = {
    "model": "backbone",
    "pretrain_noise": "pre-training noise",
    "pretrain_type": "pre-training noise type",
    "label_noise": "label noise",
    "label_type": "label noise type",
    "weight_decay": "weight decay",
    "batch_size": "batch size",
    "lora_rank": "LoRA rank",
    "setup": "set-up",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a results table: one way of working, over its runs.

    Attributes:
        settings: what was asked for, by column.
        n: number of runs (seeds).
        stats: by (measure, target); target is '' for in-domain, 'mean' over the others, or (ood:) a name.
    """

    settings: Mapping[str, Any]
    n: int
    stats: Mapping[tuple[str, str], Stat | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Results on one training set.

    Attributes:
        name: the dataset, as a reader knows it.
        columns: settings that tell the lines apart, in order; the method always.
        id_name: the in-domain split.
        targets: names of the out-of-domain targets, sorted.
        lines: the averages.
        metric: the measure that counts in all of its runs, by its column; where they do not agree, accuracy,
            and Pearson's correlation of labels that are real numbers.
    """

    name: str
    columns: tuple[str, ...]
    id_name: str
    targets: tuple[str, ...]
    lines: tuple[Line, ...]
    metric: str = "accuracy"


def ood(target: str) -> str:
    """The key of a named target: a dataset may be called ``mean``."""
    return f"ood:{target}"


def setting_text(column: str, value: Any) -> str:
    """A setting as a reader wants it."""
    if value is None or value == "":
        return NONE
    if column in SHARES:
        return share(value)
    if isinstance(value, float):
        return f"{value:g}"
    return shown(value, 60)


def settings_of(run: Run) -> dict[str, Any]:
    """What was asked for in this run, by column, unknown things as None."""
    line, train = run.line, run.train
    noise = train.pretrain if train is not None else None
    model = (train.model if train is not None else "") or str(line.get("model") or "")
    untrained = line.get("untrained") is True or (train is not None and train.untrained)
    known: dict[str, Any] = {
        "method": line.get("method"),
        "loss": line.get("loss"),
        "model": (f"{model} (untrained)" if untrained else model) or None,
        "pretrain_noise": noise.ratio if noise is not None else line.get("pretrain_noise"),
        "pretrain_type": noise.type if noise is not None else "",
        "label_noise": run.label_noise,
        "label_type": run.label_type,
        "fraction": line.get("fraction"),
    }
    names = [name for name in line if (name in run.settings or name in OTHERS) and name not in NO_SETTING]
    for name in sorted(set(names) - set(known), key=lambda n: (OTHERS.index(n) if n in OTHERS else len(OTHERS), n)):
        known[name] = line[name]
    for name in ("lr", "weight_decay", "C"):  # each seed's search may have found another, and they are one line
        if line.get(f"found_{name}") is not None:
            known[name] = "searched"
    if run.label_noise is None or (run.label_noise and not run.label_type):
        known["labels"] = line.get("labels")  # whose draw is not known here: each is a setting of its own
    known["setup"] = train.setup if train is not None else run.train_features[7:15]
    return known


def target_of(run: Run, siblings: Sequence[Run]) -> str:
    """A name for what a run was evaluated on out of domain: the split, and the dataset where it is another one."""
    split = str(run.line.get("split") or "")
    here = run.evaluated
    if here is not None and run.train is not None:
        if here.data_name == run.train.data_name or not here.data_name:
            return split
        return f"{here.data_name} {split}"
    source = str(run.line.get("source") or "")
    if source and content_of(source) is None:
        return f"{source} {split}"
    # Unknown features: the split tells them, unless another target has a split of that name.
    places = {s.evaluated_features for s in siblings if s.line.get("split") == run.line.get("split")}
    return split if len(places) == 1 else f"{split} {run.evaluated_features[:8]}"


def joined(run: Run) -> dict[str, Any]:
    """A result row as it stands in its artifact, with what the lineage knows; for CSV and JSON."""
    settings = settings_of(run)
    extra = {
        "heads": run.heads[7:19],
        "data": run.train.data_name if run.train is not None else "",
        "backbone": settings["model"],
        "pretrain_noise": settings["pretrain_noise"],
        "label_noise_requested": run.label_noise,
    }
    return {**run.line, **{k: v for k, v in extra.items() if run.line.get(k) is None}}


def group_results(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Tables of averages: one for each training set, sorted by name."""
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(run.train.data if run.train is not None else run.train_features, []).append(run)
    named = [(_name(members), data, members) for data, members in by_data.items()]
    names = [name for name, _, _ in named]
    out = []
    for name, data, members in sorted(named, key=lambda item: item[:2]):
        title = name if names.count(name) == 1 else f"{name} {data[7:15]}"
        out.append(_group(title, members))
    return tuple(out)


def _name(members: Sequence[Run]) -> str:
    names = [m.train.data_name for m in members if isinstance(m.train, Origin) and m.train.data_name]
    return min(names) if names else f"features {members[0].train_features[7:15]}"


def order(value: Any) -> tuple[int, float, str]:
    """A sort key for settings of any type: unknown, then numbers, then words."""
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, (int, float)):
        return (1, float(value), "")
    return (2, 0.0, str(value))


def _group(name: str, runs: Sequence[Run]) -> Group:
    siblings: dict[str, list[Run]] = {}
    for run in runs:
        if run.line.get("role") == "ood":
            siblings.setdefault(run.heads, []).append(run)
    # (settings) -> (one run of it) -> (target) -> measures
    lines: dict[tuple[Any, ...], dict[tuple[Any, ...], dict[str, Mapping[str, Any]]]] = {}
    columns = [*dict.fromkeys(key for run in runs for key in settings_of(run) if key != "setup"), "setup"]
    seen: dict[tuple[Any, ...], str] = {}
    targets: set[str] = set()
    for run in runs:
        settings = settings_of(run)
        asked = tuple(settings.get(column) for column in columns)
        target = ID
        if run.line.get("role") == "ood":
            target = ood(target_of(run, siblings[run.heads]))
        numbers = tuple(run.line.get(m) for m in MEASURES)
        twin = (asked, run.line.get("seed"), run.train_features, target, run.evaluated_features, numbers)
        if seen.setdefault(twin, run.heads) != run.heads:
            continue
        targets.add(target)
        which = (run.heads, run.line.get("seed"), run.line.get("run"))
        lines.setdefault(asked, {}).setdefault(which, {})[target] = run.line
    outside = sorted(targets - {ID})
    asked_for = sorted(lines, key=lambda asked: tuple(order(v) for v in asked))
    told = {str(run.line.get("metric") or "accuracy") for run in runs}
    # real numbers have no accuracy to fall back on
    common = "pearson" if told <= {"pearson", "spearman"} else "accuracy"
    metric = told.pop() if len(told) == 1 else common
    return Group(
        name=name,
        metric=metric if metric in MEASURES else "accuracy",
        columns=telling(columns, asked_for),
        id_name=next((str(r.line.get("split")) for r in runs if r.line.get("role") != "ood"), ""),
        targets=tuple(t.removeprefix("ood:") for t in outside),
        lines=tuple(_line(dict(zip(columns, a, strict=True)), list(lines[a].values()), outside) for a in asked_for),
    )


def _line(settings: dict[str, Any], runs: list[dict[str, Mapping[str, Any]]], outside: list[str]) -> Line:
    stats: dict[tuple[str, str], Stat | None] = {}
    for measure in MEASURES:
        for target in (ID, *outside):
            stats[measure, target] = summarise(run.get(target, {}).get(measure) for run in runs)
        # The mean over targets is taken within a run, so that its spread is that of runs and not of targets.
        stats[measure, MEAN] = summarise(mean(run.get(t, {}).get(measure) for t in outside) for run in runs)
    return Line(settings=settings, n=len(runs), stats=stats)


def telling(columns: Sequence[str], asked_for: Sequence[tuple[Any, ...]]) -> tuple[str, ...]:
    """The columns that tell lines apart: what varies and does not follow from those before it; untrained always."""
    chosen: list[int] = []
    methods = [asked[columns.index("method")] if "method" in columns else None for asked in asked_for]
    for position, column in enumerate(columns):
        before: dict[tuple[Any, ...], set[Any]] = {}
        for asked in asked_for:
            before.setdefault(tuple(asked[c] for c in chosen), set()).add(asked[position])
        named = column == "model" and any(str(asked[position]).endswith("(untrained)") for asked in asked_for)
        loss = column == "loss" and any(asked[position] is not None for asked in asked_for)
        # the axis of the motivating figure is shown even where the backbone's name or set-up tells it as well
        varies = column in ("pretrain_noise", "label_noise", "fraction") and len({a[position] for a in asked_for}) > 1
        # TURN by adapters and by all weights: no reader knows them by the decay that came with each
        pairs = {(method, asked[position]) for method, asked in zip(methods, asked_for, strict=True)}
        adapters = column == "lora_rank" and len(pairs) > len(set(methods))
        shown_anyway = column == "method" or named or loss or varies or adapters
        if shown_anyway or any(len(values) > 1 for values in before.values()):
            chosen.append(position)
    return tuple(columns[c] for c in chosen)
