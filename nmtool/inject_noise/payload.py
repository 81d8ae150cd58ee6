"""What a ``labels`` artifact holds, and what its summary tells: the labels, counts by class, where the flips went."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nmtool.artifact.format import sha256
from nmtool.artifact.stage import Staging
from nmtool.artifact.typed import LABELS_TABLE, labels_bytes, parquet_bytes, write_classes
from nmtool.errors import DataError
from nmtool.inject_noise.draw import Draw, Drawn, drawn
from nmtool.numerics import flips
from nmtool.numerics.instances import expected_rate
from nmtool.records import Float, NoisyLabels, TextColumn

PER_CLASS, PAIRS, TRANSITION, MATRIX = "per_class.parquet", "pairs.parquet", "transition.npy", "matrix.npy"
STREAMS = 1
"""Version of how generators are named and used; see ``numerics.seeds``."""
MATRIX_CLASSES = 4_000
"""A square of more classes takes over 128 MB: beyond, the cells that are not 0 are listed in ``pairs.parquet``."""
_TOLD = 1_000  # classes told in the summary
_TEXTS = 1_000_000  # captions compared by text, at most


def build(staging: Staging, draw: Draw) -> Mapping[str, object]:
    """Draw, write the payload, return the summary."""
    index, config = draw.index, draw.config
    captions = config.type == "captions"
    classes = () if captions else index.labels.classes
    clean = draw.clean
    result = drawn(draw)
    labels = NoisyLabels(samples=index.ids, split=index.split, clean=clean, noisy=result.noisy, classes=classes)
    staging.write(LABELS_TABLE, labels_bytes(labels))
    labelled = int(np.sum(clean >= 0))
    flipped = int(np.sum(labels.flipped))
    summary: dict[str, object] = {
        "n": labelled,
        "classes": len(index.labels.classes),
        "type": config.type,
        "how": _how(draw),
        "ratio_requested": draw.ratio,
        "ratio": flipped / labelled,
        "flipped": flipped,
        "seed": draw.seed,
        "split": index.split,
        "self_flips": _self_flips(draw),
        "flips": sha256(labels.noisy.astype("<i8", copy=False).tobytes()),
    }
    if draw.seed is not None:
        summary["generator"] = f"numpy {np.__version__} PCG64, streams {STREAMS}" + (", nested" * config.nested)
    if captions:
        return summary | _caption_facts(draw, labels)
    write_classes(staging, classes)
    return summary | _class_facts(draw, labels, flipped) | _class_tables(staging, draw, labels, result)


def _how(draw: Draw) -> str:
    """What tells this draw from others of its type, in words."""
    config = draw.config
    words = {
        draw.chosen: bool(draw.chosen),
        f"among {0 if draw.related is None else len(draw.related)} classes": draw.related is not None,
        "of all labels": config.ratio_of == "all" and (draw.mapping is not None or draw.related is not None),
        "own class allowed": config.include_self,
        "by chance": config.bernoulli,
        draw.scaling: bool(draw.scaling),
        Path(config.matrix or "").name: config.matrix is not None,
        "" if draw.human is None else f"{draw.human.path.name}:{draw.human.key}".rstrip(":"): draw.human is not None,
        config.caption_mode: config.type == "captions",
        "nested": config.nested,
    }
    return ", ".join(word for word, said in words.items() if said)


def _self_flips(draw: Draw) -> str:
    """Whether a row that was chosen may keep its class."""
    if draw.config.type in ("matrix", "human"):
        return f"by {draw.config.type}"
    return "allowed" if draw.config.include_self else "never"


def _class_facts(draw: Draw, labels: NoisyLabels, flipped: int) -> dict[str, object]:
    """What the ratio was of, and what was to be expected."""
    config = draw.config
    facts: dict[str, object] = {}
    if draw.mapping is not None or draw.related is not None:
        eligible = draw.eligible()
        facts |= {"ratio_of": config.ratio_of, "eligible": eligible, "ratio_eligible": flipped / max(eligible, 1)}
    if config.type == "instance":
        assert draw.ratio is not None
        facts |= {"ratio_expected": expected_rate(draw.ratio, config.instance_std), "inputs": draw.scaling}
    return facts


def _class_tables(staging: Staging, draw: Draw, labels: NoisyLabels, result: Drawn) -> dict[str, object]:
    """Write the tables of classes; what the summary tells of them."""
    names, count = labels.classes, len(labels.classes)
    table = flips.by_class(labels.clean, labels.noisy, count)
    rate = table.flipped / np.maximum(table.rows, 1)
    columns = {
        "class": TextColumn.of(names),
        "label": np.arange(count, dtype=np.int64),
        "n": table.rows,
        "flipped": table.flipped,
        "ratio": rate,
        "received": table.received,
    }
    staging.write(PER_CLASS, parquet_bytes(columns))
    if count <= MATRIX_CLASSES:
        save(staging, TRANSITION, flips.transition_matrix(labels.clean, labels.noisy, count))
    else:
        pairs = zip(("clean", "noisy", "n"), flips.flip_pairs(labels.clean, labels.noisy, count), strict=True)
        staging.write(PAIRS, parquet_bytes(dict(pairs)))
    if draw.matrix is not None:
        save(staging, MATRIX, draw.matrix)
    where = flips.concentration(labels.clean, labels.noisy, count)
    told: dict[str, Any] = {
        "top_share": where.top_share,
        "classes_hit": where.classes_hit,
        "biggest_class_share": where.biggest_class_share,
    }
    if result.perplexity is not None:
        told["perplexity"] = result.perplexity
    if draw.config.type == "instance":
        draw.report.info(concentration_line(told, count))
    facts: dict[str, object] = {
        "concentration": told,
        "transition": TRANSITION if count <= MATRIX_CLASSES else f"{PAIRS}, for over {MATRIX_CLASSES} classes",
    }
    if count <= _TOLD:
        rows = zip(names, table.rows.tolist(), table.flipped.tolist(), table.received.tolist(), strict=True)
        facts["per_class"] = [{"class": c, "n": n, "flipped": f, "received": r} for c, n, f, r in rows]
    return facts


def concentration_line(told: Mapping[str, Any], classes: int) -> str:
    """Where the flips went, in a line."""
    line = (
        f"concentration: the most hit class took {100 * told['top_share']:.3g} % of the flips, "
        f"{told['classes_hit']} of {classes} classes were hit, "
        f"the biggest noisy class has {100 * told['biggest_class_share']:.3g} % of the labels"
    )
    if told.get("perplexity") is not None:
        line += f", perplexity of the wrong classes {told['perplexity']:.4g}"
    return line


def _caption_facts(draw: Draw, labels: NoisyLabels) -> dict[str, object]:
    """How many captions differ as texts: equal captions may have been swapped."""
    facts: dict[str, object] = {"caption_mode": draw.config.caption_mode}
    if len(labels.clean) > _TEXTS:
        return facts
    caption, split = draw.dataset.caption, draw.index.split
    rows = np.flatnonzero(labels.flipped).tolist()
    try:
        texts = {row: caption(split, row) for row in rows}
    except DataError as error:
        draw.report.warning(f"mismatches were not counted by text: {error}")
        return facts
    other = labels.noisy[rows].tolist()
    facts["text_mismatches"] = sum(texts[row] != texts[given] for row, given in zip(rows, other, strict=True))
    return facts


def save(staging: Staging, name: str, array: Float) -> None:
    """Write an array as ``.npy``."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    staging.write(name, buffer.getvalue())
