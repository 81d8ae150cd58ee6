"""TURN's cleansing as a section: how many samples each round kept, and how clean they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmtool.numerics.selection import purity_and_recall
from nmtool.report.gather import Cleansing, Evidence, Run
from nmtool.report.results import SHARES, TITLES, order, setting_text, settings_of, telling
from nmtool.report.section import Section
from nmtool.report.statistics import Stat, summarise
from nmtool.report.table import NONE, Cell, Column, Table, decimal, number, stat_text

_MEASURED = ("runs", "called clean", "purity (%)", "recall (%)", "drawn", "purity of drawn (%)")
_SELECTED = ("selected", "kept", "chosen", "used")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of one run: samples called clean, and those drawn of them to train on; None where not known.

    Attributes:
        run, round: which.
        size, drawn: how many were called clean, how many of them drawn.
        purity, recall, drawn_purity: in [0, 1], where the true labels are known.
    """

    run: Any
    round: int
    size: int
    purity: float | None
    recall: float | None
    drawn: int | None = None
    drawn_purity: float | None = None


def cleansing(evidence: Evidence) -> Section | None:
    """Rounds averaged over seeds."""
    by: dict[tuple[tuple[str, Any], ...], list[Round]] = {}
    for table in evidence.cleansing:
        runs = {r.line.get("run"): r for r in evidence.runs if r.heads == table.heads}
        for found in rounds(table):
            by.setdefault(_asked(runs.get(found.run), found), []).append(found)
    if not by:
        return None
    names = [*dict.fromkeys(name for asked in by for name, _ in asked if name != "round"), "round"]
    values = {asked: tuple(dict(asked).get(name) for name in names) for asked in by}
    told = [n for n in telling(names, list(values.values())) if n != "round"] + ["round"]
    columns = [Column(title=TITLES.get(n, n), number=n in (*SHARES, "round")) for n in told]
    columns += [Column(title=title, number=True) for title in _MEASURED]
    rows = []
    for asked in sorted(by, key=lambda a: tuple(order(v) for v in values[a])):
        members = by[asked]
        texts = [setting_text(name, dict(asked).get(name)) for name in told]
        texts += [str(len(members)), _count(summarise(m.size for m in members))]
        texts.append(stat_text(summarise(m.purity for m in members), as_percent=True))
        texts.append(stat_text(summarise(m.recall for m in members), as_percent=True))
        texts.append(_count(summarise(m.drawn for m in members)))
        texts.append(stat_text(summarise(m.drawn_purity for m in members), as_percent=True))
        rows.append(tuple(Cell(text=text) for text in texts))
    table_of_rounds = Table(caption="Samples called clean, by round", columns=tuple(columns), rows=tuple(rows))
    return Section(
        anchor="cleansing",
        title="Cleansing",
        intro="Each round calls clean the samples that a mixture of their losses says so of; TURN draws equally "
        "many of each class to train on, other heads take all. Purity is the share that is truly clean, recall the "
        "share of all clean samples that was found; both need a known truth.",
        tables=(table_of_rounds,),
    )


def _asked(run: Run | None, found: Round) -> tuple[tuple[str, Any], ...]:
    settings = settings_of(run) if run is not None else {}
    return (*settings.items(), ("round", found.round))


def _count(stat: Stat | None) -> str:
    if stat is None:
        return NONE
    if not stat.std:
        return f"{stat.mean:.10g}"
    return f"{decimal(stat.mean, 1)} ± {decimal(stat.std, 1)}"


def rounds(table: Cleansing) -> list[Round]:
    """The rounds of a cleansing table, which has a line a round, or a line a round and training row."""
    columns = table.columns
    size = len(next(iter(columns.values()), ()))
    if not size:
        return []
    run = np.asarray(columns.get("run", np.zeros(size)))
    turn = np.asarray(columns.get("round", columns.get("epoch", np.zeros(size))))
    out = []
    for one, which in sorted(set(zip(run.tolist(), turn.tolist(), strict=True))):
        here = np.flatnonzero((run == one) & (turn == which))
        out.append(_round(columns, here, one, int(which)))
    return out


def _round(columns: Mapping[str, Any], here: Any, run: Any, which: int) -> Round:
    selected = next((name for name in _SELECTED if name in columns), None)
    if "size" in columns or selected is None:
        first = int(here[0])
        size = sum(int(columns["size"][row]) for row in here) if "size" in columns else len(here)
        known = {
            n: number(columns[n][first]) if n in columns and len(here) == 1 else None for n in ("purity", "recall")
        }
        return Round(run=run, round=which, size=size, purity=known["purity"], recall=known["recall"])
    kept = np.asarray(columns[selected])[here].astype(bool)
    drawn = np.asarray(columns["drawn"])[here].astype(bool) if "drawn" in columns else None
    purity = recall = pure = None
    if "noisy" in columns and "clean" in columns:
        noisy, clean = (np.asarray(columns[name])[here] for name in ("noisy", "clean"))
        if np.all(clean >= 0):
            purity, recall = purity_and_recall(kept, clean, noisy)
            pure = purity_and_recall(drawn, clean, noisy)[0] if drawn is not None else None
    count = int(drawn.sum()) if drawn is not None else None
    return Round(
        run=run, round=which, size=int(kept.sum()), purity=purity, recall=recall, drawn=count, drawn_purity=pure
    )
