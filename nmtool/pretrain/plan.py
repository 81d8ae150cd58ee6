"""What a pre-training run will train on, and how: checked before any work, light to make, the same when resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nmtool.artifact.open import Artifact
from nmtool.artifact.typed import join_labels, read_labels
from nmtool.data.dataset import Dataset
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.numerics.seeds import generator
from nmtool.pretrain.config import Config

Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some rows of a split with the labels to use and the clean ones: int64 [n] each."""

    split: str
    rows: Int
    labels: Int
    clean: Int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Training and validation rows.

    Attributes:
        train: labelled rows; ``labels`` may be noisy.
        validation: rows with clean labels, or None.
        classes: class names in label order.
    """

    train: Part
    validation: Part | None
    classes: tuple[str, ...]

    @property
    def noise(self) -> float:
        """Share of the training rows whose label is not the clean one."""
        return float(np.mean(self.train.labels != self.train.clean))


def check(config: Config) -> None:
    """Ranges and combinations; raises ``UsageError``."""
    ranges: tuple[tuple[str, float, bool, str], ...] = (
        ("--epochs", config.epochs, 1 <= config.epochs <= 100_000, "1 to 100000"),
        ("--batch-size", config.batch_size, 2 <= config.batch_size <= 1 << 16, "2 to 65536"),
        ("--lr", config.lr, config.lr > 0, "more than 0"),
        ("--weight-decay", config.weight_decay, config.weight_decay >= 0, "0 or more"),
        ("--warmup-epochs", config.warmup_epochs, 0 <= config.warmup_epochs <= config.epochs, "0 to the epochs"),
        ("--label-smoothing", config.label_smoothing, 0 <= config.label_smoothing < 1, "0 to less than 1"),
        ("--checkpoint-every", config.checkpoint_every, config.checkpoint_every >= 1, "1 or more"),
        ("--checkpoint-steps", config.checkpoint_steps, config.checkpoint_steps >= 0, "0 or more"),
        ("--seed", config.seed, 0 <= config.seed < 2**63, "0 to 2**63 - 1"),
    )
    for flag, value, good, wanted in ranges:
        if not good:
            raise UsageError(f"{flag} is {value}", wanted)
    if config.image_size is not None and not 8 <= config.image_size <= 4096:
        raise UsageError(f"--image-size is {config.image_size}", "8 to 4096 pixels")


def validation_of(dataset: Dataset, config: Config) -> str | float | None:
    """The validation split's name, a fraction of the training split, or None.

    Raises:
        UsageError: a fraction out of range, or the training split itself.
        InputMissingError: no such split.
    """
    text = config.validation
    if text == "none":
        return None
    if text in dataset.splits:
        if text == config.split:
            raise UsageError(f"--validation {text} is the training split", "another split, a fraction or none")
        return text
    if text:
        try:
            fraction = float(text)
        except ValueError:
            raise InputMissingError(
                f"{dataset.uri} has no split {text!r}", "one of " + ", ".join(dataset.splits), "or give a fraction"
            ) from None
        if not 0 < fraction < 1 or not math.isfinite(fraction):
            raise UsageError(f"--validation is {text}", "a fraction between 0 and 1")
        return fraction
    domain = config.split.rpartition("/")[0]
    beside = [f"{domain}/{name}" if domain else name for name in ("test", "val", "validation")]
    return next((name for name in beside if name in dataset.splits and name != config.split), None)


def make_plan(dataset: Dataset, config: Config, validation: str | float | None, labels: Artifact | None) -> Plan:
    """Rows and labels of training and validation.

    Which rows, and in which order, does not depend on the noisy labels: runs that differ in them alone see the same
    images at the same time.

    Raises:
        DataError: labels of another dataset or split, fewer than two classes or rows, or real numbers.
    """
    index = dataset.splits[config.split]
    if dataset.targets(config.split) is not None:
        raise DataError(f"split {config.split} of {config.data} has real numbers as labels", "class labels")
    clean = np.asarray(index.labels.values)
    noisy = clean
    if labels is not None:
        overlay = read_labels(labels)
        if overlay.split != config.split:
            raise DataError(f"{labels.path} labels split {overlay.split}", f"split {config.split}")
        noisy = join_labels(overlay, index.ids, index.labels, f"split {config.split}").values
    rows = np.flatnonzero(noisy >= 0)
    held: Part | None = None
    if isinstance(validation, float):
        shuffled = generator(config.seed, "pretrain", "validation").permutation(len(index))
        out = np.sort(shuffled[: max(1, round(validation * len(index)))])
        rows = rows[~np.isin(rows, out)]
        held = _clean_part(config.split, out, clean)
    elif validation is not None:
        values = np.asarray(dataset.splits[validation].labels.values)
        held = _clean_part(validation, np.arange(len(values)), values)
    if len(rows) < 2 or len(np.unique(noisy[rows])) < 2:
        found = f"{len(rows)} labelled samples of {len(np.unique(noisy[rows]))} classes in split {config.split}"
        raise DataError(found, "at least two samples and two classes to train on")
    train = Part(split=config.split, rows=rows, labels=noisy[rows], clean=clean[rows])
    return Plan(train=train, validation=held, classes=index.labels.classes)


def _clean_part(split: str, rows: Int, values: Int) -> Part | None:
    rows = rows[values[rows] >= 0]
    return Part(split=split, rows=rows, labels=values[rows], clean=values[rows]) if len(rows) else None


def learning_rate(config: Config, step: int, steps: int, per_epoch: int) -> float:
    """Linear warm-up, then half a cosine that ends at 0 after the last of ``steps`` steps."""
    warm = min(round(config.warmup_epochs * per_epoch), steps - 1)
    if step < warm:
        return config.lr * (step + 1) / warm
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def log_line(epoch: int, sums: Mapping[str, float], validation: float | None) -> dict[str, object]:
    """A line of ``log.jsonl``: means over the epoch's training batches, and the validation accuracy after it."""
    seen = sums["seen"]
    line: dict[str, object] = {
        "epoch": epoch + 1,
        "loss": sums["loss"] / seen,
        "train_accuracy": sums["right"] / seen,
        "train_accuracy_clean": sums["right_clean"] / seen,
    }
    if validation is not None:
        line["validation_accuracy"] = validation
    return line
