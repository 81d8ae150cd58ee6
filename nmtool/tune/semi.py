"""Semi-supervised learning with two heads (DivideMix, Li et al. 2020; UNICON shares it): the loop, on frozen features.

Warm-up by cross-entropy; then in each epoch, for each head in turn: rows are divided into labelled and unlabelled ones
(what tells the methods apart), labels of the former are refined by the head itself, labels of the latter are guessed by
both, all are sharpened and mixed up, and the head is trained on soft cross-entropy + lambda_u * squared error + a prior
penalty. An epoch is one pass over the labelled rows, as published. Heads of several runs are one stack; they differ in
how many steps they take, and those that are done stand still. It refuses losses that are not finite.

A linear head's logits of mixed features are the mixed logits, so features are never mixed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from nmtool.artifact.format import canonical
from nmtool.errors import DivergedError
from nmtool.numerics import losses
from nmtool.numerics import semi as formulas
from nmtool.numerics.selection import purity_and_recall
from nmtool.records import Float, Int
from nmtool.tune import evaluate, subset
from nmtool.tune import fit as fitting
from nmtool.tune.defaults import LAMBDA_U
from nmtool.tune.feed import Feed
from nmtool.tune.fit import Trained, judge
from nmtool.tune.heads import LAYOUT
from nmtool.tune.material import Bench, Material
from nmtool.tune.outcome import Outcome, metadata
from nmtool.tune.pair import Net, mean_heads
from nmtool.tune.plan import Run
from nmtool.tune.rounds import Division, Epoch, Step, together
from nmtool.tune.seen import Seen

__all__ = ["Division", "Look", "Rules", "fit", "tune"]

# UNICON's unlabelled batch grows as 1 / R: ours, so that a small R does not make it the whole set.
_MOST_UNLABELLED = 8
_BLOCK = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What both heads of a run make of its training rows, in float64.

    Attributes:
        losses: the cross-entropies [n] of each head.
        divergence: [n] of their mean prediction from the label, in nats.
        accuracy: of their mean logits on the labels trained on.
        finite: whether all of it is.
    """

    losses: tuple[Float, Float]
    divergence: Float
    accuracy: float
    finite: bool


class Divide(Protocol):
    """Divides the rows of one head."""

    def __call__(self, run: Run, look: Look, labels: Int, net: int, epoch: int) -> Division:
        """Who is labelled for head ``net``, of rows with these labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What tells the methods apart.

    Attributes:
        name: of the method.
        divide: see above.
        fresh_look: whether the second head's rows are divided after the first was trained.
        unlabelled_by_share: whether a step has B / 2R unlabelled rows, R the share that is labelled, instead of B.
    """

    name: str
    divide: Divide
    fresh_look: bool
    unlabelled_by_share: bool


def lambda_of(run: Run, material: Material) -> float:
    """The weight of the unlabelled loss: as asked, or by the labels' type of noise."""
    assert run.semi is not None
    if run.semi.lambda_u is not None:
        return run.semi.lambda_u
    asymmetric, strong, other = LAMBDA_U[run.method]
    overlay = material.overlays[run.labels]
    if overlay.type in _ASYMMETRIC:
        return asymmetric
    ratio = overlay.requested if overlay.requested is not None else overlay.ratio
    return strong if overlay.type == "symmetric" and ratio is not None and ratio >= 0.8 else other


_ASYMMETRIC = ("asymmetric", "pairflip")


def penalised(run: Run, material: Material) -> bool:
    """Whether the warm-up has the negative-entropy penalty."""
    assert run.semi is not None
    asked = run.semi.warmup_penalty
    return asked == "yes" or (asked == "auto" and material.overlays[run.labels].type in _ASYMMETRIC)


def warmup_epochs(run: Run) -> int:
    """Epochs of warm-up, at least one."""
    assert run.semi is not None
    return min(run.probe.epochs, max(1, round(run.semi.warmup * run.probe.epochs)))


class _Training:
    """A stack of pairs, epoch by epoch."""

    def __init__(self, runs: tuple[Run, ...], material: Material, bench: Bench, rules: Rules) -> None:
        assert runs[0].semi is not None
        self.runs, self.material, self.bench, self.rules = runs, material, bench, rules
        self.settings = runs[0].semi
        self.feed = Feed(runs, material, bench)
        self.seen = Seen(self.feed, material, len(runs))
        self.rows = [self.feed.rows_of(k) for k in range(len(runs))]
        self.labels = [material.overlays[r.labels].y[rows] for r, rows in zip(runs, self.rows, strict=True)]
        dim, self.classes = material.X.shape[1], len(material.classes)
        self.nets = [Net(runs, i, dim, self.classes, bench.device) for i in (0, 1)]
        self.epochs: list[list[dict[str, Any]]] = [[] for _ in runs]
        self.warm = warmup_epochs(runs[0])
        self._told: set[int] = set()
        self.lambdas = [lambda_of(run, material) for run in runs]
        self._penalised = torch.tensor([float(penalised(r, material)) for r in runs], device=bench.device)

    def warm_up(self, epoch: int) -> list[dict[str, Any]]:
        """One epoch of cross-entropy for both heads, each in an order of its own."""
        size, n = self.runs[0].probe.batch_size, self.feed.n
        steps, active = -(-n // size), list(range(len(self.runs)))
        found = torch.zeros(len(self.runs), dtype=torch.float64)
        for i, net in enumerate(self.nets):
            pairs = zip(self.rows, self.runs, strict=True)
            order = self.bench.tensor(np.stack([subset.order(r, run.seed, epoch, f"net{i}") for r, run in pairs]))
            history = []
            for step in range(steps):
                now = order[:, step * size : (step + 1) * size]
                logits = net.logits(self.seen.one_view(now, epoch), active)
                loss = losses.cross_entropy(logits, self._labels(now, active))
                if self._penalised.any():
                    loss = loss + self._penalised * formulas.negative_entropy(logits)
                loss.sum().backward()  # type: ignore[no-untyped-call]
                done = [epoch * steps + step] * len(active)
                net.step(active, done, [self.runs[0].probe.epochs * steps] * len(active))
                history.append(loss.detach() * now.shape[1])
            found += torch.stack(history).double().sum(0).cpu() / n / len(self.nets)
        return [{"ce": float(value)} for value in found]

    def divided(self, epoch: int, looks: list[Look]) -> list[dict[str, Any]]:
        """One epoch of the second phase for both heads, which begins with these looks at the rows."""
        lines: list[list[dict[str, Any]]] = []
        divisions = [self._divide(looks, i, epoch) for i in (0, 1)]
        for i in (0, 1):
            if i and self.rules.fresh_look:
                divisions[i] = self._divide(self.look(epoch), i, epoch)
            lines.append(self._epoch(i, divisions[i], epoch))
        return [_mean(pair) for pair in zip(*lines, strict=True)]

    def _divide(self, looks: list[Look], net: int, epoch: int) -> list[Division | None]:
        divisions = [
            self.rules.divide(run, look, labels, net, epoch) if look.finite else None
            for run, look, labels in zip(self.runs, looks, self.labels, strict=True)
        ]
        for run, division in zip(self.runs, divisions, strict=True):
            if division is not None and not run.holdout and run.index not in self._told:
                self._tell(run, division, epoch)
        return divisions

    def _tell(self, run: Run, division: Division, epoch: int) -> None:
        """Say, once a run, where rows could not be divided."""
        labelled, where = int(division.labelled.sum()), f"{run.words()}, epoch {epoch + 1}"
        if labelled == len(division.labelled):
            text = f"nothing tells the rows apart ({where}): all count as labelled, and no label is guessed"
        elif labelled < self.classes:
            text = f"only {labelled} of {len(division.labelled)} rows count as labelled ({where}), fewer than classes"
            text += "; a lower --p-threshold may help" if run.semi is not None and run.semi.p_threshold else ""
        else:
            return
        self._told.add(run.index)
        self.bench.report.warning(text)

    def _epoch(self, which: int, divisions: list[Division | None], epoch: int) -> list[dict[str, Any]]:
        plans = {}
        for k, division in enumerate(divisions):
            if division is not None:
                names = (self.rules.name, which, epoch)
                plans[k] = Epoch(self.runs[k], self.rows[k], division, self._unlabelled(division), names)
        sums = torch.zeros(3, len(self.runs), dtype=torch.float64, device=self.bench.device)
        for step in range(max((plan.steps for plan in plans.values()), default=0)):
            active = [k for k, plan in plans.items() if plan.steps > step]
            batch = together([plans[k] for k in active], step, self.seen.count, self.bench.device)
            parts = self._losses(which, batch, active, epoch)
            total = self._weights(active, step, plans, epoch)
            (parts[0] + total * parts[1] + parts[2]).sum().backward()  # type: ignore[no-untyped-call]
            steps = [plans[k].steps for k in active]
            done = [epoch * s + step for s in steps]
            self.nets[which].step(active, done, [self.runs[0].probe.epochs * s for s in steps])
            sums[:, active] += torch.stack([p.detach() for p in parts]).double()
        values = sums.cpu().numpy()
        return [self._line(k, plans, values, division) for k, division in enumerate(divisions)]

    def _unlabelled(self, division: Division) -> int:
        """Unlabelled rows a step."""
        size = self.runs[0].probe.batch_size
        if not self.rules.unlabelled_by_share:
            return size
        return min(_MOST_UNLABELLED * size, max(1, round(size / (2 * float(division.labelled.mean())))))

    def _weights(self, active: Sequence[int], step: int, plans: dict[int, Epoch], epoch: int) -> Tensor:
        """lambda_u of each active head, as far as it has set in."""
        length = self.settings.ramp * (self.runs[0].probe.epochs - self.warm)
        now = [self.lambdas[k] * formulas.ramp(epoch + step / plans[k].steps - self.warm, length) for k in active]
        return torch.tensor(now, device=self.bench.device)

    def _losses(self, which: int, batch: Step, active: Sequence[int], epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Labelled, unlabelled and prior loss [A] of one step."""
        net, peer = self.nets[which], self.nets[1 - which]
        views, temperature = self.seen.count, self.settings.sharpen
        wide = batch.labelled.shape[1]
        rows = torch.cat([batch.labelled, batch.unlabelled], 1)
        x = self.seen.views(rows, active, epoch)  # [A, V, B + U, D]
        heads = len(active)
        logits = _by_view(net.logits(x.flatten(1, 2), active), views)
        with torch.no_grad():
            if self.seen.guess_on_clean:
                clean = self.seen.clean(rows, active)
                p, other = (n.logits(clean, active).softmax(-1) for n in (net, peer))
            else:
                p = logits.softmax(-1).mean(1)
                free = x[:, :, wide:].flatten(1, 2)
                other = _by_view(peer.logits(free, active), views).softmax(-1).mean(1)
                other = torch.cat([p[:, :wide], other], 1)
            y = self._labels(batch.labelled, active).clamp_min(0)  # where padded, a row without a label
            known = formulas.co_refine(y, p[:, :wide], batch.weight, temperature)
            guessed = formulas.co_guess(p[:, wide:], other[:, wide:], temperature)
            target = torch.cat([known.repeat(1, views, 1), guessed.repeat(1, views, 1)], 1)
            target = formulas.mixed(target, batch.partner, batch.mix)
        own, free = logits[:, :, :wide].reshape(heads, -1, self.classes), logits[:, :, wide:]
        flat = torch.cat([own, free.reshape(heads, -1, self.classes)], 1)
        flat = formulas.mixed(flat, batch.partner, batch.mix)
        cut = views * wide
        soft = formulas.soft_cross_entropy_each(flat[:, :cut], target[:, :cut])
        squared = formulas.squared_error_each(flat[:, cut:], target[:, cut:])
        return (
            formulas.masked_mean(soft, batch.filled[:, :cut]),
            formulas.masked_mean(squared, batch.filled[:, cut:]),
            formulas.prior_penalty(flat, batch.filled),
        )

    def _labels(self, rows: Tensor, active: Sequence[int]) -> Tensor:
        overlay = torch.tensor([self.runs[k].labels for k in active], device=rows.device)[:, None]
        return self.feed.y[overlay, rows]

    def _line(self, k: int, plans: dict[int, Epoch], values: Float, division: Division | None) -> dict[str, Any]:
        """What the log says of one head's epoch."""
        if division is None:
            return {}
        steps = plans[k].steps
        line = {name: float(values[j, k]) / steps for j, name in enumerate(("labelled", "unlabelled", "prior"))}
        line["selected"] = float(division.labelled.sum())
        overlay = self.material.overlays[self.runs[k].labels]
        if overlay.ratio is not None:
            purity, recall = purity_and_recall(division.labelled, self.material.clean[self.rows[k]], self.labels[k])
            line |= {n: v for n, v in (("purity", purity), ("recall", recall)) if np.isfinite(v)}
        return line

    @torch.no_grad()
    def look(self, epoch: int) -> list[Look]:
        """How both heads of each run see its rows, in evaluation: features as they are, without augmentation."""
        looks = []
        for k, (rows, y) in enumerate(zip(self.rows, self.labels, strict=True)):
            parts: list[tuple[Tensor, ...]] = []
            for start in range(0, len(rows), _BLOCK):
                here = self.bench.tensor(rows[start : start + _BLOCK])
                label = self.bench.tensor(y[start : start + _BLOCK])
                x = self.seen.of_one(here, k)
                pair = [net.heads.one(k).classify(x[None])[0].double() for net in self.nets]
                each = [losses.cross_entropy_each(logits, label) for logits in pair]
                p = torch.stack([logits.softmax(-1) for logits in pair]).mean(0)
                p_y = p.gather(-1, label[:, None])[:, 0]
                right = (pair[0] + pair[1]).argmax(-1) == label
                parts.append((*each, formulas.jensen_shannon(p_y), right.double()))
            first, second, divergence, hits = (torch.cat(t).cpu().numpy() for t in zip(*parts, strict=True))
            finite = bool(np.isfinite(first).all() and np.isfinite(second).all())
            if not finite and not self.runs[k].holdout:
                raise DivergedError(
                    f"the losses are not finite after epoch {epoch} ({self.runs[k].words()})",
                    "finite losses",
                    "lower --lr or --weight-decay, or scale the features (--scale l2)",
                )
            looks.append(
                Look(losses=(first, second), divergence=divergence, accuracy=float(hits.mean()), finite=finite)
            )
        return looks

    def keep(self, name: str) -> None:
        """A checkpoint after an epoch."""
        tensors = {f"{i}/{n}": t for i, net in enumerate(self.nets) for n, t in net.state().items()}
        self.bench.keep(name, bytes(save_tensors(tensors, metadata={"nmtool": canonical(self.epochs).decode()})))

    def restore(self, name: str) -> None:
        """Go on from the checkpoint, where there is one."""
        data = self.bench.kept(name)
        if data is None:
            return
        tensors = load_tensors(data)
        for i, net in enumerate(self.nets):
            net.restore({n[2:]: t for n, t in tensors.items() if n.startswith(f"{i}/")})
        self.epochs = metadata(data)


def _by_view(logits: Tensor, views: int) -> Tensor:
    """[A, V, B, C] of [A, V B, C]."""
    return logits.view(logits.shape[0], views, logits.shape[1] // views, logits.shape[-1])


def _mean(pair: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The lines of two heads as one."""
    return {name: float(np.mean([line[name] for line in pair if name in line])) for name in pair[0]}


def fit(runs: tuple[Run, ...], material: Material, bench: Bench, rules: Rules) -> Trained:
    """Train a stack of pairs; what is left of each is one linear head with the mean of its pair's logits.

    Raises:
        DivergedError: a loss is not finite, unless the run is a candidate of a search.
    """
    training = _Training(runs, material, bench, rules)
    which = hashlib.sha256(canonical([[run.index for run in runs], LAYOUT])).hexdigest()[:16]
    name = f"pairs-{which}.safetensors"
    training.restore(name)
    epochs, first = runs[0].probe.epochs, len(training.epochs[0])
    bench.advance(len(runs) * first)
    target = material.targets[0]
    truth = bench.tensor(target.y)
    last = time.monotonic()
    looks = training.look(first) if first >= training.warm else []
    for epoch in range(first, epochs):
        lines = training.warm_up(epoch) if epoch < training.warm else training.divided(epoch, looks)
        looks = training.look(epoch + 1)
        heads = mean_heads(training.nets)
        accuracies = None if runs[0].holdout else evaluate.correct(heads, training.feed, target.X, truth)
        for k, line in enumerate(lines):
            row = {"epoch": epoch + 1, "train_accuracy": looks[k].accuracy, **line}
            training.epochs[k].append(row | ({"accuracy": accuracies[k]} if accuracies else {}))
        bench.advance(len(runs))
        if time.monotonic() - last > fitting.CHECKPOINT_S and epoch + 1 < epochs:
            training.keep(name)
            last = time.monotonic()
    return Trained(heads=mean_heads(training.nets), feed=training.feed, epochs=training.epochs)


def tune(runs: tuple[Run, ...], material: Material, bench: Bench, rules: Rules) -> list[Outcome]:
    """Train a stack of pairs, and judge them on every split."""
    views = material.views
    if views is None:
        bench.report.info(
            f"{rules.name}: these features have one view of each row, so labels are guessed from two predictions, not "
            "four; of images, extract --views 2 keeps more"
        )
    trained = fit(runs, material, bench, rules)
    outcomes = []
    for o in judge(runs, trained, material, bench):
        last = o.epochs[-1]
        notes = {f"{name}_last": last[name] for name in ("selected", "purity", "recall") if name in last}
        notes |= {"lambda_u_used": lambda_of(o.run, material), "views": 1 if views is None else views.X.shape[1]}
        outcomes.append(replace(o, notes={**o.notes, **notes}))
    return outcomes
