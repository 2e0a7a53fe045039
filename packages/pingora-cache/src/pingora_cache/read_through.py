"""A cache that looks up what it does not have.

Theory of operation: the first caller that misses a key looks it up, in its own task, and leaves a
*flight* under the key while it does. Who comes meanwhile waits for the flight, and gets what came
of it: the value, also one that was not to be kept, or the error. So a lookup that fails, or whose
values must not be kept, is not repeated for each of those who wait. If the caller that looks up is
cancelled, one of those who wait takes its place, and the others wait for that one.

A flight that takes longer than ``lock_age`` holds nobody any more, and who has waited for
``lock_timeout`` does so no longer: they look up for themselves, and keep nothing.

Lookups in the background, behind a stale value, are tasks of the cache. There is one at a time for
a key, a bounded number in all, each has a deadline, and ``aclose`` ends them.

Source: pingora-memory-cache/src/read_through.rs. There, a caller that is cancelled leaves those
who wait behind, and after a failure each of them looks up for itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar, final

from pingora_cache._flight import Flight
from pingora_cache.memory_cache import CacheStatus, MemoryCache
from pingora_error import Custom, Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["LOOKUP_ERROR", "Lookup", "MultiLookup", "RTCache"]

_logger = logging.getLogger(__name__)

LOOKUP_ERROR: Final = Custom("RTCache: lookup error")
"""A lookup raised; the cause is what it raised."""

_K = TypeVar("_K")
_V = TypeVar("_V")
_E = TypeVar("_E")
_K_contra = TypeVar("_K_contra", contravariant=True)
_V_co = TypeVar("_V_co", covariant=True)
_E_contra = TypeVar("_E_contra", contravariant=True)


class Lookup(Protocol[_K_contra, _V_co, _E_contra]):
    """Fetches the value of a key; an ``async def`` is one.

    Source: trait Lookup in pingora-memory-cache/src/read_through.rs.
    """

    async def __call__(
        self, key: _K_contra, extra: _E_contra | None, /
    ) -> tuple[_V_co, float | None]:
        """Fetch a value.

        Args:
            key: The key.
            extra: What the caller of the cache has added.

        Returns:
            The value, and for how long it may be kept, seconds: 0 for not at all, None for as long
            as the caller of the cache says.
        """


class MultiLookup(Protocol[_K_contra, _V_co, _E_contra]):
    """Fetches the values of several keys at once; an ``async def`` is one.

    Source: trait MultiLookup in pingora-memory-cache/src/read_through.rs.
    """

    async def __call__(
        self, keys: Sequence[_K_contra], extra: _E_contra | None, /
    ) -> Sequence[tuple[_V_co, float | None]]:
        """Fetch values.

        Args:
            keys: The keys, each once.
            extra: What the caller of the cache has added.

        Returns:
            For each key, in their order, what ``Lookup`` returns.
        """


@final
class RTCache(Generic[_K, _V, _E]):
    """A read-through cache: ``get`` looks up what is missing, once for all who ask for it.

    For one event loop. Close it, or use it as an async context manager, if stale values are
    refreshed in the background.

    Args:
        size: How many values it keeps at most, at least 1.
        lookup: Fetches a value.
        multi_lookup: Fetches several; needed for ``multi_get`` only.
        lock_age: For how long a lookup holds others that want the same, seconds; None for as long
            as it takes.
        lock_timeout: For how long a caller waits for another's lookup, seconds; None for as long
            as that takes.
        refresh_timeout: How long a lookup in the background may take, seconds.
        max_refreshes: How many of them there may be at a time, at least 0.
        clock: Returns a monotonic time, seconds.

    Raises:
        ValueError: If a number is out of its range.

    Examples:
        >>> import asyncio
        >>> async def resolve(name: str, extra: None) -> tuple[str, float | None]:
        ...     return f"address of {name}", 60.0
        >>> async def main() -> list[str]:
        ...     async with RTCache(1000, resolve) as cache:
        ...         return [str(await cache.get("example.com")) for _ in range(2)]
        >>> asyncio.run(main())[0]
        "('address of example.com', CacheStatus(name='miss', stale_for=None))"
    """

    __slots__ = (
        "_cache",
        "_clock",
        "_closed",
        "_flights",
        "_lock_age",
        "_lock_timeout",
        "_lookup",
        "_max_refreshes",
        "_multi_lookup",
        "_refresh_timeout",
        "_refreshes",
    )

    def __init__(
        self,
        size: int,
        lookup: Lookup[_K, _V, _E],
        *,
        multi_lookup: MultiLookup[_K, _V, _E] | None = None,
        lock_age: float | None = None,
        lock_timeout: float | None = None,
        refresh_timeout: float = 30.0,
        max_refreshes: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if refresh_timeout <= 0 or max_refreshes < 0:
            msg = f"refresh_timeout above 0 ({refresh_timeout}), max_refreshes not below it ({max_refreshes})"
            raise ValueError(msg)
        self._cache = MemoryCache[_K, _V](size, clock=clock)
        self._lookup = lookup
        self._multi_lookup = multi_lookup
        self._lock_age = lock_age
        self._lock_timeout = lock_timeout
        self._refresh_timeout = refresh_timeout
        self._max_refreshes = max_refreshes
        self._clock = clock
        self._flights: dict[_K, Flight[_V]] = {}
        self._refreshes: dict[_K, asyncio.Task[None]] = {}
        self._closed = False

    # ------------------------------------------------------------------------ getting

    async def get(
        self, key: _K, *, ttl: float | None = None, extra: _E | None = None
    ) -> tuple[_V, CacheStatus]:
        """Get a value, and look it up if it is not there or has expired.

        Args:
            key: Its key.
            ttl: For how long to keep it, seconds, if the lookup does not tell; None for ever.
            extra: Handed to the lookup. Who waits for another's lookup gets what came of that
                one's.

        Returns:
            The value, and ``HIT``, or ``LOCK_HIT`` if it came of another's lookup, or ``MISS`` or
            ``EXPIRED`` if it was looked up.

        Raises:
            Error: ``LOOKUP_ERROR`` if the lookup raised, this caller's or the one it waited for.
        """
        while True:
            value, status = self._cache.get(key)
            if status.is_hit:
                return value, status  # type: ignore[return-value]  # a hit has a value
            flight = self._flights.get(key)
            if flight is None:
                return await self._fly(key, ttl, extra), status
            if self._lock_age is not None and self._clock() - flight.started > self._lock_age:
                break
            try:
                await flight.wait(self._lock_timeout)
            except TimeoutError:
                break
            if flight.value is not None:
                return flight.value[0], CacheStatus.LOCK_HIT
            if flight.error is not None:
                raise Error(
                    LOOKUP_ERROR, "another caller's lookup failed", cause=flight.error.cause
                )
        value, _ = await self._look_up(key, extra)
        return value, status

    async def get_stale(
        self,
        key: _K,
        *,
        stale_ttl: float,
        ttl: float | None = None,
        extra: _E | None = None,
    ) -> tuple[_V, CacheStatus]:
        """Get a value that may have expired, or else look it up.

        Args:
            key: Its key.
            stale_ttl: How long ago it may have expired, seconds.
            ttl: As for ``get``.
            extra: As for ``get``.

        Returns:
            The value, and a status as of ``get`` or a stale one.

        Raises:
            Error: As of ``get``.
        """
        value, status = self._cache.get_stale(key)
        if status.is_hit and (status.stale_for or 0) <= stale_ttl:
            return value, status  # type: ignore[return-value]  # a hit has a value
        return await self.get(key, ttl=ttl, extra=extra)

    async def get_stale_while_update(
        self,
        key: _K,
        *,
        stale_ttl: float,
        ttl: float | None = None,
        extra: _E | None = None,
    ) -> tuple[_V, CacheStatus]:
        """Get a value that may have expired, and look it up in the background if it has.

        Args:
            key: Its key.
            stale_ttl: How long ago it may have expired, seconds.
            ttl: As for ``get``.
            extra: As for ``get``.

        Returns:
            The value, and a status as of ``get`` or a stale one.

        Raises:
            Error: As of ``get``; never of a lookup in the background.
        """
        value, status = await self.get_stale(key, stale_ttl=stale_ttl, ttl=ttl, extra=extra)
        if status.stale_for is not None:
            self._refresh(key, ttl, extra)
        return value, status

    async def multi_get(
        self, keys: Iterable[_K], *, ttl: float | None = None, extra: _E | None = None
    ) -> list[tuple[_V, CacheStatus]]:
        """Get several values, and look up at once what is not there or has expired.

        Does not wait for lookups of other callers, nor they for this one.

        Args:
            keys: Their keys.
            ttl: As for ``get``.
            extra: As for ``get``.

        Returns:
            For each key its value, and ``HIT``, ``MISS`` or ``EXPIRED``.

        Raises:
            Error: ``LOOKUP_ERROR`` if the lookup raised, or returned too few or too many values.
            RuntimeError: If there is no ``multi_lookup``.
        """
        if self._multi_lookup is None:
            msg = "multi_get needs a multi_lookup"
            raise RuntimeError(msg)
        wanted = list(keys)
        found, missed = self._cache.multi_get_with_miss(wanted)
        missing = list(dict.fromkeys(missed))
        fetched = dict[_K, _V]()
        if missing:
            try:
                results = await self._multi_lookup(missing, extra)
            except Exception as cause:
                raise Error(LOOKUP_ERROR, cause=cause) from cause
            if len(results) != len(missing):
                msg = f"multi_lookup returned {len(results)} values for {len(missing)} keys"
                raise Error(LOOKUP_ERROR, msg)
            for key, (value, own_ttl) in zip(missing, results, strict=True):
                self._cache.force_put(key, value, ttl if own_ttl is None else own_ttl)
                fetched[key] = value
        return [
            (fetched.get(key, value), status)  # type: ignore[misc]  # a hit has one
            for key, (value, status) in zip(wanted, found, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._cache)

    # --------------------------------------------------------------------- looking up

    async def _fly(self, key: _K, ttl: float | None, extra: _E | None) -> _V:
        flight = self._flights[key] = Flight[_V](self._clock())
        try:
            value, own_ttl = await self._look_up(key, extra)
        except Error as error:
            flight.error = error
            raise
        else:
            self._cache.force_put(key, value, ttl if own_ttl is None else own_ttl)
            flight.value = (value,)
            return value
        finally:
            del self._flights[key]
            flight.land()

    async def _look_up(self, key: _K, extra: _E | None) -> tuple[_V, float | None]:
        try:
            return await self._lookup(key, extra)
        except Exception as cause:
            raise Error(LOOKUP_ERROR, cause=cause) from cause

    def _refresh(self, key: _K, ttl: float | None, extra: _E | None) -> None:
        if (
            self._closed
            or key in self._refreshes
            or key in self._flights
            or len(self._refreshes) >= self._max_refreshes
        ):
            return
        task = asyncio.get_running_loop().create_task(self._refresh_now(key, ttl, extra))
        self._refreshes[key] = task
        # Not in the task: it may be cancelled before it has begun.
        task.add_done_callback(lambda _: self._refreshes.pop(key, None))

    async def _refresh_now(self, key: _K, ttl: float | None, extra: _E | None) -> None:
        try:
            async with asyncio.timeout(self._refresh_timeout):
                await self.get(key, ttl=ttl, extra=extra)
        except (Error, TimeoutError) as error:
            # The stale value is still there, and the next one who asks for it tries again.
            _logger.warning("a stale value was not refreshed: %r", error)

    # ------------------------------------------------------------------------ closing

    async def aclose(self) -> None:
        """End the lookups in the background; nothing on the second call.

        Values can still be got; stale ones are no longer refreshed behind the caller's back.
        """
        self._closed = True
        tasks = list(self._refreshes.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} values, {len(self._flights)} lookups>"
