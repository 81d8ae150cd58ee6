"""Which tensor is the feature: the output of a module, and how its tokens or its map become one vector a sample.

Knows no library: families say what their models give. A layer is tapped by a forward hook that ends the pass there, so
what comes after it costs nothing and several threads can share the model.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nmtool.errors import UsageError

POOLS = ("cls", "mean", "last")


class _Reached(Exception):
    """The tapped module was called: carries what it gave."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def is_layer(feature: str, own: Iterable[str]) -> bool:
    """Whether ``feature`` means a named module rather than one of the model's own features."""
    return bool(feature) and feature not in own and feature not in POOLS


def split_layer(feature: str) -> tuple[str, str]:
    """``blocks.5:mean`` as the module's name and how to pool it; empty where that is not said."""
    name, _, how = feature.partition(":")
    if how and how not in POOLS:
        raise UsageError(f"--feature {feature} pools with {how!r}", "one of " + ", ".join(POOLS))
    return name, how


def check_feature(feature: str, own: Iterable[str], module: nn.Module, who: str) -> None:
    """Raise ``UsageError`` where the model has neither such a feature nor such a module, naming those it has."""
    if feature in own:
        return
    has = ", ".join(own)
    if feature in POOLS or feature in ("pre_logits", "projected"):
        raise UsageError(f"--feature {feature} of {who}", f"one it has: {has}, or a layer's name")
    name, _ = split_layer(feature)
    names = [n for n, _ in module.named_modules() if n]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3) or names[:: max(1, len(names) // 4)][:4]
        raise UsageError(f"--feature {feature} of {who}", f"{has}, or a layer, as {', '.join(near)}")


def stop_at(module: nn.Module, name: str) -> None:
    """End every forward pass of ``module`` once its submodule ``name`` has been called; copies do so too."""
    module.get_submodule(name).register_forward_hook(_stop)


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(output)


def reached(call: Callable[[], object], name: str) -> Tensor:
    """What the tapped module gave during ``call()``; ``UsageError`` where it was not called, or gave no tensor."""
    try:
        call()
    except _Reached as end:
        output = end.output
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, Tensor):
            raise UsageError(f"the layer {name} gives a {type(output).__name__}", "a tensor", "take another") from None
        return output
    raise UsageError(f"the layer {name} takes no part in encoding", "one that does", "take another")


def pooled(
    out: Tensor,
    how: str,
    *,
    prefix: int = 0,
    channels_last: bool = False,
    mask: Tensor | None = None,
    cls: Tensor | None = None,
) -> Tensor:
    """One vector a sample.

    Args:
        out: [B, D] as it is; tokens [B, N, D]; or a map [B, D, H, W], [B, H, W, D] with ``channels_last``.
        how: ``mean`` (the default of tokens and maps), ``cls`` or ``last``; empty: mean where there is a choice.
        prefix: tokens before the patches, which a mean leaves out.
        mask: [B, N], 1 for real tokens of a text, first ones first; None: all are real, and none is the last.
        cls: [B], where the class token of each text is; None: the first.

    Raises:
        UsageError: a way of pooling that this output has no use for.
    """
    if out.ndim == 2:
        if how:
            raise UsageError(f"pooling by {how} of a layer that gives one vector", "no pooling", "leave it out")
        return out
    if out.ndim == 4:
        if how not in ("", "mean"):
            raise UsageError(f"pooling by {how} of a map", "mean")
        return out.mean((1, 2) if channels_last else (2, 3))
    if out.ndim != 3:
        raise UsageError(f"a layer that gives {list(out.shape)}", "[batch, D], tokens or a map", "take another")
    if how == "cls":
        if mask is None and not prefix:
            raise UsageError("pooling by cls of a model without a class token", "mean")
        at = torch.zeros(len(out), dtype=torch.long, device=out.device) if cls is None else cls
        return out[torch.arange(len(out), device=out.device), at]
    if how == "last":
        if mask is None:
            raise UsageError("pooling by last of an image's tokens", "mean or cls")
        return out[torch.arange(len(out), device=out.device), mask.sum(1) - 1]
    if mask is None:
        return out[:, prefix:].mean(1)
    weight = mask.unsqueeze(-1).float()
    return (out.float() * weight).sum(1) / weight.sum(1)


def full_name(feature: str, out: Tensor) -> str:
    """A layer's feature with its pooling spelt out, as it goes into keys."""
    name, how = split_layer(feature)
    return name if out.ndim == 2 else f"{name}:{how or 'mean'}"
