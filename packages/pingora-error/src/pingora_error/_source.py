"""Where an error came from, and whether what failed may be tried again."""

from __future__ import annotations

from enum import Enum

__all__ = ["ErrorSource", "RetryType"]


class ErrorSource(Enum):
    """The side that caused an error.

    Attributes:
        UPSTREAM: The origin server, or the way to it.
        DOWNSTREAM: The client, or the way to it.
        INTERNAL: This process.
        UNSET: Nobody has said yet.

    Source: pingora-error/src/lib.rs.
    """

    UPSTREAM = "Upstream"
    DOWNSTREAM = "Downstream"
    INTERNAL = "Internal"
    UNSET = ""

    def __str__(self) -> str:
        return self.value


class RetryType(Enum):
    """The retry decision that an error carries.

    Attributes:
        RETRY: Another attempt may succeed.
        NO_RETRY: Another attempt would fail too, or would not be safe.
        REUSED_ONLY: Undecided: another attempt makes sense only if the connection that failed
            had been used before, because then it may just have been idle for too long.

    Source: pingora-error/src/lib.rs.
    """

    RETRY = "Retry"
    NO_RETRY = "NoRetry"
    REUSED_ONLY = "ReusedOnly"

    def __str__(self) -> str:
        return self.value
