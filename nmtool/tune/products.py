"""Matrix products of heads in training: in float32, or under ``--amp bf16`` of factors rounded to bfloat16.

Sums are made in float32, and what comes out is float32 (on a CPU rounded to bfloat16 on the way: its libraries give
nothing else). Weights, biases, losses, NMTune's terms and AdamW stay float32, and so does everything that is asked of
a trained head.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def half(x: Tensor) -> Tensor:
    """In bfloat16."""
    return x.to(torch.bfloat16)


def multiplied(a: Tensor, b: Tensor) -> Tensor:
    """Float32 [K, n, m] of bfloat16 [K, n, k] and [K, k, m]; or without K."""
    product = torch.bmm if a.ndim == 3 else torch.mm
    if _keeps_sums(a.device.type):
        return product(a, b, out_dtype=torch.float32)
    return product(a, b).float()


@functools.cache
def _keeps_sums(device: str) -> bool:
    """Whether a product of bfloat16 gives its float32 sums: on CUDA, by newer versions of torch."""
    one = torch.ones(1, 16, 16, dtype=torch.bfloat16, device=device)
    try:
        return torch.bmm(one, one.mT, out_dtype=torch.float32).dtype == torch.float32
    except (TypeError, RuntimeError):  # NotImplementedError is one of the latter
        return False


class _Rounded(torch.autograd.Function):
    """x @ w of [K, B, in] and [K, in, out], both rounded, and so the gradient that comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        x, w = half(x), half(w)
        ctx.save_for_backward(x, w)
        return multiplied(x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor]:
        x, w = ctx.saved_tensors
        slope = half(slope)
        down = multiplied(slope, w.mT) if ctx.needs_input_grad[0] else None
        return down, multiplied(x.mT, slope)


def rounded(x: Tensor, w: Tensor) -> Tensor:
    """Float32 [K, B, out] of features [K, B, in] and weights [K, in, out], differentiable once."""
    found: Tensor = _Rounded.apply(x, w)
    return found
