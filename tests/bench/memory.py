"""Peak memory of a large extraction: the real path from samples to a sealed artifact, with a synthetic encoder.

In a process of its own, whose high-water mark (``VmHWM``) is compared with what it held before the first sample, when
the model, the libraries and the list of samples are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Ranks, Session, Silence, Staging, produce
from nmtool.data.dataset import Indexed
from nmtool.encoders.encoder import ImageEncoder
from nmtool.encoders.resolved import Resolved
from nmtool.encoders.spec import EncoderSpec
from nmtool.extract import encode
from nmtool.extract.batches import Job
from nmtool.extract.ranks import Crew
from nmtool.records import InputRef, Labels, SampleIndex
from tests.bench.measure import Found, Line
from tests.bench.sizes import Sizes

DIM, SIDE = 768, 8
ALLOWED_MIB = 1024


def bench(sizes: Sizes, work: Path) -> Found:
    """MiB above the model."""
    command = [sys.executable, "-m", "tests.bench.memory", str(sizes.memory_rows), str(work)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout)
    what = f"extract {sizes.memory_rows:,} x {DIM} float32: peak above the model"
    above = told["peak"] - told["before"]
    line = Line(what=what, unit="MiB", plain=None, ours=above, limit=ALLOWED_MIB, limit_is="allowed", lower=True)
    note = f"{told['before']:.0f} MiB before the first sample, {told['peak']:.0f} at the peak, {told['seconds']:.0f} s"
    return Found(lines=[line], notes=[note])


class _Samples(Indexed):
    """Pictures of one colour, made when they are asked for."""

    def __init__(self, rows: int) -> None:
        labels = Labels(values=np.zeros(rows, dtype=np.int64), classes=("a",))
        ids = (f"train/{row:08d}.jpg" for row in range(rows))
        index = SampleIndex(split="train", ids=ids, labels=labels, digest="sha256:" + "0" * 64, kind="images")
        super().__init__(uri="made:pictures", kind="images", splits={"train": index}, classes=("a",))

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        return np.full((SIDE, SIDE, 3), row % 256, dtype=np.uint8)


class _Pixels:
    """Preparation that costs next to nothing, so that a million rows take a minute."""

    size = (SIDE, SIDE)

    def crop(self, image: npt.NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.to(torch.float32).div_(255)


def _encoder() -> tuple[ImageEncoder, Resolved]:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, DIM)).requires_grad_(False)
    spec = EncoderSpec(
        family="timm",
        arch="synthetic",
        kwargs={},
        weights="untrained:0",
        preprocessing=None,
        feature="pre_logits",
        dim=DIM,
        untrained=True,
    )
    cited = InputRef(role="model", kind="weights", key="", content="sha256:" + "0" * 64)
    encoder = ImageEncoder(spec=spec, module=module, pixels=_Pixels(), tap=lambda model, batch: model(batch))
    return encoder, Resolved(spec=spec, input=cited, path=None, source="untrained", seed=0)


def _status(name: str) -> float:
    """MiB of a line of ``/proc/self/status``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1]) / 1024


def _main(rows: int, store: Path) -> None:
    dataset = _Samples(rows)
    encoder, resolved = _encoder()
    encode.load = lambda resolved, device=None: encoder
    job = Job(dtype="float32", on_error="fail", batch_size=64, device="cpu", workers=0, model="synthetic")

    def build(staging: Staging) -> Any:
        return encode.encode_splits(staging, dataset, ["train"], resolved, job, Silence(), Crew(Ranks()))

    recipe = Recipe(stage="extract", kind="features", epoch=1, config={"bench": "memory"}, inputs=())
    before, began = _status("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
    produce(Session(store=store), recipe, name="bench", config={}, build=build)
    print(json.dumps({"before": before, "peak": _status("VmHWM"), "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    _main(int(sys.argv[1]), Path(sys.argv[2]))
