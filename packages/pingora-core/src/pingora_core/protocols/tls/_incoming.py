"""The half of a TLS stream that comes in: ciphertext cut into records, records into plaintext.

Theory of operation. Each record that is complete goes through the library alone, so the library is
asked for plaintext exactly as often as there can be some, and is never handed more than it can use at
once. The beginning of a record waits here for its end.

A record may hold no data but session tickets, a key update, a warning, or nothing at all. Such a
record costs an exception and perhaps an answer, and no deadline ends a flood of them, so a
connection may send only a few more of them than records with data.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from OpenSSL import SSL

from pingora_core.protocols.tls._engine import MAX_PLAINTEXT, SCRATCH_PLAINTEXT
from pingora_core.protocols.tls._records import (
    APPLICATION_DATA,
    HEADER_SIZE,
    NOT_TLS,
    RecordStream,
    end_of_record,
)
from pingora_core.runtime.timers import Deadline, get_timers

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pingora_core.protocols.interfaces import Stream

__all__ = ["RecordReader"]

# Records without data in excess of records with data. Servers send a handful of tickets at the
# start; key updates are hours apart.
_MAX_QUIET: Final = 32
# How long buffers that have grown are kept for more, seconds.
_SHRINK_DELAY: Final = 1.0


class RecordReader(RecordStream):
    """The part of a TLS stream that reads records, and buffers what was in them.

    Args:
        inner: The stream that carries it.
        connection: OpenSSL's connection without a socket.
        read_buffer: Unread bytes of plaintext at which reading pauses.

    Attributes:
        buffered: How many bytes `take` would return now.
        on_session: Called after the handshake when the peer has sent something that is no data,
            such as session tickets; it must not close the stream. None when unset.
    """

    __slots__ = (
        "_buffer",
        "_fragment",
        "_is_over",
        "_peer_finished",
        "_quiet",
        "_read_limit",
        "_shrink_deadline",
        "_waiter",
        "_withheld",
        "buffered",
        "on_data",
        "on_session",
    )

    def __init__(self, inner: Stream, connection: SSL.Connection, read_buffer: int) -> None:
        super().__init__(inner, connection)
        self._read_limit = read_buffer
        self._buffer = b""
        # Not a property, which takes six times as long: it is read several times per request.
        self.buffered: int = 0
        # The beginning of a record whose end has not arrived.
        self._fragment = b""
        self._quiet = 0
        # Whether ciphertext was left in the inner stream because the buffer was full.
        self._withheld = False
        self._waiter: asyncio.Future[bool] | None = None
        self._shrink_deadline: Deadline | None = None
        self._peer_finished = False
        # True once no more records are read: the peer has finished, TLS broke, or this side
        # has closed.
        self._is_over = False
        self.on_data: Callable[[], None] | None = None
        self.on_session: Callable[[], None] | None = None

    # -------------------------------------------------------------- handshake

    def _feed_handshake(self, data: bytes) -> None:
        """Hand all complete records to the library at once.

        Args:
            data: As it arrived.
        """
        data = self._fragment + data
        position = 0
        while (end := end_of_record(data, position)) >= 0:
            position = end
        if end == NOT_TLS:
            # The library says best what is wrong with it.
            position = len(data)
        self._fragment = data[position:]
        if position:
            self._engine.feed(data[:position])

    def _read_early_records(self) -> None:
        """Read what came along with the last flight of the handshake."""
        try:
            while True:
                self._deliver(self._engine.read())
        except SSL.WantReadError:
            self._flush()
        except SSL.Error as error:
            self._fail_reading(error)

    # ---------------------------------------------------------------- reading

    def _decrypt(self) -> None:
        """Take what has arrived, and read the records that it completes. HOT.

        The inner stream calls this when bytes have arrived. While as much as is allowed lies
        unread and nobody waits for more, they stay there.
        """
        if self.buffered >= self._read_limit:
            waiter = self._waiter
            if waiter is None or waiter.done():
                self._withheld = True
                return
        self._withheld = False
        data = self._inner.take()
        size = len(data)
        # The common case first: one record that says it is data, and all of it. The library looks
        # at the rest of its header.
        if (
            size <= HEADER_SIZE
            or data[0] != APPLICATION_DATA
            or data[3] << 8 | data[4] != size - HEADER_SIZE
            or self._fragment
            or self._is_over
        ):
            self._decrypt_several(data)
            return
        engine = self._engine
        try:
            data = engine.decrypt(data)
        except SSL.Error as error:
            failure = self._judge(error)
            if failure is not None:
                self._fail_reading(failure)
            data = b""
        if engine.has_grown and self._shrink_deadline is None:
            self._shrink_later()
        if not data:
            return
        waiter = self._waiter
        if waiter is None or self._quiet or self._buffer or waiter.done():
            self._deliver(data)
            return
        # As `_deliver` does; a call less per record (2026-11).
        self._buffer = data
        self.buffered = len(data)
        self._waiter = None
        waiter.set_result(True)

    def _decrypt_several(self, data: bytes) -> None:
        """Read the complete records of what has arrived, and keep the rest.

        Args:
            data: What has arrived.
        """
        if not data or self._is_over:
            return
        if self._fragment:
            data = self._fragment + data
        end = end_of_record(data, 0)
        engine = self._engine
        pieces: list[bytes] = []
        start = filled = 0
        failure: SSL.Error | None = None
        while failure is None and end >= 0:
            engine.feed(data[start:end])
            try:
                filled = engine.collect(filled)
            except SSL.Error as error:
                if filled:
                    # An answer needs the memory where plaintext is collected.
                    pieces.append(engine.collected(filled))
                    filled = 0
                failure = self._judge(error)
            if filled > SCRATCH_PLAINTEXT - MAX_PLAINTEXT:
                pieces.append(engine.collected(filled))
                filled = 0
            start = end
            end = end_of_record(data, start)
        if filled:
            pieces.append(engine.collected(filled))
        if end == NOT_TLS and failure is None:
            failure = self._provoke(data[start:])
        self._fragment = data[start:]
        if pieces:
            self._deliver(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if failure is not None:
            self._fail_reading(failure)
        elif engine.has_grown and self._shrink_deadline is None:
            self._shrink_later()

    def _judge(self, error: SSL.Error) -> SSL.Error | None:
        """Decide what it means that a record has brought no data.

        Args:
            error: What the library said.

        Returns:
            How reading ends by it; None if it goes on.
        """
        if not isinstance(error, SSL.WantReadError):
            return error
        # It may have made the library answer.
        self._flush()
        self._quiet += 1
        if self._quiet > _MAX_QUIET:
            return SSL.Error([("", "", "too many records without data")])
        if self.on_session is not None:
            self.on_session()
        return None

    def _provoke(self, garbage: bytes) -> SSL.Error:
        """Let the library say what is wrong with bytes that are no record, to the peer too.

        Args:
            garbage: The bytes.

        Returns:
            What it says.
        """
        self._engine.feed(garbage)
        try:
            self._engine.read()
        except SSL.Error as error:
            if not isinstance(error, SSL.WantReadError):
                return error
        # It would like to see more of it.
        return SSL.Error([("", "", "no TLS record")])

    def _deliver(self, data: bytes) -> None:
        """Buffer plaintext and tell whoever waits. HOT.

        Args:
            data: At least one byte.
        """
        if self._quiet and not self._inner.needs_drain:
            # A peer that does not read our answers gets no credit for more.
            self._quiet -= 1
        if self._buffer:
            data = self._buffer + data
        self._buffer = data
        self.buffered = len(data)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(True)
                return
        if self.on_data is not None:
            self.on_data()

    def _call_nobody(self) -> None:
        self.on_data = self.on_session = None

    def _fail_reading(self, error: SSL.Error) -> None:
        self._is_over = True
        if isinstance(error, SSL.ZeroReturnError):
            self._peer_finished = True
            self._end()
        else:
            self._break(error)

    def _break(self, error: SSL.Error) -> None:
        self._is_over = True
        if self._tls_error is None:
            # Later ones follow from the first. The traceback would be a circle of references.
            self._tls_error = error.with_traceback(None)
        # The alert that tells the peer why.
        self._flush()
        self._end()

    @abstractmethod
    def _end(self) -> None:
        """Note that no more plaintext comes, and tell whoever waits."""

    # ---------------------------------------------------------------- shrinking

    def _shrink_later(self) -> None:
        if self._closed or self._shrink_deadline is not None:
            return
        deadline = self._shrink_deadline = Deadline(get_timers(), self._shrink)
        deadline.set(_SHRINK_DELAY)

    def _drop_shrinking(self) -> None:
        if self._shrink_deadline is not None:
            self._shrink_deadline.cancel()
            self._shrink_deadline = None

    def _shrink(self) -> None:
        # Made again when needed, which is at most once in this time.
        self._shrink_deadline = None
        self._engine.shrink()
