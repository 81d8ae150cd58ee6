"""Reading weights from disk: safetensors, and what ``torch.save`` wrote under the rules that keep it from running code.

The one place where ``torch.load`` is allowed: only with ``weights_only``, only by a torch whose unpickler has no known
hole, only on bytes that were read and digested here, and nothing but tensors comes out. TorchScript, tar files and
anything that needs another class are refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtool.errors import DataError, InputMissingError, UnavailableError

if TYPE_CHECKING:
    import numpy as np
    import torch

# safetensors' own limit (its MAX_HEADER_SIZE): a damaged length field must not cost memory.
HEADER_BYTES = 100_000_000
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
_CONVERT = "convert it once, where you trust it: safetensors.torch.save_file(state_dict, 'weights.safetensors')"


# What torch.save writes, by the names in use.
TORCH_SAVED = (".pt", ".pth", ".bin", ".ckpt", ".tar")
# weights_only was bypassed before: CVE-2025-32434 (torch < 2.6), CVE-2026-24747 (< 2.10), PYSEC-2026-139 (<= 2.10).
SAFE_TORCH = (2, 11)
# Where the tensors of a model lie in what training scripts save: the raw weights before their moving average.
STATE_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "net", "module", "weights", "params")
_WRAPPERS = ("module.", "_orig_mod.", "model.")


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


def _whole(path: Path, digest: str) -> bytes:
    if not path.is_file():
        raise InputMissingError(f"{path} does not exist", "a weights file")
    data = path.read_bytes()
    if digest and "sha256:" + hashlib.sha256(data).hexdigest() != digest:
        raise DataError(f"{path} has other bytes than when it was resolved", digest, "run it again")
    return data


def read_weights(path: Path, digest: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, or of one that ``torch.save`` wrote; see the two functions for each."""
    return read_torch_saved(path, digest) if path.suffix.lower() in TORCH_SAVED else read_safetensors(path, digest)


def check_weights_name(path: Path) -> None:
    """Raise ``DataError`` where the file's name says that ``read_weights`` won't take it."""
    if path.suffix.lower() not in (".safetensors", *TORCH_SAVED):
        refuse_pickle(path)
        raise DataError(
            f"MODEL {path} is no weights file that nmtool reads", "a .safetensors file, or .pt, .pth, .bin, .ckpt"
        )


def _saved_bytes(path: Path, digest: str) -> bytes:
    """The bytes of a file that ``torch.save`` may have written, for a torch that can be trusted with them."""
    import torch

    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < SAFE_TORCH:
        raise UnavailableError(
            f"torch {torch.__version__}, whose weights-only reader has known holes",
            f"torch {SAFE_TORCH[0]}.{SAFE_TORCH[1]} or later to read {path}",
            "pip install -U torch, or " + _CONVERT,
        )
    data = _whole(path, digest)
    # The tar format of the first torch releases unpacks to disk; it does not start as the others do.
    if not data.startswith((b"PK", b"\x80")):
        raise DataError(f"{path} is no file that torch.save writes", "a zip or a pickle of tensors", _CONVERT)
    return data


def read_torch_saved(path: Path, digest: str = "") -> dict[str, torch.Tensor]:
    """The model's tensors in a file that ``torch.save`` wrote, on the CPU; every floating point type as float32.

    They may be the whole of it or lie under one of ``STATE_KEYS``; a prefix that all names have (``module.``) is
    taken off.

    Args:
        path: a regular file.
        digest: ``sha256:…`` that its bytes must have; empty: any.

    Raises:
        InputMissingError: no such file.
        UnavailableError: the torch that is installed can't be trusted with pickles.
        DataError: no file of ``torch.save``; one that holds more than tensors and plain values; other bytes than
            ``digest``.
    """
    import torch

    data = _saved_bytes(path, digest)
    try:
        # from memory: the bytes that were digested, and no mapped file that another process may cut short
        body = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle fails in any way it likes
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path} holds more than tensors, or is damaged ({why[:160]})", "a state dict of tensors alone", _CONVERT
        ) from None
    return {name: _plain(tensor, name, path) for name, tensor in _unwrapped(_state_of(body, path)).items()}


def _state_of(body: Any, path: Path) -> Mapping[str, torch.Tensor]:
    """The table of tensors in what was saved; refuses one that holds anything else."""
    import torch

    if isinstance(body, Mapping):
        key = next((key for key in STATE_KEYS if isinstance(body.get(key), Mapping)), "")
        state = body[key] if key else body
        strange = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
        if state and not strange and all(isinstance(name, str) for name in state):
            return dict(state)
        found = f"{', '.join(map(repr, strange[:3]))} that are no tensors" if strange else "nothing"
        found = f"in {key!r} {found}" if key else found
    else:
        found = f"a {type(body).__name__}"
    raise DataError(
        f"{path} holds {found}", "a state dict of tensors, whole or under " + ", ".join(STATE_KEYS[:3]), _CONVERT
    )


def _unwrapped(state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name[len(wrapper) :]: tensor for name, tensor in state.items()}
    return state


def _plain(tensor: torch.Tensor, name: str, path: Path) -> torch.Tensor:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        raise DataError(f"the tensor {name} of {path} is sparse, quantized or complex", "plain numbers", _CONVERT)
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()


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
    data = _whole(path, digest)
    _check_header(data, path)
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} does not load ({error})", "a whole safetensors file", "fetch it again") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def read_saved_arrays(path: Path, digest: str = "") -> dict[str, np.ndarray[Any, Any]]:
    """The arrays in a dictionary that ``torch.save`` wrote, as CIFAR-N's label files hold them.

    Beside tensors, numpy arrays of numbers, texts and bools are let in (never of objects); what is no array or list of
    numbers is left out.

    Args:
        path: a regular file.
        digest: ``sha256:…`` that its bytes must have; empty: any.

    Raises:
        InputMissingError: no such file.
        UnavailableError: the torch that is installed can't be trusted with pickles.
        DataError: no file of ``torch.save``; one that needs any other class, or holds no dictionary; other bytes than
            ``digest``.
    """
    import numpy as np
    import torch

    data = _saved_bytes(path, digest)
    rebuild: Any = np.zeros(0).__reduce__()[0]
    # numpy moved it in version 2, and files name it as the numpy that wrote them
    names = [(rebuild, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")]
    kinds: list[Any] = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdUS"]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*names, np.ndarray, np.dtype, *kinds]):
            warnings.simplefilter("ignore")  # of an odd pickle: what comes of it is told below
            body = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle fails in any way it likes
        needs = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it needs {needs[1]}" if needs else " ".join(str(error).split())[-160:] or type(error).__name__
        raise DataError(
            f"{path} holds more than arrays, or is damaged ({why})", "a dictionary of arrays of numbers"
        ) from None
    if not isinstance(body, Mapping):
        raise DataError(f"{path} holds a {type(body).__name__}", "a dictionary of arrays")
    found = {}
    for name, value in body.items():
        array = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        if array.ndim and array.dtype.kind in "biufU":
            found[str(name)] = array
    return found
