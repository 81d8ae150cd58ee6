"""The loop that fine-tunes a network on images: one epoch step by step, with all that its state is made of.

Everything random is drawn by name from the seed, by epoch and step, so a run that goes on from any step ends as one
that was never stopped. Losses are read every 50 steps on a GPU, so that it is not waited for. It
refuses to go on once a loss or a weight is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nmtool.errors import DivergedError
from nmtool.numerics import losses
from nmtool.numerics.seeds import torch_seed
from nmtool.records import Int
from nmtool.tune import network, subset
from nmtool.tune.crew import Crew
from nmtool.tune.network import Network
from nmtool.tune.optimise import factor
from nmtool.tune.pictures import Shots
from nmtool.tune.plan import Run, WhiteBox

_LOOK_EVERY = 50


class Steps:
    """Trains one network.

    Args:
        net: changed in place.
        run: its settings.
        rows: rows of the training split, for the loss that remembers each.
        crew: the processes that train it together.

    Attributes:
        step: steps done of the epoch in progress.
    """

    def __init__(self, net: Network, run: Run, rows: int, crew: Crew) -> None:
        assert run.finetune is not None
        self.net, self.run, self.crew = net, run, crew
        self.settings, self.more = run.finetune, run.white_box or WhiteBox()
        self.optimizer = network.optimiser(net, run)
        self.scaler = torch.amp.GradScaler(net.device.type, enabled=self.more.amp == "fp16")
        self.early: losses.EarlyLearning | None = None
        if self.settings.loss == "elr":
            assert self.more.elr_beta is not None
            assert self.more.elr_lambda is not None
            self.early = losses.EarlyLearning(rows, net.classes, beta=self.more.elr_beta, lam=self.more.elr_lambda)
        self.step = 0
        self._sums: dict[str, float] = {}
        self._unread: list[tuple[int, int, Tensor]] = []  # step, images, values of the terms and hits

    @property
    def terms(self) -> list[str]:
        """What is added up, by name."""
        return [
            self.settings.loss,
            *(["cov"] if self.more.weight_cov else []),
            *(["svd"] if self.more.weight_svd else []),
        ]

    def epoch(
        self, shots: Shots, rows: Int, noisy: Int, number: int, between: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """One pass over ``rows``, from the step that was reached: mean losses by term, and ``train_accuracy``.

        A last batch of one image is left out where the network learns BatchNorm's statistics.

        Args:
            shots: images of the training split.
            rows: int64 [n] rows to train on.
            noisy: int64 [N] labels.
            number: of the epoch, from 1.
            between: called after each step but the last.

        Raises:
            DivergedError: a loss or a weight is not finite.
        """
        f = self.settings
        self.net.train()
        if f.batch_norm == "frozen":
            self.net.freeze_statistics()
        lonely = self.net.has_batch_norm() and f.batch_norm == "train"
        order = subset.order(rows, self.run.seed, number, "finetune")
        parts = [p for p in network.batches(order, f.batch_size) if not (lonely and len(p) == 1)]
        for at in range(self.step, len(parts)):
            self._one(shots, parts[at], noisy, number, at, len(parts), 2 if lonely else 1)
            self.step = at + 1
            if self.net.device.type == "cpu" or len(self._unread) >= _LOOK_EVERY:
                self._look(number)
            if self.step < len(parts):
                between()
        self._look(number)
        self._check_weights(number)
        told = self._means()
        self.step, self._sums = 0, {}
        return told

    def _one(self, shots: Shots, part: Int, noisy: Int, number: int, at: int, steps: int, least: int) -> None:
        """One step on the images of ``part``, in as many pieces as were asked for, on this rank's share of them."""
        if self.more.schedule != "constant":
            now = factor(self.more.schedule, (number - 1) * steps + at, self.settings.epochs * steps)
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.lr * now
        mine, weight = self.crew.share(len(part))
        names = ("tune", "finetune", "dropout", number, at, *((self.crew.rank,) if self.crew.rank else ()))
        _seed(torch_seed(self.run.seed, *names), self.net.device)
        pieces = np.array_split(mine, max(1, min(self.more.accumulate, len(mine) // least)))
        self.optimizer.zero_grad(set_to_none=True)
        found: Tensor | None = None
        for piece in pieces:
            values = self._backward(shots, part, piece, noisy, number, at, weight)
            found = values if found is None else found + values
        assert found is not None
        self.crew.add_gradients(p for p in self.net.parameters() if p.requires_grad)
        if self.early is not None:
            self.crew.spread_rows(self.early.target, part, mine if weight else mine[:0])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._unread.append((at, len(part), found))

    def _backward(self, shots: Shots, part: Int, piece: Int, noisy: Int, number: int, at: int, weight: float) -> Tensor:
        """Add the gradients of a piece; its share of each term's mean, and how many it got right, float64."""
        rows = part[piece]
        pixels = shots.batch(rows)
        if self.settings.augment == "weak":
            seed = torch_seed(self.run.seed, "tune", "augment", number, at)
            pixels = network.weakly(pixels, seed, len(part), piece)
        y = torch.from_numpy(noisy[rows]).to(self.net.device)
        with self.net.autocast(self.more.amp):
            z = self.net.transform(pixels)
            logits = self.net.classifier(z)
        values = [self._loss(logits, y, rows)]
        total = values[0]
        if self.more.weight_cov:
            values.append(losses.covariance(z))
            total = total + self.more.weight_cov * values[-1]
        if self.more.weight_svd:
            values.append(losses.dominant_singular_value(z, topk=self.more.svd_topk))
            total = total + self.more.weight_svd * values[-1]
        share = weight * len(rows) / len(part)
        self.scaler.scale(total * share if share != 1 else total).backward()  # type: ignore[no-untyped-call]
        right = (logits.detach().argmax(-1) == y).sum().double() * weight
        return torch.cat((torch.stack([v.detach().double() for v in values]) * share, right[None]))

    def _loss(self, logits: Tensor, y: Tensor, rows: Int) -> Tensor:
        if self.early is not None:
            return self.early(logits, y, torch.from_numpy(rows).to(logits.device))
        if self.settings.loss == "gce":
            return losses.generalized_cross_entropy(logits, y, self.run.probe.q)
        return losses.cross_entropy(logits, y)

    def _look(self, number: int) -> None:
        """Read what the last steps gave, and add it up."""
        if not self._unread:
            return
        values = self.crew.add(torch.stack([v for _, _, v in self._unread])).tolist()
        for (at, images, _), row in zip(self._unread, values, strict=True):
            for name, value in zip(self.terms, row, strict=False):
                if not np.isfinite(value):
                    raise DivergedError(
                        f"the {name} loss is {value} in epoch {number} of fine-tuning, step {at + 1} "
                        f"({self.run.words()})",
                        "a finite loss",
                        "lower --fft-lr",
                    )
                self._sums[name] = self._sums.get(name, 0.0) + value * images
            for name, value in (("right", row[-1]), ("seen", images)):
                self._sums[name] = self._sums.get(name, 0.0) + value
        self._unread.clear()

    def _check_weights(self, number: int) -> None:
        """The very last step has no loss after it that would show it."""
        for name, p in self.net.named_parameters():
            if p.requires_grad and not bool(p.detach().isfinite().all()):
                raise DivergedError(
                    f"{name} is not finite after epoch {number} of fine-tuning ({self.run.words()})",
                    "finite weights",
                    "lower --fft-lr",
                )

    def _means(self) -> dict[str, float]:
        seen = max(1.0, self._sums.get("seen", 0.0))
        means = {name: self._sums.get(name, 0.0) / seen for name in self.terms}
        return {**means, "train_accuracy": self._sums.get("right", 0.0) / seen}

    def state(self, number: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds: tensors by name, and the rest as plain JSON. Looks at the losses first."""
        self._look(number)
        tensors = {f"net/{n}": t for n, t in self.net.learned().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{k}": torch.as_tensor(v) for k, v in state.items() if v is not None}
        if self.early is not None:
            tensors["elr/target"] = self.early.target
        scaler = {k: v for k, v in self.scaler.state_dict().items() if isinstance(v, (int, float))}
        return tensors, {"step": self.step, "sums": self._sums, "scaler": scaler}

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        with torch.no_grad():
            for name, mine in self.net.learned().items():
                mine.copy_(tensors[f"net/{name}"])
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, tensor in tensors.items():
            if not name.startswith("optimizer/"):
                continue
            _, index, key = name.split("/")
            p = parameters[int(index)]
            # in the parameter's own memory layout, as the optimiser makes it: another could round otherwise
            self.optimizer.state[p][key] = (
                tensor if key == "step" else torch.empty_like(p, requires_grad=False).copy_(tensor)
            )
        if self.early is not None:
            self.early.target = tensors["elr/target"].to(self.net.device)
        if plain["scaler"]:
            self.scaler.load_state_dict(plain["scaler"])
        self.step, self._sums = int(plain["step"]), dict(plain["sums"])


def _seed(seed: int, device: torch.device) -> None:
    """Seed what layers draw from, in the state that the caller forked; cheaper than ``torch.manual_seed``."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
