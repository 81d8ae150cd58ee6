"""TURN (paper 2): probe with a robust loss, cleanse by mixtures, fine-tune on the clean subset, cleanse again.

Step 1 and the first cleansing need cached features alone; images and backbone are opened only after them. What the
paper leaves open is settled so: mixtures by class of the noisy label, cross-entropy for fine-tuning, constant learning
rate, one optimiser for all rounds, the probe's head carried over, BatchNorm with the backbone's statistics (or, asked
for, in training mode), the last epoch reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nmtool.records import Float, Int
from nmtool.tune import fit
from nmtool.tune import outcome as outcomes_of
from nmtool.tune.cleanse import Round, cleanse
from nmtool.tune.cleansed import losses_of
from nmtool.tune.course import Course
from nmtool.tune.heads import LinearHeads
from nmtool.tune.material import Bench, Material
from nmtool.tune.network import Network
from nmtool.tune.outcome import Outcome
from nmtool.tune.pictures import Pictures
from nmtool.tune.plan import Run


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Probe all runs as one stack, then cleanse and fine-tune them one by one."""
    trained = fit.fit(LinearHeads, runs, material, bench, keep_last=True)
    probes = fit.judge(runs, trained, material, replace(bench, spectra=False))
    first = [_probe_losses(trained, material, k, run) for k, run in enumerate(runs)]
    rounds = bench.crew.tell([_round(run, material, found, 1) for run, found in zip(runs, first, strict=True)])
    assert material.pictures is not None
    pictures = material.pictures()
    outcomes = []
    for k, run in enumerate(runs):
        name = f"turn-{run.index}.safetensors"
        kept = bench.kept(f"done-{name}")
        if kept is not None:
            outcomes += outcomes_of.from_bytes(kept)
            bench.advance(outcomes[-1].run.finetune.epochs if outcomes[-1].run.finetune else 0)
            continue
        head = bench.crew.tell(trained.heads.export(k))
        scaling = trained.feed.scalings[trained.feed.view[k]]
        adapters = run.white_box if run.white_box is not None and run.white_box.lora_rank else None
        weight, bias = head["classifier.weight"], head["classifier.bias"]
        net = Network(pictures.encoder, weight, bias, scaling, bench.device, adapters, run.seed)
        selection = Cleansing(run, material, bench, first[k][0], rounds[k])
        done = _finetuned(run, probes[k], net, pictures, material, bench, selection)
        bench.keep(f"done-{name}", outcomes_of.to_bytes([done]))
        outcomes.append(done)
    return outcomes


def _probe_losses(trained: fit.Trained, material: Material, k: int, run: Run) -> tuple[Int, Float]:
    """Training rows of a run, and their cross-entropy under its probe: from cached features."""
    noisy = material.overlays[run.labels].y
    return trained.feed.rows_of(k), losses_of(trained.heads.one(k), trained.feed, k, noisy, material)


def _round(run: Run, material: Material, found: tuple[Int, Float], number: int) -> Round | None:
    f = run.finetune
    assert f is not None
    if f.cleanse == "none":
        return None
    rows, values = found
    noisy = material.overlays[run.labels].y
    return cleanse(values, rows, noisy, classes=len(material.classes), tau=f.tau, seed=run.seed, number=number)


class Cleansing:
    """TURN's selection: the rows that the last cleansing calls clean, balanced over classes.

    Args:
        run: what was asked.
        material: labels.
        bench: where news goes.
        every: the run's training rows.
        first: the cleansing from the probe's losses; None under ``--cleanse none``.
    """

    def __init__(self, run: Run, material: Material, bench: Bench, every: Int, first: Round | None) -> None:
        assert run.finetune is not None
        self.run, self.material, self.bench, self.every = run, material, bench, every
        self.overlay = material.overlays[run.labels]
        self.rounds: list[Round] = [first] if first is not None else []

    def rows(self, epoch: int, losses: Callable[[], Float]) -> Int:
        """Rows of an epoch; cleansed before it where that is asked for and was not done yet."""
        assert self.run.finetune is not None
        if self.run.finetune.cleanse == "each" and self.rounds[-1].number < epoch:
            found = self.bench.crew.tell(_round(self.run, self.material, (self.every, losses()), epoch))
            self.rounds.append(found)
        return self.rounds[-1].chosen if self.rounds else self.every

    def about(self, epoch: int) -> Mapping[str, Any]:
        """How many were selected and drawn and, where that is known, how many of them rightly."""
        if not self.rounds:
            return {}
        now = self.rounds[-1]
        if now.number == epoch:
            self._tell(now)
        return {"selected": int(now.selected.sum()), "drawn": len(now.chosen), **self._quality(now)}

    def _quality(self, found: Round) -> dict[str, float]:
        """Judged with the clean labels, where they are known apart from those trained on."""
        return {} if self.overlay.ratio is None else found.quality(self.material.clean, self.overlay.y)

    def _tell(self, found: Round) -> None:
        text = f"turn, seed {self.run.seed}, round {found.number}: {int(found.selected.sum())} of {len(found.rows)} "
        text += f"samples selected, {found.per_class} a class drawn"
        quality = self._quality(found)
        if quality:
            text += f" (purity {quality.get('purity', 0):.3f}, recall {quality.get('recall', 0):.3f})"
        self.bench.report.info(text)
        if found.empty_classes:
            self.bench.report.warning(
                f"round {found.number}, seed {self.run.seed}: nothing was called clean in {len(found.empty_classes)} "
                "classes; each gave its sample of lowest loss, so that one image a class is drawn; a lower --tau, or "
                "another probe, may help"
            )
        if found.small_classes:
            self.bench.report.warning(
                f"round {found.number}, seed {self.run.seed}: {len(found.small_classes)} classes are too small for a "
                "mixture, or have one loss; all of their samples count as clean"
            )

    def state(self) -> tuple[Mapping[str, Tensor], Any]:
        """All rounds."""
        tensors = {f"{i}/{k}": torch.tensor(getattr(found, k)) for i, found in enumerate(self.rounds) for k in _ROUND}
        plain = [
            {"number": r.number, "per_class": r.per_class, "small": r.small_classes, "empty": r.empty_classes}
            for r in self.rounds
        ]
        return tensors, plain

    def restore(self, tensors: Mapping[str, Tensor], plain: Any) -> None:
        """Go on from what ``state`` gave."""
        self.rounds = [
            Round(
                number=row["number"],
                per_class=row["per_class"],
                small_classes=tuple(row["small"]),
                empty_classes=tuple(row["empty"]),
                **{k: tensors[f"{i}/{k}"].numpy() for k in _ROUND},
            )
            for i, row in enumerate(plain)
        ]

    def warn_of_harm(self, last: Mapping[str, Any]) -> None:
        """Say so where fine-tuning left its own clean subset worse off than the probe had it: a step that is too large.

        Small networks with BatchNorm may need a tenth of the papers' rates (digits: .99 to .22 at 1e-4, .99 at 1e-5).
        """
        assert self.run.finetune is not None
        if not self.rounds or self.run.finetune.loss != "ce":
            return
        before = float(np.mean(self.rounds[0].losses[self.rounds[0].drawn]))
        if last["ce"] > before:
            self.bench.report.warning(
                f"turn, seed {self.run.seed}: the loss on the clean subset is {last['ce']:.3f} after fine-tuning, "
                f"{before:.3f} by the probe before it; lower --fft-lr (now {self.run.finetune.lr:g})"
            )


def _finetuned(
    run: Run, probe: Outcome, net: Network, pictures: Pictures, material: Material, bench: Bench, selection: Cleansing
) -> Outcome:
    """Step 2 of one run."""
    course = Course(run, net, pictures, material, bench, selection.every, selection)
    course.all_epochs()
    selection.warn_of_harm(course.history[-1])
    scores = course.judge()
    scaling = {k: v for k, v in probe.tensors.items() if k.startswith("scale.")}
    return Outcome(
        run=run,
        tensors={**scaling, **course.tensors()},
        epochs=[*({**row, "phase": "probe"} for row in probe.epochs), *course.history],
        scores=scores,
        notes=_notes(probe, course.history),
        cleansing=_columns(selection.rounds),
    )


def _notes(probe: Outcome, history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the probe was worth, and the first and last clean set."""
    notes = dict(probe.notes)
    notes |= {
        "probe_accuracy": probe.scores[0].accuracy,
        "probe_never_predicted": probe.scores[0].never_predicted,
    }
    for when, row in (("first", history[0]), ("last", history[-1])):
        names = ("selected", "drawn", "purity", "recall", "drawn_purity")
        notes |= {f"{name}_{when}": row[name] for name in names if name in row}
    return notes


_ROUND = ("rows", "losses", "posterior", "selected", "drawn")


def _columns(rounds: list[Round]) -> dict[str, Any]:
    """All rounds as columns, a line a round and training row."""
    if not rounds:
        return {}
    return {
        "round": np.concatenate([np.full(len(r.rows), r.number, dtype=np.int32) for r in rounds]),
        "row": np.concatenate([r.rows for r in rounds]),
        "loss": np.concatenate([r.losses for r in rounds]),
        "posterior": np.concatenate([r.posterior for r in rounds]),
        "selected": np.concatenate([r.selected for r in rounds]),
        "drawn": np.concatenate([r.drawn for r in rounds]),
    }
