"""Leaky buckets for frames that cost the peer little and this side much; time is an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pingora_core.protocols.http.v2.options import FloodLimit

__all__ = ["FloodGuard"]


class FloodGuard:
    """Counts what one connection does.

    Args:
        limits: What is tolerated, by kind; other kinds are.
    """

    __slots__ = ("_levels", "_limits")

    def __init__(self, limits: Mapping[str, FloodLimit]) -> None:
        self._limits = limits
        # Most connections never do any of this.
        self._levels: dict[str, tuple[float, float]] = {}

    def count(self, kind: str, now: float) -> bool:
        """Count one frame.

        Args:
            kind: What it was.
            now: A monotonic clock, seconds.

        Returns:
            Whether it was one too many.
        """
        limit = self._limits.get(kind)
        if limit is None:
            return False
        level, since = self._levels.get(kind, (0.0, now))
        level = max(0.0, level - (now - since) * limit.rate) + 1.0
        self._levels[kind] = (level, now)
        return level > limit.burst

    def forgive(self, kind: str, amount: float) -> None:
        """Take back some of what was counted, because this side has given cause for it.

        Args:
            kind: What it was.
            amount: How many frames.
        """
        known = self._levels.get(kind)
        if known is not None:
            level, since = known
            self._levels[kind] = (max(0.0, level - amount), since)
