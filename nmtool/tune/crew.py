"""Several processes that fine-tune one network together, started by ``torchrun``; one process where there is one.

Every rank holds the network and all settings, takes its share of each step's images, and adds its gradients to the
others': a step is that of one process to rounding. Rank 0 alone writes and speaks. Refuses to outlive a lost rank: what
torch says then becomes an error, and ``torchrun`` ends the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nmtool.artifact.stage import Ranks
from nmtool.encoders.group import Group, followed, reached
from nmtool.errors import UsageError
from nmtool.records import ArtifactRef, Int
from nmtool.tune.config import Config
from nmtool.tune.plan import Run


class Crew(Group):
    """The ranks, as one of them sees them.

    Args:
        ranks: which one this is.

    Raises:
        UnavailableError: the others can't be reached.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        super().__init__(ranks)
        self._began = False

    @contextlib.contextmanager
    def led(self, key: str) -> Iterator[None]:
        """Around ``produce`` on rank 0: the others are told which key, and whether there is anything to do."""
        self.tell(key)
        outcome = {"work": False, "failed": True}
        try:
            yield
            outcome = {"work": False, "failed": False}
        finally:
            if not self._began:
                self.tell(outcome)

    def begin(self) -> None:
        """On rank 0, once there is something to do."""
        self._began = True
        if self.world > 1:
            self.tell({"work": True, "failed": False})

    def follow(self, out: Path, kind: str, key: str, work: Callable[[None], Mapping[str, object]]) -> ArtifactRef:
        """On any other rank: help where there is something to do.

        Args:
            out, kind, key: of the artifact, as this rank sees it.
            work: trains without a staging.

        Returns:
            A record that says no more than which artifact it is.

        Raises:
            DataError: this rank has other inputs.
            BusyError: rank 0 failed.
        """
        self.check_agreed(str(self.tell()), key)
        if self.orders()["work"]:
            work(None)
        return followed(out, kind, key)

    def placed(self, config: Config) -> Config:
        """The settings with this rank's part of the machine's decoding threads, where nobody said how many."""
        return dataclasses.replace(config, workers=self.threads(config.workers))

    def device(self, chosen: torch.device) -> torch.device:
        """This rank's device: the CUDA devices of a machine are dealt out to its ranks."""
        if chosen.type != "cuda" or self.neighbours == 1:
            return chosen
        return torch.device("cuda", self.local % torch.cuda.device_count())

    def share(self, n: int) -> tuple[Int, float]:
        """Positions in [0, n) that this rank computes, and what they weigh.

        A rank that would have none takes the first at weight 0, so that it has gradients of the same parameters.
        """
        mine = np.arange(self.rank, n, self.world)
        return (mine, 1.0) if len(mine) else (np.arange(1), 0.0)

    def add(self, values: Tensor) -> Tensor:
        """The sum over the ranks."""
        if self.world == 1:
            return values
        import torch.distributed as dist

        total = values.detach().cpu()
        with reached():
            dist.all_reduce(total)
        return total.to(values.device)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Make every parameter's gradient the sum over the ranks, all in one message."""
        if self.world == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = self.add(torch.cat([g.flatten() for g in grads]))
        start = 0
        for g in grads:
            g.copy_(flat[start : start + g.numel()].view_as(g))
            start += g.numel()

    def spread_rows(self, state: Tensor, rows: Int, mine: Int) -> None:
        """Give all ranks the ``rows`` of a state [N, C] that each has changed at its positions ``mine`` in them."""
        if self.world == 1:
            return
        index = torch.from_numpy(rows).to(state.device)
        fresh = torch.zeros_like(state[index])
        at = torch.from_numpy(mine).to(state.device)
        fresh[at] = state[index[at]]
        state[index] = self.add(fresh)

    def together(self, parts: list[Any]) -> list[Any]:
        """What each rank has, in the order of the ranks, on all of them."""
        if self.world == 1:
            return parts
        import torch.distributed as dist

        boxes: list[Any] = [None] * self.world
        with reached():
            dist.all_gather_object(boxes, parts)
        return [part for box in boxes for part in box]


def check_shared(runs: Sequence[Run], world: int) -> None:
    """Raises ``UsageError`` for runs that several ranks can't train to the numbers of one."""
    if not any(run.finetune is not None for run in runs):
        raise UsageError(f"heads on features in {world} processes", "one process, or methods that fine-tune a backbone")
    for run in runs:
        more = run.white_box
        if more is not None and (more.weight_cov or more.weight_svd):
            raise UsageError(
                f"NMTune's terms in {world} processes", "one: covariance and singular values are of a whole step"
            )
        if run.finetune is not None and run.finetune.batch_norm == "train":
            raise UsageError(
                f"--fft-batch-norm train in {world} processes", "frozen: statistics would be of each rank's images"
            )
