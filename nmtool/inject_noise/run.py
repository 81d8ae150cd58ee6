"""Labels in, ``labels`` artifacts out: one for each ratio and seed asked."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from nmtool import settings
from nmtool.artifact.format import sha256
from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Session, produce
from nmtool.artifact.typed import choose_split, open_features
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.inject_noise.config import Config
from nmtool.inject_noise.draw import Draw, stream
from nmtool.inject_noise.human import READING, open_human
from nmtool.inject_noise.inputs import RAW, STANDARD, Pixels, artifact_features, own_features
from nmtool.inject_noise.mapping import mapping_of, read_matrix, read_related
from nmtool.inject_noise.payload import build
from nmtool.numerics.instances import Inputs, expected_rate
from nmtool.records import ArtifactRef, InputRef, SampleIndex

EPOCH = 1
# The settings that change a draw of each type, beside type, split, ratio and seed.
_KEYED = {
    "symmetric": ("include_self", "bernoulli", "nested", "ratio_of"),
    "pairflip": ("nested", "ratio_of"),
    "asymmetric": ("nested", "ratio_of"),
    "instance": ("nested", "instance_std"),
    "matrix": (),
    "human": (),
    "captions": ("nested", "caption_mode"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """All draws, and what their recipes have in common."""

    draws: list[Draw]
    keyed: dict[str, object]
    inputs: tuple[InputRef, ...]


def run(config: Config, session: Session) -> list[ArtifactRef]:
    """Make (or find) one labels artifact for each ratio and seed.

    Raises:
        InputMissingError: no such data, split or file.
        UsageError: asymmetric noise without a map, on classes that have no usual one.
        DataError: labels that can't be made wrong as asked: one class, no labels, a map of other classes.
    """
    root = Path(config.data_root) if config.data_root else None
    dataset = open_dataset(config.data, memo=session.memo, data_root=root)
    for remark in dataset.remarks:
        session.report.warning(remark)
    index = dataset.splits.get(config.split)
    if index is None:
        raise InputMissingError(
            f"{config.data} has no split {config.split!r}", "one of " + ", ".join(dataset.splits), "name it by --split"
        )
    _check_kind(config, dataset, index)
    plan = _plan(config, dataset, index, session)
    for draw in plan.draws:  # refused before anything is written
        if draw.ratio is not None:
            draw.share()
        if draw.seed is not None:
            stream(draw)
    return [_one(draw, plan, session) for draw in plan.draws]


def _check_kind(config: Config, dataset: Dataset, index: SampleIndex) -> None:
    captions = config.type == "captions"
    if captions != (dataset.kind == "captions"):
        wanted = "image-caption pairs" if captions else "class labels"
        raise DataError(f"{config.data} holds {dataset.kind}", f"{wanted} for --type {config.type}")
    if captions:
        return
    if dataset.targets(config.split) is not None:
        raise DataError(f"split {config.split} of {config.data} has real numbers as labels", "class labels")
    if not np.any(index.labels.values >= 0):
        raise DataError(f"split {config.split} of {config.data} has no labels", "class labels to make wrong")
    if len(index.labels.classes) < 2:
        raise DataError(
            f"split {config.split} of {config.data} has one class ({index.labels.classes[0]!r})",
            "at least two: there is no other label to flip to",
        )


def _plan(config: Config, dataset: Dataset, index: SampleIndex, session: Session) -> _Plan:
    """Read what the type needs, and name all draws."""
    classes, report = dataset.classes, session.report
    keyed: dict[str, object] = {"type": config.type, "split": config.split}
    keyed |= {name: getattr(config, name) for name in _KEYED[config.type]}
    content = index.listing
    draw = Draw(config=config, dataset=dataset, index=index, ratio=None, seed=None, report=report)
    inputs: list[InputRef] = []
    if config.related is not None:
        draw = dataclasses.replace(draw, related=read_related(config.related, classes))
        keyed["related"] = sha256(np.asarray(draw.related).tobytes())
    if config.type == "asymmetric":
        mapping, chosen = mapping_of(classes, map_=config.map, groups=config.groups, related=draw.related)
        named = f"map {config.map}" if config.map else f"groups {config.groups}"
        draw = dataclasses.replace(draw, mapping=mapping, chosen=chosen.removeprefix("--") or named)
        keyed["mapping"] = sha256(mapping.astype("<i8").tobytes())
        if chosen:
            report.info(f"these are the classes of {chosen.split()[1]}: {chosen}")
    elif config.type == "matrix":
        assert config.matrix is not None
        matrix, counts = read_matrix(config.matrix, classes)
        draw = dataclasses.replace(draw, matrix=matrix)
        keyed["matrix"] = sha256(np.ascontiguousarray(matrix).tobytes())
        if counts:
            report.info(f"{config.matrix} holds counts: each row is divided by its sum")
    elif config.type == "human":
        assert config.human is not None
        human = open_human(config.human)
        draw = dataclasses.replace(draw, human=human)
        keyed["human"] = [human.digest, human.key, READING]
    elif config.type == "instance":
        draw, extra = _with_inputs(draw)
        keyed["inputs"] = draw.scaling
        inputs = [extra] if extra is not None else []
        content = content if inputs else index.digest
        _warn_of_rate(config, draw)
    if draw.mapping is None and draw.related is None:
        keyed |= {"ratio_of": "mapped"} if "ratio_of" in keyed else {}  # all rows may flip: both mean the same
    ratios: tuple[float | None, ...] = tuple(ratio + 0.0 for ratio in config.ratio) or (None,)  # -0.0 is 0
    seeds: tuple[int | None, ...] = (None,) if config.type == "human" else config.all_seeds()
    draws = [dataclasses.replace(draw, ratio=r, seed=s) for r, s in itertools.product(ratios, seeds)]
    data = InputRef(role="data", kind="index", key="", content=content)
    return _Plan(draws=draws, keyed=keyed, inputs=(data, *inputs))


def _with_inputs(draw: Draw) -> tuple[Draw, InputRef | None]:
    """What instance noise looks at: an artifact's features, the data's own, or pixels."""
    config, dataset, split = draw.config, draw.dataset, draw.config.split
    make: Callable[[], Inputs]
    if config.features is not None:
        artifact, named = open_features(config.features)
        named = choose_split(artifact, named or split, role="features")
        make = functools.partial(artifact_features, artifact, named, draw.index.ids)
        scaling = f"features of split {named}, {STANDARD}"
        ref: InputRef | None = artifact.as_input("features")
    elif dataset.kind == "features" and config.instance_input != "raw":
        make, scaling, ref = functools.partial(own_features, dataset, split), f"features, {STANDARD}", None
    elif config.instance_input == "features":
        raise UsageError("--instance-input features", "--features FEATURES", f"{config.data} holds {dataset.kind}")
    elif dataset.kind != "images":
        raise DataError(f"{config.data} holds {dataset.kind}, no pixels", "images, or --features FEATURES")
    else:
        make, scaling, ref = functools.partial(Pixels, dataset, split, config.workers, draw.report), RAW, None
    # one reading for all draws of this call
    return dataclasses.replace(draw, inputs=cast(Callable[[], Inputs], functools.cache(make)), scaling=scaling), ref


def _warn_of_rate(config: Config, draw: Draw) -> None:
    """The normal is cut at 0 and 1, so that low and high ratios are not what is asked on average."""
    for ratio in config.ratio:
        expected = expected_rate(ratio, config.instance_std)
        if abs(expected - ratio) > 0.005:
            narrower = min(ratio, 1 - ratio) / 3
            draw.report.warning(
                f"instance noise of {ratio:g} flips {expected:.4f} of the labels on average: its normal distribution "
                f"of deviation {config.instance_std:g} is cut to [0, 1]; --instance-std {narrower:.3g} "
                "would keep the ratio"
            )


def _one(draw: Draw, plan: _Plan, session: Session) -> ArtifactRef:
    config, index = draw.config, draw.index
    keyed = {**plan.keyed, "ratio": draw.ratio, "seed": draw.seed}
    recipe = Recipe(stage="inject-noise", kind="labels", epoch=EPOCH, config=keyed, inputs=plan.inputs)
    label = config.type if draw.ratio is None else f"{config.type}-{_short(draw.ratio)}"
    if len(plan.draws) > 1 and session.out is not None:
        session = dataclasses.replace(session, out=session.out / _folder(draw))
    given = {name: str(getattr(config, name)) for name in ("data_root", "features") if getattr(config, name)}
    return produce(
        session,
        recipe,
        name=f"{config.data.rpartition('/')[2].partition('?')[0]}-{label}",
        config={**settings.everything(config), "ratio": draw.ratio, "seed": draw.seed, "seeds": None},
        origin={"data": config.data, **given},
        build=lambda staging: build(staging, draw),
        work=f"draw {config.type} noise for {len(index)} samples of split {config.split}",
    )


def _short(ratio: float) -> str:
    """A ratio as short as it goes without becoming another."""
    return f"{ratio:g}" if float(f"{ratio:g}") == ratio else repr(ratio)


def _folder(draw: Draw) -> str:
    """Below ``-o`` where there are several artifacts: ``ratio-0.1``, with several seeds ``ratio-0.1-seed-2``."""
    parts = [f"ratio-{_short(draw.ratio)}"] if draw.ratio is not None else []
    if draw.config.seeds is not None and len(draw.config.seeds) > 1:
        parts.append(f"seed-{draw.seed}")
    return "-".join(parts)
