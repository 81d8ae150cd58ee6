"""Several processes that extract one artifact together, started by ``torchrun``: on one machine or on a shared disk.

Rank 0 alone decides, commits and speaks. It opens the staging, deals out the chunks that are left, and waits for the
others; each writes its chunks, and a journal of its own, into the staging. Nothing of a chunk depends on who encodes
it, so the content is that of one process, and a run may go on with any number of ranks.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nmtool.artifact.stage import Ranks, Staging
from nmtool.encoders.group import Group, followed, reached
from nmtool.extract.write import SplitWriter
from nmtool.records import ArtifactRef

if TYPE_CHECKING:
    from nmtool.extract.batches import Job


class Crew(Group):
    """The ranks of a run, as one of them sees them; of one rank where there are no others.

    Args:
        ranks: which one this is.

    Raises:
        UnavailableError: the others can't be reached.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(ranks)
        self._began = False
        self._dealt: list[tuple[int, int]] = []

    def meet(self) -> None:
        """Wait until all ranks are here."""
        if self.world > 1:
            import torch.distributed as dist

            with reached():
                dist.barrier()

    def share(self, job: Job) -> Job:
        """How this rank encodes: with its part of the machine's cores, where nobody said with how many threads."""
        return dataclasses.replace(job, workers=self.threads(job.workers))

    def begin(self, staging: Staging, writers: Sequence[SplitWriter]) -> None:
        """Deal out the chunks that are left to do: what is not for this rank counts as done."""
        self._began = True
        if self.world == 1:
            return
        if self.leads:
            every = [(at, number) for at, writer in enumerate(writers) for number in range(writer.array.chunks)]
            self._dealt = [(at, number) for at, number in every if not writers[at].is_done(number)]
            self.tell({"staging": str(staging.path.absolute()), "left": self._dealt})
        mine = set(self._dealt[self.rank :: self.world])
        for at, writer in enumerate(writers):
            writer.keep_to({number for number in range(writer.array.chunks) if (at, number) in mine})

    def end(self, staging: Staging, writers: Sequence[SplitWriter]) -> None:
        """Wait for all; rank 0 then knows what every rank has written."""
        self.meet()
        if self.world > 1 and self.leads:
            staging.merge()
            for writer in writers:
                writer.look_again()

    @contextlib.contextmanager
    def led(self) -> Iterator[None]:
        """Around ``produce`` on rank 0: the others are told where there is nothing to do, or nothing came of it."""
        outcome = {"staging": "", "failed": True}
        try:
            yield
            outcome = {"staging": "", "failed": False}
        finally:
            if self.world > 1 and not self._began:
                self.tell(outcome)

    def follow(
        self, out: Path, kind: str, key: str, agreed: str, work: Callable[[Staging], Mapping[str, object]]
    ) -> ArtifactRef:
        """On any other rank: help where there is something to do.

        Args:
            out, kind, key: of the artifact, as this rank sees it.
            agreed: its key as rank 0 sees it.
            work: encodes this rank's share into a staging.

        Returns:
            A record that says no more than which artifact it is.

        Raises:
            DataError: this rank has other data or another model.
            BusyError: rank 0 failed.
        """
        self.check_agreed(agreed, key)
        body = self.orders()
        if body["staging"]:
            self._dealt = [(int(at), int(number)) for at, number in body["left"]]
            work(Staging.joined(Path(body["staging"]), self.rank))
        return followed(out, kind, key)
