"""Scaling of features: none, rows to unit length, or dimensions to mean 0 and deviation 1 (from training rows only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A fixed map of features, applied before a head.

    Attributes:
        kind: none, l2 or standardize.
        mean, std: [D] float32 for standardize, else None.
    """

    kind: str
    mean: Tensor | None = None
    std: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[..., D] → [..., D]. Rows of zeros stay zero under l2."""
        if self.kind == "l2":
            norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return x / torch.where(norm > 0, norm, 1.0)
        if self.mean is not None and self.std is not None:
            return (x - self.mean) / self.std
        return x

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """What it learned, by the names that a head's tensors have: ``scale.mean`` and ``scale.std``, or nothing."""
        found = {"scale.mean": self.mean, "scale.std": self.std}
        return {name: t.cpu().numpy() for name, t in found.items() if t is not None}


def learn(kind: str, X: Tensor, rows: Tensor) -> Scaling:
    """The scaling that ``kind`` means for these training rows.

    Deviations are of the population; a dimension that hardly varies keeps its size. Sums in float64, block by block.

    Args:
        kind: none, l2 or standardize.
        X: [N, D] features.
        rows: int64 [n].
    """
    if kind != "standardize":
        return Scaling(kind=kind)
    total = torch.zeros(X.shape[1], dtype=torch.float64, device=X.device)
    blocks = torch.split(rows, _ROWS)
    for block in blocks:
        total += X[block].double().sum(0)
    mean = total / len(rows)
    squares = torch.zeros_like(mean)
    for block in blocks:
        squares += (X[block].double() - mean).square().sum(0)
    std = (squares / len(rows)).sqrt()
    # what varies less than float32 resolves is constant: dividing by it would blow up rounding noise
    floor = 1e-6 * torch.maximum(mean.abs(), std.max())
    return Scaling(kind=kind, mean=mean.float(), std=torch.where(std > floor, std, 1.0).float())
