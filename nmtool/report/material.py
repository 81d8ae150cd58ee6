"""What the results were made of, as sections: spectra, backbones, and the list of artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nmtool.report.audits import audits
from nmtool.report.figures import LINES, Figure, Plot, Point, Series, figure
from nmtool.report.gather import Backbone, Evidence, Singular
from nmtool.report.lineage import short_name
from nmtool.report.matrices import label_noise
from nmtool.report.section import Section
from nmtool.report.table import NONE, Cell, Column, Table, decimal, number, percent, share, shown

# NMTune A.4: "the top 20, 20-500, and the remaining"
GROUPS = ((0, 20, "Singular values 1 to 20"), (20, 500, "21 to 500"), (500, None, "501 and on"))
_POINTS = 200  # of a line of thousands of values, evenly spread, both ends kept


def material(evidence: Evidence) -> list[Section]:
    """All sections about the artifacts that results rest on."""
    sections = [
        _spectra(evidence.spectra),
        label_noise(evidence.draws),
        audits(evidence.audits),
        _backbones(evidence.backbones),
        _provenance(evidence),
    ]
    return [section for section in sections if section is not None]


def spectrum_name(result: Singular) -> str:
    """Whose features: the encoder, and the noise it was pre-trained with where that is known."""
    origin = result.origin
    model = (origin.model if origin is not None else "") or str(result.line.get("model") or "")
    parts = [model or f"features {result.features[7:15]}"]
    if origin is not None and origin.untrained:
        parts.append("untrained")
    noise = pretrain_noise(result)
    if noise is not None:
        parts.append(f"noise {share(noise)}")
    if "run" in result.line:
        told = (f"{name} {result.line[name]}" for name in ("run", "seed") if name in result.line)
        parts.append(f"Z of {result.line.get('method', 'head')}, {', '.join(told)}")
    return ", ".join(parts)


def pretrain_noise(result: Singular) -> float | None:
    """Noise ratio of the backbone's labels, from the lineage or as the artifact states it."""
    if result.origin is not None and result.origin.pretrain is not None:
        return result.origin.pretrain.ratio
    stated = result.line.get("pretrain_noise")
    return float(stated) if isinstance(stated, (int, float)) else None


def _place(result: Singular) -> str:
    data = result.origin.data_name if result.origin is not None else ""
    return f"{data} {result.line.get('split', '')}".strip()


def _spectra(spectra: Sequence[Singular]) -> Section | None:
    if not spectra:
        return None
    ordered = sorted(
        spectra, key=lambda s: (_place(s), str(s.line.get("preprocess")), pretrain_noise(s) or 0.0, s.features)
    )
    by: dict[tuple[str, str], list[Singular]] = {}
    for result in ordered:
        by.setdefault((_place(result), str(result.line.get("preprocess") or "raw")), []).append(result)
    figures = tuple(
        _spectrum_figure(place, how, found, n) for n, ((place, how), found) in enumerate(list(by.items())[:12])
    )
    left_out = f" Figures for the first 12 of {len(by)} splits." if len(by) > 12 else ""
    rows = tuple(_spectrum_row(result) for result in ordered)
    titles = ("features", "split", "preprocess", "samples", "dimension", "rank", "SVE", "LSVR", "largest σ")
    columns = tuple(Column(title=t, number=n > 2) for n, t in enumerate(titles))
    return Section(
        anchor="spectrum",
        title="Singular value spectrum",
        intro="A flatter spectrum (higher SVE) spans more directions, which goes with in-domain fit; a dominant "
        f"largest value (lower LSVR) goes with transfer. Shown in the paper's three groups (A.4).{left_out}",
        figures=tuple(f for f in figures if f.panels),
        tables=(Table(caption="Spectra; SVE and LSVR in nats", columns=columns, rows=rows), _values(ordered)),
    )


def _spectrum_row(result: Singular) -> tuple[Cell, ...]:
    line = result.line
    words = [shown(spectrum_name(result)), shown(_place(result)), shown(line.get("preprocess") or "raw")]
    words += [str(line.get(name)) if isinstance(line.get(name), int) else NONE for name in ("n", "dim", "rank")]
    words += [decimal(number(line.get(name))) for name in ("sve", "lsvr")]
    words.append(f"{result.sigma[0]:.5g}" if len(result.sigma) else NONE)
    return tuple(Cell(text=word) for word in words)


def _values(ordered: Sequence[Singular]) -> Table:
    """The first group's numbers, and where the others begin and end."""
    ranks = [
        rank for rank in (*range(1, 21), 50, 100, 200, 500, 1000, 2000) if any(len(s.sigma) >= rank for s in ordered)
    ]
    columns = [Column(title="features"), Column(title="split"), *(Column(title=f"σ {r}", number=True) for r in ranks)]
    rows = []
    for result in ordered:
        words = [shown(spectrum_name(result)), shown(_place(result))]
        words += [f"{result.sigma[r - 1]:.5g}" if len(result.sigma) >= r else NONE for r in ranks]
        rows.append(tuple(Cell(text=word) for word in words))
    return Table(caption="Singular values by rank", columns=tuple(columns), rows=tuple(rows), folded=True)


def _spectrum_figure(place: str, preprocess: str, found: Sequence[Singular], number: int) -> Figure:
    shown_here = found[:LINES]
    plots = []
    for start, stop, title in GROUPS:
        lines = [_part(result.sigma, start, stop) for result in shown_here]
        series = tuple(
            Series(label=spectrum_name(r), style=style, points=points)
            for style, (r, points) in enumerate(zip(shown_here, lines, strict=True))
            if points
        )
        if not series:
            continue
        values = [p.y for s in series for p in s.points]
        plots.append(
            Plot(
                title=title,
                x="rank of the singular value",
                y="singular value",
                series=series,
                log_y=max(values) / min(values) > 5,
                marked=start == 0,
            )
        )
    more = f" The first {LINES} of {len(found)}." if len(found) > LINES else ""
    what = "" if preprocess == "raw" else f", {preprocess}"
    return figure(f"Singular values of {shown(place) or 'the features'}{what}.{more}", plots, salt=f"spectrum{number}")


def _part(sigma: Any, start: int, stop: int | None) -> tuple[Point, ...]:
    """Values start+1 to stop, thinned to some hundreds; zeros have no place on a logarithmic axis."""
    positions = np.arange(start, min(len(sigma), stop if stop is not None else len(sigma)))
    if len(positions) > _POINTS:
        positions = positions[np.unique(np.linspace(0, len(positions) - 1, _POINTS).round().astype(np.int64))]
    tiny = float(sigma[0]) * 1e-9 if len(sigma) else 0.0
    return tuple(Point(x=float(p + 1), y=float(sigma[p])) for p in positions if sigma[p] > tiny)


def _backbones(backbones: Sequence[Backbone]) -> Section | None:
    if not backbones:
        return None
    ordered = sorted(backbones, key=lambda b: (b.data_name, str(b.summary.get("arch")), b.noise or 0.0, b.content))
    measured = sorted({name for b in ordered for name in _metrics(b)})
    titles = [
        "backbone",
        "data",
        "objective",
        "epochs",
        "pre-training noise",
        *(name.replace("_", " ") for name in measured),
    ]
    columns = tuple(Column(title=shown(t, 40), number=n > 2) for n, t in enumerate(titles))
    rows = []
    for backbone in ordered:
        s = backbone.summary
        noise = NONE if backbone.noise is None else f"{share(backbone.noise)} {backbone.noise_type}".strip()
        words = [
            s.get("arch", NONE),
            backbone.data_name or NONE,
            s.get("objective", NONE),
            s.get("epochs", NONE),
            noise,
        ]
        words += [_metric(name, _metrics(backbone).get(name)) for name in measured]
        rows.append(tuple(Cell(text=shown(word)) for word in words))
    curve = _training(ordered)
    return Section(
        anchor="backbones",
        title="Backbones",
        intro="What was pre-trained, and on labels how wrong; accuracies in percent, on its data's own splits.",
        figures=(curve,) if curve.panels else (),
        tables=(Table(caption="Pre-training", columns=columns, rows=tuple(rows)),),
    )


def _metrics(backbone: Backbone) -> Mapping[str, float]:
    metrics = backbone.summary.get("metrics")
    return (
        {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float))} if isinstance(metrics, Mapping) else {}
    )


def _metric(name: str, value: float | None) -> str:
    return percent(value) if "accuracy" in name else decimal(value)


def _training(backbones: Sequence[Backbone]) -> Figure:
    """Loss and validation accuracy by epoch, from the logs."""
    plots = []
    names = ("validation_accuracy", "val_accuracy", "valid_accuracy")
    for title, y, wanted in (("Loss", "training loss", ("loss", "train_loss")), ("Validation", "accuracy (%)", names)):
        series = []
        for style, backbone in enumerate(backbones[:LINES]):
            points = [_logged(line, wanted) for line in backbone.log]
            known = tuple(Point(x=p.x, y=p.y * (100 if "accuracy" in y else 1)) for p in points if p is not None)
            noise = "" if backbone.noise is None else f", noise {share(backbone.noise)}"
            label = f"{backbone.summary.get('arch', 'backbone')}{noise}"
            if len(known) > 1:
                series.append(Series(label=label, style=style, points=known))
        if series:
            plots.append(Plot(title=title, x="epoch", y=y, series=tuple(series), marked=False))
    return figure("Pre-training by epoch.", plots, salt="training")


def _logged(line: Mapping[str, Any], names: Sequence[str]) -> Point | None:
    value = next((line[n] for n in names if isinstance(line.get(n), (int, float))), None)
    epoch = line.get("epoch")
    return Point(x=float(epoch), y=float(value)) if value is not None and isinstance(epoch, (int, float)) else None


def _provenance(evidence: Evidence) -> Section:
    titles = ("kind", "what", "key", "content", "made from", "nmtool")
    rows = []
    known = {a.manifest.content for a in evidence.artifacts}
    for artifact in evidence.artifacts:
        m = artifact.manifest
        cited = (f"{i.role} {i.content[7:19]}" + ("" if i.content in known else "*") for i in m.inputs if i.content)
        words = (m.kind, what(m), m.key[7:19], m.content[7:19], ", ".join(cited) or NONE, m.nmtool)
        rows.append(tuple(Cell(text=shown(word, 400)) for word in words))
    table = Table(caption="Artifacts", columns=tuple(Column(title=t) for t in titles), rows=tuple(rows))
    return Section(
        anchor="provenance",
        title="Provenance",
        intro="Every artifact that this page was made from, by digest (the first 12 digits); nmtool show tells all "
        "about one. An asterisk marks what is not itself among the inputs.",
        tables=(table,),
    )


def what(manifest: Any) -> str:
    """An artifact in a few words, from what is hashed of it: never its place."""
    summary, origin = manifest.summary, manifest.origin
    if manifest.kind == "labels":
        kind = f"{summary.get('type', 'labels')} {share(summary.get('ratio'))}"
        return f"{kind} {short_name(str(origin.get('data', '')))}".strip()
    if manifest.kind == "heads":
        results = summary.get("results")
        methods = [r.get("method") for r in results if isinstance(r, Mapping)] if isinstance(results, list) else []
        return ", ".join(dict.fromkeys(str(m) for m in methods))
    name = summary.get("model") or summary.get("arch") or ""
    return f"{short_name(str(name))} {short_name(str(origin.get('data', '')))}".strip() or NONE
