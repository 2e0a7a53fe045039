"""The half of a TLS stream that deals with OpenSSL: records in, records out.

Asking the library for more plaintext than it can give costs an exception, so complete records are
counted by their five-byte headers (RFC 8446 section 5.1) and it is asked exactly that often. The
count is an upper bound: a record may hold no data but a session ticket, a key update or an alert.
Those are rare, and for them the exception is paid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from OpenSSL import SSL

from pingora_core.protocols.interfaces import Stream
from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.protocols.tls.errors import reason_of
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_core.protocols.digest import Digest

__all__ = ["MAX_PLAINTEXT", "RecordStream"]

MAX_PLAINTEXT: Final = 1 << 14
"""Bytes of plaintext in one record; RFC 8446 section 5.1."""

_HEADER: Final = 5
# RFC 5246 section 6.2.3; TLS 1.3 allows less.
_MAX_CIPHERTEXT: Final = MAX_PLAINTEXT + 2048
# What is encrypted at once. The library's output buffer grows to this size and stays.
_WRITE_SIZE: Final = 1 << 16
# Headers, authentication tags and padding of all records of one write, and then some.
_WRITE_OVERHEAD: Final = 2048


class RecordStream(Stream):
    """The part of a TLS stream below reading: writing, counting records, identity and tuning.

    Args:
        inner: The stream that carries it.
        connection: OpenSSL's connection without a socket.
    """

    __slots__ = (
        "_bio_read",
        "_bio_write",
        "_closed",
        "_connection",
        "_fragment",
        "_inner",
        "_missing",
        "_recv",
        "_send",
    )

    def __init__(self, inner: Stream, connection: SSL.Connection) -> None:
        self._inner = inner
        self._connection = connection
        self._send = connection.send
        self._recv = connection.recv
        self._bio_write = connection.bio_write
        self._bio_read = connection.bio_read
        self._closed = False
        # Bytes of the current record that have not arrived; and the start of a header, which is
        # kept back until the header is complete.
        self._missing = 0
        self._fragment = b""

    # --------------------------------------------------------------- identity

    @property
    def id(self) -> int:
        """The file descriptor of the stream below, or -1."""
        return self._inner.id

    @property
    def digest(self) -> Digest:
        """What is known about the connection, the stream below included."""
        return self._inner.digest

    @property
    def connection(self) -> SSL.Connection:
        """OpenSSL's connection, for looking at; sending or receiving on it breaks the stream."""
        return self._connection

    @property
    def alpn_protocol(self) -> bytes:
        """The protocol that was negotiated, as on the wire; empty if none was."""
        return self._connection.get_alpn_proto_negotiated()

    @property
    def alpn(self) -> ALPN | None:
        """The HTTP version that was negotiated, ``H1`` or ``H2``; None if none was."""
        return ALPN.from_negotiated(self.alpn_protocol)

    # ---------------------------------------------------------------- records

    def _feed(self, data: bytes) -> int:
        """Hand ciphertext to the library.

        Args:
            data: As it arrived.

        Returns:
            How many records are complete by it.
        """
        if self._fragment:
            data = self._fragment + data
            self._fragment = b""
        size = len(data)
        position = self._missing
        if position > size:
            self._missing = position - size
            self._bio_write(data)
            return 0
        records = 1 if position else 0
        while size - position >= _HEADER:
            length = data[position + 3] << 8 | data[position + 4]
            records += 1
            position += _HEADER + length
            if length > _MAX_CIPHERTEXT:
                # Not TLS. Counted as complete, so that the library looks at it and says so.
                self._bio_write(data)
                return records
        if position > size:
            records -= 1
            self._missing = position - size
        else:
            self._missing = 0
            if position < size:
                self._fragment = data[position:]
                data = data[:position]
        if data:
            self._bio_write(data)
        return records

    # ---------------------------------------------------------------- writing

    @property
    def needs_drain(self) -> bool:
        """Whether more is waiting to be sent than is good."""
        return self._inner.needs_drain

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send bytes, without waiting. HOT.

        Args:
            data: What to send.

        Raises:
            Error: ``WRITE_ERROR`` if the connection is lost or broken, ``CONNECTION_CLOSED`` if
                this side has closed it.
        """
        if self._closed:
            raise Error(ErrorType.CONNECTION_CLOSED, "writing after close")
        size = len(data)
        if size > _WRITE_SIZE:
            view = memoryview(data)
            for start in range(0, size, _WRITE_SIZE):
                self.write(view[start : start + _WRITE_SIZE])
            return
        if not size:
            return
        try:
            sent = self._send(data)
            while sent < size:
                sent += self._send(memoryview(data)[sent:])
        except SSL.Error as error:
            raise Error(ErrorType.WRITE_ERROR, f"TLS: {reason_of(error)}", cause=error) from error
        room = size + _WRITE_OVERHEAD
        encrypted = self._bio_read(room)
        self._inner.write(encrypted)
        if len(encrypted) == room:
            self._flush()

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
        while True:
            try:
                encrypted = self._bio_read(_WRITE_SIZE)
            except SSL.WantReadError:
                return
            try:
                self._inner.write(encrypted)
            except Error:
                # The connection is gone; reading tells.
                return

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
