"""One draw: everything that decides it, resolved, and the noisy labels that come of it. Touches no disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast

import numpy as np

from nmtool.artifact.stage import Reporter
from nmtool.data.dataset import Dataset
from nmtool.errors import DataError
from nmtool.inject_noise.config import Config
from nmtool.inject_noise.human import HumanFile, human_labels
from nmtool.numerics import noise
from nmtool.numerics.instances import Inputs, draw_instance
from nmtool.numerics.seeds import generator
from nmtool.numerics.swaps import SwapMode
from nmtool.records import Float, Int, SampleIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What decides one artifact.

    Attributes:
        config, dataset, index: what was asked, of which data.
        ratio: share of wrong labels; None where a file says how many.
        seed: of the draw; None for human labels, where nothing is drawn.
        mapping: for asymmetric: what each class becomes.
        chosen: for asymmetric: by which map or groups, as named or as the file is called.
        related: labels of the only classes that flip; None: all.
        matrix: for matrix: P(noisy | clean).
        human: for human: the file.
        inputs: for instance: makes what it looks at, when it is needed.
        scaling: for instance: how the inputs are scaled, in words.
        report: where news goes.
    """

    config: Config
    dataset: Dataset
    index: SampleIndex
    ratio: float | None
    seed: int | None
    mapping: Int | None = None
    chosen: str = ""
    related: Int | None = None
    matrix: Float | None = None
    human: HumanFile | None = None
    inputs: Callable[[], Inputs] | None = None
    scaling: str = ""
    report: Reporter = field(repr=False)

    @property
    def clean(self) -> Int:
        """int64 [n]: the labels as they are; for captions the rows themselves."""
        if self.config.type == "captions":
            return np.arange(len(self.index), dtype=np.int64)
        return self.index.labels.values

    def eligible(self) -> int:
        """How many labelled rows are of a class that may flip."""
        clean = self.clean
        labelled = clean[clean >= 0]
        if self.mapping is not None:
            labelled = labelled[self.mapping[labelled] != labelled]
        elif self.related is not None:
            labelled = labelled[np.isin(labelled, self.related)]
        return int(labelled.size)

    def share(self) -> Fraction:
        """The ratio as a share of the eligible rows.

        Raises:
            DataError: there are none, or too few of them for the ratio asked.
        """
        assert self.ratio is not None
        share = Fraction(repr(float(self.ratio)))
        labelled, eligible = int(np.sum(self.clean >= 0)), self.eligible()
        if share == 0 or eligible == labelled:
            return share
        if eligible == 0:
            raise DataError("no sample is of a class that may flip", "samples of mapped or related classes")
        if self.config.ratio_of == "mapped":
            return share
        share = share * labelled / eligible
        if share > 1:
            raise DataError(
                f"--ratio {self.ratio:g} of all {labelled} labels, where only {eligible} are of classes that may flip",
                f"{eligible / labelled:.6g} at most",
                "give a lower ratio, or --ratio-of mapped",
            )
        return share


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Noisy labels int64 [n]; for instance noise the perplexity of what they were drawn from."""

    noisy: Int
    perplexity: float | None = None


def stream(draw: Draw, *more: str) -> np.random.Generator:
    """The draw's own generator. Its name holds the ratio, so that ratios are independent, unless they are nested."""
    assert draw.seed is not None
    config = draw.config
    ratio = "nested" if config.nested else repr(draw.ratio)
    return generator(draw.seed, "inject-noise", config.type, config.split, *(more or (ratio,)))


def drawn(draw: Draw) -> Drawn:
    """Make the labels wrong as asked.

    Raises:
        DataError: labels, file or inputs that don't fit what was asked.
    """
    config, clean = draw.config, draw.clean
    if config.type == "human":
        assert draw.human is not None
        return Drawn(noisy=human_labels(draw.human, draw.index, draw.report))
    if config.type == "instance":
        return _instance(draw)
    rng = stream(draw)
    if config.type == "matrix":
        assert draw.matrix is not None
        return Drawn(noisy=noise.matrix(clean, draw.matrix, rng=rng))
    share = draw.share()
    if config.type == "captions":
        return Drawn(noisy=noise.swap_captions(clean, share, rng=rng, mode=cast(SwapMode, config.caption_mode)))
    if config.type == "asymmetric":
        assert draw.mapping is not None
        return Drawn(noisy=noise.asymmetric(clean, share, draw.mapping, rng=rng, nested=config.nested))
    return Drawn(noisy=_among(draw, share, rng))


def _among(draw: Draw, share: Fraction, rng: np.random.Generator) -> Int:
    """Symmetric noise or pair flips; among the related classes alone, where they are named."""
    config, clean = draw.config, draw.clean
    members = draw.related
    if members is None:
        members = np.arange(len(draw.index.labels.classes), dtype=np.int64)
    place = np.full(len(draw.index.labels.classes) + 1, -1, dtype=np.int64)  # the last is that of -1
    place[members] = np.arange(len(members))
    inner = place[clean]
    if config.type == "pairflip":
        noisy = noise.pairflip(inner, share, len(members), rng=rng, nested=config.nested)
    else:
        noisy = noise.symmetric(
            inner,
            share,
            len(members),
            rng=rng,
            include_self=config.include_self,
            bernoulli=config.bernoulli,
            nested=config.nested,
        )
    return np.where(inner >= 0, members[noisy], clean)


def _instance(draw: Draw) -> Drawn:
    """Instance noise; W is the seed's own, the same at all ratios: which classes flood depends on W alone."""
    config, classes = draw.config, len(draw.index.labels.classes)
    assert draw.ratio is not None
    assert draw.inputs is not None
    if draw.ratio == 0:
        return Drawn(noisy=draw.clean, perplexity=1.0)
    inputs = draw.inputs()
    weights = stream(draw, "weights").standard_normal((inputs.shape[1], classes))
    result = draw_instance(
        draw.clean,
        draw.ratio,
        inputs,
        classes,
        rng=stream(draw),
        std=config.instance_std,
        weights=weights,
        nested=config.nested,
    )
    return Drawn(noisy=result.noisy, perplexity=result.perplexity)
