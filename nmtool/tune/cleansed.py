"""Heads on features, trained on what TURN's mixtures call clean: ``--cleanse`` of ``lp``, ``mlp`` and ``nmtune``.

A linear probe with a robust loss is trained on all rows first; a mixture on each class's cross-entropies says which
rows are clean (``cleanse``); the head trains on those. Under ``each`` the head itself is asked again before each
further epoch; so that the schedule holds, an epoch then has as many rows as the first cleansing left, drawn from the
new ones. All of it needs cached features alone. Heads are trained one by one: they have differently many rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from nmtool.artifact.format import canonical
from nmtool.numerics import losses
from nmtool.numerics.seeds import generator
from nmtool.records import Float, Int
from nmtool.tune import fit
from nmtool.tune import outcome as outcomes_of
from nmtool.tune.cleanse import Round, cleanse
from nmtool.tune.feed import Feed
from nmtool.tune.heads import LinearHeads
from nmtool.tune.material import Bench, Material
from nmtool.tune.outcome import Outcome, metadata
from nmtool.tune.plan import Run

_BLOCK = 8192
TermsOf = Callable[[tuple[Run, ...]], fit.Terms | None]


def tune(
    model: type[LinearHeads], terms: TermsOf, runs: tuple[Run, ...], material: Material, bench: Bench
) -> list[Outcome]:
    """Probe as one stack, then cleanse and train each run's head, and judge it on every split."""
    first = _first_losses(runs, material, bench)
    outcomes = []
    for run in runs:
        name = f"done-cleansed-{run.index}.safetensors"
        kept = bench.kept(name)
        if kept is None:
            kept = outcomes_of.to_bytes([_Training(model, terms, run, material, bench).outcome(first[_who(run)])])
            bench.keep(name, kept)
        else:
            bench.advance(run.probe.epochs)
        outcomes += outcomes_of.from_bytes(kept)
    return outcomes


def _who(run: Run) -> tuple[object, ...]:
    """Runs that agree in this have one probe."""
    return (run.seed, run.fraction, run.labels, run.nested)


def _first_losses(runs: tuple[Run, ...], material: Material, bench: Bench) -> dict[tuple[object, ...], Float]:
    """The cross-entropies of each run's rows under its probe."""
    probes = {_who(run): _probe_of(run) for run in reversed(runs)}
    stack = tuple(probes.values())
    trained = fit.fit(LinearHeads, stack, material, bench, keep_last=True, tag="probe-")
    bench.advance((len(runs) - len(stack)) * stack[0].probe.epochs)
    found = {}
    for k, (who, run) in enumerate(probes.items()):
        found[who] = losses_of(trained.heads.one(k), trained.feed, k, material.overlays[run.labels].y, material)
    return found


def _probe_of(run: Run) -> Run:
    assert run.cleansing is not None
    added: dict[str, Any] = {"shape": None, "terms": None, "early": None, "cleansing": None, "views": False}
    return replace(run, probe=run.cleansing.probe, **added)


@torch.no_grad()
def losses_of(head: LinearHeads, feed: Feed, k: int, noisy: Int, material: Material) -> Float:
    """Cross-entropy float64 [n] of the rows of a feed's head ``k``, from cached features, in evaluation mode."""
    rows, scaling = feed.rows_of(k), feed.scalings[feed.view[k]]
    parts = []
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        x = scaling(material.X[torch.from_numpy(part).to(material.X.device)])[None]
        logits = head.classify(head.transform(x, training=False))[0].double()
        y = torch.from_numpy(noisy[part]).to(material.X.device)
        parts.append(losses.cross_entropy_each(logits, y).cpu().numpy())
    return np.concatenate(parts).astype(np.float64)


@dataclass(kw_only=True)
class _Rounds:
    """The cleansings of one run so far; kept, so that a killed run has those of its finished epochs."""

    run: Run
    noisy: Int
    classes: int
    bench: Bench
    found: dict[int, Round] = field(default_factory=dict)

    def at(self, number: int, rows: Int, values: Callable[[], Float]) -> Round:
        """Round ``number``: made from the losses, or read where it was kept."""
        if number not in self.found:
            kept = self.bench.kept(self._name(number))
            self.found[number] = self._read(kept, number) if kept is not None else self._make(number, rows, values())
        return self.found[number]

    def _make(self, number: int, rows: Int, values: Float) -> Round:
        assert self.run.cleansing is not None
        tau, seed = self.run.cleansing.tau, self.run.seed
        balanced = cleanse(values, rows, self.noisy, classes=self.classes, tau=tau, seed=seed, number=number)
        made = replace(balanced, drawn=_kept_rows(balanced, self.noisy))
        arrays = {name: np.ascontiguousarray(getattr(made, name)) for name in _ARRAYS}
        meta = canonical({"small": made.small_classes, "empty": made.empty_classes}).decode()
        self.bench.keep(self._name(number), bytes(save_arrays(arrays, metadata={"nmtool": meta})))
        return made

    def _read(self, data: bytes, number: int) -> Round:
        meta = metadata(data)
        read: dict[str, Any] = {**load_arrays(data), "small_classes": tuple(meta["small"])}
        return Round(number=number, per_class=0, empty_classes=tuple(meta["empty"]), **read)

    def _name(self, number: int) -> str:
        return f"cleansed-{self.run.index}-{number}.safetensors"


_ARRAYS = ("rows", "losses", "posterior", "selected", "drawn")


def _kept_rows(found: Round, noisy: Int) -> Any:
    """bool [n]: all that was called clean; of a class without any, the row of lowest loss."""
    kept = found.selected.copy()
    for c in found.empty_classes:
        mine = np.flatnonzero(noisy[found.rows] == c)
        kept[mine[found.losses[mine].argmin()]] = True
    return kept


class _Training:
    """One run: its first cleansing, its head, and under ``each`` the cleansings between the epochs."""

    def __init__(self, model: type[LinearHeads], terms: TermsOf, run: Run, material: Material, bench: Bench) -> None:
        self.model, self.terms, self.run, self.material, self.bench = model, terms, run, material, bench
        self.overlay = material.overlays[run.labels]
        self.feed = fit.feed_of((run,), material, bench)
        self.rows = self.feed.rows_of(0)
        self.rounds = _Rounds(run=run, noisy=self.overlay.y, classes=len(material.classes), bench=bench)
        self.size = 0

    def outcome(self, first: Float) -> Outcome:
        """Train and judge; ``first`` are the probe's losses."""
        assert self.run.cleansing is not None
        found = self.rounds.at(1, self.rows, lambda: first)
        self._tell(found)
        self.size = len(found.chosen)
        self.feed.choose(found.chosen)
        each = self.run.cleansing.cleanse == "each"
        trained = fit.fit(
            self.model,
            (self.run,),
            self.material,
            self.bench,
            self.terms((self.run,)),
            feed=self.feed,
            before=self._again if each else None,
            tag="cleansed-",
        )
        (judged,) = fit.judge((self.run,), trained, self.material, self.bench)
        rounds = [self.rounds.at(n, self.rows, _missing) for n in range(1, self.run.probe.epochs + 1 if each else 2)]
        history = [{**line, **self._quality(rounds[i] if each else rounds[0])} for i, line in enumerate(judged.epochs)]
        notes = {**judged.notes, "n_train": len(self.rows)}
        for when, line in (("first", history[0]), ("last", history[-1])):
            notes |= {f"{name}_{when}": line[name] for name in _TOLD if name in line}
        return replace(judged, epochs=history, notes=notes, cleansing=columns(rounds))

    def _again(self, epoch: int, heads: LinearHeads) -> None:
        """Before an epoch but the first: what the head as it is now calls clean."""
        if not epoch:
            return
        number = epoch + 1

        def now() -> Float:
            return losses_of(heads.one(0), self.feed, 0, self.overlay.y, self.material)

        pool = self.rounds.at(number, self.rows, now).chosen
        rng = generator(self.run.seed, "tune", "cleansed", number)
        turns = [rng.permutation(pool) for _ in range(-(-self.size // len(pool)))]
        self.feed.choose(np.sort(np.concatenate(turns)[: self.size]))

    def _quality(self, found: Round) -> dict[str, Any]:
        """Sizes; with the clean labels known apart from those trained on, purity and recall too."""
        sizes = {"selected": int(found.selected.sum()), "drawn": int(found.drawn.sum())}
        return sizes if self.overlay.ratio is None else {**sizes, **found.quality(self.material.clean, self.overlay.y)}

    def _tell(self, found: Round) -> None:
        assert self.run.cleansing is not None
        told, report = self._quality(found), self.bench.report
        who = f"{self.run.words()}, cleanse {self.run.cleansing.cleanse}"
        text = f"{who}: {told['selected']} of {len(found.rows)} samples called clean"
        if "purity" in told:
            text += f" (purity {told['purity']:.3f}, recall {told.get('recall', 0):.3f})"
        report.info(text)
        if found.empty_classes:
            report.warning(
                f"{who}: nothing was called clean in {_classes(found.empty_classes)}; each keeps its sample of lowest "
                "loss; a lower --tau, or another probe, may help"
            )
        if found.small_classes:
            report.warning(
                f"{who}: {_classes(found.small_classes)} too small for a mixture, or of one loss; all of their samples "
                "count as clean"
            )


def _classes(which: tuple[int, ...]) -> str:
    return f"{len(which)} class{'es' if len(which) > 1 else ''}"


_TOLD = ("selected", "drawn", "purity", "recall", "drawn_purity")


def _missing() -> Float:
    raise AssertionError("a round of a finished epoch was not kept")


def columns(rounds: list[Round]) -> Mapping[str, Any]:
    """All rounds as columns, a line a round and training row."""
    told = {"row": "rows", "loss": "losses", "posterior": "posterior", "selected": "selected", "drawn": "drawn"}
    out = {name: np.concatenate([getattr(r, source) for r in rounds]) for name, source in told.items()}
    return {"round": np.concatenate([np.full(len(r.rows), r.number, dtype=np.int32) for r in rounds]), **out}
