"""Sources made of several: all of them together, or the first that answers.

Theory of operation. What one of several sources raises is nobody else's business, so it is logged
here. Each source has a last answer of its own, which is what stands for it while it fails.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from pingora_error import Error
from pingora_load_balancing.discovery.following import Backoff, FailureLog, follow
from pingora_load_balancing.discovery.interfaces import (
    DISCOVERY_ERROR,
    ClosableDiscovery,
    Discovered,
    WatchableDiscovery,
    count_usable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.discovery.interfaces import ServiceDiscovery

__all__ = ["Fallback", "Union"]

_logger = logging.getLogger(__name__)

_BACKOFF: Final = Backoff()


class _Member:
    """One of several sources.

    Attributes:
        source: The source.
        answer: Its last answer; None before the first.
        error: Why it has failed since; None if it has not.
        failed_at: When that began.
    """

    __slots__ = ("answer", "error", "failed_at", "source")

    def __init__(self, source: ServiceDiscovery) -> None:
        self.source = source
        self.answer: Discovered | None = None
        self.error: Exception | None = None
        self.failed_at = 0.0

    @property
    def has_spoken(self) -> bool:
        """Whether anything is known of it, be it a failure."""
        return self.answer is not None or self.error is not None

    def succeeded(self, answer: Discovered) -> None:
        self.answer = answer
        self.error = None

    def failed(self, error: Exception, now: float) -> None:
        if self.error is None:
            self.failed_at = now
        self.error = error


class _Combined:
    """What unions and fallbacks have in common."""

    def __init__(
        self,
        sources: Sequence[ServiceDiscovery],
        *,
        frequency: float,
        timeout: float,
        backoff: Backoff,
        clock: Callable[[], float],
    ) -> None:
        if not sources:
            msg = "there are no sources to combine"
            raise ValueError(msg)
        if not (frequency > 0 and timeout > 0):
            msg = f"times must be more than 0 seconds, not {frequency} and {timeout}"
            raise ValueError(msg)
        self._members = [_Member(source) for source in sources]
        self._frequency = frequency
        self._timeout = timeout
        self._backoff = backoff
        self._clock = clock
        self._log = FailureLog(_logger, clock)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._members)} sources>"

    @property
    def last_errors(self) -> tuple[Exception | None, ...]:
        """Why each source fails now, in the order given; None for those that do not."""
        return tuple(member.error for member in self._members)

    async def close(self) -> None:
        """Close those of the sources that keep something open."""
        for member in self._members:
            if isinstance(member.source, ClosableDiscovery):
                await member.source.close()

    async def _ask(self, member: _Member) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                member.succeeded(await member.source.discover())
        except Exception as error:  # noqa: BLE001  # logged
            self._failed(member, error)

    def _failed(self, member: _Member, error: Exception) -> None:
        member.failed(error, self._clock())
        self._log.write(f"discovery {member.source!r}, one of several, failed", error)

    def _all_failed(self) -> Error:
        cause = next((each.error for each in self._members if each.error is not None), None)
        return Error.up(DISCOVERY_ERROR, f"{self!r}: none has an answer", cause=cause)

    async def _watch_members(self, wake: asyncio.Event) -> AsyncGenerator[bool, None]:
        """Follow all sources for as long as this is open.

        Args:
            wake: Set by whoever wants the next turn to come.

        Yields:
            When a source has answered or failed: whether the others have had time to.
        """
        for member in self._members:
            member.error = None
        tasks = [
            asyncio.create_task(self._follow(member, wake), name=f"discovery {member.source!r}")
            for member in self._members
        ]
        loop = asyncio.get_running_loop()
        patience = loop.time() + self._timeout
        timer = loop.call_at(patience, wake.set)
        try:
            while True:
                await wake.wait()
                wake.clear()
                yield loop.time() >= patience
        finally:
            timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, member: _Member, wake: asyncio.Event) -> None:
        def on_failure(error: Exception) -> None:
            self._failed(member, error)
            wake.set()

        is_watchable = isinstance(member.source, WatchableDiscovery)
        answers = follow(
            member.source,
            frequency=None if is_watchable else self._frequency,
            backoff=self._backoff,
            on_failure=on_failure,
            timeout=self._timeout,
        )
        async with aclosing(answers):
            async for answer in answers:
                member.succeeded(answer)
                wake.set()


class Union(_Combined):
    """The backends of several sources together.

    A source that fails is represented by its last answer, one that has never answered not at all;
    the union fails only if no source has ever answered. Of backends with the same address the one of
    the source that is named first counts.

    Args:
        sources: The sources.
        frequency: While it is watched, seconds between questions to sources that cannot be.
        timeout: Seconds after which an unanswered question counts as failed.
        backoff: How long to leave a failing source alone while it is watched.
        clock: Monotonic time, seconds.

    Raises:
        ValueError: If there are no sources, or a time is not positive.
    """

    def __init__(
        self,
        sources: Sequence[ServiceDiscovery],
        *,
        frequency: float = 30.0,
        timeout: float = 30.0,
        backoff: Backoff = _BACKOFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            sources, frequency=frequency, timeout=timeout, backoff=backoff, clock=clock
        )

    async def discover(self) -> Discovered:
        """Ask all sources at the same time.

        Returns:
            What they know together.

        Raises:
            Error: ``DISCOVERY_ERROR`` if none of them has ever answered.
        """
        async with asyncio.TaskGroup() as group:
            for member in self._members:
                group.create_task(self._ask(member))
        return self._merge()

    async def watch(self) -> AsyncGenerator[Discovered, None]:
        """Tell what the sources know together, now and whenever one of them has changed.

        The first answer is told when each source has answered or failed once.

        Yields:
            The answers.

        Raises:
            Error: ``DISCOVERY_ERROR`` if none of them has ever answered.
        """
        wake = asyncio.Event()
        async with aclosing(self._watch_members(wake)) as turns:
            async for is_late in turns:
                if is_late or all(member.has_spoken for member in self._members):
                    yield self._merge()

    def _merge(self) -> Discovered:
        answers = [each.answer for each in self._members if each.answer is not None]
        if not answers:
            raise self._all_failed()
        backends: dict[PeerAddress, Backend] = {}
        enabled: dict[PeerAddress, bool] = {}
        for answer in answers:
            for backend in answer.backends:
                addr = backend.addr
                if backends.setdefault(addr, backend) is backend and addr in answer.enabled:
                    enabled[addr] = answer.enabled[addr]
        return Discovered(tuple(backends.values()), enabled)


class Fallback(_Combined):
    """The backends of the first source that has an answer.

    A source that fails, or knows too few backends, is passed over; one that fails is given some
    time to recover, in which its last answer counts. If all are passed over, the last answer of
    the first that ever had one counts. While it is watched, all sources are followed, so that
    the next one is there at once.

    Args:
        sources: The sources, the preferred one first.
        min_backends: With fewer usable backends an answer is passed over.
        hold: Seconds for which the last answer of a failing source counts.
        frequency: While it is watched, seconds between questions to sources that cannot be.
        timeout: Seconds after which an unanswered question counts as failed.
        backoff: How long to leave a failing source alone while it is watched.
        clock: Monotonic time, seconds.

    Raises:
        ValueError: If there are no sources, or a number is out of its range.
    """

    def __init__(
        self,
        sources: Sequence[ServiceDiscovery],
        *,
        min_backends: int = 1,
        hold: float = 0.0,
        frequency: float = 30.0,
        timeout: float = 3.0,
        backoff: Backoff = _BACKOFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            sources, frequency=frequency, timeout=timeout, backoff=backoff, clock=clock
        )
        if min_backends < 0 or hold < 0:
            msg = f"min_backends and hold must not be negative: {min_backends}, {hold}"
            raise ValueError(msg)
        self._min_backends = min_backends
        self._hold = hold

    async def discover(self) -> Discovered:
        """Ask the sources one after the other until one has an answer.

        Returns:
            The answer.

        Raises:
            Error: ``DISCOVERY_ERROR`` if none of them has ever answered.
        """
        for member in self._members:
            await self._ask(member)
            if (answer := self._usable(member)) is not None:
                return answer
        return self._last_resort()

    async def watch(self) -> AsyncGenerator[Discovered, None]:
        """Tell what `discover` would, now and whenever that may have changed.

        Yields:
            The answers.

        Raises:
            Error: ``DISCOVERY_ERROR`` if none of the sources has ever answered.
        """
        wake = asyncio.Event()
        timer: asyncio.TimerHandle | None = None
        try:
            async with aclosing(self._watch_members(wake)) as turns:
                async for is_late in turns:
                    if timer is not None:
                        timer.cancel()
                    timer = self._wake_when_a_hold_ends(wake)
                    if (answer := self._choose(is_late=is_late)) is not None:
                        yield answer
        finally:
            if timer is not None:
                timer.cancel()

    def _choose(self, *, is_late: bool) -> Discovered | None:
        # None if a better source has not had time to speak.
        for member in self._members:
            if (answer := self._usable(member)) is not None:
                return answer
            if not member.has_spoken and not is_late:
                return None
        return self._last_resort()

    def _usable(self, member: _Member) -> Discovered | None:
        answer = member.answer
        if answer is None or count_usable(answer) < self._min_backends:
            return None
        return answer if member.error is None or self._hold_left(member) > 0 else None

    def _last_resort(self) -> Discovered:
        answers = [each.answer for each in self._members if each.answer is not None]
        if not answers:
            raise self._all_failed()
        return next((each for each in answers if count_usable(each)), answers[0])

    def _hold_left(self, member: _Member) -> float:
        return member.failed_at + self._hold - self._clock()

    def _wake_when_a_hold_ends(self, wake: asyncio.Event) -> asyncio.TimerHandle | None:
        holds = [self._hold_left(member) for member in self._members if member.error is not None]
        waits = [left for left in holds if left > 0]
        if not waits:
            return None
        return asyncio.get_running_loop().call_later(min(waits), wake.set)
