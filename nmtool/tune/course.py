"""Fine-tuning of one run, for every method that does so: its epochs, its checkpoints, its verdict on every split.

Which rows an epoch trains on is a ``Selection``'s matter. A checkpoint is made within epochs, too, but never more than
a twentieth of the time goes into them; a killed run goes on from the last and ends with the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from nmtool.artifact.format import canonical
from nmtool.records import Float, Int
from nmtool.tune import evaluate, fit, network
from nmtool.tune.material import Bench, Material
from nmtool.tune.network import Network
from nmtool.tune.outcome import Array, Scores, metadata
from nmtool.tune.payload import ADAPTERS, BACKBONE
from nmtool.tune.pictures import Pictures
from nmtool.tune.plan import Run
from nmtool.tune.steps import Steps


class Selection(Protocol):
    """Which training rows each epoch sees."""

    def rows(self, epoch: int, losses: Callable[[], Float]) -> Int:
        """Rows of an epoch, from 1; the same when asked again. ``losses()``: cross-entropy of all rows by the net."""

    def about(self, epoch: int) -> Mapping[str, Any]:
        """What an epoch's line of the log says of them."""

    def state(self) -> tuple[Mapping[str, Tensor], Any]:
        """For a checkpoint: tensors by name, and plain JSON."""

    def restore(self, tensors: Mapping[str, Tensor], plain: Any) -> None:
        """Go on from what ``state`` gave."""


class Everything:
    """All rows, every epoch."""

    def __init__(self, rows: Int) -> None:
        self._rows = rows

    def rows(self, epoch: int, losses: Callable[[], Float]) -> Int:
        del epoch, losses
        return self._rows

    def about(self, epoch: int) -> Mapping[str, Any]:
        del epoch
        return {}

    def state(self) -> tuple[Mapping[str, Tensor], Any]:
        return {}, None

    def restore(self, tensors: Mapping[str, Tensor], plain: Any) -> None:
        del tensors, plain


class Course:
    """One run's fine-tuning.

    Args:
        run: what was asked.
        net: changed in place.
        pictures: the images.
        material: labels and splits.
        bench: where to work.
        every: int64 [n] the run's training rows.
        selection: those that an epoch sees.

    Attributes:
        history: a row an epoch.
    """

    def __init__(
        self,
        run: Run,
        net: Network,
        pictures: Pictures,
        material: Material,
        bench: Bench,
        every: Int,
        selection: Selection,
    ) -> None:
        assert run.finetune is not None
        self.run, self.settings, self.net = run, run.finetune, net
        self.pictures, self.material, self.bench = pictures, material, bench
        self.noisy = material.overlays[run.labels].y
        self.selection, self.every = selection, every
        self.steps = Steps(net, run, len(material.ids), bench.crew)
        self.history: list[dict[str, Any]] = []
        self._name = f"{run.method}-{run.index}.safetensors"
        self._kept_at, self._cost = time.monotonic(), 0.0

    def all_epochs(self) -> None:
        """Every epoch that is left."""
        device = self.net.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self._restore()
            self._kept_at = time.monotonic()
            for epoch in range(len(self.history) + 1, self.settings.epochs + 1):
                self._epoch(epoch)
                self.bench.advance(1)
                if epoch < self.settings.epochs:
                    self._keep_now_and_then(epoch + 1)

    def _epoch(self, epoch: int) -> None:
        amp, crew = self.steps.more.amp, self.bench.crew

        def losses() -> Float:
            return network.losses_of(self.net, self.pictures.train, self.every, self.noisy, amp, crew)

        chosen = self.selection.rows(epoch, losses)
        row: dict[str, Any] = {"epoch": self.run.probe.epochs + epoch, "phase": "finetune"}
        row |= self.steps.epoch(self.pictures.train, chosen, self.noisy, epoch, lambda: self._keep_now_and_then(epoch))
        target = self.material.targets[0]
        shots = self.pictures.targets[0]
        predicted, _, _ = network.predict(self.net, shots, target.rows, spaces=False, amp=amp, crew=crew)
        row["accuracy"] = float(np.mean(predicted == target.y))
        self.history.append({**row, **self.selection.about(epoch)})

    def judge(self) -> list[Scores]:
        """Scores on every split after the last epoch, in full precision; the first has the best epoch's, too."""
        trained = np.unique(self.noisy[self.noisy >= 0])
        scores = []
        for i, (target, shots) in enumerate(zip(self.material.targets, self.pictures.targets, strict=True)):
            spaces = self.bench.spectra
            predicted, confidence, z = network.predict(
                self.net, shots, target.rows, spaces=spaces, crew=self.bench.crew
            )
            spectrum = evaluate.spectrum_of(z) if spaces else None
            found = evaluate.scores_of(predicted, confidence, target.y, target=i, trained=trained, spectrum=spectrum)
            scores.append(found)
        self.history[-1]["accuracy"] = scores[0].accuracy  # under mixed precision a tie may have gone another way
        accuracies = [row["accuracy"] for row in self.history]
        best = int(np.argmax(accuracies))
        scores[0] = replace(scores[0], best_accuracy=accuracies[best], best_epoch=best + 1)
        return scores

    def tensors(self) -> dict[str, Array]:
        """The classifier, adapters where there are any, and where asked the backbone, as numpy arrays."""
        found = {f"classifier.{k}": v.detach().cpu().numpy() for k, v in self.net.classifier.state_dict().items()}
        if self.run.white_box is not None and self.run.white_box.lora_rank:
            found |= {ADAPTERS + k: v.numpy() for k, v in self.net.adapter_state().items()}
        if self.bench.keep_backbone:
            found |= {BACKBONE + k: v.numpy() for k, v in self.net.backbone_state().items()}
        return found

    def _keep_now_and_then(self, epoch: int) -> None:
        """A checkpoint, where the last is long ago; ``epoch`` is the one in progress."""
        began = time.monotonic()
        if not self.bench.crew.leads or began - self._kept_at <= max(fit.CHECKPOINT_S, 20 * self._cost):
            return
        tensors, plain = self.steps.state(epoch)
        chosen, about = self.selection.state()
        tensors = {**tensors, **{f"selection/{k}": v for k, v in chosen.items()}}
        meta = canonical({"history": self.history, "steps": plain, "selection": about}).decode()
        whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        self.bench.keep(self._name, bytes(save_tensors(whole, metadata={"nmtool": meta})))
        self._kept_at = time.monotonic()
        self._cost = self._kept_at - began if fit.CHECKPOINT_S > 0 else 0.0

    def _restore(self) -> None:
        data = self.bench.kept(self._name)
        if data is None:
            return
        tensors, meta = load_tensors(data), metadata(data)
        self.steps.restore(tensors, meta["steps"])
        chosen = {k.removeprefix("selection/"): v for k, v in tensors.items() if k.startswith("selection/")}
        self.selection.restore(chosen, meta["selection"])
        self.history = meta["history"]
