"""Whether to ask something that may be away: at once no, then once in a while, to see.

Theory of operation: the circuit is closed while questions are answered. A failure opens it for a
pause that doubles with every failure in a row; when the pause is over one question goes through,
and its fate decides. Every question gets a number on its way: the fate of one that was asked before
the circuit last turned says nothing about now, so that hundreds that time out together are one
failure.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Circuit"]

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


@final
class Circuit:
    """Counts failures in a row and answers "not now".

    Args:
        clock: Seconds that only grow.
    """

    __slots__ = (
        "_clock",
        "_is_open",
        "_is_probing",
        "_next_pause",
        "_random",
        "_retry_at",
        "_turn",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._is_open = False
        self._is_probing = False
        self._next_pause = _FIRST_PAUSE
        self._retry_at = -math.inf
        self._turn = 0

    @property
    def is_open(self) -> bool:
        """Whether the last question that counted has failed."""
        return self._is_open

    @property
    def pause(self) -> float:
        """Seconds until one question goes through; 0 if one may, or all do."""
        return max(0.0, self._retry_at - self._clock()) if self._is_open else 0.0

    def admit(self, *, committed: bool = False) -> int | None:
        """Ask whether a question may be asked.

        Args:
            committed: Whether it is to be asked in any case, as the next piece of a body is of
                which others have been sent.

        Returns:
            Its number, to be given back with its fate in any case; None if it must not be asked.
        """
        if not self._is_open:
            return self._turn
        if self._is_probing or self._clock() < self._retry_at:
            return self._turn - 1 if committed else None
        self._is_probing = True
        self._turn += 1
        return self._turn

    def succeeded(self, number: int) -> bool:
        """Tell that a question was answered.

        Args:
            number: Its number.

        Returns:
            Whether that closed the circuit.
        """
        if number != self._turn or not self._is_open:
            return False
        self._is_open = self._is_probing = False
        self._next_pause = _FIRST_PAUSE
        return True

    def failed(self, number: int) -> bool:
        """Tell that a question was not answered.

        Args:
            number: Its number.

        Returns:
            Whether that opened the circuit, which was closed.
        """
        if number != self._turn:
            return False
        was_open, self._is_open = self._is_open, True
        self._is_probing = False
        self._turn += 1
        # Spread, lest all processes come back in the same moment.
        self._retry_at = self._clock() + self._next_pause * random.uniform(0.5, 1.0)  # noqa: S311
        self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
        return not was_open

    def abandoned(self, number: int) -> None:
        """Tell that nobody waited for the answer; another question may find out.

        Args:
            number: Its number.
        """
        if number == self._turn:
            self._is_probing = False
