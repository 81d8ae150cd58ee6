"""The heavy half of the stage: load, train stack by stack, write. Finished stacks are kept: a killed tune goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from nmtool.artifact.format import canonical
from nmtool.artifact.stage import Reporter, Session, Staging
from nmtool.encoders.device import choose_device, keep_freed_memory, products_by_onednn
from nmtool.errors import UsageError
from nmtool.tune import abreast, lora, payload, search, task
from nmtool.tune import loss as remembered
from nmtool.tune import outcome as outcomes_of
from nmtool.tune.axes import ON_ROWS, WHITE_BOX, axes
from nmtool.tune.config import HEAD_LOSSES, Config
from nmtool.tune.crew import Crew
from nmtool.tune.heads import LinearHeads
from nmtool.tune.inputs import Inputs
from nmtool.tune.load import load
from nmtool.tune.material import Bench, Material
from nmtool.tune.method import method_named
from nmtool.tune.mlp import MlpHeads
from nmtool.tune.outcome import Outcome
from nmtool.tune.plan import Run, candidates
from nmtool.tune.stacks import light, light_slices, slices, stacks

T = TypeVar("T")

# The manifest is capped at 1 MiB; the complete table is in results.parquet.
SUMMARY_BYTES, SUMMARY_ROWS = 600_000, 500
# In every row of a summary, where there is no such number as null.
_ALWAYS = ("loss", "accuracy", "macro_f1", "mean_per_class", "best_accuracy", "sve", "lsvr")


def build(
    config: Config,
    session: Session,
    found: Inputs,
    runs: tuple[Run, ...],
    staging: Staging | None,
    crew: Crew | None = None,
) -> dict[str, object]:
    """Train all runs and write the payload; returns the summary. A rank without staging trains, and writes nothing."""
    report = session.report
    crew = crew or Crew()
    device = crew.device(choose_device(config.device))
    if device.type == "cpu":
        keep_freed_memory()  # gradients of 16 MB and more, too: a fifth of a step of an MLP in 2,048 dimensions
    _check_white_box(runs, device, report)
    if staging is not None:
        crew.begin()
    opener: Callable[[], Any] | None = None
    if any("images" in method_named(r.method).needs for r in runs):
        from nmtool.tune.pictures import checked_sources

        # Before any training: are the images and the weights those that the features were made from?
        opener = checked_sources(crew.placed(config), found, session.memo, device)
    tower = None
    if any("towers" in method_named(r.method).needs for r in runs):
        from nmtool.tune.prompts import checked_tower

        tower = checked_tower(config, found.train, session.memo, device)
    views = any(r.semi is not None or r.views for r in runs)
    material = load(found, device, report, opener, views=views, metric=task.metric_of(config, found))
    material = replace(material, tower=tower)
    bench = Bench(
        device=device,
        report=report,
        keep=staging.keep if staging is not None else lambda name, data: None,
        kept=lambda name: crew.tell(staging.kept(name) if staging is not None else None),
        crew=crew,
        spectra=config.spectra,
        keep_backbone=config.keep_backbone,
    )
    with products_by_onednn(device):
        runs, tried = _search(config, runs, material, bench) if config.search else (runs, [])
        done = _train(runs, material, bench)
    if staging is None:
        return {}
    found_by = search.notes_of(tried)
    done = [replace(o, notes={**o.notes, **found_by.get(o.run.index, {})}) for o in done]
    _tell_differences(config, found.dim, report)
    _warn(done, material, report)
    first = found.train
    facts = {
        "dim": int(material.X.shape[1]),
        "encoder": dict(first.encoder),
        "source": first.name,
        "split": first.split,
    }
    rows = payload.write(staging, done, material, facts, predictions=config.predictions)
    summary = _summary(found, material, rows)
    if tried:
        payload.write_search(staging, tried)
        summary["search"] = search.summary_of(tried, config.search_holdout)
    return summary


def _check_white_box(runs: tuple[Run, ...], device: torch.device, report: Reporter) -> None:
    """What fine-tuning needs is there, before anything is read; and which of Table 8's numbers were taken is told."""
    tuned = [r for r in runs if r.finetune is not None]
    if any(r.white_box is not None and r.white_box.lora_rank for r in tuned):
        lora.check()
    if device.type != "cuda" and any(r.white_box is not None and r.white_box.amp == "fp16" for r in tuned):
        raise UsageError(f"--amp fp16 on {device.type}", "a CUDA device", "take --amp bf16 or none")
    for line in dict.fromkeys(
        f"{r.method}{' with adapters' if r.method == 'turn' and r.white_box and r.white_box.lora_rank else ''}: "
        f"{r.finetune.optimizer}, learning rate {r.finetune.lr:g}, decay {r.finetune.weight_decay:g}"
        for r in tuned
        if r.finetune is not None
    ):
        report.info(f"fine-tuning by {line}")


def _search(
    config: Config, runs: tuple[Run, ...], material: Material, bench: Bench
) -> tuple[tuple[Run, ...], list[dict[str, Any]]]:
    """The runs with the settings that their searches find, and every setting tried."""
    search.check(runs, material)
    tried = candidates(config, runs, material.X.shape[1])
    every = tuple(run for candidates_of in tried.values() for run in candidates_of)
    with bench.report.progress(search.epochs(tried), "searching, epochs") as advance:

        def work(part: tuple[Run, ...], at: Bench) -> list[dict[str, Any]]:
            return search.trials(part, material, at)

        found = side_by_side(every, work, material, bench.with_progress(advance))
    results = [row for rows in found for row in rows]
    return search.settle(runs, tried, results, bench.report)


def _parts(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[tuple[Run, ...]]:
    """Which runs train together."""
    return [part for stack in stacks(runs, material.overlays) for part in _cut(stack, material, bench)]


def _train(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """All runs, stack by stack; finished stacks of a killed run are read, not trained again."""

    def trained(part: tuple[Run, ...], at: Bench) -> list[Outcome]:
        fresh = at.kept(_name(part))
        if fresh is not None:
            at.advance(sum(_epochs(run) for run in part))
        else:
            fresh = outcomes_of.to_bytes(method_named(part[0].method).resolve()(part, material, at))
            at.keep(_name(part), fresh)
        return outcomes_of.from_bytes(fresh)  # the very objects that a resumed run has, orders of keys included

    with bench.report.progress(sum(_epochs(run) for run in runs), "training heads, epochs") as advance:
        every = side_by_side(runs, trained, material, bench.with_progress(advance))
    return sorted((o for done in every for o in done), key=lambda o: o.run.index)


def side_by_side(runs: tuple[Run, ...], work: abreast.Work[T], material: Material, bench: Bench) -> list[T]:
    """What ``work`` gives of each stack; on a CPU linear probes go side by side, on a GPU all that take steps."""
    dim, outputs = material.X.shape[1], material.outputs
    parts = _parts(runs, material, bench)

    def beside(part: tuple[Run, ...]) -> bool:
        run = part[0]
        if bench.device.type == "cpu":
            return light(run, dim, outputs)
        return run.method in ON_ROWS and run.semi is None and run.logistic is None and run.cleansing is None

    def bytes_of(part: tuple[Run, ...]) -> int:
        return sum(_cost(run, material) for run in part)

    return abreast.results(parts, beside, work, bench, bytes_of)


def _epochs(run: Run) -> int:
    more = run.finetune.epochs if run.finetune else run.cleansing.probe.epochs if run.cleansing else 0
    return run.probe.epochs + more


def _cut(stack: tuple[Run, ...], material: Material, bench: Bench) -> list[tuple[Run, ...]]:
    if stack[0].neighbours is not None:  # nothing is trained, and together they look for neighbours once
        return [stack]
    dim, classes = material.X.shape[1], material.outputs
    if bench.device.type == "cpu" and light(stack[0], dim, classes):
        return light_slices(stack, dim, classes)

    return slices(stack, lambda run: _cost(run, material), bench.device.type)


def _cost(run: Run, material: Material) -> int:
    """Bytes that a run takes while training."""
    model = MlpHeads if run.shape is not None else LinearHeads
    rows, dim, classes = len(material.X), material.X.shape[1], material.outputs
    heads = model.bytes_per_head(run, dim, classes) * (2 if run.semi is not None or run.views else 1)
    return heads + remembered.bytes_per_head(run, rows, classes)


def _name(part: Sequence[Run]) -> str:
    """A checkpoint's name: the runs that it holds. (The staging folder is one recipe's, so the indices say which.)"""
    indices = hashlib.sha256(canonical([r.index for r in part])).hexdigest()[:16]
    return f"done-{indices}.safetensors"


def _warn(done: Sequence[Outcome], material: Material, report: Reporter) -> None:
    """Say where a head learned nothing: no better on its own training rows than always naming their commonest class."""
    stuck, blind = [], []
    for o in done:
        n, chance, accuracy = (o.notes[k] for k in ("n_train", "chance", "train_accuracy"))
        if accuracy is None:  # knn
            continue
        if accuracy <= chance + 3 * np.sqrt(chance * (1 - chance) / n):
            stuck.append(o)
        elif (o.scores[0].never_predicted or 0.0) >= 0.5:
            blind.append(o)
    if stuck or blind:
        advice = "try a lower --lr (--fft-lr where a backbone learns), or --scale l2"
        losses = {o.run.probe.loss for o in (*stuck, *blind) if o.run.method in (*ON_ROWS, *WHITE_BOX)}
        advice += ", or --loss ce" if losses - {"ce"} else ""
    if stuck:
        report.warning(
            f"{len(stuck)} of {len(done)} runs are no better than chance in training ({stuck[0].run.words()}); {advice}"
        )
    if blind:
        worst = max(o.scores[0].never_predicted or 0.0 for o in blind)
        report.warning(
            f"{len(blind)} of {len(done)} runs never predict half of the classes or more (up to {worst:.0%}; "
            f"{blind[0].run.words()}); {advice}"
        )


def _tell_differences(config: Config, dim: int, report: Reporter) -> None:
    """Losses of one method that were compared under different numbers, because those were left to their defaults."""
    lists = axes(config, dim)
    for method in config.method:
        by_loss = {loss: lists[f"{method}/{loss}"] for loss in HEAD_LOSSES if f"{method}/{loss}" in lists}
        if len(by_loss) < 2:
            continue
        shared = [name for name in next(iter(by_loss.values())) if all(name in values for values in by_loss.values())]
        differing = [name for name in shared if name != "loss" and len({str(v[name]) for v in by_loss.values()}) > 1]
        if differing:
            told = "; ".join(
                f"{loss} " + ", ".join(f"{name} {'/'.join(map(str, values[name]))}" for name in differing)
                for loss, values in by_loss.items()
            )
            report.info(f"{method}: numbers left unset differ by loss ({told}); give them to compare the losses alone")


def _summary(found: Inputs, material: Material, rows: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    shown = {t.source: t.shown for t in material.targets}
    overlays = {o.name: o.shown for o in material.overlays}
    results: list[dict[str, Any]] = []
    for row in rows:
        plain = {k: v for k, v in row.items() if v is not None or k in _ALWAYS}
        plain |= {"source": shown[row["source"]], "source_content": row["source"]}
        if row["labels"]:
            plain["labels"] = overlays[row["labels"]]
        results.append(plain)
    encoder = found.train.encoder
    summary: dict[str, object] = {
        "results": results,
        "rows": len(results),
        "train": {
            "split": found.train.split,
            "n": int(np.sum(material.overlays[0].y >= 0)),
            "excluded": int(np.sum(material.overlays[0].y < 0)),
            "classes": len(material.classes),
            "dim": int(material.X.shape[1]),
        },
        "noise": [
            {"labels": o.shown, "ratio": o.ratio, "flipped": int(np.sum((o.y >= 0) & (o.y != material.clean)))}
            for o in material.overlays
            if o.ratio is not None
        ],
        "model": str(encoder.get("arch", "none")),
        "untrained": bool(encoder.get("untrained", False)),
        "best_accuracy_is": "an oracle: the best epoch, chosen by its test accuracy",
    }
    if len(results) > SUMMARY_ROWS or len(canonical(results)) > SUMMARY_BYTES:
        kept = results[:SUMMARY_ROWS]
        while len(canonical(kept)) > SUMMARY_BYTES:
            kept = kept[: len(kept) // 2]
        summary |= {"results": kept, "truncated": f"the first {len(kept)} of {len(results)}; all in {payload.RESULTS}"}
    return summary
