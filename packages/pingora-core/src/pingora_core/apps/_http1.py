"""The loop over the requests of one HTTP/1 connection, and how it comes to its end.

Theory of operation. The connection's own task makes one session after another on the stream for as
long as the exchanges leave it reusable. That the server stops is noticed through a callback. What has
arrived by then, in part or whole, is served; a response whose head is not sent yet says
``Connection: close``, unless requests that were there already wait behind it. A connection without a
request is closed, but not while its client may have one on the way: one that was used just now, or
whose last response promised to keep it, gets a moment longer.

Rules of this file: the end is told by a FIN, and what still comes is read and dropped for a bounded
time. Closing with unread input resets the connection, and a client that had just sent its next
request could not tell that from a crash (RFC 9112 section 9.6).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from pingora_core.protocols.http.v1._request_side import PLACEHOLDER
from pingora_core.protocols.http.v1.server import HttpSession
from pingora_core.protocols.http.v2._frames import PREFACE
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_core.apps._http_options import HttpServerOptions
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = ["Http1Connection"]

# Seconds after which a connection is looked at again that has bytes which are no request yet.
_LOOK_AGAIN: Final = 0.05
# How long a client that is told of the end may take to end its direction, seconds: one that was
# idle, and one that has a response to read.
_IDLE_LINGER: Final = 0.1
_LINGER: Final = 1.0


class _App(Protocol):
    """What the loop needs of an application.

    Attributes:
        server_options: How clients are spoken to.
    """

    server_options: HttpServerOptions

    async def process_new_http(self, session: ServerSession, shutdown: ShutdownWatch) -> bool:
        """Serve one request.

        Args:
            session: A session on which nothing was read yet.
            shutdown: Tells when the server stops.

        Returns:
            Whether the connection can carry another request.
        """


class Http1Connection:
    """A client's connection.

    Args:
        app: Serves the requests.
        stream: The connection; left open only where it turns out to be HTTP/2.
        shutdown: Tells when the server stops; its owner has `on_shutdown` subscribed.
    """

    __slots__ = (
        "_app",
        "_clock",
        "_deadline",
        "_is_undecided",
        "_owed",
        "_session",
        "_shutdown",
        "_stream",
        "_used_at",
    )

    def __init__(self, app: _App, stream: Stream, shutdown: ShutdownWatch) -> None:
        self._app = app
        self._stream = stream
        self._shutdown = shutdown
        self._session: HttpSession | None = None
        self._clock = asyncio.get_running_loop().time
        self._used_at = self._clock()
        self._deadline: Deadline | None = None
        # Whether it is not known yet which version is spoken.
        self._is_undecided = False
        # How many bytes that had arrived when the server began to stop are to be served, what the
        # current request has taken of them included.
        self._owed = 0

    # --------------------------------------------------------------- shutdown

    def on_shutdown(self) -> None:
        """Begin to end: at once if it is idle, else after what has arrived."""
        self._owed = self._stream.pending_input()
        session = self._session
        if session is not None:
            session.goes_on = self._goes_on
            self._owed += session.head_size + session.body_bytes_read
        self._end_if_idle()

    def _goes_on(self) -> bool:
        # Whether a response may promise to keep the connection although the server stops.
        session = self._session
        return (
            session is not None
            and session.is_body_done
            and self._owed > session.head_size + session.body_bytes_read
            and self._stream.pending_input() > 0
        )

    def _end_if_idle(self) -> None:
        session = self._session
        if not (self._is_undecided or (session is not None and session.is_idle)):
            return
        if self._stream.pending_input():
            # The loop has not seen it, or it is half a record of TLS.
            self._look_again(_LOOK_AGAIN)
            return
        left = self._used_at + self._app.server_options.idle_grace - self._clock()
        if left > 0:
            self._look_again(left)
        else:
            self._stream.fail(Error.internal(ErrorType.CONNECTION_CLOSED, "shutting down"))

    def _look_again(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = Deadline(get_timers(), self._end_if_idle)
        self._deadline.set(seconds)

    def release(self) -> None:
        """Look no more whether it is idle; for the end, or for HTTP/2."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # ---------------------------------------------------------------- running

    async def prefers_http2(self) -> bool:
        """Find out which version is spoken in clear, by the first byte that differs.

        Returns:
            Whether the client has sent the preface of HTTP/2; what was read is unread again.
        """
        stream = self._stream
        options = self._app.server_options
        timeout = options.http1.keepalive_timeout
        self._is_undecided = True
        if self._shutdown.is_shutting_down:
            self._look_again(options.idle_grace)
        try:
            while True:
                data = stream.take()
                stream.unread(data)
                # A short HTTP/1.0 request waits for nobody.
                if len(data) >= len(PREFACE) or not PREFACE.startswith(data):
                    return data.startswith(PREFACE)
                if not await stream.fill(timeout):
                    return False
                timeout = options.http2.preface_timeout
        except Error:
            # Idle for too long, reset, or told to go: the loop finds the same and closes.
            return False
        finally:
            self._is_undecided = False

    async def run(self) -> None:
        """Serve requests until the connection ends."""
        app = self._app
        stream = self._stream
        options = app.server_options
        http1 = options.http1
        shutdown = self._shutdown
        clock = self._clock
        remaining = options.keepalive_request_limit
        digest = stream.digest
        previous: HttpSession | None = None
        while True:
            session = self._session = HttpSession(stream, http1, digest)
            session.shutdown_watch = shutdown
            if previous is not None:
                session.idle_timeout = previous.idle_timeout
                session.connection_context = previous.connection_context
            if remaining is not None:
                remaining -= 1
                session.last_request = remaining <= 0
            if shutdown.is_shutting_down:
                session.goes_on = self._goes_on
                self._look_again(options.idle_grace)
            if not await app.process_new_http(session, shutdown) or stream.is_closed:
                break
            self._used_at = clock()
            if shutdown.is_shutting_down:
                self._owed -= session.head_size + session.body_bytes_read
            previous = session
            if stream.buffered:
                # One client's pipelined requests must not keep the others waiting: without a
                # pause, an application that awaits nothing would answer all of them first.
                await asyncio.sleep(0)
        if not stream.is_closed:
            self._close(session)

    def _close(self, session: HttpSession) -> None:
        if self._shutdown.is_shutting_down:
            was_idle = session.request is PLACEHOLDER
            self._stream.close(discard_input=True, linger=_IDLE_LINGER if was_idle else _LINGER)
        else:
            self._stream.close(
                discard_input=session.is_refused
                or session.last_request
                or not session.is_body_done
                or self._stream.buffered > 0
            )
