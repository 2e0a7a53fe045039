"""A session whose phases are timed: only where an observer asks how long they take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from pingora_proxy.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TimedSession"]


@final
class TimedSession(Session):
    """A session that tells how long each phase was, when the next one begins.

    Attributes:
        on_phase: Told the name of a phase that is over, and its length in seconds; None for nobody.
    """

    __slots__ = ("_phase", "_since", "on_phase")

    # A slot of the base, which has no cost for sessions that are not timed.
    @property
    def phase(self) -> str:
        """Name of the callback or step that runs now."""
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        try:
            before, since, told = self._phase, self._since, self.on_phase
        except AttributeError:  # the first one of all
            self.on_phase: Callable[[str, float], None] | None = None
            told = None
            before, since = phase, 0.0
        now = time.monotonic()
        self._phase: str = phase
        self._since: float = now
        if told is not None:
            told(before, now - since)
