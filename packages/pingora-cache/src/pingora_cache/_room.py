"""Memory that grows without being copied.

Theory of operation: an array that grows is moved now and then, and to copy some megabytes stops
the program for ten milliseconds and more. A mapping is moved by the system without a copy
(mremap(2)): a megabyte, and a hundred, take some microseconds. Small ones are plain bytes: a mapping
takes a page at least, and a process may have so many only.
"""

from __future__ import annotations

from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Final, Literal, final

__all__ = ["Numbers", "Room"]

# Up to this size a copy takes some microseconds.
_SMALL: Final = 1 << 16


class Room:
    """Bytes, zeros at first.

    Args:
        size: How many.

    Attributes:
        buffer: The bytes; another object after some ``extend``.
    """

    __slots__ = ("buffer",)

    def __init__(self, size: int = 0) -> None:
        self.buffer: bytearray | mmap = bytearray(size)

    def extend(self, size: int) -> None:
        """Add zeros at the end.

        Args:
            size: How many.
        """
        buffer = self.buffer
        total = len(buffer) + size
        if isinstance(buffer, mmap):
            buffer.resize(total)
        elif total <= _SMALL:
            buffer.extend(bytes(size))
        else:
            # Of this process alone: a child that is forked has its own.
            larger = mmap(-1, total, flags=MAP_PRIVATE | MAP_ANONYMOUS)
            larger[: len(buffer)] = bytes(buffer)
            self.buffer = larger


@final
class Numbers:
    """Numbers that are not negative, zeros at first.

    Args:
        code: How large they may be: ``I`` for 32 bits, ``Q`` for 64.
        count: How many, at least 1.

    Attributes:
        items: The numbers; another object after each ``extend``, and the old one is of no use.
    """

    __slots__ = ("_code", "_room", "items")

    def __init__(self, code: Literal["I", "Q"], count: int) -> None:
        self._code: Literal["I", "Q"] = code
        self._room = Room(count * (4 if code == "I" else 8))
        self.items: memoryview[int] = memoryview(self._room.buffer).cast(code)

    @property
    def memory(self) -> int:
        """Bytes that they take."""
        return self.items.nbytes

    def extend(self, count: int) -> None:
        """Add zeros at the end.

        Args:
            count: How many.
        """
        size = count * self.items.itemsize
        self.items.release()
        self._room.extend(size)
        self.items = memoryview(self._room.buffer).cast(self._code)
