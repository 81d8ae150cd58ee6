"""What the headers of Arrow's messages say: FlatBuffers tables, read as far as it takes to find a message's buffers.

They are untrusted: every place is checked against the bytes there are. Sources: FlatBuffers'
page "Internals", and Arrow's Message.fbs. Opens nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmtool.records import Int


@dataclass(frozen=True, slots=True)
class Fields:
    """A FlatBuffers table, its fields by number; ``struct.error`` or ``ValueError`` where it leads out of its bytes.

    Attributes:
        data: the message.
        at: where the table begins in it.
    """

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> Fields:
        """The message's outermost table."""
        return cls(data, number_at(data, 0, "I"))

    def _slot(self, field: int) -> int:
        """Where a field is; 0 where it is left out."""
        fields = self.at - number_at(self.data, self.at, "i")
        if 4 + 2 * field >= number_at(self.data, fields, "H"):
            return 0
        offset = number_at(self.data, fields + 4 + 2 * field, "H")
        return self.at + offset if offset else 0

    def has(self, field: int) -> bool:
        """Whether a field is there."""
        return bool(self._slot(field))

    def number(self, field: int, kind: str) -> int:
        """A number; 0 where it is left out."""
        slot = self._slot(field)
        return number_at(self.data, slot, kind) if slot else 0

    def table(self, field: int) -> Fields:
        """A table within."""
        slot = self._slot(field)
        return Fields(self.data, slot + number_at(self.data, slot, "I"))

    def pairs(self, field: int) -> Int:
        """int64 [n, 2]: a vector of structs of two numbers."""
        slot = self._slot(field)
        if not slot:
            return np.zeros((0, 2), dtype=np.int64)
        start = slot + number_at(self.data, slot, "I")
        count = number_at(self.data, start, "I")
        return np.frombuffer(self.data, "<i8", 2 * count, start + 4).reshape(-1, 2).astype(np.int64)


def number_at(data: bytes, at: int, kind: str) -> int:
    """The little-endian number of ``struct``'s format ``kind`` at a place."""
    if at < 0:
        raise ValueError("an offset before its beginning")
    return int(struct.unpack_from(f"<{kind}", data, at)[0])


def schema_of(message: bytes) -> Any:
    """The ``pyarrow.Schema`` in a message; raises ``ValueError`` where there is none."""
    import pyarrow as pa
    import pyarrow.ipc

    try:
        return pa.ipc.read_schema(pa.py_buffer(message))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from None


def width_of(kind: Any) -> int | None:
    """Buffers that a type has itself, without its fields; None for types that do not come up."""
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_map)
    widths: dict[int, tuple[Callable[[Any], bool], ...]] = {
        0: (pa.types.is_null,),
        1: (pa.types.is_struct, pa.types.is_fixed_size_list),
        2: (pa.types.is_primitive, pa.types.is_decimal, pa.types.is_fixed_size_binary, *lists),
        3: (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary),
    }
    return next((width for width, tests in widths.items() if any(is_of(kind) for is_of in tests)), None)


def offsets_in(kind: Any) -> tuple[str, int]:
    """Format and size of the offsets of a type of texts or bytes."""
    import pyarrow as pa

    return ("q", 8) if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) else ("i", 4)
