"""Runs that fine-tuned their backbone, asked about images: backbone and head are made again from a heads artifact.

What ``tune`` kept decides how. ``backbones/`` has all weights of a run (``--keep-backbone``): nothing else is needed
where the encoder's family makes an architecture from its record. ``adapters/`` has what a run learned beside weights
that extract used, which are found again and checked by digest. Images are prepared, batched and asked about as ``tune``
does: on the same split, device and number of threads the predictions are those on record, bit for bit. Refuses runs of
which neither was kept, and data that are no images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from nmtool.artifact.heads import ADAPTED, BACKBONES, run_file
from nmtool.artifact.memo import Memo
from nmtool.artifact.open import Artifact
from nmtool.artifact.stage import Reporter
from nmtool.data.dataset import Dataset
from nmtool.data.images import BrokenSample
from nmtool.encoders.device import products_by_onednn
from nmtool.encoders.encoder import ImageEncoder, Pixels, load_image
from nmtool.encoders.resolved import Resolved
from nmtool.encoders.spec import from_json
from nmtool.errors import CorruptError, DataError, InputMissingError, UnavailableError
from nmtool.records import InputRef, Int
from nmtool.tune import lora, network, pictures
from nmtool.tune.config import Config
from nmtool.tune.inputs import Source
from nmtool.tune.network import Network
from nmtool.tune.outcome import Array
from nmtool.tune.plan import Run
from nmtool.tune.predict import Answers, known_classes, of_classes
from nmtool.tune.restored import Heads

# Families that make an architecture from its record alone; transformers needs the folder with its configuration.
_BARE = frozenset({"timm", "open_clip"})


def kept(heads: Heads, run: Run) -> str:
    """The folder of the payload that a run's backbone is made from; adapters first: they give the very bits."""
    return next((f for f in (ADAPTED, BACKBONES) if heads.artifact.has(run_file(f, run.index))), "")


def choose(heads: Heads, runs: Sequence[Run], *, asked: bool) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """Runs that can be asked about images, heads on features among them; and those whose backbone was not kept.

    Raises:
        DataError: none can, or one that can't was asked for by its number.
    """
    lost = tuple(run for run in runs if run.finetune is not None and not kept(heads, run))
    if lost and (asked or len(lost) == len(runs)):
        first = lost[0]
        lora = first.white_box is not None and first.white_box.lora_rank
        raise DataError(
            f"run {first.index} of {heads.artifact.path} is of method {first.method}, and the backbone that it "
            "fine-tuned was not kept",
            "heads that tune made since it keeps adapters" if lora else "heads that tune made with --keep-backbone",
            "run the same tune again" + ("" if lora else " with --keep-backbone"),
        )
    return tuple(run for run in runs if run not in lost), lost


def original(own: Artifact, heads: Heads, model: str, memo: Memo, device: torch.device) -> ImageEncoder:
    """The encoder that the heads' own features were made by, checked by digest.

    Args:
        own: those features.
        heads: read.
        model: where the weights are now; empty: where extract read them.
        memo: remembered digests.
        device: where to work.

    Raises:
        InputMissingError: the weights are no longer there.
        DataError: other weights or preprocessing.
    """
    source = Source(artifact=own, split=heads.split, shown=str(own.path), classes=())
    return load_image(pictures.backbone_of(Config(features=str(own.path), model=model), source, memo), device)


class Backbones:
    """The networks of an artifact's runs, made one at a time.

    Args:
        heads: read.
        device: where to work.
        base: opens the encoder that the features were made by; asked once, and only where a run needs it.
        report: news.
    """

    def __init__(self, heads: Heads, device: torch.device, base: Callable[[], ImageEncoder], report: Reporter) -> None:
        self.heads, self.device, self.report = heads, device, report
        self._open_base = base
        self._base: ImageEncoder | None = None
        self._bare: ImageEncoder | None = None

    def network(self, run: Run) -> Network:
        """A run's network, as it was after training.

        Raises:
            InputMissingError, UnavailableError: the weights that its adapters belong to, or peft, are not there.
            CorruptError: tensors that do not fit.
        """
        folder = kept(self.heads, run)
        try:
            if folder == ADAPTED:
                lora.check()
            encoder = self._trained() if folder == ADAPTED else self._empty()
        except (InputMissingError, UnavailableError) as error:
            if not (folder == ADAPTED and self._self_contained(run)):
                raise
            self.report.warning(
                f"run {run.index}: {error.found}; its merged weights are taken, equal to rounding to what was judged"
            )
            folder, encoder = BACKBONES, self._empty()
        tensors = self.heads.tensors_of(run, self.device)
        adapters = run.white_box if folder == ADAPTED else None
        scaling = self.heads.scaling(run, tensors)
        try:
            weight, bias = tensors["classifier.weight"], tensors["classifier.bias"]
            net = Network(encoder, weight, bias, scaling, self.device, adapters, run.seed)
            _fill(net.backbone, self.heads.artifact.read(run_file(folder, run.index)), partly=folder == ADAPTED)
        except (KeyError, ValueError, RuntimeError) as error:
            why = str(error).strip().splitlines()[-1][:200]
            raise CorruptError(
                f"{self.heads.artifact.path}: the tensors of run {run.index} ({why})", "those of its backbone and head"
            ) from None
        return net.eval().requires_grad_(False)

    def _self_contained(self, run: Run) -> bool:
        whole = self.heads.artifact.has(run_file(BACKBONES, run.index))
        return whole and self.heads.encoder.get("family") in _BARE

    def _trained(self) -> ImageEncoder:
        if self._base is None:
            self._base = self._open_base()
        return self._base

    def _empty(self) -> ImageEncoder:
        """The architecture, its weights to be replaced: random where the family can do without a file."""
        if self.heads.encoder.get("family") not in _BARE:
            return self._trained()
        if self._bare is None:
            spec = from_json(self.heads.encoder)
            cited = InputRef(role="model", kind="weights", key="", content=spec.weights)
            self._bare = load_image(
                Resolved(spec=spec, input=cited, path=None, source="untrained", seed=0), self.device
            )
        return self._bare


def _fill(backbone: nn.Module, data: bytes, *, partly: bool) -> None:
    """Put a run's tensors in; all of the backbone's, or its adapters'. Raises ``ValueError`` or ``RuntimeError``."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        missing, unknown = backbone.load_state_dict(load(data), strict=False)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    missing = [name for name in missing if lora.is_adapter(name) or not partly]
    if missing or unknown:
        raise ValueError(f"{len(missing)} missing and {len(unknown)} unknown, first {(missing + unknown)[0]}")


class _Lenient(pictures.Shots):
    """Images of which those that can't be read are black, and told by ``broken``, row by row."""

    def __init__(self, dataset: Dataset, split: str, pixels: Pixels, held: bool, threads: int) -> None:
        super().__init__(dataset, split, pixels, held, threads)
        self._size = pixels.size
        self.broken: set[int] = set()

    def one(self, row: int) -> torch.Tensor:
        try:
            return super().one(row)
        except BrokenSample:
            self.broken.add(row)
            return torch.zeros(3, *self._size, dtype=torch.uint8)


def choose_splits(dataset: Dataset, wanted: Sequence[str]) -> tuple[str, ...]:
    """The splits named, or all.

    Raises:
        DataError: the data are no images.
        InputMissingError: no such split; names those there are.
    """
    if dataset.kind not in ("images", "captions"):
        raise DataError(
            f"{dataset.uri} holds {dataset.kind}",
            "images: a fine-tuned backbone reads nothing else",
            "name runs on features by --run",
        )
    for name in wanted:
        if name not in dataset.splits:
            raise InputMissingError(f"{dataset.uri} has no split {name!r}", "one of " + ", ".join(dataset.splits))
    return tuple(dict.fromkeys(wanted)) or tuple(dataset.splits)


def predict(
    backbones: Backbones,
    runs: Sequence[Run],
    dataset: Dataset,
    splits: Sequence[str],
    *,
    threads: int,
    probabilities: bool,
    skip: bool,
) -> Answers:
    """Ask every run about every split's images.

    Args:
        backbones: make the runs' networks.
        runs: those to ask, each with what was kept of it.
        dataset: images.
        splits: those to predict.
        threads: to decode with.
        probabilities: keep those of all classes.
        skip: leave out what can't be read; else it is an error.

    Raises:
        DataError: an image that can't be read, without ``skip``; every image of a split, with it.
    """
    answers, report = Answers(), backbones.report
    shots: dict[str, pictures.Shots] = {}
    left = pictures.HELD_BYTES if len(runs) > 1 else 0  # asked but once, an image need not be held
    progress = report.progress(len(runs) * len(splits), "predicting, runs")
    with products_by_onednn(backbones.device), progress as advance:  # as tune does: the same bits
        for run in runs:
            net = backbones.network(run)
            for split in splits:
                if split not in shots:
                    height, width = net.pixels.size
                    cost = len(dataset.splits[split]) * 3 * height * width
                    make = _Lenient if skip else pictures.Shots
                    shots[split] = make(dataset, split, net.pixels, cost <= left, threads)
                    left -= cost if cost <= left else 0
                _ask(backbones.heads, run, net, shots[split], dataset, split, probabilities, answers)
                advance(1)
    for split, images in shots.items():
        if isinstance(images, _Lenient) and images.broken:
            report.warning(
                f"{len(images.broken)} images of split {split} of {dataset.uri} can't be read and have no row"
            )
    return answers


def _ask(
    heads: Heads,
    run: Run,
    net: Network,
    images: pictures.Shots,
    dataset: Dataset,
    split: str,
    probabilities: bool,
    answers: Answers,
) -> None:
    index = dataset.splits[split]
    rows: Int = np.arange(len(index), dtype=np.int64)
    try:
        predicted, confidence, z = network.predict(net, images, rows, spaces=probabilities)
    except BrokenSample as error:
        raise DataError(
            f"split {split} of {dataset.uri}: {error.found}", "images", "mend it, or --on-error skip leaves it out"
        ) from None
    shares = _shares(net, z) if probabilities else None
    if isinstance(images, _Lenient) and images.broken:
        rows = np.setdiff1d(rows, np.array(sorted(images.broken)))
        if not len(rows):
            raise DataError(f"no image of split {split} of {dataset.uri} can be read", "images")
    answers.add(
        *of_classes(
            heads,
            run,
            split,
            [index.ids[int(row)] for row in rows],
            known_classes(heads, index.labels)[rows],
            predicted[rows],
            confidence[rows],
            None if shares is None else shares[rows],
        )
    )


@torch.inference_mode()
def _shares(net: Network, z: Array) -> Array:
    """Probabilities float32 [n, C] of Z, in the blocks that it came in."""
    blocks = torch.split(torch.from_numpy(z), network.EVAL_BATCH)
    return np.concatenate([net.classifier(b.to(net.device)).float().softmax(-1).cpu().numpy() for b in blocks])
