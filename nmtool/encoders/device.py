"""Which device to compute on. Refuses one that is not there instead of falling back to a slower one in silence."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nmtool.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    import torch


def choose_device(text: str) -> torch.device:
    """``auto`` (a CUDA device where there is one), ``cpu``, ``cuda`` or ``cuda:N`` as a torch device.

    Raises:
        UsageError: another word.
        UnavailableError: a CUDA device that is not there.
    """
    import torch

    if text != "auto" and not re.fullmatch(r"cpu|cuda(:\d{1,3})?", text):
        raise UsageError(f"--device is {text!r}", "auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if text != "cpu" and torch.cuda.is_available() else 0
    if text == "cpu" or (text == "auto" and not count):
        return torch.device("cpu")
    index = int(text.partition(":")[2] or 0)
    if index >= count:
        raise UnavailableError(f"--device {text}, and torch sees {count} CUDA devices", "", "take --device cpu or auto")
    return torch.device("cuda", index)


def thread_count(workers: int) -> int:
    """Threads to decode with: ``workers``, or for 0 as many as this process may use, at most 8.

    Raises:
        UsageError: negative.
    """
    import os

    if workers < 0:
        raise UsageError(f"--workers is {workers}", "0 (as many as there are cores) or more")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers or min(8, available)


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch use one thread in each of the threads started meanwhile; what was set before comes back.

    Work that is parallel over batches has no use for barriers inside an operation: where other work runs beside it,
    they made two threads four times slower than one (MobileNetV2, measured).
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def computing_threads(workers: int) -> Iterator[None]:
    """Let torch compute with ``workers`` threads meanwhile (0: as it is set); what was set before comes back.

    Raises:
        UsageError: negative.
    """
    import torch

    if workers < 0:
        raise UsageError(f"--workers is {workers}", "0 (as many as there are cores) or more")
    before = torch.get_num_threads()
    torch.set_num_threads(workers or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
