"""Reads FlatBuffers strictly: each reference is checked against the end of the data before it is followed.

The flatbuffers package follows any reference: in a damaged file it reads wrong bytes, or runs for minutes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

# more than any model has; together they limit the time that a crafted file can take
MAX_TABLES = 256  # of a vector
MAX_CHARACTERS = 1 << 16  # bytes of a text


@dataclass(frozen=True)
class Table:
    """A table of a FlatBuffer. Its fields are addressed by slot, in the order of the schema.

    A field that was not written is None, or the default. All methods raise ValueError for a value that lies outside
    `data` or is too long.

    data: the whole buffer.
    position: of the table in it.
    """

    data: bytes
    position: int

    @staticmethod
    def root(data: bytes, identifier: bytes) -> Table:
        """The root of a buffer with a file identifier, such as b"TFL3"."""
        if data[4:8] != identifier:
            raise ValueError(f"its identifier is {data[4:8]!r}, not {identifier!r}")
        return Table(data, _follow(data, 0))

    def place(self, slot: int) -> int | None:
        """Position of a field's value; None if it was not written."""
        vtable = self.position - _number(self.data, self.position, "<i")
        offset = _number(self.data, vtable + 4 + 2 * slot, "<H") if slot < self._slots(vtable) else 0
        return self.position + offset if offset else None

    def slots(self) -> int:
        """Number of fields that the writer knew."""
        return self._slots(self.position - int(_number(self.data, self.position, "<i")))

    def number(self, slot: int, form: str, default: int = 0) -> int:
        """An integer field. form: a format of the struct module, such as "<I"."""
        place = self.place(slot)
        return default if place is None else int(_number(self.data, place, form))

    def target(self, slot: int) -> int | None:
        """Position of the table, vector or string that a field refers to."""
        place = self.place(slot)
        return None if place is None else _follow(self.data, place)

    def table(self, slot: int) -> Table | None:
        target = self.target(slot)
        return None if target is None else Table(self.data, target)

    def vector(self, slot: int, size: int) -> tuple[int, int]:
        """(position of the first item, number of items of `size` bytes each); (0, 0) if the field was not written."""
        target = self.target(slot)
        if target is None:
            return 0, 0
        count = int(_number(self.data, target, "<I"))
        if count * size > len(self.data) - target - 4:
            raise ValueError(f"{count} items at byte {target} do not fit into {len(self.data)} bytes")
        return target + 4, count

    def item(self, slot: int, index: int) -> Table:
        """The table at an index of a vector, which may have any length."""
        start, count = self.vector(slot, 4)
        if not 0 <= index < count:
            raise ValueError(f"it refers to item {index} of {count}")
        return Table(self.data, _follow(self.data, start + 4 * index))

    def tables(self, slot: int) -> list[Table]:
        start, count = self.vector(slot, 4)
        if count > MAX_TABLES:
            raise ValueError(f"{count} tables at byte {start}, more than {MAX_TABLES}")
        return [Table(self.data, _follow(self.data, start + 4 * i)) for i in range(count)]

    def floats(self, slot: int) -> tuple[float, ...]:
        start, count = self.vector(slot, 4)
        if count > MAX_TABLES:
            raise ValueError(f"{count} numbers at byte {start}, more than {MAX_TABLES}")
        return struct.unpack_from(f"<{count}f", self.data, start)

    def integers(self, slot: int) -> tuple[int, ...]:
        """A vector of int32."""
        start, count = self.vector(slot, 4)
        if count > MAX_TABLES:
            raise ValueError(f"{count} numbers at byte {start}, more than {MAX_TABLES}")
        return struct.unpack_from(f"<{count}i", self.data, start)

    def text(self, slot: int) -> str:
        start, count = self.vector(slot, 1)
        if count > MAX_CHARACTERS:
            raise ValueError(f"a text of {count} bytes at byte {start}")
        return self.data[start : start + count].decode("utf-8")

    def _slots(self, vtable: int) -> int:
        return (int(_number(self.data, vtable, "<H")) - 4) // 2


def _follow(data: bytes, at: int) -> int:
    return at + int(_number(data, at, "<I"))


def _number(data: bytes, at: int, form: str) -> Any:
    # struct would count a negative position from the end
    if not 0 <= at <= len(data) - struct.calcsize(form):
        raise ValueError(f"it refers to byte {at} of {len(data)}")
    return struct.unpack_from(form, data, at)[0]
