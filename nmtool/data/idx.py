"""IDX files, as MNIST and its relatives come in: their headers, checked against the bytes that are there.

Reads no contents: torchvision does, which takes a file of labels that are too few or too many for its images. Format:
"the IDX file format", LeCun et al., The MNIST database.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

from nmtool.data import files
from nmtool.errors import DataError

# Code of the numbers' type, and how many bytes one has.
_SIZES = {8: 1, 9: 1, 11: 2, 12: 4, 13: 4, 14: 8}
UINT8, INT32 = 8, 12


def shape(path: Path, name: str, *, code: int, dims: int) -> tuple[int, ...]:
    """The shape of an IDX file.

    Args:
        path: the file, unpacked.
        name: what messages call it.
        code: the type that its numbers have to have.
        dims: how many dimensions it has to have.

    Raises:
        InputMissingError: no such file.
        DataError: no IDX file, one of another type or other dimensions, or one that does not have the bytes that its
            header promises.
    """
    files.regular(path, name)
    with files.told(name), path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(4 + 4 * dims)
    if head[:2] == b"\x1f\x8b":
        raise DataError(f"{name} is compressed", "the file inside", "unpack it with gunzip")
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _SIZES:
        raise DataError(f"{name} is no IDX file", "the official file, unpacked", "fetch it again")
    if (head[2], head[3]) != (code, dims):
        raise DataError(
            f"{name} has {head[3]} dimensions of numbers of type {head[2]}", f"{dims} dimensions of type {code}"
        )
    if len(head) < 4 + 4 * dims:
        raise DataError(f"{name} ends within its header", "the whole file", "fetch it again")
    found = struct.unpack(f">{dims}I", head[4:])
    wanted = len(head) + math.prod(found) * _SIZES[code]
    if size != wanted:
        raise DataError(
            f"{name} has {size} bytes", f"{wanted}, by its header: {' x '.join(map(str, found))}", "fetch it again"
        )
    return found


def check_pair(images: tuple[Path, str], labels: tuple[Path, str], *, wide: bool = False) -> None:
    """Raise as ``shape``, and ``DataError`` where there are not as many labels as images.

    Args:
        images, labels: path and name of each file.
        wide: labels are rows of int32, as QMNIST's, rather than single bytes.
    """
    n, *_ = shape(*images, code=UINT8, dims=3)
    m, *_ = shape(*labels, code=INT32, dims=2) if wide else shape(*labels, code=UINT8, dims=1)
    if n != m:
        raise DataError(f"{images[1]} has {n} images, {labels[1]} {m} labels", "as many of each")
