"""Artifacts in, a ``report`` artifact out. Nothing is computed here but averages: every number was measured before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from nmtool import settings
from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.key import Recipe
from nmtool.artifact.open import Artifact
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.records import ArtifactRef
from nmtool.report.config import Config
from nmtool.report.gather import find
from nmtool.report.lineage import short_name

EPOCH = 4
FILES = {
    "html": "report.html",
    "markdown": "report.md",
    "csv": "report.csv",
    "json": "report.json",
    "latex": "report.tex",
}


def run(config: Config, session: Session) -> ArtifactRef:
    """Make (or find) the report of these artifacts.

    Raises:
        InputMissingError: nothing there, or a folder without artifacts.
        CorruptError: a damaged artifact, named.
        DataError: a report among the inputs.
    """
    artifacts = find(config.artifacts)
    inputs = tuple(artifact.as_input("artifact") for artifact in artifacts)
    recipe = Recipe(
        stage="report",
        kind="report",
        epoch=EPOCH,
        config={**settings.keyed(config), "told": _told(artifacts)},
        # cited without their keys' order mattering: sorted by content, as found
        inputs=tuple(sorted(inputs, key=lambda i: i.content)),
    )
    return produce(
        session,
        recipe,
        name=config.title,
        config=settings.everything(config),
        build=lambda staging: _build(staging, config, artifacts, session),
        work=f"a page of {len(artifacts)} artifacts ({_count(artifacts)})",
    )


def _told(artifacts: tuple[Artifact, ...]) -> str:
    """Digest of what the page tells of an artifact beside its content: its key, its version, its inputs, its names."""
    facts = []
    for artifact in artifacts:
        m = artifact.manifest
        names = {name: short_name(str(m.origin[name])) for name in ("data", "arch") if m.origin.get(name)}
        inputs = [[i.role, i.kind, i.content] for i in m.inputs]
        facts.append([m.kind, m.key, m.content, m.nmtool, names, inputs])
    return sha256(canonical(facts))


def _count(artifacts: tuple[Artifact, ...]) -> str:
    kinds = Counter(artifact.manifest.kind for artifact in artifacts)
    return ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds))


def _build(staging: Staging, config: Config, artifacts: tuple[Artifact, ...], session: Session) -> Mapping[str, object]:
    from nmtool.report import plain
    from nmtool.report.gather import gather
    from nmtool.report.material import material
    from nmtool.report.outcome import outcome
    from nmtool.report.page import page
    from nmtool.report.results import joined

    with session.report.progress(2 + len(config.format), "report") as advance:
        evidence = gather(artifacts)
        advance(1)
        sections = sorted([*outcome(evidence), *material(evidence)], key=lambda s: ORDER.index(s.anchor))
        lines = [joined(run) for run in evidence.runs]
        lead = f"{len(artifacts)} artifacts: {_count(artifacts)}; {len(lines)} result rows."
        advance(1)
        write = {
            "html": lambda: page(config.title, lead, sections),
            "markdown": lambda: plain.markdown(config.title, lead, sections),
            "csv": lambda: plain.comma_separated(lines),
            "json": lambda: plain.json_text(config.title, lines, sections),
            "latex": lambda: plain.latex(config.title, sections),
        }
        for name in config.format:
            staging.write(FILES[name], write[name]())
            advance(1)
    return {"rows": len(lines), "files": [FILES[name] for name in config.format]}


ORDER = (
    "results",
    "under-noise",
    "noise-in-pretraining",
    "spectrum",
    "label-noise",
    "audit",
    "cleansing",
    "fractions",
    "classes",
    "backbones",
    "provenance",
)
