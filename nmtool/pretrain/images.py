"""Training images as uint8 batches: all held in memory where they fit, else decoded by threads a few batches ahead."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from nmtool.data.dataset import Dataset
from nmtool.data.images import BrokenSample
from nmtool.encoders.timm import Pixels
from nmtool.errors import DataError
from nmtool.pretrain.plan import Part

HELD_BYTES = 2 << 30
AHEAD = 3

Int = npt.NDArray[np.int64]


class Images:
    """The images of a part, by position in it.

    Args:
        dataset: where they come from.
        part: which split and rows.
        pixels: how they are resized and cropped.
        threads: to decode with.
    """

    def __init__(self, dataset: Dataset, part: Part, pixels: Pixels, threads: int) -> None:
        self._dataset, self._part, self._pixels, self._threads = dataset, part, pixels, threads
        self._held: torch.Tensor | None = None
        if len(part.rows) * 3 * pixels.size[0] * pixels.size[1] <= HELD_BYTES:
            self._held = torch.cat(
                list(self._decoded([np.arange(len(part.rows))[i : i + 512] for i in self._starts()]))
            )

    def _starts(self) -> range:
        return range(0, len(self._part.rows), 512)

    def batches(self, positions: Sequence[Int]) -> Iterator[torch.Tensor]:
        """uint8 [B, 3, H, W] for each array of positions; raises ``DataError`` for a broken image."""
        if self._held is not None:
            held = self._held
            yield from (held[torch.from_numpy(at)] for at in positions)
        else:
            yield from self._decoded(positions)

    def _one(self, position: int) -> torch.Tensor:
        part = self._part
        row = int(part.rows[position])
        try:
            return self._pixels.crop(self._dataset.image(part.split, row))
        except BrokenSample as error:
            sample = self._dataset.splits[part.split].ids[row]
            raise DataError(
                f"sample {sample!r} of split {part.split} (row {row}) can't be read: {error}", "", "mend or remove it"
            ) from None

    def _decoded(self, positions: Sequence[Int]) -> Iterator[torch.Tensor]:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="nmtool-decode")
        flying: deque[list[Future[torch.Tensor]]] = deque()
        with contextlib.ExitStack() as stack:
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            for at in positions:
                flying.append([pool.submit(self._one, int(position)) for position in at])
                if len(flying) > AHEAD:
                    yield torch.stack([future.result() for future in flying.popleft()])
            while flying:
                yield torch.stack([future.result() for future in flying.popleft()])


def augmented(images: torch.Tensor, how: str, rng: np.random.Generator) -> torch.Tensor:
    """Random crop after zero padding by an eighth (``crop``, ``weak``) and horizontal flip (``flip``, ``weak``).

    Args:
        images: uint8 [B, 3, H, W], on any device.
        how: ``none``, ``crop``, ``flip`` or ``weak``.
        rng: the step's own stream; drawn from in the same way on every device.
    """
    if how == "none":
        return images
    count, _, height, width = images.shape
    device = images.device
    flips = torch.from_numpy((rng.random(count) < 0.5) & (how != "crop")).to(device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = torch.where(flips[:, None], width - 1 - columns, columns)
    rows = torch.arange(height, device=device).expand(count, height)
    if how != "flip":
        pad = max(1, height // 8)
        shift = torch.from_numpy(rng.integers(0, 2 * pad + 1, size=(2, count))).to(device)
        images = F.pad(images, (pad, pad, pad, pad))
        rows, columns = rows + shift[0][:, None], columns + shift[1][:, None]
    picked = images[torch.arange(count, device=device)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
