"""The images and the backbone that features were made from, found again and checked by digest before any work starts.

Nothing is decoded or loaded until it is asked for. Prepared images are held in memory as uint8 where they fit, so that
an epoch does not decode what another has decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.encoders.device import thread_count
from nmtool.encoders.encoder import ImageEncoder, Pixels, load_image
from nmtool.encoders.facts import parse_kwargs
from nmtool.encoders.resolve import FAMILIES, resolve
from nmtool.encoders.resolved import Resolved
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.records import Int
from nmtool.tune.config import Config
from nmtool.tune.inputs import Inputs, Source

# Prepared images of all splits together; beyond it they are decoded each time.
HELD_BYTES = 2 << 30


class Shots:
    """The images of one split as the encoder's uint8 input [3, H, W], by row.

    Args:
        dataset, split: where they are.
        pixels: the encoder's preprocessing.
        held: keep every image that was decoded once.
        threads: to decode with.
    """

    def __init__(self, dataset: Dataset, split: str, pixels: Pixels, held: bool, threads: int) -> None:
        self._dataset, self._split, self._pixels, self._threads = dataset, split, pixels, threads
        n = len(dataset.splits[split])
        self._have = torch.zeros(n, dtype=torch.bool)
        self._all = torch.empty((n, 3, *pixels.size), dtype=torch.uint8) if held else None

    def batch(self, rows: Int) -> torch.Tensor:
        """uint8 [B, 3, H, W] on the CPU; raises ``BrokenSample`` for one that no longer decodes."""
        if self._all is None:
            return torch.stack(self._decode([int(r) for r in rows]))
        index = torch.from_numpy(rows)
        missing = [int(r) for r in index[~self._have[index]]]
        if missing:
            self._all[missing] = torch.stack(self._decode(missing))
            self._have[missing] = True
        return self._all[index]

    def one(self, row: int) -> torch.Tensor:
        """uint8 [3, H, W] of one row; raises ``BrokenSample``."""
        return self._pixels.crop(self._dataset.image(self._split, row))

    def _decode(self, rows: list[int]) -> list[torch.Tensor]:
        if self._threads == 1 or len(rows) == 1:
            return [self.one(row) for row in rows]
        with ThreadPoolExecutor(min(self._threads, len(rows)), thread_name_prefix="nmtool-tune") as pool:
            return list(pool.map(self.one, rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Images of every split of a call, and its encoder.

    Attributes:
        encoder: with its weights as extract used them.
        train: images of the training split.
        targets: images of each evaluation split.
    """

    encoder: ImageEncoder
    train: Shots
    targets: tuple[Shots, ...]


def checked_sources(config: Config, found: Inputs, memo: Memo, device: torch.device) -> Callable[[], Pictures]:
    """Find the images and the weights again, check their digests, and return what opens them.

    Raises:
        InputMissingError: a path that extract was given and that is no longer there.
        DataError: other weights, preprocessing or samples than the features were made from.
    """
    resolved = backbone_of(config, found.train, memo)
    opened: dict[str, Dataset] = {}
    places = []
    for source in (found.train, *found.targets):
        own = source.artifact.manifest.content == found.train.artifact.manifest.content
        dataset = _dataset(source, config if own else None, config.data_root, opened, memo)
        _check_split(dataset, source)
        places.append((dataset, source.split))
    threads = thread_count(config.workers)

    def open_all() -> Pictures:
        encoder = load_image(resolved, device)
        left, shots = HELD_BYTES, []
        for dataset, split in places:
            cost = len(dataset.splits[split]) * 3 * encoder.pixels.size[0] * encoder.pixels.size[1]
            held = cost <= left
            left -= cost if held else 0
            shots.append(Shots(dataset, split, encoder.pixels, held, threads))
        return Pictures(encoder=encoder, train=shots[0], targets=tuple(shots[1:]))

    return open_all


def _origin(source: Source) -> Mapping[str, Any]:
    return source.artifact.manifest.origin


def backbone_of(config: Config, train: Source, memo: Memo) -> Resolved:
    """The backbone that features were made by: where extract read it, or where ``--model`` says it is now.

    Raises:
        InputMissingError: it is no longer there.
        UsageError: features of texts.
        DataError: other weights or preprocessing.
    """
    origin, recorded = _origin(train), train.encoder
    model = config.model or str(origin.get("model") or "")
    if not model:
        raise InputMissingError(f"{train.shown} does not say which model made it", "a backbone", "give --model")
    if recorded.get("tower") == "text":
        raise UsageError(f"fine-tuning from {train.shown}, features of texts", "features of images")
    folder = Path(model).is_dir()
    arch = config.arch or None
    if arch is None and not folder and model.partition(":")[0] not in FAMILIES:
        arch = str(origin.get("arch") or f"{recorded['family']}:{recorded['arch']}")
    kwargs = parse_kwargs(config.model_kwargs) or ({} if folder else dict(recorded["kwargs"]))
    try:
        resolved = resolve(
            model,
            arch=arch,
            kwargs=kwargs,
            untrained=bool(recorded.get("untrained")),
            seed=int(origin.get("seed") or 0),
            overrides=dict(origin.get("overrides") or {}),
            memo=memo,
            feature=str(recorded["feature"]),
            normalize=bool(recorded.get("normalize")),
            tower="image",
        )
    except InputMissingError as error:
        raise InputMissingError(error.found, "the backbone that extract used", "give its path with --model") from None
    now = resolved.spec.to_json()
    differing = sorted(name for name in recorded.keys() | now.keys() if now.get(name) != recorded.get(name))
    if differing:
        name = differing[0]
        raise DataError(
            f"the {name} of {model} is {str(now.get(name))[:80]}",
            f"{str(recorded.get(name))[:80]}, as the features {train.shown} were made with",
            "give that backbone with --model, or extract again",
        )
    return resolved


def _dataset(
    source: Source, config: Config | None, data_root: str | None, opened: dict[str, Dataset], memo: Memo
) -> Dataset:
    """The dataset of a source; ``--data`` stands in for what the training features say."""
    origin = _origin(source)
    given = config.data if config else ""
    uri = given or str(origin.get("data") or "")
    # a root that is given holds for all data; else each keeps the one that extract was given
    root = data_root or origin.get("data_root") or None
    if not uri:
        raise InputMissingError(f"{source.shown} does not say which data it is of", "images", "give --data")
    if uri not in opened:
        try:
            opened[uri] = open_dataset(uri, memo=memo, data_root=root)
        except InputMissingError as error:
            remedy = "give it with --data (a suite's folder: --data-root)" if config else "extract from where it is now"
            raise InputMissingError(error.found, "the images that extract read", remedy) from None
    return opened[uri]


def _check_split(dataset: Dataset, source: Source) -> None:
    if dataset.kind not in ("images", "captions"):
        raise DataError(f"{dataset.uri} holds {dataset.kind}", "images")
    index = dataset.splits.get(source.split)
    if index is None:
        raise InputMissingError(f"{dataset.uri} has no split {source.split}", "one of " + ", ".join(dataset.splits))
    if index.digest != source.digest:
        raise DataError(
            f"split {source.split} of {dataset.uri} has other samples than the features {source.shown} were made from",
            f"samples of digest {source.digest[:19]} (found {index.digest[:19]})",
            "give the same data with --data, or extract again",
        )
