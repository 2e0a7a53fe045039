"""Gives the memory of very large bodies back in small steps.

Theory of operation: to free a gigabyte takes the system a tenth of a second and more. So the
pieces of a large body that nobody needs any more are let go a few at a time between other work, or
as many as are needed when somebody needs the room. Until then they count as used.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from pingora_cache.memory._sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Trash"]

# So many pieces are freed at once; it takes two or three milliseconds.
_FEW: Final = 64


@final
class Trash:
    """Pieces to be freed.

    Attributes:
        size: Their bytes.
    """

    __slots__ = ("_closed", "_pieces", "_sweeper", "size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._sweeper = Sweeper(self._walk)
        self._closed = False
        self.size = 0

    def add(self, pieces: list[bytes]) -> None:
        """Free pieces, at once or in a while. Nobody else must hold them, or it is in vain.

        Args:
            pieces: The pieces; the list is emptied.
        """
        if len(pieces) > _FEW and not self._closed and _is_loop_running():
            self._pieces += pieces
            self.size += sum(map(len, pieces))
            if not self._sweeper.busy:
                self._sweeper.start()
        pieces.clear()

    def burn(self, size: int) -> None:
        """Free so much now, if there is as much.

        Args:
            size: Bytes.
        """
        least = max(self.size - size, 0)
        while self.size > least:
            self.size -= len(self._pieces.pop())

    def _walk(self) -> Iterator[None]:
        while self._pieces:
            self.size -= len(self._pieces.pop())
            yield

    def close(self) -> None:
        """Free all of it now, and from now on whatever comes at once."""
        self._closed = True
        self._sweeper.close()
        self._pieces.clear()
        self.size = 0


def _is_loop_running() -> bool:
    # A handler may be collected as garbage when there is none any more.
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
