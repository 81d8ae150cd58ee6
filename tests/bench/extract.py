"""The whole ``extract`` command beside a DataLoader loop, and the ceiling that decoding and encoding allow.

The ceiling on a CPU, where both use the same cores, is 1 / (1 / decode + 1 / encode), of two rates measured alone: the
faster of two decoders, the faster of two ways to use the cores. With ``--device cuda`` it is the smaller of decoding in
the same threads and the encoder on tensors that lie on the GPU (``--archs resnet50 vit_base_patch16_224
vit_large_patch14_clip_224 --amp bf16``).
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nmtool.artifact.memo import Memo
from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session
from nmtool.artifact.typed import read_features
from nmtool.data.sources import open_dataset
from nmtool.encoders.device import autocast, choose_device, keep_freed_memory, one_thread_each, thread_count
from nmtool.encoders.encoder import ImageEncoder as Encoder
from nmtool.encoders.encoder import load_image as load
from nmtool.encoders.facts import parse_kwargs
from nmtool.encoders.resolve import resolve
from nmtool.extract.config import Config
from nmtool.extract.images import AT_ONCE
from nmtool.extract.run import run
from tests.bench import plain
from tests.bench.measure import Found, Line, in_turns, settle, timed
from tests.bench.sizes import Sizes

BATCH = 64
WEIGHTS = "mobilenetv2_100.in1k_tf_ptq.fp16.safetensors"
REPOSITORY = Path(__file__).resolve().parents[2]


def bench(sizes: Sizes, work: Path) -> Found:
    """Images a second, and the difference between the two feature matrices."""
    images = _photographs(work / "images", sizes.images)
    keep_freed_memory()  # as the command does: so that neither contender nor limit depends on who came first
    found = Found()
    for at, arch in enumerate(sizes.archs):
        if sizes.device != "cpu":
            _beside(sizes, arch, images, sizes.images, (thread_count(0),), work / arch, found)
        elif at == 0:
            _beside(sizes, arch, images, sizes.images, (0, 2), work / arch, found)
        else:  # heavier ones, and fewer images
            count = _fewer(sizes.images // 2)
            few = _photographs(work / f"images-{count}", count)
            _beside(sizes, arch, few, count, (2,), work / arch, found)
    return found


def _beside(
    sizes: Sizes, arch: str, images: Path, count: int, loaders: tuple[int, ...], work: Path, found: Found
) -> None:
    """Lines and notes of one architecture."""
    work.mkdir()
    config = _config(sizes, arch, images)
    whole = _Whole(config, work)
    inside: list[float] = []

    def ours() -> None:
        whole.ours()
        inside.append(float(open_artifact(whole.artifact).manifest.summary["samples_per_s"]))

    contenders = {
        "nmtool": timed(ours),
        **{f"plain {n}": timed(functools.partial(whole.plain, n)) for n in loaders},
        **{name: timed(alone) for name, alone in _alone(config, images, count).items()},
    }
    whole.warm_up()
    times = in_turns(sizes.rounds, contenders)
    amount = dict.fromkeys(contenders, count) | dict.fromkeys(("encode", "encode whole"), _fewer(count))
    rate = {name: times.rate(name, amount[name]) for name in contenders}
    decode, encode = max(rate["decode plain"], rate["decode"]), max(rate["encode whole"], rate["encode"])
    ceiling, formula = 1 / (1 / decode + 1 / encode), "1/(1/decode + 1/encode)"
    if sizes.device != "cpu":
        ceiling, formula = min(decode, encode), "the smaller of decode and encode"
    how = (" on a GPU" if sizes.device != "cpu" else "") + (f", {sizes.amp}" if sizes.amp != "none" else "")
    model = f"{arch} at {sizes.image_size} px{how}"
    lines = [
        Line(
            what=f"{model}, beside DataLoader(num_workers={workers})",
            unit="images/s",
            plain=rate[f"plain {workers}"],
            ours=rate["nmtool"],
            limit=ceiling,
            limit_is=formula,
            noise=times.noise("nmtool", f"plain {workers}"),
        )
        for workers in loaders
    ]
    lines += [
        Line(
            what="  the same, without start (model, digests) and seal: what its summary says",
            unit="images/s",
            plain=None,
            ours=statistics.median(inside),
            limit=ceiling,
            limit_is=formula,
            noise=max(inside) / min(inside) - 1,
        ),
        Line(
            what="  decoding alone, beside PIL and timm's transform in the same threads",
            unit="images/s",
            plain=rate["decode plain"],
            ours=rate["decode"],
            noise=times.noise("decode plain", "decode"),
        ),
        Line(
            what="  encoder alone: batches side by side, beside one batch on all cores"
            if sizes.device == "cpu"
            else "  encoder alone, on tensors that lie on the GPU",
            unit="images/s",
            plain=rate["encode whole"],
            ours=rate["encode"],
            noise=times.noise("encode whole", "encode"),
        ),
    ]
    for line in lines:
        found.add(line)
    summary = open_artifact(whole.artifact).manifest.summary
    spent = ", ".join(f"{name} {value:.1f}" for name, value in summary["spent_s"].items())
    found.notes.append(f"{model}: it says itself: seconds {spent}; bottleneck {summary['bottleneck']}")
    found.notes.append(_compared(work, whole.artifact))
    found.notes.append("random weights" if config.untrained else f"weights of {WEIGHTS}")


def _photographs(root: Path, count: int) -> Path:
    """JPEG files of some 500 x 375 pixels and 40 KB, smooth with grain, in ten folders."""
    for number in range(10):
        (root / f"class{number}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(_photograph, [root] * count, range(count), chunksize=32):
            pass
    return root


def _photograph(root: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = rng.normal(scale=6, size=pixels.shape).astype(np.float32)
    made = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
    made.save(root / f"class{number % 10}" / f"{number:05d}.jpg", quality=85)


def _config(sizes: Sizes, arch: str, images: Path) -> Config:
    """The shared weights where they are, else random ones."""
    data = Path(os.environ.get("NMTOOL_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    weights = data / "weights" / WEIGHTS
    common: dict[str, Any] = {"data": f"folder:{images}", "device": sizes.device, "batch_size": BATCH}
    common |= {"amp": sizes.amp}
    common |= {"image_size": sizes.image_size, "mean": (0.5,), "std": (0.5,)}
    if arch == "mobilenetv2_100" and weights.is_file():
        return Config(model=str(weights), arch=arch, model_kwargs=("pad_type=same",), **common)
    return Config(model=f"timm:{arch}", untrained=True, **common)


class _Whole:
    """Both ways from image files to files of features, nothing remembered from the round before."""

    def __init__(self, config: Config, work: Path) -> None:
        self.config, self.work, self.artifact = config, work, Path()
        encoder = _encoder(config)
        self.arch, self.preprocessing = encoder.spec.arch, encoder.spec.preprocessing
        (work / "plain").mkdir()

    def warm_up(self) -> None:
        """Imports, and the image files into the page cache."""
        self.ours()

    def ours(self) -> None:
        """``nmtool extract``, with an empty store and an empty cache."""
        store, cache = self.work / "store", self.work / "cache"
        shutil.rmtree(store, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        self.artifact = run(self.config, Session(store=store, memo=Memo(cache))).path

    def plain(self, workers: int) -> None:
        """The model made anew, too."""
        p = self.preprocessing
        assert p is not None
        prepare = plain.transform(p.size[0], p.mean, p.std, p.interpolation, p.crop_pct)
        weights = None if self.config.untrained else Path(self.config.model)
        model = plain.encoder(self.arch, weights, **parse_kwargs(self.config.model_kwargs))
        images, device = Path(self.config.data.partition(":")[2]), choose_device(self.config.device)
        plain.extract(model, images, prepare, workers, BATCH, self.work / "plain", device, self.config.amp)


def _encoder(config: Config) -> Encoder:
    resolved = resolve(
        config.model,
        arch=config.arch,
        kwargs=parse_kwargs(config.model_kwargs),
        untrained=config.untrained,
        seed=config.seed,
        overrides=config.overrides(),
        memo=Memo(None),
    )
    return load(resolved, choose_device(config.device))


def _alone(config: Config, images: Path, count: int) -> dict[str, Callable[[], object]]:
    """Decoding ``count`` images alone and encoding some of them alone, each in two ways."""
    encoder, dataset = _encoder(config), open_dataset(config.data, memo=Memo(None))
    threads, files, device = thread_count(0), sorted(images.glob("*/*.jpg")), choose_device(config.device)
    p = encoder.spec.preprocessing
    assert p is not None
    prepare = plain.transform(p.size[0], p.mean, p.std, p.interpolation, p.crop_pct)
    resident = torch.rand(BATCH, 3, *p.size, device=device).contiguous(memory_format=torch.channels_last)
    batches = [resident] * (_fewer(count) // BATCH)

    @torch.inference_mode()
    def encode(batch: torch.Tensor) -> torch.Tensor:
        with autocast(device, config.amp):
            return encoder.features(batch)

    @torch.inference_mode()
    def encode_few(batch: torch.Tensor) -> torch.Tensor:
        with autocast(device, config.amp):
            return torch.cat([encoder.features(few) for few in batch.split(AT_ONCE)])

    def encode_whole() -> None:
        for batch in batches:
            encode(batch)
        settle(device)

    def in_threads(function: Callable[[Any], Any], items: Any) -> None:
        with one_thread_each(), ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda item: function(item) is None, items):
                pass

    return {
        "decode plain": lambda: in_threads(lambda file: plain.decode(file, prepare), files),
        "decode": lambda: in_threads(lambda row: encoder.pixels.crop(dataset.image("train", row)), range(count)),
        "encode whole": encode_whole,
        "encode": (lambda: in_threads(encode_few, batches)) if device.type == "cpu" else encode_whole,
    }


def _fewer(count: int) -> int:
    """Images for the encoder alone, which is slow and steady: about half, in whole batches, even in number."""
    return 2 * BATCH * max(1, round(count / 4 / BATCH))


def _compared(work: Path, artifact: Path) -> str:
    table = read_features(open_artifact(artifact), "train")
    theirs, labels = np.load(work / "plain" / "features.npy"), np.load(work / "plain" / "labels.npy")
    same = "the same" if np.array_equal(labels, table.labels.values) else "OTHER"
    difference = np.abs(theirs - table.features).max()
    return f"features differ by {difference:.1e} at most, of values up to {np.abs(theirs).max():.3g}; {same} labels"
