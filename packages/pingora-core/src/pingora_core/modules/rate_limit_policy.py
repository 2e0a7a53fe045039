"""One rule of a rate limiter: whom it counts, by which limiter, and how often it said what.

The limiters are those of ``pingora_limits`` or anything of the same shape; nothing is imported.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard, cast

from pingora_core.modules._rate_limit_fields import is_printable, partition, policy_item, string

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.modules.module import Downstream
    from pingora_core.modules.rate_limit_keys import KeyFunction

__all__ = [
    "LocalLimiter",
    "RateLimitCheck",
    "RateLimitCounts",
    "RateLimitPolicy",
    "RemoteLimiter",
    "Verdict",
]

_logger = logging.getLogger(__name__)

# More than any limiter allows at once.
_LARGEST_COST: Final = 2**32
_LONGEST_NAME: Final = 64
_LOG_INTERVAL: Final = 1.0


class Verdict(Protocol):
    """What a limiter answers; ``pingora_limits.Decision`` is one."""

    @property
    def is_allowed(self) -> bool:
        """Whether the request may go on."""

    @property
    def remaining(self) -> int:
        """How much more would be allowed now."""

    @property
    def retry_after(self) -> float:
        """Seconds until the same would be allowed; infinite if it never is."""

    @property
    def reset_after(self) -> float:
        """Seconds until the whole limit is free again."""


class LocalLimiter(Protocol):
    """A limiter that answers at once; ``pingora_limits.Limiter`` is one."""

    @property
    def limit(self) -> int:
        """The most that can be allowed at once."""

    @property
    def window(self) -> float:
        """Seconds in which that much is allowed."""

    def acquire(self, key: str | bytes, cost: int = 1, /) -> Verdict:
        """Ask, and take what is asked for if it is allowed.

        Args:
            key: Who asks.
            cost: How much is asked for.
        """

    def peek(self, key: str | bytes, cost: int = 1, /) -> Verdict:
        """Ask without taking.

        Args:
            key: Who asks.
            cost: How much is asked for.
        """


class RemoteLimiter(Protocol):
    """A limiter that has to ask somebody; ``pingora_limits.AsyncLimiter`` is one."""

    @property
    def limit(self) -> int:
        """The most that can be allowed at once."""

    @property
    def window(self) -> float:
        """Seconds in which that much is allowed."""

    async def acquire(self, key: str | bytes, cost: int = 1, /) -> Verdict:
        """Ask, and take what is asked for if it is allowed.

        Args:
            key: Who asks.
            cost: How much is asked for.
        """
        ...


@dataclass(slots=True)
class RateLimitCounts:
    """What became of the requests that a policy was asked about, in this process.

    A request that one policy refuses is not counted by the others.

    Attributes:
        allowed: Went on.
        limited: Were refused.
        shadowed: Would have been refused if the policy were more than a shadow.
        failed: The limiter gave no answer.
    """

    allowed: int = 0
    limited: int = 0
    shadowed: int = 0
    failed: int = 0


class RateLimitPolicy:
    """One rule of a rate limiter. Use it in one builder only.

    Args:
        name: What clients and logs call it: printable ASCII, at most 64 characters.
        limiter: Decides. If its ``acquire`` is a coroutine function it is waited for.
        key: Whom a request counts for; None for one that is not limited. ``rate_limit_keys`` has
            ready ones.
        cost: What a request takes of the limit, or a function that tells; 0 takes nothing, and
            then the limiter is not asked.
        exempt: Says whether a request is not limited by this policy; None exempts none.
        unit: What is counted, if not requests; ``content-bytes`` for instance.
        partition_key: Makes the ``pk`` parameter from the key, so that clients can tell their
            limits apart. None tells none: a key may be a secret, or say who somebody is.
        shadow: Whether it only counts and logs what it would refuse. Clients do not see it.
        fails_open: Whether requests go on if a limiter that is waited for fails. Otherwise they
            are answered with 503.
        timeout: Seconds to wait for such a limiter at most.
        clock: Seconds that only grow.

    Attributes:
        name: Its name.
        counts: What became of the requests.
        is_shadow: Whether it only counts and logs.
        fails_open: Whether requests go on if its limiter fails.
        timeout: Seconds to wait for the limiter at most.
        local: The limiter if it decides at once, else None.
        remote: The limiter if it is waited for, else None.
        label: The name, as fields write it.
        item: What ``RateLimit-Policy`` says of it.

    Raises:
        ValueError: If the name, the cost or the timeout is out of range.
    """

    __slots__ = (
        "_clock",
        "_cost",
        "_exempt",
        "_key",
        "_logs",
        "_partition_key",
        "counts",
        "fails_open",
        "is_shadow",
        "item",
        "label",
        "local",
        "name",
        "remote",
        "timeout",
    )

    def __init__(  # noqa: PLR0913 - a record of choices
        self,
        name: str,
        limiter: LocalLimiter | RemoteLimiter,
        key: KeyFunction,
        *,
        cost: int | Callable[[Downstream], int] = 1,
        exempt: Callable[[Downstream], bool] | None = None,
        unit: str | None = None,
        partition_key: Callable[[str | bytes], bytes] | None = None,
        shadow: bool = False,
        fails_open: bool = True,
        timeout: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for text in (name, "-" if unit is None else unit):
            if not (0 < len(text) <= _LONGEST_NAME and is_printable(text)):
                msg = f"a policy has a name and a unit of 1 to 64 printable letters, not {text!r}"
                raise ValueError(msg)
        if isinstance(cost, int) and cost < 0:
            msg = f"a request does not cost less than nothing ({cost})"
            raise ValueError(msg)
        if not timeout > 0:
            msg = f"a limiter gets more than 0 seconds to answer, not {timeout}"
            raise ValueError(msg)
        self.name: str = name
        self.label: bytes = string(name)
        self.counts: RateLimitCounts = RateLimitCounts()
        self.is_shadow: bool = shadow
        self.fails_open: bool = fails_open
        self.timeout: float = timeout
        self.local: LocalLimiter | None = None
        self.remote: RemoteLimiter | None = None
        if _is_remote(limiter):
            self.remote = limiter
        else:
            self.local = cast("LocalLimiter", limiter)
        self._key = key
        self._cost = cost
        self._exempt = exempt
        self._partition_key = partition_key
        self.item: bytes = policy_item(self.label, limiter.limit, limiter.window, unit)
        self._clock = clock
        self._logs: dict[str, _Log] = {}

    def look_at(self, downstream: Downstream) -> RateLimitCheck | None:
        """Prepare the question whether a request may go on.

        Args:
            downstream: The client's side of the request.

        Returns:
            The question; None if the policy has nothing to say.
        """
        if self._exempt is not None and self._exempt(downstream):
            return None
        key = self._key(downstream)
        if key is None:
            return None
        cost = self._cost
        if not isinstance(cost, int):
            cost = min(cost(downstream), _LARGEST_COST)
        if cost <= 0:
            return None
        check = RateLimitCheck(self, key, cost)
        if self._partition_key is not None:
            check.partition = partition(self._partition_key(key))
        return check

    def log(self, level: int, what: str, error: Exception | None = None) -> None:
        """Say in the log that something happened, at most once in a second.

        Args:
            level: How much it matters.
            what: What it was that happened to requests.
            error: Why.
        """
        log = self._logs.get(what)
        if log is None:
            log = self._logs[what] = _Log()
        log.pending += 1
        now = self._clock()
        if now < log.quiet_until:
            return
        why = "" if error is None else f": {type(error).__name__}: {error}"
        _logger.log(level, "rate limit %s: requests %s: %d%s", self.name, what, log.pending, why)
        log.pending = 0
        log.quiet_until = now + _LOG_INTERVAL

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class RateLimitCheck:
    """What one policy is asked about one request.

    Args:
        policy: The policy.
        key: What the request counts as.
        cost: What it takes, at least 1.

    Attributes:
        policy: The policy.
        partition: What the fields say of the key; may be empty.
        verdict: What the limiter has answered; None before that, or if it failed.
        has_failed: Whether the limiter gave no answer.
    """

    __slots__ = ("_cost", "_key", "has_failed", "partition", "policy", "verdict")

    def __init__(self, policy: RateLimitPolicy, key: str | bytes, cost: int) -> None:
        self.policy: RateLimitPolicy = policy
        self.partition: bytes = b""
        self._key = key
        self._cost = cost
        self.verdict: Verdict | None = None
        self.has_failed: bool = False

    def peek(self) -> bool:
        """Ask a local limiter without taking anything.

        Returns:
            Whether it would allow the request; True for other limiters.
        """
        local = self.policy.local
        if local is None:
            return True
        self.verdict = local.peek(self._key, self._cost)
        return self.verdict.is_allowed

    def tell_refused(self) -> None:
        """Let a limiter that would refuse the request do so: some count what they refuse."""
        local = self.policy.local
        if local is not None:
            local.acquire(self._key, self._cost)

    async def acquire(self) -> bool:
        """Ask, and take what is asked for if it is allowed.

        Returns:
            Whether the request may go on.
        """
        policy = self.policy
        if policy.local is not None:
            verdict = self.verdict = policy.local.acquire(self._key, self._cost)
            return verdict.is_allowed
        assert policy.remote is not None
        try:
            async with asyncio.timeout(policy.timeout):
                verdict = self.verdict = await policy.remote.acquire(self._key, self._cost)
        except Exception as error:  # noqa: BLE001 - whatever it talks to may fail in any way
            self.has_failed = True
            policy.counts.failed += 1
            how = "allowed" if policy.fails_open or policy.is_shadow else "refused"
            policy.log(logging.WARNING, f"{how} because its limiter failed", error)
            return policy.fails_open
        return verdict.is_allowed


class _Log:
    __slots__ = ("pending", "quiet_until")

    def __init__(self) -> None:
        self.pending = 0
        self.quiet_until = float("-inf")


def _is_remote(limiter: LocalLimiter | RemoteLimiter) -> TypeGuard[RemoteLimiter]:
    return inspect.iscoroutinefunction(limiter.acquire)
