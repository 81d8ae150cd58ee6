"""The methods, in one literal table: what each needs, and where its function is. Importing this imports no method."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from nmtool.errors import UsageError

if TYPE_CHECKING:
    from nmtool.tune.fit import Trained
    from nmtool.tune.material import Bench, Material
    from nmtool.tune.outcome import Outcome
    from nmtool.tune.plan import Run


class Tune(Protocol):
    """What every method is: a function that trains a group of runs that fit into one stack.

    It must give one outcome a run, in the runs' order; the same outcome for a run whatever else is in the group (to
    rounding); and raise ``DivergedError`` rather than return numbers that are not finite.
    """

    def __call__(self, runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
        """Train ``runs`` on ``material``; checkpoints and news go through ``bench``."""


class Fit(Protocol):
    """The first half of a ``Tune``: train a stack, judge nothing.

    Runs that hold rows out are trained on the others; one that diverges is left with numbers that are not finite.
    """

    def __call__(self, runs: tuple[Run, ...], material: Material, bench: Bench) -> Trained:
        """Train ``runs`` on ``material``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method.

    Attributes:
        name: the word after ``--method``.
        needs: of ``features``, ``images``, ``backbone``, and ``towers`` (the text tower beside the image tower that
            made the features): lets the command line refuse early.
        function: ``module:name`` of a ``Tune``, resolved on use.
        doc: one line.
        fit: ``module:name`` of a ``Fit``, for methods that ``--search`` can search; else empty.
        real: it also trains on labels that are real numbers, by a head of one output.
        drawn: something of a run comes from its seed; else one run stands for all seeds.
    """

    name: str
    needs: frozenset[str]
    function: str
    doc: str
    fit: str = ""
    real: bool = False
    drawn: bool = True

    def resolve(self) -> Tune:
        """The function itself; imports what the method needs."""
        function: Tune = _import(self.function)
        return function

    def resolve_fit(self) -> Fit:
        """As ``resolve``, for ``fit``."""
        function: Fit = _import(self.fit)
        return function


def _import(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


_FEATURES = frozenset({"features"})
_TABLE = (
    Method(
        name="lp",
        needs=_FEATURES,
        function="nmtool.tune.lp:tune",
        fit="nmtool.tune.lp:fit",
        real=True,
        doc="linear probe",
    ),
    Method(
        name="elr",
        needs=_FEATURES,
        function="nmtool.tune.lp:tune",
        fit="nmtool.tune.lp:fit",
        doc="linear probe with early-learning regularisation: targets that remember what it said (Liu et al. 2020)",
    ),
    Method(
        name="dividemix",
        needs=_FEATURES,
        function="nmtool.tune.dividemix:tune",
        fit="nmtool.tune.dividemix:fit",
        doc="two linear heads that divide the rows for each other and guess labels (Li et al. 2020)",
    ),
    Method(
        name="unicon",
        needs=_FEATURES,
        function="nmtool.tune.unicon:tune",
        fit="nmtool.tune.unicon:fit",
        doc="dividemix that selects equally many rows of each class (Karim et al. 2022)",
    ),
    Method(
        name="mlp",
        needs=_FEATURES,
        function="nmtool.tune.mlp:tune",
        fit="nmtool.tune.mlp:fit",
        real=True,
        doc="a small network, then a linear probe",
    ),
    Method(
        name="nmtune",
        needs=_FEATURES,
        function="nmtool.tune.nmtune:tune",
        fit="nmtool.tune.nmtune:fit",
        real=True,
        doc="mlp with NMTune's three regularisers (paper 1, Eq. 6)",
    ),
    Method(
        name="knn",
        needs=_FEATURES,
        function="nmtool.tune.knn:tune",
        doc="votes of the k nearest training rows by cosine; nothing is trained",
    ),
    Method(
        name="zeroshot",
        needs=frozenset({"features", "towers"}),
        function="nmtool.tune.zeroshot:tune",
        drawn=False,
        doc="class prompts through open_clip's text tower against projected features; nothing is trained",
    ),
    Method(
        name="turn",
        needs=frozenset({"features", "images", "backbone"}),
        function="nmtool.tune.turn:tune",
        doc="TURN: GCE probe, cleansing by mixtures, full fine-tuning on the clean subset (paper 2)",
    ),
    Method(
        name="fft",
        needs=frozenset({"features", "images", "backbone"}),
        function="nmtool.tune.finetune:tune",
        doc="full fine-tuning of the backbone with a linear head, on all rows",
    ),
    Method(
        name="lora",
        needs=frozenset({"features", "images", "backbone"}),
        function="nmtool.tune.finetune:tune",
        doc="as fft, but the backbone learns low-rank adapters alone",
    ),
)
METHODS: Mapping[str, Method] = MappingProxyType({m.name: m for m in _TABLE})


def method_named(name: str) -> Method:
    """The method; raises ``UsageError`` listing those there are."""
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1)
    raise UsageError(
        f"--method has {name!r}", "one of " + ", ".join(METHODS), f"did you mean {near[0]}?" if near else ""
    )
