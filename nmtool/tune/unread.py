"""Settings that were given and change nothing: told, so that nobody thinks they did anything.

They are no error: one configuration serves several calls, and a list of methods has settings that some of them read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from nmtool.tune.axes import AXES, CLEANSED, EARLY, ON_ROWS, TURN_LATER, WHITE_BOX
from nmtool.tune.config import Config
from nmtool.tune.method import method_named

# Settings that choose among lists of settings, or stand beside them; else the lists say who reads a setting.
_READERS: Mapping[str, tuple[str, ...]] = {
    "loss": (*ON_ROWS, *WHITE_BOX),
    "cleanse": (*ON_ROWS, "turn"),
    "use_views": ON_ROWS,
    "solver": ("lp",),
    "template": ("zeroshot",),
    "tune_backbone": ("turn",),
    "keep_backbone": (*WHITE_BOX, "turn"),
    # (that of amp are told by the lists: L-BFGS, for one, is lp and does not)
    **dict.fromkeys(TURN_LATER.keys() - {"amp"}, (*WHITE_BOX, "turn")),
}
_LISTED = frozenset({name for names in AXES.values() for name in names} | {*CLEANSED, *EARLY})


def unread(config: Config, lists: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The flags, sorted, that are other than their defaults and change nothing.

    Args:
        config: what was asked, before anything is filled in.
        lists: what ``axes`` made of it.
    """
    read = {name for values in lists.values() for name in values} - set(_READERS)
    read |= {"q"} if "probe_q" in read else set()
    read |= {name for name, methods in _READERS.items() if set(methods) & set(config.method)}
    found = []
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if name not in _LISTED | set(_READERS) or name in read or value == field.default:
            continue
        if name == "loss" and set(value) <= {"ce", "mse"}:  # a recorded configuration has it filled in
            continue
        found.append("--" + name.replace("_", "-"))
    return tuple(sorted(found))


def equal_seeds(config: Config, seeds: tuple[int, ...]) -> tuple[str, ...]:
    """Sentences on methods of the call whose runs of several seeds are equal, or would be.

    Args:
        config: what was asked, settled.
        seeds: all of them.
    """
    if len(seeds) < 2:
        return ()
    lines = []
    for name in config.method:
        if not method_named(name).drawn:
            rest = ", ".join(map(str, seeds[1:]))
            lines.append(
                f"{name}: one run, of seed {seeds[0]}; nothing is drawn, and runs of seeds {rest} would equal it"
            )
    if 1.0 in config.fraction:
        alike = ["knn"] if "knn" in config.method else []
        if "lp" in config.method and "lbfgs" in config.solver and not config.search:
            alike.append("lp --solver lbfgs")
        lines += [
            f"{name}: runs of several seeds are equal at --fraction 1, where a seed has no rows to choose: "
            "their deviation of 0 says nothing"
            for name in alike
        ]
    return tuple(lines)
