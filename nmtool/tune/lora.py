"""Low-rank adapters in a backbone, by ``peft``: which layers get them, and the plain weights afterwards.

Importing this needs no peft; ``check`` and ``adapt`` do. Refuses a backbone that has no layer of the kind asked for,
and attention that is ``torch.nn.MultiheadAttention``: that reads its weights past any adapter.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nmtool.errors import UnavailableError, UsageError
from nmtool.numerics.seeds import torch_seed
from nmtool.tune.plan import WhiteBox

_BASE = ".base_layer."
_ADAPTER = "lora_"
# Parts of layers' names: timm, open_clip and transformers agree in these for their MLPs.
_ATTENTION = ("attn", "attention")
_MLP = ("mlp", "ffn", "feed_forward", "intermediate", "fc1", "fc2", "c_fc", "c_proj")


def check() -> None:
    """Raises ``UnavailableError`` where peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise UnavailableError("peft is not installed", "it, for low-rank adapters", "pip install 'nmtool[lora]'")


def adapt(backbone: nn.Module, how: WhiteBox, seed: int, arch: str) -> None:
    """Put adapters into a backbone, in place; they alone require gradients.

    Args:
        backbone: all its parameters frozen.
        how: rank, alpha, dropout, and which layers.
        seed: of the run, for the adapters' initial weights.
        arch: the backbone's name, for messages.

    Raises:
        UnavailableError: no peft.
        UsageError: no layer of the kind asked for.
    """
    check()
    names = targets(backbone, how.lora_targets, arch)
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=how.lora_rank,
        lora_alpha=how.lora_alpha,
        lora_dropout=how.lora_dropout,
        target_modules=names,
    )
    # the process's own random state stays as it was
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(torch_seed(seed, "tune", "init", "lora"))
        inject_adapter_in_model(config, backbone)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(is_adapter(name))


def targets(backbone: nn.Module, kind: str, arch: str) -> list[str]:
    """Full names of the layers that get adapters; ``auto``: the MLPs', or the convolutions where there are none."""
    found: dict[str, list[str]] = {"mlp": [], "attention": [], "conv": []}
    sealed = False
    inside = [n for n, m in backbone.named_modules() if isinstance(m, nn.MultiheadAttention)]
    for name, module in backbone.named_modules():
        if any(name.startswith(f"{n}.") for n in inside):
            sealed = True
        elif isinstance(module, nn.Linear):
            where = _kind(name)
            if where:
                found[where].append(name)
        elif isinstance(module, nn.Conv2d) and module.groups == 1:
            found["conv"].append(name)
    chosen = {
        "auto": found["mlp"] or found["conv"],
        "all": found["attention"] + found["mlp"] if not sealed else [],
    }.get(kind) or found.get(kind, [])
    if not chosen:
        has = ", ".join(f"{n} ({len(v)})" for n, v in found.items() if v) or "nothing that adapters go into"
        why = ", whose attention reads its weights itself" if sealed and kind in ("attention", "all") else ""
        raise UsageError(f"--lora-targets {kind} of {arch}{why}", f"layers that it has: {has}", "or take --method fft")
    return chosen


def _kind(name: str) -> str:
    """Of a linear layer, by its name; the innermost word that says anything decides."""
    for word in reversed(name.lower().split(".")):
        if any(part in word for part in _MLP):
            return "mlp"
        if any(part in word for part in _ATTENTION):
            return "attention"
    # transformers: encoder.layer.0.output.dense, beside attention.output.dense
    return "mlp" if name.endswith(("output.dense", "wi", "wo")) else ""


def is_adapter(name: str) -> bool:
    """Whether a tensor of an adapted backbone is an adapter's."""
    return f".{_ADAPTER}" in f".{name}"


def merged(backbone: nn.Module) -> Mapping[str, Tensor]:
    """The tensors of a backbone in its own naming, adapters added into the weights; it stays as it is."""
    if not any(_ADAPTER in name for name, _ in backbone.named_parameters()):
        return backbone.state_dict()
    whole: Any = copy.deepcopy(backbone)
    for module in list(whole.modules()):
        if hasattr(module, "base_layer") and hasattr(module, "merge"):
            module.merge()
    return {k.replace(_BASE, "."): v for k, v in whole.state_dict().items() if not is_adapter(k)}
