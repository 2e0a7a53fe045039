"""The upstream side of HTTP/2: one request on a stream of a shared connection, and its response.

Theory of operation: as in HTTP/1, ``next_task`` is a small state machine over what the stream has
already buffered and never waits. What fails here fails this exchange alone; the connection is the
pool's. All errors leave with source Upstream, save the one given to ``fail``.

Whether a failed request may be sent again is decided here, because only here is it known what the
upstream has said about it: a stream that was refused, or lies above the last one that a GOAWAY
names, was not processed (RFC 9113 sections 6.8 and 8.7); of a connection that just ended nobody
knows.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.http.task import (
    BodyTask,
    HeaderTask,
    TrailerTask,
    UpgradedBodyTask,
)
from pingora_core.protocols.http.v2._client_send_side import RequestSender
from pingora_core.protocols.http.v2._frames import ErrorCode
from pingora_core.protocols.http.v2.headers import decode_response, decode_trailers
from pingora_error import Error, ErrorType, HTTPStatus, RetryType

if TYPE_CHECKING:
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.task import HttpTask
    from pingora_core.protocols.http.v2._carrier import Head
    from pingora_http import ResponseHeader

__all__ = ["HttpSession"]

# 1xx heads before the final one; nothing else ends a response that never comes to its point.
_MAX_INFORMATIONAL: Final = 64

# RFC 9110 section 9.2.2.
_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})

# What the stream will hand out next. Plain numbers, as in HTTP/1.
_HEAD, _BODY, _UPGRADED, _DONE = range(4)


class HttpSession(RequestSender):
    """One HTTP/2 exchange with an upstream.

    Attributes:
        wants_h1: Whether the upstream has shown that it had better be spoken to in HTTP/1.1.
    """

    _state = _HEAD
    _informational = 0
    _response: ResponseHeader | None = None
    _length = -1
    _received = 0
    wants_h1: bool = False

    # ------------------------------------------------------------------ about

    @property
    def digest(self) -> Digest:
        """What is known of the connection below; other exchanges share it."""
        return self.stream.carrier.stream.digest

    @property
    def id(self) -> int:
        """File descriptor of the connection."""
        return self.stream.carrier.stream.id

    @property
    def response_header(self) -> ResponseHeader | None:
        """The final response head (or the 101)."""
        return self._response

    @property
    def body_bytes_received(self) -> int:
        """Payload bytes of the response so far."""
        return self._received

    @property
    def response_done(self) -> bool:
        """Whether the whole response has been read."""
        return self._state == _DONE

    @property
    def can_reuse(self) -> bool:
        """Always False: the connection is not this exchange's to give back."""
        return False

    # ---------------------------------------------------------------- reading

    def next_task(self) -> HttpTask | None:
        """Return the next piece of the response if it is here already.

        Returns:
            The piece, or None when more must arrive first.

        Raises:
            Error: What makes the response malformed.
        """
        state = self._state
        try:
            if state == _BODY:
                return self._next_body()
            if state == _HEAD:
                head = self.stream.next_head()
                return None if head is None else self._next_head(head)
        except Error as error:
            # RFC 9113 section 8.1.1: the stream has failed, whatever else comes on it.
            self.stream.carrier.options.stats.malformed += 1
            self.stream.reset(ErrorCode.PROTOCOL_ERROR)
            raise self._blame(error) from error.cause
        if state == _UPGRADED:
            return self._next_raw()
        return BodyTask(None, end=True)

    async def wait_task(self) -> HttpTask:
        """Wait for the next piece, after :meth:`next_task` has found none.

        Returns:
            The piece.

        Raises:
            Error: ``READ_TIMEDOUT``; ``CONNECTION_CLOSED`` or ``H2_ERROR`` when the upstream gave
                the stream or the connection up, ``H2_DOWNGRADE`` when it asks for HTTP/1.1,
                ``INVALID_H2`` when what it says is no HTTP/2; what makes the response malformed;
                or the error given to :meth:`fail`.
        """
        while True:
            try:
                await self.stream.wait(self.read_timeout)
            except Error as error:
                raise self._judge(error) from error.cause
            task = self.next_task()
            if task is not None:
                return task

    def _next_head(self, head: Head) -> HttpTask:
        fields, end, kind = head
        if kind == "trailers":
            raise Error(ErrorType.INVALID_HTTP_HEADER, "trailers without a final response")
        connects = self._protocol is not None or self._method == b"CONNECT"
        response, length = decode_response(
            fields,
            end_stream=end,
            request_method=b"CONNECT" if connects else self._method,
            limits=self._limits,
        )
        status = response.status
        if status < 200:
            self._informational += 1
            if self._informational > _MAX_INFORMATIONAL:
                raise Error(ErrorType.H2_ERROR, "too many informational responses")
            return HeaderTask(response, end=False)
        self._response = response
        if connects:
            if status < 300:
                return self._switch(response)
            # It refuses; there is nothing more to tell it, if it has not stopped listening
            # already (RST_STREAM with NO_ERROR, RFC 9113 section 8.1).
            with suppress(Error):
                self._end_tunnel()
        self._length = length
        if end:
            self._state = _DONE
            return HeaderTask(response, end=True)
        self._state = _BODY
        return HeaderTask(response, end=False)

    def _switch(self, response: ResponseHeader) -> HttpTask:
        self._state = _UPGRADED
        self._present_as_upgrade(response)
        return HeaderTask(response, end=False)

    def _next_body(self) -> HttpTask | None:
        stream = self.stream
        data = stream.take_body()
        if data is not None:
            self._received += len(data)
            if 0 <= self._length < self._received:
                raise Error(ErrorType.H2_ERROR, "more content than Content-Length announced")
            if stream.has_end and stream.is_receive_ended:
                self._finish_response()
                return BodyTask(data, end=True)
            return BodyTask(data, end=False)
        head = stream.next_head()
        if head is not None:
            trailers = decode_trailers(head.fields, limits=self._limits)
            self._finish_response()
            return TrailerTask(trailers or None)
        if stream.has_end:
            self._finish_response()
            return BodyTask(None, end=True)
        return None

    def _next_raw(self) -> HttpTask | None:
        stream = self.stream
        data = stream.take_body()
        if data is not None:
            self._received += len(data)
            return UpgradedBodyTask(data, end=False)
        if stream.has_end:
            self._state = _DONE
            return UpgradedBodyTask(None, end=True)
        return None

    def _finish_response(self) -> None:
        if self._received < self._length:
            raise Error(
                ErrorType.H2_ERROR,
                f"the response ended {self._length - self._received} bytes before its"
                " Content-Length",
            )
        self._state = _DONE

    # ----------------------------------------------------------------- errors

    def _judge(self, error: Error) -> Error:
        # Says what an error of the stream means, and whether the request may be sent again.
        if error is self._failure:
            return error
        if error.etype is ErrorType.READ_TIMEDOUT:
            # Slow, or gone? Other exchanges want to know too.
            self.stream.carrier.probe()
            return error.as_up()
        error.as_up()
        if self._state != _HEAD or self._informational:
            # It was processed, whatever else may be known.
            error.retry = RetryType.NO_RETRY
            return error
        code = self.stream.reset_code
        if code == ErrorCode.HTTP_1_1_REQUIRED:
            error.etype = ErrorType.H2_DOWNGRADE
            self._downgrade(error, safe=True)
        elif code == ErrorCode.REFUSED_STREAM:
            error.retry = RetryType.RETRY
        elif code is not None:
            error.etype = ErrorType.H2_ERROR
        elif error.etype is ErrorType.INVALID_H2:
            self._downgrade(error, safe=self._method in _IDEMPOTENT)
        elif error.retry is not RetryType.RETRY:
            # As in HTTP/1: not a byte of an answer.
            error.retry = RetryType.REUSED_ONLY
        return error

    def _downgrade(self, error: Error, *, safe: bool) -> None:
        self.wants_h1 = self._allows_h1
        error.retry = RetryType.RETRY if safe and self._allows_h1 else RetryType.NO_RETRY

    def _blame(self, error: Error) -> Error:
        if error is self._failure:
            return error
        if isinstance(error.etype, HTTPStatus):
            # The status is for the sender of a bad request; of a bad response it tells nothing.
            error.etype = ErrorType.INVALID_HTTP_HEADER
        return error.as_up()

    # ----------------------------------------------------------------- ending

    def shutdown(self) -> None:
        """Give the exchange up: the stream is reset unless it has ended, others go on."""
        self.stream.reset(ErrorCode.CANCEL)
