"""TURN (paper 2): probe with a robust loss, cleanse by mixtures, fine-tune on the clean subset, cleanse again.

Step 1 and the first cleansing need cached features alone; images and backbone are opened only after them. What the
paper leaves open is settled so: mixtures by class of the noisy label, cross-entropy for fine-tuning, constant learning
rate, one optimiser for all rounds, the probe's head carried over, BatchNorm with the backbone's statistics (or, asked
for, in training mode), the last epoch reported.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from nmtool.artifact.format import canonical
from nmtool.records import Float, Int
from nmtool.tune import evaluate, fit, network
from nmtool.tune import outcome as outcomes_of
from nmtool.tune.cleanse import Round, cleanse
from nmtool.tune.cleansed import losses_of
from nmtool.tune.heads import LinearHeads
from nmtool.tune.material import Bench, Material
from nmtool.tune.network import Network
from nmtool.tune.outcome import Outcome, metadata
from nmtool.tune.payload import BACKBONE
from nmtool.tune.pictures import Pictures
from nmtool.tune.plan import Run


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Probe all runs as one stack, then cleanse and fine-tune them one by one."""
    trained = fit.fit(LinearHeads, runs, material, bench, keep_last=True)
    probes = fit.judge(runs, trained, material, replace(bench, spectra=False))
    first = [_probe_losses(trained, material, k, run) for k, run in enumerate(runs)]
    rounds = [_round(run, material, found, 1) for run, found in zip(runs, first, strict=True)]
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
        head = trained.heads.export(k)
        scaling = trained.feed.scalings[trained.feed.view[k]]
        net = Network(pictures, head["classifier.weight"], head["classifier.bias"], scaling, bench.device)
        done = _Finetuning(run, probes[k], net, pictures, material, bench, first[k][0], rounds[k]).all_epochs()
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


class _Finetuning:
    """Step 2 of one run: its rounds, its epochs, its checkpoint."""

    def __init__(
        self,
        run: Run,
        probe: Outcome,
        net: Network,
        pictures: Pictures,
        material: Material,
        bench: Bench,
        rows: Int,
        first: Round | None,
    ) -> None:
        assert run.finetune is not None
        self.run, self.settings, self.probe = run, run.finetune, probe
        self.net, self.pictures, self.material, self.bench = net, pictures, material, bench
        self.optimizer = network.optimiser(net, run)
        self.overlay = material.overlays[run.labels]
        self.rounds: list[Round] = [first] if first is not None else []
        self.rows = rows
        self.history: list[dict[str, Any]] = []
        self.name = f"turn-{run.index}.safetensors"

    def all_epochs(self) -> Outcome:
        """Every epoch, then the verdict on every split."""
        self._restore()
        last = time.monotonic()
        for epoch in range(len(self.history) + 1, self.settings.epochs + 1):
            self._epoch(epoch)
            self.bench.advance(1)
            if time.monotonic() - last > fit.CHECKPOINT_S and epoch < self.settings.epochs:
                self._keep()
                last = time.monotonic()
        self._warn_of_harm()
        return self._judge()

    def _warn_of_harm(self) -> None:
        """Say so where fine-tuning left its own clean subset worse off than the probe had it: a step that is too large.

        Small networks with BatchNorm may need a tenth of the papers' rates (digits: .99 to .22 at 1e-4, .99 at 1e-5).
        """
        if not self.rounds or self.settings.loss != "ce":
            return
        before = float(np.mean(self.rounds[0].losses[self.rounds[0].drawn]))
        after = self.history[-1]["ce"]
        if after > before:
            self.bench.report.warning(
                f"turn, seed {self.run.seed}: the loss on the clean subset is {after:.3f} after fine-tuning, "
                f"{before:.3f} by the probe before it; lower --fft-lr (now {self.settings.lr:g})"
            )

    def _epoch(self, epoch: int) -> None:
        if epoch > 1 and self.settings.cleanse == "each":
            values = network.losses_of(self.net, self.pictures.train, self.rows, self.overlay.y)
            found = _round(self.run, self.material, (self.rows, values), epoch)
            assert found is not None
            self.rounds.append(found)
        now = self.rounds[-1] if self.rounds else None
        chosen = now.chosen if now is not None else self.rows
        row: dict[str, Any] = {"epoch": self.run.probe.epochs + epoch, "phase": "finetune"}
        row |= network.train_epoch(
            self.net, self.optimizer, self.pictures.train, chosen, self.overlay.y, self.run, epoch
        )
        target = self.material.targets[0]
        predicted, _, _ = network.predict(self.net, self.pictures.targets[0], target.rows)
        row["accuracy"] = float(np.mean(predicted == target.y))
        if now is not None:
            row |= {"selected": int(now.selected.sum()), "drawn": len(chosen), **self._quality(now)}
            if now.number == epoch:
                self._tell(now)
        self.history.append(row)

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

    def _judge(self) -> Outcome:
        labels = self.overlay.y
        trained = np.unique(labels[labels >= 0])
        scores = []
        for i, (target, shots) in enumerate(zip(self.material.targets, self.pictures.targets, strict=True)):
            predicted, confidence, z = network.predict(self.net, shots, target.rows)
            spectrum = evaluate.spectrum_of(z) if self.bench.spectra else None
            found = evaluate.scores_of(predicted, confidence, target.y, target=i, trained=trained, spectrum=spectrum)
            scores.append(found)
        accuracies = [row["accuracy"] for row in self.history]
        best = int(np.argmax(accuracies))
        scores[0] = replace(scores[0], best_accuracy=accuracies[best], best_epoch=best + 1)
        tensors = {k: v for k, v in self.probe.tensors.items() if k.startswith("scale.")}
        tensors |= {f"classifier.{k}": v.detach().cpu().numpy() for k, v in self.net.classifier.state_dict().items()}
        if self.bench.keep_backbone:
            tensors |= {BACKBONE + k: v.cpu().numpy() for k, v in self.net.backbone.state_dict().items()}
        probe_rows = [{**row, "phase": "probe"} for row in self.probe.epochs]
        return Outcome(
            run=self.run,
            tensors=tensors,
            epochs=[*probe_rows, *self.history],
            scores=scores,
            notes=self._notes(),
            cleansing=_columns(self.rounds),
        )

    def _notes(self) -> Mapping[str, Any]:
        """What the probe was worth, and the first and last clean set."""
        notes = dict(self.probe.notes)
        notes |= {
            "probe_accuracy": self.probe.scores[0].accuracy,
            "probe_never_predicted": self.probe.scores[0].never_predicted,
        }
        for when, row in (("first", self.history[0]), ("last", self.history[-1])):
            names = ("selected", "drawn", "purity", "recall", "drawn_purity")
            notes |= {f"{name}_{when}": row[name] for name in names if name in row}
        return notes

    def _keep(self) -> None:
        tensors = {f"net/{k}": v.detach().contiguous() for k, v in self.net.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{i}/{k}": torch.as_tensor(v).contiguous() for k, v in state.items() if v is not None
            }
        for i, found in enumerate(self.rounds):
            tensors |= {f"round/{i}/{k}": torch.tensor(getattr(found, k)) for k in _ROUND}
        plain = [
            {"number": r.number, "per_class": r.per_class, "small": r.small_classes, "empty": r.empty_classes}
            for r in self.rounds
        ]
        meta = canonical({"history": self.history, "rounds": plain}).decode()
        self.bench.keep(self.name, bytes(save_tensors(tensors, metadata={"nmtool": meta})))

    def _restore(self) -> None:
        data = self.bench.kept(self.name)
        if data is None:
            return
        tensors, meta = load_tensors(data), metadata(data)
        self.net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net/")})
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.rounds = [
            Round(
                number=row["number"],
                per_class=row["per_class"],
                small_classes=tuple(row["small"]),
                empty_classes=tuple(row["empty"]),
                **{k: tensors[f"round/{i}/{k}"].numpy() for k in _ROUND},
            )
            for i, row in enumerate(meta["rounds"])
        ]
        self.history = meta["history"]


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
