"""The loop that every method on features shares: K heads, one pass over resident features, no DataLoader.

Heads with equally many rows and the same steps are one stack; each has its own rows, labels, initialisation, learning
rate, decay and loss weights. A head's numbers do not depend on its neighbours beyond rounding (batched matrix products
may add in another order than single ones). It refuses to go on, or to leave anything, once a loss is not finite.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from nmtool.artifact.format import canonical, sha256
from nmtool.errors import DivergedError
from nmtool.numerics.spectral import EFFORTS
from nmtool.numerics.terms import Blind
from nmtool.records import Int
from nmtool.tune import evaluate, record
from nmtool.tune.feed import Feed, ViewFeed
from nmtool.tune.heads import LAYOUT, LinearHeads
from nmtool.tune.loss import ClassLoss, class_loss
from nmtool.tune.material import Bench, Material, Target
from nmtool.tune.optimise import StackAdamW
from nmtool.tune.outcome import Outcome, Scores, metadata
from nmtool.tune.plan import Run
from nmtool.tune.scale import Scaling

# A checkpoint of a stack costs a copy of its parameters and moments: not more often than this.
CHECKPOINT_S = 20.0


class Terms(Protocol):
    """Regularisers: unweighted values [K] by name, and their weights [K]."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """[K] by name."""

    @property
    def can_be_blind(self) -> bool:
        """Whether they can be had without looking at a value on the device."""

    @property
    def blind(self) -> Blind | None:
        """Set meanwhile."""

    @blind.setter
    def blind(self, value: Blind | None) -> None: ...

    def __call__(self, F: Tensor, Z: Tensor) -> dict[str, Tensor]:
        """Terms of features F and transformed features Z, [K or 1, B, D] and [K, B, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A stack after its last epoch.

    Attributes:
        heads: the stack.
        feed: its rows and scaling.
        epochs: for each head, a row an epoch.
    """

    heads: LinearHeads
    feed: Feed
    epochs: list[list[dict[str, Any]]]


def fit(
    model: type[LinearHeads],
    runs: tuple[Run, ...],
    material: Material,
    bench: Bench,
    terms: Terms | None = None,
    *,
    keep_last: bool = False,
    feed: Feed | None = None,
    before: Callable[[int, LinearHeads], None] | None = None,
    tag: str = "",
) -> Trained:
    """Train a stack; a checkpoint at the end of an epoch now and then, from which a killed run goes on.

    With ``keep_last`` there is one after the last epoch, too, for methods that go on from here. Runs that hold rows out
    are candidates of a search: the test split is not looked at, and a head that diverges is left to its fate.
    ``feed`` has the rows where a method chose some; ``before`` is called with each epoch, counted from 0, and the heads
    as they are; ``tag`` tells two stacks of the same runs apart.

    Raises:
        DivergedError: a loss is not finite; names the term, the epoch, the step and the head.
    """
    probe = runs[0].probe
    feed = feed_of(runs, material, bench) if feed is None else feed
    heads = model(runs, material.X.shape[1], material.outputs, bench.device)
    loss = class_loss(runs, material)
    steps = -(-feed.n // probe.batch_size)
    adamw = StackAdamW(heads.parameters, runs, steps * probe.epochs)
    # all indices and shapes: another device may cut a stack otherwise, and the layers within it
    shapes = {name: list(p.shape) for name, p in heads.parameters.items()}
    which = sha256(canonical([[run.index for run in runs], shapes, LAYOUT]))[7:23]
    name = f"stack-{tag}{which}.safetensors"
    epochs, effort = _restore(bench.kept(name), heads, adamw, loss) or ([[] for _ in runs], 0)
    bench.advance(len(runs) * len(epochs[0]))
    candidates = runs[0].holdout > 0
    target = material.targets[0]
    truth = bench.tensor(target.y)
    last = time.monotonic()
    left = steps * (probe.epochs - len(epochs[0]))
    recorded = before is None and record.pays(bench.device, terms, left)
    passes = _Pass(heads, adamw, feed, loss, terms, runs, bench.report.info if recorded else None, effort)
    for epoch in range(len(epochs[0]), probe.epochs):
        if before is not None:
            before(epoch, heads)
        rows = passes.epoch(epoch, bench.pulse)
        looks: dict[str, Sequence[float | None]] = {}
        if target.values is not None and not candidates:
            looks = {"pearson": evaluate.correlations(heads, feed, target.X, target.values)}
        elif not candidates:
            looks = {"accuracy": evaluate.correct(heads, feed, target.X, truth)}
        for k, row in enumerate(rows):
            epochs[k].append({**row, **{name: values[k] for name, values in looks.items()}})
        bench.advance(len(runs))
        if time.monotonic() - last > CHECKPOINT_S and epoch + 1 < probe.epochs:
            bench.keep(name, _state(heads, adamw, loss, epochs, passes.effort))
            last = time.monotonic()
    if not candidates:
        _check_parameters(heads, runs)
    if keep_last and adamw.stepped:
        bench.keep(name, _state(heads, adamw, loss, epochs, passes.effort))
    return Trained(heads=heads, feed=feed, epochs=epochs)


def feed_of(runs: Sequence[Run], material: Material, bench: Bench) -> Feed:
    """The rows of a stack: their features, or two augmented views of each."""
    return (ViewFeed if runs[0].views else Feed)(runs, material, bench)


class _Pass:
    """One pass over the rows after the other.

    Attributes:
        names: of the loss's terms, once a step was made.
        effort: a killed run goes on with it: which of ``EFFORTS`` recorded steps take; as many as there are: none.
    """

    def __init__(
        self,
        heads: LinearHeads,
        adamw: StackAdamW,
        feed: Feed,
        loss: ClassLoss,
        terms: Terms | None,
        runs: Sequence[Run],
        recorded: Callable[[str], None] | None,
        effort: int,
    ) -> None:
        self._heads, self._adamw, self._feed, self._loss, self._terms = heads, adamw, feed, loss, terms
        self._runs = runs
        self._size = runs[0].probe.batch_size
        self._direct = terms is None and not heads.transforms
        self.names: list[str] = []
        self._recorder: record.Recorder | None = None
        self.effort = effort
        if recorded is not None and effort < len(EFFORTS):
            self._recorder = record.Recorder(self._counted, heads, adamw, loss, terms, self._size, recorded, effort)

    def epoch(self, epoch: int, pulse: Callable[[], None]) -> list[dict[str, Any]]:
        """A row a head: mean losses by term, and accuracy on the training labels so far."""
        order = self._feed.order(epoch)
        found = None
        if self._recorder is not None:
            found = self._recorder.epoch(order, pulse)
            self.effort = self._recorder.effort if found is not None else len(EFFORTS)
            self._recorder = self._recorder if found is not None else None
        hits, history = self._steps(order, pulse) if found is None else found
        return _told(history, hits, self.names, self._runs, self._feed, self._size, epoch, self._heads)

    def _steps(self, order: Tensor, pulse: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Hits [K] and losses [steps, T, K]."""
        hits = torch.zeros(len(self._runs), device=order.device)
        history: list[Tensor] = []  # [T, K] a step: read once an epoch, so that a GPU is not waited for
        for start in range(0, self._feed.n, self._size):
            pulse()
            right, losses = self._counted(order[:, start : start + self._size])
            self._adamw.step()
            history.append(losses)
            hits += right
        return hits, torch.stack(history)

    def _counted(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Hits [K] and losses [T, K] of the rows [U, B]; leaves the parameters' gradients."""
        x, y = self._feed.batch(rows)
        if self._direct:
            logits, parts = _direct(self._heads, x, y, self._loss, self._feed.rows_in(rows))
        else:
            with torch.enable_grad():
                logits, parts = _by_autograd(self._heads, x, y, self._loss, self._feed.rows_in(rows), self._terms)
        self.names = list(parts)
        return (logits.argmax(-1) == y).sum(-1), torch.stack([p.detach() for p in parts.values()])


def _told(
    history: Tensor,
    hits: Tensor,
    names: Sequence[str],
    runs: Sequence[Run],
    feed: Feed,
    size: int,
    epoch: int,
    heads: LinearHeads,
) -> list[dict[str, Any]]:
    """What an epoch's row says of each head."""
    values = history.cpu()
    if runs[0].holdout:
        values = values.nan_to_num(0.0, 0.0, 0.0)  # told by the search; a checkpoint's JSON knows no NaN
    else:
        _check_losses(values, names, runs, epoch)
    sizes = torch.tensor([min(size, feed.n - s) for s in range(0, feed.n, size)], dtype=torch.float64)
    means = (values.double() * sizes[:, None, None]).sum(0) / feed.n
    accuracy = hits.double().cpu() / (feed.n * feed.copies)
    classes = heads.parameters["classifier.bias"].shape[-1]  # one output: a real number
    return [
        {
            "epoch": epoch + 1,
            "train_accuracy": float(accuracy[k]) if classes > 1 else None,
            **{n: float(means[i, k]) for i, n in enumerate(names)},
        }
        for k in range(len(runs))
    ]


@torch.no_grad()
def _direct(
    heads: LinearHeads, x: Tensor, y: Tensor, loss: ClassLoss, rows: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and loss of a batch; the parameters' gradients without autograd, where a linear classifier is all."""
    logits = heads.classify(x, training=True)
    value, slope = loss.slope(logits, y, rows)
    heads.learn(x, slope)
    return logits, {loss.name: value}


def _by_autograd(
    heads: LinearHeads, x: Tensor, y: Tensor, loss: ClassLoss, rows: Tensor, terms: Terms | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the unweighted terms of the loss of a batch; the parameters' gradients of the weighted sum."""
    z = heads.transform(x, training=True)
    logits = heads.classify(z, training=True)
    parts = {loss.name: loss(logits, y, rows)}
    total = parts[loss.name]
    if terms is not None:
        for name, value in terms(x, z).items():
            parts[name] = value
            total = total + terms.weights[name] * value
    total.sum().backward()  # type: ignore[no-untyped-call]
    return logits.detach(), parts


def _check_losses(values: Tensor, names: Sequence[str], runs: Sequence[Run], epoch: int) -> None:
    """values [steps, terms, K]: all finite, or ``DivergedError`` with the first that is not."""
    bad = ~values.isfinite()
    if not bad.any():
        return
    step, term, head = (int(i) for i in bad.nonzero()[0])
    raise DivergedError(
        f"the {names[term]} loss is {float(values[step, term, head])} in epoch {epoch + 1}, step {step + 1} "
        f"({runs[head].words()})",
        "a finite loss",
        "lower --lr or --weight-decay, or scale the features (--scale l2)",
    )


def _check_parameters(heads: LinearHeads, runs: Sequence[Run]) -> None:
    """The very last step has no loss after it that would show it."""
    for name, p in heads.parameters.items():
        finite = p.detach().flatten(1).isfinite().all(1).cpu().numpy()
        if not finite.all():
            raise DivergedError(
                f"{name} is not finite after the last step ({runs[int(np.argmin(finite))].words()})",
                "finite parameters",
                "lower --lr",
            )


def _state(
    heads: LinearHeads, adamw: StackAdamW, loss: ClassLoss, epochs: list[list[dict[str, Any]]], effort: int
) -> bytes:
    tensors = {f"head/{n}": t.detach().contiguous() for n, t in {**heads.parameters, **heads.buffers}.items()}
    tensors |= {f"adamw/{n}": t.contiguous() for n, t in adamw.state().items()}
    tensors |= {f"loss/{n}": t.contiguous() for n, t in loss.state().items()}
    meta = canonical({"epochs": epochs, "steps": adamw.done, "effort": effort}).decode()
    return bytes(save_tensors(tensors, metadata={"nmtool": meta}))


def _restore(
    data: bytes | None, heads: LinearHeads, adamw: StackAdamW, loss: ClassLoss
) -> tuple[list[list[dict[str, Any]]], int] | None:
    if data is None:
        return None
    tensors, meta = load_tensors(data), metadata(data)
    with torch.no_grad():
        for name, tensor in {**heads.parameters, **heads.buffers}.items():
            tensor.copy_(tensors[f"head/{name}"])
    adamw.restore({n.removeprefix("adamw/"): t for n, t in tensors.items() if n.startswith("adamw/")}, meta["steps"])
    loss.restore({n.removeprefix("loss/"): t for n, t in tensors.items() if n.startswith("loss/")})
    return meta["epochs"], meta.get("effort", 0)


def judge(runs: tuple[Run, ...], trained: Trained, material: Material, bench: Bench) -> list[Outcome]:
    """Every head of a trained stack on every split, after the last epoch."""
    heads, feed = trained.heads, trained.feed
    alone = [heads.one(k) for k in range(heads.heads)]
    scalings = [feed.scalings[view] for view in feed.view]
    found = [
        [_answers(head, scaling, t) for head, scaling in zip(alone, scalings, strict=True)] for t in material.targets
    ]
    spectra = evaluate.spectra(heads, feed, material.targets, bench) if bench.spectra else None
    outcomes = []
    for k, run in enumerate(runs):
        labels = material.overlays[run.labels].y
        trained_classes, counts = np.unique(labels[labels >= 0], return_counts=True)
        history = trained.epochs[k]
        scores = [
            _scores(found[i][k], t, i, trained_classes, spectra[i][k] if spectra is not None else None)
            for i, t in enumerate(material.targets)
        ]
        # The same rows asked in a stack may round to another side of a tie.
        if material.values is None:
            history[-1]["accuracy"] = scores[0].accuracy
            best = max(range(len(history)), key=lambda e: (history[e]["accuracy"], -e))
            scores[0] = evaluate.with_best(scores[0], history[best]["accuracy"], best + 1)
        else:
            history[-1]["pearson"] = scores[0].pearson
        solved: dict[str, Any] = {
            name: history[-1][name] for name in ("iterations", "converged") if name in history[-1]
        }
        outcomes.append(
            Outcome(
                run=run,
                tensors=_export(heads, feed, k),
                epochs=history,
                scores=scores,
                notes={
                    "n_train": feed.n,
                    "train_accuracy": history[-1]["train_accuracy"],
                    "chance": float(counts.max() / counts.sum()) if material.values is None else None,
                    **solved,
                },
                cleansing={},
            )
        )
    return outcomes


def _answers(head: LinearHeads, scaling: Scaling, target: Target) -> tuple[Any, Any]:
    """Predicted classes and their probabilities; of real numbers the numbers, and None."""
    if target.values is not None:
        return evaluate.numbers(head, scaling, target.X), None
    return evaluate.predict(head, scaling, target.X)


def _scores(
    found: tuple[Any, Any], target: Target, number: int, trained: Int, spectrum: tuple[float, float] | None
) -> Scores:
    if target.values is not None:
        return evaluate.scores_of_numbers(found[0], target.values, target=number, spectrum=spectrum)
    return evaluate.scores_of(*found, target.y, target=number, trained=trained, spectrum=spectrum)


def _export(heads: LinearHeads, feed: Feed, k: int) -> dict[str, Any]:
    """A head and its scaling as numpy arrays."""
    return {name: t.cpu().numpy() for name, t in heads.export(k).items()} | feed.scaling_of(k)
