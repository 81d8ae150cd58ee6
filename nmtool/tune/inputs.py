"""What a call names, opened lightly: artifacts, splits, classes. What can be refused before work is refused here.

No array is read, and neither torch nor zarr is imported: a cached call ends after this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmtool.artifact.arrays import array_shape
from nmtool.artifact.open import Artifact, open_artifact
from nmtool.artifact.typed import (
    CLASSES,
    STORE,
    VIEWS,
    choose_split,
    feature_splits,
    has_targets,
    open_features,
    read_classes,
    split_of,
)
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.tune.axes import ON_ROWS
from nmtool.tune.config import Config
from nmtool.tune.method import method_named

_TESTS = ("test", "val", "validation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One split of one features artifact.

    Attributes:
        artifact: opened.
        split: the split's name.
        shown: the artifact's path as the user gave it.
        classes: its class names.
    """

    artifact: Artifact
    split: str
    shown: str
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The features by content: what may stand in a payload, where a path may not."""
        return f"features-{self.artifact.manifest.content[7:19]}"

    @property
    def encoder(self) -> Mapping[str, Any]:
        """The encoder's record in the recipe; empty for features that came ready made."""
        body = self.artifact.manifest.recipe.get("config", {}).get("encoder")
        return body if isinstance(body, dict) and body.get("family") != "none" else {}

    @property
    def views(self) -> str:
        """The policy of the split's augmented views; empty where it has none."""
        if not self.artifact.has(f"{STORE}/{self.split}/{VIEWS}/zarr.json"):
            return ""
        body = self.artifact.manifest.recipe.get("config", {}).get("views")
        return str(body.get("augment", "weak")) if isinstance(body, dict) else "weak"

    @property
    def real(self) -> bool:
        """Whether the labels are real numbers, and no classes."""
        return has_targets(self.artifact, self.split)

    @property
    def digest(self) -> str:
        """Digest of the split's samples; empty where extract did not record it."""
        splits = self.artifact.manifest.summary.get("splits", {})
        return str(splits.get(self.split, {}).get("digest", "")) if isinstance(splits, dict) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything a call names.

    Attributes:
        train: features to train on.
        targets: splits to evaluate on; the first is the in-domain one.
        labels: labels artifacts with their paths.
        dim: of the features.
    """

    train: Source
    targets: tuple[Source, ...]
    labels: tuple[tuple[Artifact, str], ...]
    dim: int


def resolve(config: Config) -> Inputs:
    """Open and check what ``config`` names.

    Raises:
        InputMissingError: an artifact or a split that is not there.
        DataError: another kind of artifact, no class labels, out-of-domain features of another encoder or classes.
        UsageError: a method that needs images, on features that came ready made.
    """
    _check_one_each("--ood", config.ood)
    _check_one_each("--labels", config.labels)
    artifact, split = open_features(config.features)
    if split and config.train and split != config.train:
        raise UsageError(f"FEATURES names split {split} and --train {config.train}", "one of them")
    shown = config.features.removesuffix(f":{split}") if split else config.features
    train = _source(artifact, choose_split(artifact, split or config.train, role="train"), shown)
    test = _source(artifact, choose_split(artifact, config.test, role="test"), shown)
    if test.split == train.split:
        raise UsageError(
            f"{shown}: split {train.split} both to train and to test on",
            "two splits",
            "name them by --train and --test",
        )
    if not train.real and len(train.classes) < 2:
        found = f"one class ({train.classes[0]})" if train.classes else "no class labels"
        raise DataError(f"{shown} has {found}", "at least two classes to tell apart")
    ood = [source for text in config.ood for source in _ood(text, train, test)]
    twice = {(s.name, s.split) for s in ood}
    if len(twice) < len(ood):
        raise UsageError("--ood names the same split twice", "each split once")
    for source in ood:
        _check_fits(source, train)
    for method in config.method:
        _check_needs(method, train, ood)
    if config.use_views and set(config.method) & set(ON_ROWS):
        _check_views(train)
    labels = tuple((_labels(path), path) for path in config.labels)
    if len({a.manifest.content for a, _ in labels}) < len(labels):
        raise UsageError("--labels names the same labels twice", "each artifact once")
    return Inputs(train=train, targets=(test, *ood), labels=labels, dim=_dim(train))


def same_samples(found: Inputs) -> list[str]:
    """What is to be told of out-of-domain splits whose samples are those trained on, or the in-domain ones."""
    known = {"trained on": found.train, "judged in-domain": found.targets[0]}
    return [
        f"--ood {each.shown}:{each.split} has the very samples that are {how}: it is no other domain"
        for each in found.targets[1:]
        for how, own in known.items()
        if (each.name, each.split) == (own.name, own.split) or (each.digest and each.digest == own.digest)
    ]


def _check_one_each(flag: str, texts: tuple[str, ...]) -> None:
    """Lists of paths repeat the flag; a path with a comma in its name is a path."""
    for text in texts:
        if "," in text and not split_of(text)[0].exists():
            raise UsageError(f"{flag} {text} does not exist", "one artifact a flag", f"repeat it: {flag} A {flag} B")


def _source(artifact: Artifact, split: str, shown: str) -> Source:
    classes = read_classes(artifact) if artifact.has(CLASSES) else ()
    return Source(artifact=artifact, split=split, shown=shown, classes=classes)


def _labels(path: str) -> Artifact:
    artifact = open_artifact(Path(path), "labels")
    if not artifact.has(CLASSES):
        raise DataError(f"{path} holds caption pairs", "class labels for tune")
    return artifact


def _ood(text: str, train: Source, test: Source) -> list[Source]:
    """The splits that one ``--ood`` names: the one named, or each domain's test split but the in-domain one."""
    artifact, split = open_features(text)
    shown = text.removesuffix(f":{split}") if split else text
    names = feature_splits(artifact)
    if split:
        if split not in names:
            raise InputMissingError(f"{shown} has no split {split}", "one of " + ", ".join(names))
        return [_source(artifact, split, shown)]
    own = artifact.manifest.content == train.artifact.manifest.content
    free = [name for name in names if not own or name not in (train.split, test.split)]
    chosen: dict[str, str] = {}
    for tail in _TESTS:
        for name in free:
            domain, _, last = name.rpartition("/")
            # The in-domain set's validation split is not another domain.
            if last == tail and not (own and domain == test.split.rpartition("/")[0]):
                chosen.setdefault(domain, name)
    if not chosen and len(free) == 1 and not own:
        chosen = {"": free[0]}
    if not chosen:
        raise InputMissingError(
            f"{shown} has no test split for --ood among " + ", ".join(names),
            "SPLIT or DOMAIN/SPLIT ending in test or val",
            "name one: --ood FEATURES:SPLIT",
        )
    return [_source(artifact, name, shown) for name in sorted(chosen.values())]


def _check_fits(ood: Source, train: Source) -> None:
    """Same encoder, same dimension, some class in common: else accuracies would be of nothing."""
    where = f"--ood {ood.shown}:{ood.split}"
    if ood.encoder and train.encoder and ood.encoder != train.encoder:
        raise DataError(
            f"{where} was extracted by another encoder or preprocessing ({_name(ood)})",
            f"that of the training features ({_name(train)})",
            "extract both with the same MODEL and flags",
        )
    if _dim(ood) != _dim(train):
        raise DataError(f"{where} has {_dim(ood)} dimensions", f"{_dim(train)}, as the training features")
    if ood.real != train.real:
        words = {True: "labels that are real numbers", False: "classes"}
        raise DataError(f"{where} has {words[ood.real]}", f"{words[train.real]}, as the training features")
    if not train.real and not set(ood.classes) & set(train.classes):
        raise DataError(
            f"{where} has no class of the training split (it has {', '.join(ood.classes[:5]) or 'none'})",
            f"class names among {', '.join(train.classes[:5])}{', …' if len(train.classes) > 5 else ''}",
            "classes are joined by name: rename them, or give the class names with the data",
        )


def _dim(source: Source) -> int:
    return int(array_shape(source.artifact, STORE, f"{source.split}/features")[0][1])


def _name(source: Source) -> str:
    return f"{source.encoder.get('arch', '?')}, weights {str(source.encoder.get('weights', '?'))[:19]}"


def _check_views(train: Source) -> None:
    if not train.views or array_shape(train.artifact, STORE, f"{train.split}/{VIEWS}")[0][1] < 2:
        raise UsageError(
            f"--use-views on {train.shown}, whose split {train.split} has no two views of a row",
            "features with two augmented views or more",
            "extract --views 2",
        )


def _check_needs(name: str, train: Source, ood: list[Source]) -> None:
    """Methods that need images or the backbone: extract must have had them, and said by content which."""
    needs = method_named(name).needs
    if needs <= {"features"}:
        return
    if "towers" in needs:
        from nmtool.tune.prompts import check_towers

        check_towers(train, name)
        return
    for source in (train, *ood):
        if not source.encoder:
            raise UsageError(
                f"--method {name} on {source.shown}, whose features came ready made",
                "features that extract made from images: it reads the images and the backbone again",
            )
        if not source.digest:
            raise DataError(f"{source.shown} does not say which samples split {source.split} has", "a digest of them")
