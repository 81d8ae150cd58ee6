"""Full fine-tuning of a backbone beside a plain loop: images a second, from images in memory to updated weights.

The plain loop has the same network, batches, loss and optimiser, no checkpoints, and reads its losses once at the end.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from nmtool.artifact.memo import Memo
from nmtool.data.sources import open_dataset
from nmtool.encoders.encoder import ImageEncoder, load_image
from nmtool.encoders.resolve import resolve
from nmtool.tune.config import Config
from nmtool.tune.crew import Crew
from nmtool.tune.heads import LinearHeads
from nmtool.tune.network import Network
from nmtool.tune.pictures import Pictures, Shots
from nmtool.tune.plan import expand
from nmtool.tune.scale import Scaling
from nmtool.tune.steps import Steps
from tests.bench.measure import Contender, Found, Line, in_turns
from tests.bench.sizes import Sizes

ARCH, PIXELS, CLASSES, BATCH, STEPS, LR, DECAY = "resnet18", 64, 10, 32, 4, 1e-4, 1e-4
CPU = torch.device("cpu")


def bench(sizes: Sizes, work: Path) -> Found:
    """One line."""
    rng = np.random.default_rng(0)
    n = BATCH * STEPS
    X, y = rng.integers(0, 256, (n, PIXELS, PIXELS, 3), dtype=np.uint8), rng.integers(0, CLASSES, n)
    np.savez(work / "d.npz", X_train=X, y_train=y)
    overrides = {"size": PIXELS}
    resolved = resolve(
        f"timm:{ARCH}", arch=None, kwargs={}, untrained=True, seed=0, overrides=overrides, memo=Memo(None)
    )
    encoder = load_image(resolved, CPU)
    shots = Shots(open_dataset(f"arrays:{work / 'd.npz'}", memo=Memo(None)), "train", encoder.pixels, True, 1)
    images = shots.batch(np.arange(n))
    times = in_turns(sizes.rounds, {"fft": _ours(encoder, shots, y), "plain": _plain(encoder, images, y)})
    found = Found()
    found.lines.append(
        Line(
            what=f"fft, {ARCH} at {PIXELS} pixels, batch {BATCH}",
            unit="images/s",
            plain=n / times.median("plain"),
            ours=n / times.median("fft"),
            limit=n / times.median("plain"),
            limit_is="the plain loop",
            noise=times.noise("fft", "plain"),
        )
    )
    return found


def _ours(encoder: ImageEncoder, shots: Shots, y: np.ndarray) -> Contender:
    (run,) = expand(
        Config(features="", method=("fft",), fft_lr=(LR,), fft_weight_decay=(DECAY,), fft_batch_size=(BATCH,)),
        0,
        encoder.spec.dim,
    )
    pictures = Pictures(encoder=encoder, train=shots, targets=())
    head = LinearHeads((run,), encoder.spec.dim, CLASSES, CPU).export(0)

    def sample() -> float:
        weight, bias = head["classifier.weight"], head["classifier.bias"]
        steps = Steps(Network(pictures.encoder, weight, bias, Scaling(kind="none"), CPU), run, len(y), Crew())
        began = time.perf_counter()
        steps.epoch(shots, np.arange(len(y)), y, 1)
        return time.perf_counter() - began

    return sample


def _plain(encoder: ImageEncoder, images: torch.Tensor, y: np.ndarray) -> Contender:
    labels = torch.from_numpy(y)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def sample() -> float:
        import copy

        model = torch.nn.Sequential(copy.deepcopy(encoder.module), torch.nn.Linear(encoder.spec.dim, CLASSES))
        model.train().requires_grad_(True)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
        began = time.perf_counter()
        seen = []
        for rows in torch.randperm(len(y)).split(BATCH):
            batch = ((images[rows].float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(model(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.detach())
        torch.stack(seen).tolist()
        return time.perf_counter() - began

    return sample
