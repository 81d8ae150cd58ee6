"""Which device to compute on. Refuses one that is not there instead of falling back to a slower one in silence."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

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


# mallopt(3) of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


@functools.cache
def keep_freed_memory() -> None:
    """Have the C library keep the memory that a forward pass frees for the next one, in this process from now on.

    Left alone, glibc takes each large tensor from the kernel and gives it back, and the kernel clears every page each
    time: half of all the time that MobileNetV2 took on a CPU (64 images of 224 px in one thread: 30 a second of CPU
    time, 70 so). One arena for all threads, because those of other threads hold no block of more than 64 MB. Where the
    C library is another, nothing is done.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if not hasattr(libc, "gnu_get_libc_version"):  # another one may have a mallopt of other meanings
            return
        for name, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1)):
            libc.mallopt(name, value)


AMP = ("none", "bf16", "fp16")


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """The mixed precision that is asked for, one of ``AMP``."""
    import torch

    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "none")


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


@contextlib.contextmanager
def products_by_onednn(device: torch.device) -> Iterator[None]:
    """Let oneDNN instead of MKL make float32 matrix products on an AMD processor meanwhile; elsewhere nothing changes.

    MKL, which torch takes for them, serves these processors badly where one side is short: 64 x 768 times 768 x 3,072
    ran at 94 GFLOP/s on two cores (Zen 4), by oneDNN at 203. torch asks oneDNN only where it is allowed to compute in
    bfloat16 within; of that oneDNN makes use on processors with AMX alone. So: only without AMX, and only after a
    product has come out in full float32. The setting is the process's, for all of its threads.
    """
    if device.type != "cpu" or _precision() != "none" or not _onednn_keeps_float32():  # or somebody's own choice
        yield
        return
    with _allowed_bfloat16():
        yield


def _precision() -> str:
    """What oneDNN may make float32 products with: none where nobody said; empty where torch is too old to be told."""
    import torch

    return str(getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", ""))


@contextlib.contextmanager
def _allowed_bfloat16() -> Iterator[None]:
    import torch

    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@functools.cache
def _onednn_keeps_float32() -> bool:
    """Whether this is a processor for ``products_by_onednn``."""
    import torch

    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    amd = str(capabilities.get("cpu_name", "")).startswith("AMD") and capabilities.get("avx512_f")
    if not amd or capabilities.get("amx_tile") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    stream = torch.Generator().manual_seed(0)
    a, b = (torch.rand(64, 256, generator=stream), torch.rand(256, 256, generator=stream))
    with _allowed_bfloat16():
        return _is_product(a @ b, a, b)


def _is_product(found: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether a product of positive matrices is that of float32: bfloat16 within is off by 1e-4 and more."""
    exact = a.double() @ b.double()
    return bool(((found - exact).abs() <= 1e-6 * exact).all())


def short_sides_are_slow(device: torch.device) -> bool:
    """Whether products with one short side are made badly as a whole: by MKL; not on a GPU, nor by oneDNN."""
    return device.type == "cpu" and _precision() != "bf16"
