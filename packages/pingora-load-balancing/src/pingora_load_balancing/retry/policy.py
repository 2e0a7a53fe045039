"""Which failures are worth another attempt, how many attempts there are, and when."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING, Final

from pingora_error import ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_error import Error

__all__ = ["IDEMPOTENT_METHODS", "RetryOn", "RetryPolicy", "failure_of"]

IDEMPOTENT_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods whose requests may be executed twice: RFC 9110 section 9.2.2."""

_TIMEOUTS: Final = frozenset(
    {
        ErrorType.CONNECT_TIMEDOUT,
        ErrorType.TLS_HANDSHAKE_TIMEDOUT,
        ErrorType.READ_TIMEDOUT,
        ErrorType.WRITE_TIMEDOUT,
    }
)


class RetryOn(Flag):
    """What may have gone wrong with an attempt.

    Attributes:
        CONNECT_FAILURE: There was no connection, so nothing was sent: any method may be retried.
        RESET: The connection ended, or broke the protocol, before there was a response.
        TIMEOUT: There was a connection, but no response in time.
        STATUS: The response has one of the statuses of the policy.
        ANY: All of these.
    """

    CONNECT_FAILURE = auto()
    RESET = auto()
    TIMEOUT = auto()
    STATUS = auto()
    ANY = CONNECT_FAILURE | RESET | TIMEOUT | STATUS


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a request is sent again.

    Attributes:
        retry_on: Which failures are worth another attempt.
        statuses: The statuses of responses that are.
        methods: The methods that may be retried although the first attempt may have had an effect.
        max_attempts: Attempts per request, the first one included.
        per_try_timeout: Seconds from the choice of a backend to the head of its response, the time
            to send the request not counted; None for no limit but those of the peer.
        backoff: Seconds: the first retry waits between none and this long, at random, and each
            further one up to twice as long as the one before; 0 never waits.
        max_backoff: Seconds that a wait lasts at most.
        uniform: Gives a random number, 0 to 1, for the waits.

    Raises:
        ValueError: If a number makes no sense.

    Examples:
        >>> policy = RetryPolicy(statuses=frozenset({503}), per_try_timeout=0.5, max_attempts=2)
        >>> policy.allows(RetryOn.STATUS, "GET"), policy.allows(RetryOn.STATUS, "POST")
        (True, False)
        >>> policy.allows(RetryOn.CONNECT_FAILURE, "POST")
        True

    Source: Envoy, api/envoy/config/route/v3/route_components.proto (``RetryPolicy``), with the same
    back-off. AWS Architecture Blog, "Exponential Backoff And Jitter", 2015, tells why it is fully
    random.
    """

    retry_on: RetryOn = RetryOn.ANY
    statuses: frozenset[int] = frozenset({502, 503, 504})
    methods: frozenset[str] = IDEMPOTENT_METHODS
    max_attempts: int = 3
    per_try_timeout: float | None = None
    backoff: float = 0.025
    max_backoff: float = 0.25
    uniform: Callable[[], float] = random.random  # noqa: S311 - spreads load

    def __post_init__(self) -> None:
        wanted = ""
        if self.max_attempts < 1:
            wanted = "max_attempts at least 1"
        elif self.per_try_timeout is not None and not 0 < self.per_try_timeout < math.inf:
            wanted = "per_try_timeout more than 0 seconds, or None"
        elif not 0 <= self.backoff <= self.max_backoff < math.inf:
            wanted = "backoff at least 0 seconds and at most max_backoff"
        elif not all(200 <= status <= 599 for status in self.statuses):
            wanted = "statuses in 200..599"
        if wanted:
            msg = f"retry policy: wanted {wanted}"
            raise ValueError(msg)

    def allows(self, failure: RetryOn, method: str) -> bool:
        """Tell whether a failure is worth another attempt, however many there were.

        Args:
            failure: What went wrong.
            method: Of the request.

        Returns:
            True if it is, and does no harm.
        """
        return bool(failure & self.retry_on) and (
            failure is RetryOn.CONNECT_FAILURE or method in self.methods
        )

    def retries_status(self, status: int, method: str) -> bool:
        """Tell whether a response is worth another attempt, however many there were.

        Args:
            status: Its status.
            method: Of the request.

        Returns:
            True if it is, and does no harm.
        """
        return status in self.statuses and self.allows(RetryOn.STATUS, method)

    def wait_before(self, retry: int) -> float:
        """Choose how long to wait before a retry.

        Args:
            retry: Its number, from 1.

        Returns:
            Seconds.
        """
        # Bounded before it grows: 2.0 ** 2000 is an error.
        longest = self.backoff * 2.0 ** min(retry - 1, 64)
        return min(longest, self.max_backoff) * self.uniform()


def failure_of(error: Error) -> RetryOn:
    """Tell what an error of the upstream says about an attempt that had a connection.

    Args:
        error: What happened.

    Returns:
        ``TIMEOUT`` or ``RESET``.
    """
    return RetryOn.TIMEOUT if error.etype in _TIMEOUTS else RetryOn.RESET
