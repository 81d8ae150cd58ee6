"""Stage ``tune``: train and judge every run that was asked for, into one ``heads`` artifact.

The only file of the room that is called from outside. Inputs are opened lightly; what is heavy is imported on a miss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from nmtool import settings
from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Session, Staging, place_of, produce
from nmtool.errors import UsageError
from nmtool.records import ArtifactRef
from nmtool.tune import inputs as opening
from nmtool.tune import plan, task
from nmtool.tune.axes import axes
from nmtool.tune.backbones import column_of
from nmtool.tune.config import Config
from nmtool.tune.inputs import Inputs
from nmtool.tune.method import method_named
from nmtool.tune.unread import equal_seeds, unread

if TYPE_CHECKING:
    from nmtool.tune.crew import Crew

# Raised whenever the same recipe would give other numbers than before.
EPOCH = 4
_MOST_RUNS = 10_000


def run(config: Config, session: Session) -> ArtifactRef:
    """Train every run of ``config`` and judge it in-domain and out of domain.

    Raises:
        UsageError: an unknown method, a number out of range, a method that can't work on these features.
        InputMissingError: an artifact, split, image source or backbone that is not there.
        DataError: labels of another dataset, features that are not finite, one class only, no common class.
        DivergedError: a loss that is not finite; nothing is written.
    """
    for name in config.method:  # before a path is looked at: a wrong word is a wrong word
        method_named(name)
    found = opening.resolve(config)
    asked, config = config, task.settled(config, found)
    runs = plan.expand(config, len(config.labels), found.dim, column_of(found.train.encoder))
    tried = sum(map(len, plan.candidates(config, runs, found.dim).values())) if config.search else 0
    if len(runs) + tried > _MOST_RUNS:
        words = f"{len(runs)} runs" + (f" and {tried} candidates of their searches" if tried else "")
        raise UsageError(f"{words} in one call", f"at most {_MOST_RUNS}", "ask for fewer values at once")
    crew = _crew(session, runs)
    recipe = _recipe(config, found)
    ignored = unread(asked, axes(config, found.dim, column_of(found.train.encoder)))
    if ignored and session.ranks.rank == 0:
        session.report.warning(f"{', '.join(ignored)}: read by no method of this call ({', '.join(config.method)})")
    for line in (*opening.same_samples(found), *equal_seeds(config, plan.seeds(config))):
        if session.ranks.rank == 0:
            session.report.warning(line)

    def build(staging: Staging | None) -> dict[str, object]:
        return _build(config, session, found, runs, staging, crew)

    if crew is not None and not crew.leads:
        return crew.follow(place_of(session, recipe, _name(config, found)), recipe.kind, recipe.key, build)
    with crew.led(recipe.key) if crew is not None else contextlib.nullcontext():
        return _produce(config, session, found, recipe, build, _work(runs, tried, found))


def _crew(session: Session, runs: tuple[plan.Run, ...]) -> Crew | None:
    """The ranks where there are several; raises ``UsageError`` for what they have no part in."""
    if session.ranks.world == 1:
        return None
    from nmtool.tune.crew import Crew, check_shared

    check_shared(runs, session.ranks.world)
    return Crew(session.ranks)


def _name(config: Config, found: Inputs) -> str:
    return f"{'-'.join(config.method)}-{found.train.artifact.path.name.rpartition('-')[0] or found.train.split}"


def _produce(
    config: Config,
    session: Session,
    found: Inputs,
    recipe: Recipe,
    build: Callable[[Staging | None], dict[str, object]],
    work: str,
) -> ArtifactRef:
    return produce(
        session,
        recipe,
        name=_name(config, found),
        config={**settings.everything(config), "train": found.train.split, "test": found.targets[0].split},
        origin={"features": config.features, "ood": list(config.ood), "labels": list(config.labels)},
        build=build,
        work=work,
    )


def _recipe(config: Config, found: Inputs) -> Recipe:
    """Resolved values only, of the methods asked: what is spelled out or left to its default has one key."""
    methods = axes(config, found.dim, column_of(found.train.encoder))
    seeds, drawn = plan.seeds(config), [m for m in config.method if method_named(m).drawn]
    resolved: dict[str, object] = {
        "methods": methods,
        "seeds": list(seeds if drawn else seeds[:1]),
        "fraction": list(config.fraction),
        "train": found.train.split,
        "test": found.targets[0].split,
        "ood": [t.split for t in found.targets[1:]],
        "spectra": config.spectra,
        "predictions": config.predictions,
    }
    if config.search:
        resolved["search_holdout"] = config.search_holdout
    if len(seeds) > 1 and 0 < len(drawn) < len(config.method):
        resolved["one_seed"] = [m for m in config.method if m not in drawn]
    metric = task.metric_of(config, found)
    if metric != "accuracy":
        resolved["metric"] = metric
    if not config.nested_fractions:
        resolved["nested_fractions"] = False
    if any("towers" in method_named(m).needs for m in config.method):
        resolved["encoder"] = dict(found.train.encoder)
    if any("images" in method_named(m).needs for m in config.method):
        # By content, as extract recorded it: a hit needs neither images nor weights at hand.
        resolved["keep_backbone"] = config.keep_backbone
        if any("lora_rank" in lists for lists in methods.values()):
            resolved["adapters"] = "kept"  # heads made before they were are no answer to this recipe
        resolved["encoder"] = dict(found.train.encoder)
        resolved["images"] = [s.digest for s in (found.train, *found.targets)]
    cited = [found.train.artifact.as_input("features")]
    cited += [t.artifact.as_input("ood") for t in found.targets[1:]]
    cited += [artifact.as_input("labels") for artifact, _ in found.labels]
    return Recipe(stage="tune", kind="heads", epoch=EPOCH, config=resolved, inputs=tuple(cited))


def _work(runs: tuple[plan.Run, ...], tried: int, found: Inputs) -> str:
    counts = {m: sum(r.method == m for r in runs) for m in dict.fromkeys(r.method for r in runs)}
    heads = ", ".join(f"{n} × {m}" for m, n in counts.items())
    search = f"search among {tried} settings, " if tried else ""
    return f"{search}train {heads} on split {found.train.split}, judge on {', '.join(t.split for t in found.targets)}"


def _build(
    config: Config,
    session: Session,
    found: Inputs,
    runs: tuple[plan.Run, ...],
    staging: Staging | None,
    crew: Crew | None,
) -> dict[str, object]:
    from nmtool.tune.build import build

    return build(config, session, found, runs, staging, crew)
