"""Refusing requests that a service cannot serve in time, before anything is done for them.

Theory of operation. An application that has a `LoadShedder` asks it for a permit as soon as the head of a
request has been read, before any callback or module, and gives the permit back when the exchange has
ended, however it did. A `ConcurrencyLimit` says how many permits there may be at a time. There is no
queue: whoever waits in one has given up by the time of being served, when it matters.

What is refused gets 503 with ``Retry-After``, gRPC the status UNAVAILABLE (14) with
``grpc-retry-pushback-ms`` (gRFC A6), and the connection is kept. Never REFUSED_STREAM: it tells an
HTTP/2 client that the request was not processed (RFC 9113 section 8.7), so clients repeat it at once by
themselves, which is more load; it cannot say when to come back; and neither users nor logs see it.
"""

from __future__ import annotations

import logging
import random
import time
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias, final

from pingora_core.apps.concurrency_limit import FixedLimit
from pingora_core.protocols.http.error_page import generate_error
from pingora_core.runtime.log_limit import LogLimit
from pingora_error import Error
from pingora_http import ResponseHeader

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.apps.concurrency_limit import ConcurrencyLimit
    from pingora_core.protocols.http.server import ServerSession
    from pingora_http import RequestHeader

    Classify: TypeAlias = Callable[[RequestHeader], "Priority"]

__all__ = ["LoadShedder", "Priority", "RequestPermit"]

_logger = logging.getLogger(__name__)

_GRPC: Final = b"application/grpc"
_UNAVAILABLE: Final = b"14"
# Seconds after which it is worth a look whether a response was one without an end of its own.
_LONG: Final = 1.0
_EVENT_STREAM: Final = b"text/event-stream"


class Priority(Enum):
    """How much of the limit a request may use.

    Attributes:
        EXEMPT: Never refused, and not counted: health checks, the operator's own pages.
        HIGH: All of it.
        NORMAL: All but a tenth, which is kept for what is more important.
        LOW: Six tenths: what can wait is the first to be refused.
        share: The share of the limit; what comes of it is rounded up.
    """

    EXEMPT = 0.0
    HIGH = 1.0
    NORMAL = 0.9
    LOW = 0.6

    def __init__(self, share: float) -> None:
        self.share: float = share


@final
class LoadShedder:
    """Admits requests up to a limit, and answers the others.

    One object may serve several applications of a process, which then have the limit together.
    With several worker processes each has its own limit and counts.

    Args:
        limit: How many requests may be in flight: a number, a `GradientLimit` that finds it out,
            or a limit of your own.
        classify: Says how important a request is; called once for each. None lets all requests
            use the whole limit. What it raises is logged, and the request is ``NORMAL``.
        retry_after: Clients are told to come back after so many seconds: drawn between the two,
            so that they do not all come together.
        clock: Monotonic time, seconds.
        rng: Draws; None for a generator of its own.

    Raises:
        ValueError: If the limit is less than 1, or ``retry_after`` is no range of seconds.

    Attributes:
        algorithm: What says how many may be in flight.
        clock: As given.
        in_flight: Requests that have a permit now.
        admitted: Requests that were given one so far.
        shed: Requests that were refused so far.
        exempt: Requests that needed none so far.

    Examples:
        >>> shedder = LoadShedder(100)
        >>> shedder.limit, shedder.in_flight, shedder.shed
        (100, 0, 0)
    """

    __slots__ = (
        "_classify",
        "_log_limit",
        "_retry_after",
        "_rng",
        "admitted",
        "algorithm",
        "clock",
        "exempt",
        "in_flight",
        "shed",
    )

    def __init__(
        self,
        limit: ConcurrencyLimit | int,
        *,
        classify: Classify | None = None,
        retry_after: tuple[int, int] = (1, 5),
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        least, most = retry_after
        if not 1 <= least <= most:
            raise ValueError(f"retry_after must be a range of seconds from 1 on, not {retry_after}")
        self.algorithm: ConcurrencyLimit = FixedLimit(limit) if isinstance(limit, int) else limit
        self._classify = classify
        self._retry_after = retry_after
        self.clock: Final = clock
        # Not for secrets: clients should only not come back together.
        self._rng = rng or random.Random()  # noqa: S311
        self._log_limit = LogLimit(rate=0.2, burst=1)
        self.in_flight: int = 0
        self.admitted: int = 0
        self.shed: int = 0
        self.exempt: int = 0

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return self.algorithm.limit

    # -------------------------------------------------------------- admitting

    def admit(self, request: RequestHeader) -> RequestPermit | None:
        """Ask for a permit.

        Args:
            request: The head.

        Returns:
            The permit, to be released when the exchange has ended; None to `refuse` the request.
        """
        in_flight = self.in_flight
        if self._classify is None:
            if in_flight >= self.algorithm.limit:
                self.shed += 1
                return None
        else:
            priority = self._priority_of(self._classify, request)
            if priority is Priority.EXEMPT:
                self.exempt += 1
                return RequestPermit(None, 0.0)
            if in_flight >= self.algorithm.limit * priority.share:
                self.shed += 1
                return None
        self.in_flight = in_flight + 1
        self.admitted += 1
        return RequestPermit(self, self.clock())

    def _priority_of(self, classify: Classify, request: RequestHeader) -> Priority:
        try:
            return classify(request)
        except Exception:
            if self._log_limit.admit(self.clock()) is not None:
                _logger.exception("%r failed", classify)
            return Priority.NORMAL

    # --------------------------------------------------------------- refusing

    async def refuse(self, session: ServerSession) -> bool:
        """Answer a request that was given no permit.

        Args:
            session: The request: its head was read, and nothing was sent.

        Returns:
            Whether the connection can carry another request: not where the client has a body to
            send that nobody wants.
        """
        self.tell()
        try:
            await session.write_response_header(self.refusal(session.request), end=True)
            return await session.finish()
        except Error as error:
            _logger.debug("a refused client has gone: %s", error)
            session.shutdown()
            return False

    def refusal(self, request: RequestHeader) -> ResponseHeader:
        """Make the answer to a request that was given no permit.

        Args:
            request: Its head.

        Returns:
            The head of the answer, which has no body.
        """
        seconds = self._rng.randint(*self._retry_after)
        content_type = request.get_raw(b"content-type")
        if content_type is not None and content_type.startswith(_GRPC):
            header = ResponseHeader(200)
            header.insert_header("content-type", content_type)
            header.insert_header("grpc-status", _UNAVAILABLE)
            header.insert_header("grpc-message", "overloaded")
            header.insert_header("grpc-retry-pushback-ms", str(seconds * 1000))
            return header
        header = generate_error(503)
        header.insert_header("Retry-After", str(seconds))
        return header

    def tell(self) -> None:
        """Write a line about a refusal, unless there was one just now."""
        suppressed = self._log_limit.admit(self.clock())
        if suppressed is not None:
            _logger.warning(
                "overloaded: %d requests refused; in flight: %d, limit: %d",
                suppressed + 1,
                self.in_flight,
                self.limit,
            )


@final
class RequestPermit:
    """The place of one request; made by `LoadShedder.admit`.

    Args:
        shedder: What has given it; None where the request is not counted.
        began: When it did.
    """

    __slots__ = ("_began", "_shedder")

    def __init__(self, shedder: LoadShedder | None, began: float) -> None:
        self._shedder = shedder
        self._began = began

    def release(self, response: ResponseHeader | None = None) -> None:
        """Give the place up; calling it again does nothing.

        Args:
            response: The final head that was sent, to learn from how long it took; None if there
                was none, or if the time says nothing, as where a tunnel begins.
        """
        shedder = self._shedder
        if shedder is None:
            return
        self._shedder = None
        in_flight = shedder.in_flight
        shedder.in_flight = in_flight - 1
        if response is None:
            return
        now = shedder.clock()
        latency = now - self._began
        status = response.status
        if status < 200 or (latency > _LONG and _is_endless(response)):
            return
        shedder.algorithm.observe(latency, in_flight, now, is_failure=status >= 500)


def _is_endless(response: ResponseHeader) -> bool:
    content_type = response.get_raw(b"content-type")
    return content_type is not None and content_type.startswith(_EVENT_STREAM)
