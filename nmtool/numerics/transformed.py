"""The transformed space Z of a head from its tensors: what enters its classifier (NMTune 4.1, Fig. 17). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from nmtool.errors import DataError

_EPS = 1e-5  # BatchNorm's, as heads are trained with
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "none": lambda x: x,
}


@torch.no_grad()
def transformed(F: Tensor, tensors: Mapping[str, Tensor], *, scale: str, activation: str = "none") -> Tensor:
    """Z [n, D] of features F [n, D]: scaled, then through the head's network where it has one.

    Args:
        F: [n, D].
        tensors: in PyTorch's layout: ``scale.mean`` and ``scale.std``; ``mlp.0.weight`` [out, in] and ``mlp.0.bias``,
            …; ``norm.0.mean``, ``.var``, ``.scale`` and ``.bias`` before an activation; ``residual.scale`` [D]. What is
            not there is not done. They are taken in F's type.
        scale: none, l2 or standardize.
        activation: between the layers: relu, gelu, tanh or none.

    Raises:
        DataError: an activation that is not known, or tensors that do not fit each other.
    """
    if activation not in _ACTIVATIONS:
        raise DataError(f"the activation {activation!r}", "one of " + ", ".join(_ACTIVATIONS))
    given = {name: tensor.to(F) for name, tensor in tensors.items()}
    try:
        x = _scaled(F, given, scale)
        layers = sum(name.startswith("mlp.") and name.endswith(".weight") for name in given)
        z = x
        for i in range(layers):
            z = functional.linear(z, given[f"mlp.{i}.weight"], given[f"mlp.{i}.bias"])
            if i < layers - 1:
                z = _ACTIVATIONS[activation](_normalised(z, given, i))
        return given["residual.scale"] * z + x if "residual.scale" in given else z
    except (KeyError, RuntimeError) as error:
        raise DataError(f"tensors of a head that do not fit ({str(error)[:160]})", "a head as tune wrote it") from None


def _scaled(F: Tensor, given: Mapping[str, Tensor], scale: str) -> Tensor:
    if scale == "l2":
        norm = torch.linalg.vector_norm(F, dim=-1, keepdim=True)
        return F / torch.where(norm > 0, norm, 1.0)
    return (F - given["scale.mean"]) / given["scale.std"] if scale == "standardize" else F


def _normalised(z: Tensor, given: Mapping[str, Tensor], i: int) -> Tensor:
    """BatchNorm by its running statistics, where the layer has it."""
    if f"norm.{i}.mean" not in given:
        return z
    part = {name: given[f"norm.{i}.{name}"] for name in ("mean", "var", "scale", "bias")}
    return functional.batch_norm(z, part["mean"], part["var"], part["scale"], part["bias"], eps=_EPS)
