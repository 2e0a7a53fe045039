"""Whether a body is small enough to be stored, found out while it passes."""

from __future__ import annotations

__all__ = ["BodySizeTracker"]


class BodySizeTracker:
    """Adds up the bytes of a body against a limit.

    Only the body counts, as it would be stored; the head does not.

    Args:
        limit: The largest body, bytes; that size itself is allowed.

    Attributes:
        limit: The largest body, bytes.
        seen: Bytes so far.

    Raises:
        ValueError: If the limit is negative.

    Examples:
        >>> tracker = BodySizeTracker(4)
        >>> tracker.add(4), tracker.add(1)
        (True, False)

    Source: pingora-cache/src/max_file_size.rs.
    """

    __slots__ = ("limit", "seen")

    def __init__(self, limit: int) -> None:
        if limit < 0:
            msg = f"a body cannot be smaller than nothing ({limit} bytes)"
            raise ValueError(msg)
        self.limit: int = limit
        self.seen: int = 0

    def add(self, size: int) -> bool:
        """Count a piece of the body.

        Args:
            size: Its bytes.

        Returns:
            Whether the body is within the limit with it.
        """
        self.seen += size
        return self.seen <= self.limit

    @property
    def is_exceeded(self) -> bool:
        """Whether the body is beyond the limit."""
        return self.seen > self.limit
