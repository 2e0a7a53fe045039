"""The half of a TLS stream that goes out, and what records look like from outside.

Theory of operation. What is written in one turn of the event loop goes out as one record at its end,
as the stream below would send it: a head and its body cost one encryption and one system call. What
does not fit into a record is encrypted at once, in full ones.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from OpenSSL import SSL

from pingora_core.protocols.interfaces import Stream
from pingora_core.protocols.l4._batch import get_batch
from pingora_core.protocols.l4._transport import TransportStream
from pingora_core.protocols.tls._engine import MAX_PLAINTEXT, Engine
from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.protocols.tls.errors import reason_of
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_core.protocols.digest import Digest

__all__ = [
    "APPLICATION_DATA",
    "HEADER_SIZE",
    "INCOMPLETE",
    "NOT_TLS",
    "RecordStream",
    "end_of_record",
]

APPLICATION_DATA: Final = 23
"""Type of records with data, and under TLS 1.3 of all that are encrypted; RFC 8446 section 5.2."""

HEADER_SIZE: Final = 5
"""Bytes before the content of a record: type, version and length; RFC 8446 section 5.1."""

INCOMPLETE: Final = -1
"""`end_of_record`: more bytes are needed."""

NOT_TLS: Final = -2
"""`end_of_record`: no TLS record begins like this."""

# change_cipher_spec, alert, handshake, application_data, heartbeat; RFC 8446 appendix B.1.
_FIRST_TYPE: Final = 20
_LAST_TYPE: Final = 24
# RFC 5246 section 6.2.3; TLS 1.3 allows less.
_MAX_CIPHERTEXT: Final = MAX_PLAINTEXT + 2048


def end_of_record(data: bytes, start: int) -> int:
    """Find where a record ends, by its header (RFC 8446 section 5.1). HOT.

    Args:
        data: Ciphertext.
        start: Where the record begins.

    Returns:
        Where the next one begins; `INCOMPLETE` or `NOT_TLS`.
    """
    size = len(data)
    if size - start < HEADER_SIZE:
        return INCOMPLETE
    length = data[start + 3] << 8 | data[start + 4]
    if (
        length > _MAX_CIPHERTEXT
        or data[start + 1] != 3
        or not _FIRST_TYPE <= data[start] <= _LAST_TYPE
    ):
        return NOT_TLS
    end = start + HEADER_SIZE + length
    return end if end <= size else INCOMPLETE


class RecordStream(Stream):
    """The part of a TLS stream beside reading: writing, identity and tuning.

    Args:
        inner: The stream that carries it.
        connection: OpenSSL's connection without a socket.

    Attributes:
        id: The file descriptor of the stream below, or -1.
    """

    __slots__ = (
        "_batch",
        "_closed",
        "_engine",
        "_halted",
        "_inner",
        "_loop",
        "_outgoing",
        "_outgoing_size",
        "_socket_stream",
        "_tls_error",
        "id",
    )

    def __init__(self, inner: Stream, connection: SSL.Connection) -> None:
        self._inner = inner
        # Not a property, which takes six times as long: the pool asks with each request.
        self.id: int = inner.id
        self._engine = Engine(connection)
        self._loop = asyncio.get_running_loop()
        self._batch = get_batch(self._loop)
        # The same as `_inner` if it has a way for what has waited for the end of the turn already.
        self._socket_stream = inner if isinstance(inner, TransportStream) else None
        # What was written in this turn and goes out at its end.
        self._outgoing: list[bytes | bytearray | memoryview] = []
        self._outgoing_size = 0
        self._tls_error: SSL.Error | None = None
        self._closed = False
        # True once no more plaintext can come, whatever the reason.
        self._halted = False

    # --------------------------------------------------------------- identity

    @property
    def digest(self) -> Digest:
        """What is known about the connection, the stream below included."""
        return self._inner.digest

    @property
    def connection(self) -> SSL.Connection:
        """OpenSSL's connection, for looking at; sending or receiving on it breaks the stream."""
        return self._engine.connection

    @property
    def alpn_protocol(self) -> bytes:
        """The protocol that was negotiated, as on the wire; empty if none was."""
        return self._engine.connection.get_alpn_proto_negotiated()

    @property
    def alpn(self) -> ALPN | None:
        """The HTTP version that was negotiated, ``H1`` or ``H2``; None if none was."""
        return ALPN.from_negotiated(self.alpn_protocol)

    # ---------------------------------------------------------------- writing

    @property
    def needs_drain(self) -> bool:
        """Whether more is waiting to be sent than is good."""
        return self._inner.needs_drain

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send bytes, without waiting: small ones at the end of this turn. HOT.

        Args:
            data: What to send; kept by reference, so it must not change afterwards.

        Raises:
            Error: ``WRITE_ERROR`` if the connection is lost or broken, ``CONNECTION_CLOSED`` if
                this side has closed it.
        """
        if self._halted:
            self._check_writable()
        size = self._outgoing_size + len(data)
        if size > MAX_PLAINTEXT:
            self.flush_writes()
            size = len(data)
            if size > MAX_PLAINTEXT:
                self._write_long(data)
                return
        if not self._outgoing:
            waiting = self._batch.waiting
            if waiting:
                waiting.append(self)  # as `add` does; a call less per write (2026-11)
            else:
                self._batch.add(self)
        self._outgoing.append(data)
        self._outgoing_size = size

    def flush_writes(self) -> None:
        """Encrypt and send what was held back; the end of the turn calls this. HOT."""
        outgoing = self._outgoing
        if not outgoing:
            return
        data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
        outgoing.clear()
        self._outgoing_size = 0
        if not data:
            return
        try:
            ciphertext = self._engine.encrypt(data)
        except SSL.Error as error:
            self._break(error)
            return
        # As `_send` does; a call less per record (2026-11).
        below = self._socket_stream
        try:
            if below is not None:
                below.write_through(ciphertext)
            else:
                self._inner.write(ciphertext)
        except Error:
            # The connection is gone; reading tells.
            return
        if self._engine.has_grown:
            self._shrink_later()

    def _write_long(self, data: bytes | bytearray | memoryview) -> None:
        position, size = 0, len(data)
        while position < size:
            try:
                ciphertext, position = self._engine.encrypt_long(data, position)
            except SSL.Error as error:
                self._break(error)
                msg = f"TLS: {reason_of(error)}"
                raise Error(ErrorType.WRITE_ERROR, msg, cause=error) from error
            self._send(ciphertext)
        self._shrink_later()

    def _check_writable(self) -> None:
        if self._closed:
            raise Error(ErrorType.CONNECTION_CLOSED, "writing after close")
        cause = self._tls_error
        if cause is not None:
            raise Error(ErrorType.WRITE_ERROR, f"TLS: {reason_of(cause)}", cause=cause) from cause
        if self._inner.is_closed:
            raise Error(ErrorType.WRITE_ERROR, "the connection below TLS is lost")

    async def drain(self, timeout: float | None = None) -> None:
        """Wait until what is waiting to be sent has shrunk; see `Stream.drain`.

        Args:
            timeout: Longest wait, seconds; None for no limit.
        """
        await self._inner.drain(timeout)

    @property
    def can_write_eof(self) -> bool:
        """Always False: peers close altogether when they see ``close_notify``."""
        return False

    def write_eof(self) -> None:
        """Refuse: this side's direction cannot be ended alone.

        Raises:
            Error: ``WRITE_ERROR``, always.
        """
        raise Error(ErrorType.WRITE_ERROR, "TLS cannot end one direction alone")

    def _flush(self) -> None:
        """Send what the library wants to say by itself: handshake, answers, alerts."""
        while ciphertext := self._engine.take_output():
            try:
                self._send(ciphertext)
            except Error:
                # The connection is gone; reading tells.
                return

    def _send(self, ciphertext: bytes) -> None:
        below = self._socket_stream
        if below is not None:
            below.write_through(ciphertext)
        else:
            self._inner.write(ciphertext)

    @abstractmethod
    def _break(self, error: SSL.Error) -> None:
        """Note that the library cannot go on, and tell whoever waits.

        Args:
            error: What it said.
        """

    @abstractmethod
    def _shrink_later(self) -> None:
        """Give up big buffers when there was time to use them again."""

    # ----------------------------------------------------------------- tuning

    def set_nodelay(self, *, enabled: bool = True) -> None:
        """Send small segments at once; see `Stream.set_nodelay`.

        Args:
            enabled: False lets the kernel collect small writes.
        """
        self._inner.set_nodelay(enabled=enabled)

    def set_keepalive(
        self, *, idle: float, interval: float, count: int, user_timeout: float = 0
    ) -> None:
        """Probe an idle connection; see `Stream.set_keepalive`.

        Args:
            idle: Silence before the first probe, whole seconds.
            interval: Time between probes, whole seconds.
            count: Unanswered probes after which the connection is dead.
            user_timeout: How long sent bytes may stay unacknowledged, seconds; 0 for the
                system's own limit.
        """
        self._inner.set_keepalive(
            idle=idle, interval=interval, count=count, user_timeout=user_timeout
        )
