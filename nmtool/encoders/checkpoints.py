"""Reading weights from disk: safetensors only. A pickle, zip or tar is refused by name and never opened as code.

The one place where ``torch.load`` would be allowed; this version has no use for it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from nmtool.errors import DataError, InputMissingError

if TYPE_CHECKING:
    import torch

# safetensors' own limit (its MAX_HEADER_SIZE): a damaged length field must not cost memory.
HEADER_BYTES = 100_000_000
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
_CONVERT = "convert it once, where you trust it: safetensors.torch.save_file(state_dict, 'weights.safetensors')"


def refuse_pickle(path: Path) -> None:
    """Raise ``DataError`` where the file's name says that it is a pickle: loading one can run any code."""
    if path.suffix.lower() in PICKLED:
        raise DataError(f"{path} is a pickled checkpoint", "weights as .safetensors, which hold no code", _CONVERT)


def _check_header(data: bytes, path: Path) -> None:
    """Check the length field and the JSON header; ``DataError`` says what the file looks like instead."""
    looks = {b"\x80": "a pickle", b"PK": "a zip (torch.save writes those)", b"\x1f\x8b": "a gzip"}
    seems = next((f", it looks like {what}" for magic, what in looks.items() if data.startswith(magic)), "")
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if length < 2 or length > HEADER_BYTES or length > len(data) - 8:
        raise DataError(f"{path} is no whole safetensors file{seems}", "a safetensors header", _CONVERT)
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"the header of {path} does not parse ({error}){seems}", "a safetensors header", _CONVERT
        ) from None
    if not isinstance(header, dict):
        raise DataError(f"the header of {path} is no table of tensors{seems}", "a safetensors header", _CONVERT)


def read_safetensors(path: Path, digest: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file on the CPU; every floating point type as float32.

    Args:
        path: a regular file.
        digest: ``sha256:…`` that its bytes must have; empty: any.

    Raises:
        InputMissingError: no such file.
        DataError: it is no whole safetensors file, or has other bytes than ``digest``.
    """
    import safetensors
    import safetensors.torch

    refuse_pickle(path)
    if not path.is_file():
        raise InputMissingError(f"{path} does not exist", "a weights file")
    data = path.read_bytes()
    if digest and "sha256:" + hashlib.sha256(data).hexdigest() != digest:
        raise DataError(f"{path} has other bytes than when it was resolved", digest, "run it again")
    _check_header(data, path)
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} does not load ({error})", "a whole safetensors file", "fetch it again") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
