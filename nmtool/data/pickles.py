"""Pickled annotations, as CIFAR's batches are: containers, texts, numbers and numpy arrays. Nothing else is loaded.

Unpickling runs whatever a file names. Here every name but those of numpy's plain arrays is refused before it is looked
up, and those stand for records of our own: no callable of numpy's sees what a file says, so that a forged type or shape
is refused and never followed as a pointer. The unpickler is Python's own rather than the C one, which reserves memory
for whatever place in its memo a file of a few bytes names.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from nmtool.errors import DataError

BYTES = 1 << 30
DEPTH = 8
# Booleans and numbers of one size, in either byte order.
_PLAIN = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")


class _Type:
    """A ``numpy.dtype``: its code, and the byte order that its state sets."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _PLAIN.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of the type {code!r:.40}")
        self.dtype: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("an array of a compound type")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """A ``numpy.ndarray`` on its way: filled by its state, made in the end."""

    def __init__(self) -> None:
        self._made: Any = None

    def __setstate__(self, state: Any) -> None:
        shape, kind, by_columns, raw = state[-4:]
        self._made = _made(raw, kind, shape, "F" if by_columns else "C")

    def made(self) -> Any:
        if self._made is None:
            raise pickle.UnpicklingError("an array without contents")
        return self._made


def _made(raw: Any, kind: Any, shape: Any, order: Any = "C") -> Any:
    """The array of some bytes: a view of them, not to be written to."""
    if not isinstance(kind, _Type) or not isinstance(raw, (bytes, bytearray)) or not isinstance(shape, tuple):
        raise pickle.UnpicklingError("an array that is not made of plain bytes")
    if not all(type(n) is int and 0 <= n <= BYTES for n in shape):
        raise pickle.UnpicklingError(f"an array of the shape {shape!r:.40}")
    if math.prod(shape) * kind.dtype.itemsize != len(raw):
        raise pickle.UnpicklingError(f"an array of the shape {list(shape)} in {len(raw)} bytes")
    array = np.frombuffer(bytes(raw), dtype=kind.dtype)
    return array.reshape(shape, order="F" if order in ("F", b"F") else "C")


def _reconstructed(*_: Any) -> _Array:
    return _Array()


def _scalar(kind: Any, raw: Any) -> Any:
    return _made(raw, kind, (1,))[0].item()


def _encoded(text: Any, codec: Any) -> bytes:
    """Bytes, as pickles of protocols below 3 write them."""
    if not isinstance(text, str) or codec not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"a text in {codec!r:.40}")
    return text.encode("latin1")


def _class_only(*_: Any) -> Any:
    raise pickle.UnpicklingError("an array made by itself")


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _class_only,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
}
# What numpy 1 and 2 call the same.
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _reconstructed
    _KNOWN[f"{_core}.multiarray", "scalar"] = _scalar
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _made


class _Unpickler(pickle._Unpickler):
    """What is no container, text, number or array of them has no place in its table of operations."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: operation
        for code, operation in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ, pickle.PERSID)
        and bytes([code]) not in (pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER)
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _KNOWN[module, name]


def _state(self: Any) -> None:
    """BUILD: for our records only, since any other object would have its attributes set."""
    state, instance = self.stack.pop(), self.stack[-1]
    if type(instance) not in (_Type, _Array):
        raise pickle.UnpicklingError(f"a state for a {type(instance).__name__}")
    instance.__setstate__(state)


def _bytes8(self: Any) -> None:
    """BYTEARRAY8: Python's own takes memory for as many bytes as it says before it looks for them."""
    (size,) = struct.unpack("<Q", self.read(8))
    self.append(self.read(min(size, BYTES)))


_Unpickler.dispatch[pickle.BUILD[0]] = _state
_Unpickler.dispatch[pickle.BYTEARRAY8[0]] = _bytes8


def load(data: bytes, name: str) -> Any:
    """The object in a pickle of plain things; texts of Python 2 come as bytes, arrays not to be written to.

    Args:
        data: the file's bytes.
        name: what messages call it.

    Raises:
        DataError: it holds or calls anything but containers, texts, numbers and numeric arrays, or is damaged.
    """
    if len(data) > BYTES:
        raise DataError(f"{name} has {len(data)} bytes", f"at most {BYTES}")
    try:
        return _plain(_Unpickler(io.BytesIO(data), encoding="bytes").load(), DEPTH, {})
    except MemoryError:
        raise
    except Exception as error:  # hostile bytes may raise anything
        raise DataError(
            f"{name} is no pickle of plain arrays ({str(error)[:200] or type(error).__name__})",
            "lists, texts, numbers and numpy arrays",
        ) from None


def _plain(part: Any, depth: int, seen: dict[int, Any]) -> Any:
    """The same with real arrays in the place of our records; lists of numbers are not looked through one by one.

    Args:
        depth: how many containers may still be in one another.
        seen: what was made of a container, by its identity: a small file can refer to one list a million times.
    """
    if isinstance(part, _Array):
        return part.made()
    if not isinstance(part, (dict, list, tuple)):
        if part is None or isinstance(part, (bool, int, float, complex, str, bytes, bytearray, np.ndarray)):
            return part
        raise pickle.UnpicklingError(f"a {type(part).__name__}")
    if depth == 0:
        raise pickle.UnpicklingError(f"containers over {DEPTH} deep")
    if id(part) not in seen:
        seen[id(part)] = _container(part, depth - 1, seen)
    return seen[id(part)]


def _container(part: dict[Any, Any] | list[Any] | tuple[Any, ...], depth: int, seen: dict[int, Any]) -> Any:
    if isinstance(part, dict):
        return {_plain(key, depth, seen): _plain(value, depth, seen) for key, value in part.items()}
    if all(type(each) in (int, float, str, bytes) for each in part):
        return part
    return type(part)(_plain(each, depth, seen) for each in part)
