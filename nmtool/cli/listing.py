"""``nmtool list TOPIC``: what there is to choose from, read off the tables that the stages themselves go by.

Suites, models, methods, recipes, types of noise and sources. Nothing is opened or downloaded; timm is imported only
where its names are asked for.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from nmtool.cli.columns import pairs, paragraphs
from nmtool.errors import UsageError

TOPICS = {
    "suites": "the papers' datasets: sizes, metric, layout on disk (list suites NAME: all about one)",
    "models": "how MODEL is written (list models PATTERN: timm's names that match)",
    "methods": "what tune --method takes",
    "recipes": "ready-made experiments, and what pretrain --recipe takes",
    "noise": "what inject-noise --type takes",
    "sources": "how DATA is written",
}
MODELS = {
    "timm:NAME": "an architecture of timm, with its published weights; --untrained takes random ones",
    "PATH": "a backbone artifact, as pretrain leaves it",
    "FILE.safetensors": "weights alone, with --arch NAME for timm's architecture, and --model-kwargs KEY=VALUE",
    "none": "no model: the data are features already (arrays:)",
}
NOISE = {
    "symmetric": "a wrong class at random, the same exact share in every class",
    "asymmetric": "the class that --map names, or the next one of the same group (--groups)",
    "pairflip": "the next class",
    "matrix": "as P(noisy | clean) in --matrix says",
    "instance": "by what a sample looks like: those near other classes more often (Cheng et al.)",
    "human": "labels that people gave, as in CIFAR-N",
    "captions": "captions exchanged among image-caption pairs",
}
SOURCES = {
    "folder": ("folder:DIR", "image folders: CLASS/*, SPLIT/CLASS/* or DOMAIN/SPLIT/CLASS/*"),
    "table": ("table:FILE", "a row a sample, in .parquet, .csv or .tsv: path, image or text, and label or caption"),
    "wds": ("wds:DIR/{000..127}.tar", "WebDataset shards, read in place"),
    "hf": ("hf:NAME[/CONFIG]", "a dataset of Hugging Face, on disk or from the hub"),
    "torchvision": ("torchvision:NAME", "a dataset of torchvision below --data-root"),
    "arrays": ("arrays:FILE.npz", "X_SPLIT and y_SPLIT: images, or features that are ready"),
    "digits": ("digits", "handwritten digits with shifted domains, which come with scikit-learn"),
    "suite": ("suite:NAME[/MEMBER]", "one of the papers' datasets below --data-root (nmtool list suites)"),
}


def listing(
    topic: Annotated[str | None, typer.Argument(metavar="TOPIC", help=f"One of {', '.join(TOPICS)}.")] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One suite, or a pattern of model names.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, with all facts.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr.")] = False,
) -> None:
    """What there is: suites, models, methods, recipes, noise, sources."""
    if topic is not None and topic not in TOPICS:
        near = difflib.get_close_matches(topic, TOPICS, n=1)
        hint = f"did you mean {near[0]}?" if near else ""
        raise UsageError(f"nothing to list under {topic!r}", f"one of {', '.join(TOPICS)}", hint)
    if name is not None and topic not in ("suites", "models"):
        raise UsageError(f"the name {name!r} after list {topic}", "a name after suites or models only")
    body, lines = _answer(topic, name)
    sys.stdout.write((json.dumps(body, ensure_ascii=False) if json_ else "\n".join(lines)) + "\n")


def _answer(topic: str | None, name: str | None) -> tuple[Mapping[str, object], Iterable[str]]:
    """What ``--json`` prints, and the lines printed without it."""
    if topic == "suites":
        from nmtool.cli import suitelist

        return suitelist.one(name) if name is not None else suitelist.table()
    if topic == "models":
        return _timm(name) if name is not None else _models()
    if topic is None:
        return {"topics": TOPICS}, pairs(TOPICS)
    rows = {"methods": _methods, "recipes": _recipes, "noise": _noise, "sources": _sources}[topic]()
    return {topic: rows}, pairs(rows)


def _models() -> tuple[Mapping[str, object], Iterable[str]]:
    more = "nmtool list models PATTERN names those of timm that match, for example: nmtool list models 'resnet50*'"
    return {"models": MODELS}, [*pairs(MODELS), "", *paragraphs(more)]


def _timm(pattern: str) -> tuple[Mapping[str, object], Iterable[str]]:
    """Architectures of timm that match, each with the tags of its published weights."""
    import timm

    wanted = pattern.removeprefix("timm:")
    wanted = wanted if "*" in wanted else f"*{wanted}*"
    tags: dict[str, list[str]] = {name: [] for name in timm.list_models(wanted)}
    for full in timm.list_models(wanted, pretrained=True):
        name, _, tag = full.partition(".")
        tags.setdefault(name, []).append(tag or "default")
    if not tags:
        near = difflib.get_close_matches(wanted.strip("*"), timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"no model of timm matches {pattern!r}", "a name, or a pattern such as resnet*", hint)
    rows = {f"timm:{name}": ", ".join(each) or "(no published weights)" for name, each in tags.items()}
    return {"models": tags}, pairs(rows)


def _methods() -> dict[str, str]:
    from nmtool.tune.method import METHODS

    return {
        name: f"{method.doc} (needs {', '.join(sorted(method.needs))})" if len(method.needs) > 1 else method.doc
        for name, method in METHODS.items()
    }


def _noise() -> dict[str, str]:
    from nmtool.inject_noise.config import TYPES

    return {name: NOISE[name] for name in TYPES}


def _sources() -> dict[str, str]:
    from nmtool.data.sources import SCHEMES

    return dict(SOURCES[scheme] for scheme in SCHEMES)


def _recipes() -> dict[str, str]:
    """Choices of ``pretrain --recipe``, and the folders of the repository where this is a checkout of it."""
    import dataclasses

    from nmtool.pretrain.config import Config

    named = next((field.metadata["choices"] for field in dataclasses.fields(Config) if field.name == "recipe"), ())
    rows = {str(name): "pretrain --recipe" for name in named}
    for makefile in sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*/Makefile")):
        about = makefile.read_text(encoding="utf-8").partition("\n#\n")[0]
        what = " ".join(line.lstrip("# ") for line in about.splitlines())
        rows[f"make -C recipes/{makefile.parent.name}"] = what.rstrip(".:")
    return rows or {"(none)": "pretrain has no named recipes; the repository's folder recipes/ is not installed"}
