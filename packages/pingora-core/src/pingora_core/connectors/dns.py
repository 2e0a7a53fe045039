"""Turning host names into addresses, without blocking and with a cache.

Theory of operation. `CachingResolver` asks a `Lookup` once for a name, whoever many wait for it, and
keeps the answer for as long as it says. Failures are kept too, for a short while, so that a name
that does not exist costs one question and not one per request. What went wrong is kept as text and
each waiter gets an `Error` of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pingora_core.protocols.address import InetAddress
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Answer", "CachingResolver", "Lookup", "LookupFailed", "Resolver"]

_logger = logging.getLogger(__name__)

_MAX_TTL: Final = 3600.0
# A TTL of 0 asks for no caching at all; a second keeps a busy proxy from asking per request.
_MIN_TTL: Final = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a name resolves to.

    Attributes:
        addresses: IPv4 and IPv6 addresses as text, in the order to try them; at least one.
        ttl: How long this holds, seconds.
    """

    addresses: tuple[str, ...]
    ttl: float


class LookupFailed(Exception):  # noqa: N818 - the name says what happened
    """A name could not be resolved.

    Attributes:
        reason: Why, in words.
        ttl: How long not to ask again, seconds.
    """

    def __init__(self, reason: str, ttl: float) -> None:
        super().__init__(reason)
        self.reason: str = reason
        self.ttl: float = ttl


class Lookup(Protocol):
    """A source of answers, without a cache."""

    async def lookup(self, host: str) -> Answer:
        """Ask for the addresses of a name; takes a bounded time.

        Args:
            host: The name, lower case, without a final dot.

        Returns:
            The addresses.

        Raises:
            LookupFailed: If there are none or they cannot be learned.
        """


class Resolver(Protocol):
    """What a connector needs to reach peers by name."""

    async def resolve(self, host: str, port: int) -> list[InetAddress]:
        """Resolve a name.

        Args:
            host: The name, lower case, without a final dot.
            port: Port of the addresses returned.

        Returns:
            At least one address, in the order to try them.

        Raises:
            Error: ``CONNECT_ERROR`` from upstream if the name cannot be resolved.
        """

    async def close(self) -> None:
        """Stop what is running."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is known of a name: addresses, or else why there are none."""

    addresses: tuple[str, ...]
    failure: str
    expires: float


class CachingResolver:
    """A resolver that remembers.

    Args:
        lookup: Where answers come from.
        max_entries: Most names remembered; the one used longest ago is forgotten first.
        max_lookups: Most names asked for at the same time; further ones fail at once.
        clock: Monotonic time, seconds.

    Raises:
        ValueError: If a bound is below 1.
    """

    def __init__(
        self,
        lookup: Lookup,
        *,
        max_entries: int = 4096,
        max_lookups: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_entries < 1 or max_lookups < 1:
            msg = f"bounds must be at least 1, not {max_entries} and {max_lookups}"
            raise ValueError(msg)
        self._lookup = lookup
        self._max_entries = max_entries
        self._max_lookups = max_lookups
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._running: dict[str, asyncio.Task[_Entry]] = {}

    async def resolve(self, host: str, port: int) -> list[InetAddress]:
        """Resolve a name, from the cache if it is known.

        Args:
            host: The name, lower case, without a final dot.
            port: Port of the addresses returned.

        Returns:
            At least one address, in the order to try them.

        Raises:
            Error: ``CONNECT_ERROR`` from upstream if the name cannot be resolved.
        """
        entry = self._entries.get(host)
        if entry is not None and entry.expires > self._clock():
            self._entries.move_to_end(host)
        else:
            entry = await self._ask(host)
        if not entry.addresses:
            raise Error(
                ErrorType.CONNECT_ERROR,
                f"DNS lookup of {host}: {entry.failure}",
                source=ErrorSource.UPSTREAM,
            )
        return [InetAddress(address, port) for address in entry.addresses]

    async def _ask(self, host: str) -> _Entry:
        task = self._running.get(host)
        if task is None:
            if len(self._running) >= self._max_lookups:
                return _Entry((), "too many lookups are running", 0.0)
            task = asyncio.create_task(self._look_up(host), name=f"dns {host}")
            self._running[host] = task
            task.add_done_callback(lambda _: self._running.pop(host, None))
        # Others may wait for the same answer, and it is worth keeping in any case.
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if task.cancelled() and not (waiter is not None and waiter.cancelling()):
                # The lookup was cancelled by close(), and not whoever waits for it.
                return _Entry((), "the resolver is closed", 0.0)
            raise

    async def _look_up(self, host: str) -> _Entry:
        try:
            answer = await self._lookup.lookup(host)
            entry = _Entry(answer.addresses, "no address", self._expiry(answer.ttl))
        except LookupFailed as failed:
            entry = _Entry((), failed.reason, self._expiry(failed.ttl))
        except Exception as error:
            # A defect in somebody's lookup must not look like a hung request.
            _logger.exception("DNS lookup of %s failed", host)
            entry = _Entry((), repr(error), self._expiry(0.0))
        self._entries[host] = entry
        self._entries.move_to_end(host)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
        return entry

    def _expiry(self, ttl: float) -> float:
        return self._clock() + min(max(ttl, _MIN_TTL), _MAX_TTL)

    def __len__(self) -> int:
        return len(self._entries)

    async def close(self) -> None:
        """Stop the lookups that are running; whoever waits for one gets an error."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
