"""The state of a training run as bytes and back: safetensors with one JSON entry, no pickle.

Order of samples, augmentation and dropout come from named seeds by epoch and step, so no random state needs keeping.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nmtool.artifact.stage import Staging
from nmtool.errors import NmtoolError

NAME = "checkpoint.safetensors"


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done, over all epochs.
        sums: of the epoch in progress: loss, right, right_clean, seen.
        log: a line for each finished epoch.
        scaler: state of the gradient scaler, with fp16.
    """

    step: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("loss", "right", "right_clean", "seen"), 0.0))
    log: list[dict[str, object]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().clone()


def weights_bytes(model: nn.Module) -> bytes:
    """The model's parameters and buffers as a safetensors file; the same bytes for the same values."""
    from safetensors.torch import save

    return bytes(save({name: _plain(tensor) for name, tensor in model.state_dict().items()}, {"format": "pt"}))


def keep(staging: Staging, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Keep weights, optimiser state and progress in the staging folder."""
    from safetensors.torch import save

    tensors = {f"model.{name}": _plain(tensor) for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": _plain(v) for k, v in state.items() if isinstance(v, torch.Tensor)}
    where = {"step": progress.step, "sums": progress.sums, "log": progress.log, "scaler": progress.scaler}
    staging.keep(NAME, bytes(save(tensors, {"nmtool": json.dumps(where)})))


def restore(staging: Staging, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a kept state back into model and optimiser; a fresh ``Progress`` where there is none, or a damaged one."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = staging.kept(NAME)
    if data is None:
        return Progress()
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        where = json.loads(header["__metadata__"]["nmtool"])
        tensors = load(data)
        progress = Progress(step=where["step"], sums=where["sums"], log=where["log"], scaler=where["scaler"])
    except (ValueError, KeyError, TypeError, SafetensorError, NmtoolError):
        return Progress()  # it only costs time: the run begins anew
    model.load_state_dict({n[6:]: t for n, t in tensors.items() if n.startswith("model.")})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            number, _, what = name[10:].partition(".")
            parameter = parameters[int(number)]
            if what != "step":
                # in the parameter's own memory layout, as the optimiser makes it: another could round otherwise
                tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
            optimizer.state[parameter][what] = tensor
    return progress
