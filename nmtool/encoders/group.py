"""The processes that ``torchrun`` started, as one of them sees them: who leads, and what rank 0 tells the others.

What extracting and fine-tuning together have in common. Refuses to outlive a lost rank: what torch says then becomes an
error, and ``torchrun`` ends the others. Importing this loads no torch.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nmtool.artifact.stage import Ranks
from nmtool.encoders.device import thread_count
from nmtool.errors import BusyError, DataError, UnavailableError
from nmtool.records import ArtifactRef

# Longer than any extraction, or than rank 0's work alone (a probe, mixtures): whether a rank is dead, torchrun decides.
_PATIENCE = datetime.timedelta(days=30)


class Group:
    """The ranks of a run; of one rank where there are no others.

    Args:
        ranks: which one this is.

    Raises:
        UnavailableError: the others can't be reached.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        ranks = ranks or Ranks()
        self.rank, self.world, self.local, self.neighbours = ranks.rank, ranks.world, ranks.local, ranks.neighbours
        if self.world > 1:
            import torch.distributed as dist

            # gloo moves tensors of either device, and needs no second library
            with reached():
                dist.init_process_group("gloo", rank=self.rank, world_size=self.world, timeout=_PATIENCE)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def tell(self, message: object = None) -> Any:
        """What rank 0 tells, on every rank; the others wait for it."""
        if self.world == 1:
            return message
        import torch.distributed as dist

        box = [message]
        with reached():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def threads(self, workers: int) -> int:
        """The threads that this rank decodes with: its part of the machine's cores where nobody said how many."""
        if workers or self.neighbours == 1:
            return workers
        return max(1, thread_count(0) // self.neighbours)

    def check_agreed(self, agreed: str, key: str) -> None:
        """Raises ``DataError`` where this rank would make another artifact than rank 0: it has other inputs."""
        if agreed != key:
            raise DataError(
                f"rank {self.rank} would make {key[7:23]}",
                f"{agreed[7:23]}, as rank 0",
                "give all ranks the same files",
            )

    def orders(self) -> Mapping[str, Any]:
        """What rank 0 says that there is to do, on any other rank; raises ``BusyError`` where it failed before."""
        body: Mapping[str, Any] = self.tell()
        if body.get("failed"):
            raise BusyError("rank 0 stopped before there was anything to do", "", "see what it says")
        return body


def followed(out: Path, kind: str, key: str) -> ArtifactRef:
    """What a stage returns on a rank that does not lead: no more than which artifact it is."""
    return ArtifactRef(path=out, kind=kind, key=key, content="", cached=False, seconds=0.0)


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Turn what torch raises where a rank is gone into the error family."""
    try:
        yield
    except RuntimeError as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise UnavailableError(
            f"another rank can't be reached ({first})", "all ranks that torchrun started", "run the same again"
        ) from None
