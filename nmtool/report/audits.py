"""Audits as a section: how many labels each view suspects, how right they are, by class, the matrix, and a gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nmtool.report.figures import Figure, heatmap
from nmtool.report.gather import MATRIX_CLASSES, Audited
from nmtool.report.section import Card, Section
from nmtool.report.table import NONE, Cell, Column, Table, decimal, number, percent, shown

_DRAWN = 12  # matrices, and galleries, at most
_LISTED = 50  # classes in a table, where there are more than MATRIX_CLASSES


def audits(found: Sequence[Audited]) -> Section | None:
    """All audits of a report; galleries and matrices of the first."""
    if not found:
        return None
    ordered = sorted(found, key=lambda a: (a.name, *(str(a.summary.get(k)) for k in ("split", "labels")), a.content))
    told = ordered[:_DRAWN]
    panels = tuple(
        heatmap(a.transition, a.classes, f"Estimated, {_name(a)}", salt=f"audit{n}")
        for n, a in enumerate(told)
        if a.transition is not None
    )
    caption = (
        "Estimated transition matrices; rows the class that samples seem to be of, columns the label they have; in "
        "cells: percent."
    )
    cards = tuple(card for a in told for card in _cards(a, len(told) > 1))
    missing = [f"{_name(a)}: {a.missing}" for a in told if a.missing and a.top]
    note = f" Without pictures: {'; '.join(shown(m) for m in missing)}." if missing else ""
    return Section(
        anchor="audit",
        title="Label audit",
        intro="How probably each label is wrong, from features alone: by TURN's mixture on losses, confident learning, "
        "nearest neighbours, and all of them together. Suspicious is not wrong: look before you drop or relabel. Where "
        f"true labels are known, the views are judged by them.{note}",
        figures=(Figure(caption=caption, panels=panels, wide=True),) if panels else (),
        tables=(
            _counts(ordered),
            *([_judged(ordered)] if any(a.summary.get("quality") for a in ordered) else []),
            *(_per_class(a) for a in told),
        ),
        cards=cards,
        cards_title=f"The {len(cards)} most suspicious samples" if len(told) == 1 else "The most suspicious samples",
    )


def _name(audited: Audited) -> str:
    labels = shown(audited.summary.get("labels") or "its own labels", 60)
    return (
        f"{shown(audited.name, 60)} {shown(audited.summary.get('split', ''), 40)}, {labels} ({audited.content[7:13]})"
    )


def _counts(found: Sequence[Audited]) -> Table:
    titles = ["labels of", "samples", "classes", "estimated wrong (%)", "truly wrong (%)"]
    titles += ["mixture", "confident", "neighbours", "all three", "combined"]
    rows = []
    for a in found:
        s = a.summary
        flagged, agreement = _mapping(s.get("flagged")), _mapping(s.get("agreement"))
        words = [_name(a), str(s.get("n", NONE)), str(s.get("classes", NONE))]
        words += [percent(number(s.get("noise_ratio"))), percent(number(s.get("noise_ratio_true")))]
        words += [str(flagged.get(view, NONE)) for view in ("mixture", "confident", "neighbours")]
        words += [str(agreement.get("3", NONE)), str(flagged.get("combined", NONE))]
        rows.append(tuple(Cell(text=shown(word)) for word in words))
    return Table(
        caption="Labels called wrong",
        columns=tuple(Column(title=t, number=n > 0) for n, t in enumerate(titles)),
        rows=tuple(rows),
        note="Combined: more likely wrong than right by all views together. True ratio: where a labels artifact with "
        "the clean labels was audited.",
    )


def _judged(found: Sequence[Audited]) -> Table:
    titles = ("labels of", "view", "AUROC", "average precision", "precision (%)", "recall (%)")
    rows = []
    for a in found:
        for view, told in _mapping(a.summary.get("quality")).items():
            q = _mapping(told)
            words = [
                _name(a),
                shown(view),
                decimal(number(q.get("auroc"))),
                decimal(number(q.get("average_precision"))),
            ]
            words += [percent(number(q.get("precision"))), percent(number(q.get("recall")))]
            rows.append(tuple(Cell(text=word) for word in words))
    return Table(
        caption="Views judged by the true labels",
        columns=tuple(Column(title=t, number=n > 1) for n, t in enumerate(titles)),
        rows=tuple(rows),
        note="AUROC: chance that a wrong label is more suspicious than a right one. Precision and recall of the flags.",
    )


def _per_class(audited: Audited) -> Table:
    lines = list(audited.per_class)
    many = len(lines) > MATRIX_CLASSES
    if many:
        lines = sorted(lines, key=lambda line: -(number(line.get("ratio")) or 0.0))[:_LISTED]
    true = any("ratio_true" in line for line in lines)
    titles = ("given label", "samples", "called wrong", "estimated wrong (%)", "most often seems")
    rows = []
    for line in lines:
        seems = f"{shown(line['seems'], 40)} ({line.get('seems_n')})" if line.get("seems") is not None else NONE
        words = [shown(line.get("class"), 60), str(line.get("n", NONE)), str(line.get("wrong", NONE))]
        words += [percent(number(line.get("ratio"))), seems]
        words += [percent(number(line.get("ratio_true")))] if true else []
        rows.append(tuple(Cell(text=word) for word in words))
    columns = [Column(title=t, number=n in (1, 2, 3)) for n, t in enumerate(titles)]
    columns += [Column(title="truly wrong (%)", number=True)] if true else []
    which = f"The {_LISTED} most suspicious classes" if many else "By given label"
    return Table(caption=f"{which}: {_name(audited)}", columns=tuple(columns), rows=tuple(rows), folded=True)


def _cards(audited: Audited, named: bool) -> list[Card]:
    return [_card(audited, line, named) for line in audited.top]


def _card(audited: Audited, line: Mapping[str, Any], named: bool) -> Card:
    given, seems = shown(line["given_name"], 40), shown(line["suggested_name"], 40)
    p = 100 * float(line["combined"])
    words = [f"{p:.1f} % wrong" if p < 99.95 else "over 99.9 % wrong", f"{line['agreement']} views agree"]
    if "flipped" in line:
        words.append("label is wrong" if line["flipped"] else "label is right")
    if named:
        words.append(f"audit {audited.content[7:13]}")
    picture = line.get("picture") or b""
    return Card(
        picture=picture,
        text=shown(line.get("text") or "", 200),
        title=f"{given} → {seems}" if given != seems else given,
        lines=(shown(line["sample"], 80), ", ".join(words)),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
