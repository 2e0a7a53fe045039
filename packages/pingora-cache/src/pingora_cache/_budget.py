"""How much may be in hand at a time."""

from __future__ import annotations

from typing import final

__all__ = ["Budget"]


@final
class Budget:
    """Bytes that may be in hand at a time.

    Args:
        limit: How many.

    Attributes:
        taken: Bytes in hand.
    """

    __slots__ = ("_limit", "taken")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0

    def take(self, size: int) -> bool:
        """Take some, if there is room.

        Args:
            size: How many.

        Returns:
            Whether they were taken; give them back then.
        """
        if self.taken + size > self._limit:
            return False
        self.taken += size
        return True

    def give(self, size: int) -> None:
        """Give some back.

        Args:
            size: How many.
        """
        self.taken -= size
