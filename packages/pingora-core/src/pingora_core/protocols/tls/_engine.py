"""OpenSSL's connection as a machine that turns ciphertext into plaintext and back. HOT.

Theory of operation. pyOpenSSL allocates a buffer for every call, of the size that is asked for, and
looks for an error after every call, whether there was one or not: five microseconds of CPU for a
record in and a record out, where the library itself takes two (2026-11). So these few calls go
past it, to the same library; its objects stay in charge of lifetimes, errors and callbacks. A record
in is two calls of the library, and so is a record out.

The memory that OpenSSL writes to belongs to the thread, not to the connection: what comes out is
copied from it before anybody else runs. The two buffers between OpenSSL and this module hold one
record at a time, and once they have held a big one they can be given up for new ones: an idle
connection keeps what it needs, not what it once needed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.bindings.openssl.binding import Binding

from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["MAX_PLAINTEXT", "SCRATCH_PLAINTEXT", "Engine"]

MAX_PLAINTEXT: Final = 1 << 14
"""Bytes of plaintext in one record; RFC 8446 section 5.1."""

# Records that are decrypted or encrypted before their bytes are copied out.
_RECORDS: Final = 4
SCRATCH_PLAINTEXT: Final = _RECORDS * MAX_PLAINTEXT
"""Bytes of plaintext that can be collected before `Engine.collected` must be called."""

# Beside the plaintext of a full record: header, tag and padding, many times if the peer has
# asked for small records (RFC 6066 section 4).
_OVERHEAD: Final = 4096
_SLOT: Final = MAX_PLAINTEXT + _OVERHEAD
_SCRATCH_SIZE: Final = _RECORDS * _SLOT
# Size of a record from which on OpenSSL's buffers have grown too big to be kept while idle.
_BIG: Final = 2048

_lib: Final = Binding.lib
_ffi: Final = Binding.ffi
_SSL_read: Final = _lib.SSL_read
_SSL_write: Final = _lib.SSL_write
_BIO_read: Final = _lib.BIO_read
_BIO_write: Final = _lib.BIO_write


class _Scratch(threading.local):
    """Where OpenSSL writes to; one for each thread, because it runs without Python's lock."""

    def __init__(self) -> None:
        self.memory = _ffi.new("char[]", _SCRATCH_SIZE)
        # The same for copying from: a slice of it is bytes. With one made for each copy, copying
        # takes three times as long (2026-11).
        self.view = _ffi.buffer(self.memory)


_scratch: Final = _Scratch()


class Engine:
    """The records of one connection. Used by the thread that has made it.

    Args:
        connection: OpenSSL's connection without a socket.

    Attributes:
        connection: The same.
        has_grown: Whether `shrink` has something to give up.
    """

    __slots__ = ("_incoming", "_memory", "_outgoing", "_ssl", "_view", "connection", "has_grown")

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection
        self._ssl = connection._ssl  # noqa: SLF001
        self._incoming = connection._into_ssl  # noqa: SLF001
        self._outgoing = connection._from_ssl  # noqa: SLF001
        self._memory = _scratch.memory
        self._view = _scratch.view
        self.has_grown = False

    def feed(self, data: bytes) -> None:
        """Hand over ciphertext, for the handshake or to be read.

        Args:
            data: One or more bytes.
        """
        size = len(data)
        if size > _BIG:
            self.has_grown = True
        _BIO_write(self._incoming, data, size)

    def decrypt(self, record: bytes) -> bytes:
        """Read the plaintext of a record: `feed` and `read` in one call.

        Args:
            record: Ciphertext of one record, all of it.

        Returns:
            At least one byte.

        Raises:
            SSL.Error: As `read` does.
        """
        size: int = len(record)
        if size > _BIG:
            self.has_grown = True
        _BIO_write(self._incoming, record, size)
        size = _SSL_read(self._ssl, self._memory, MAX_PLAINTEXT)
        if size <= 0:
            self._fail(size)
        plaintext: bytes = self._view[:size]
        return plaintext

    def read(self) -> bytes:
        """Read the plaintext of one record.

        Returns:
            At least one byte.

        Raises:
            SSL.Error: ``WantReadError`` if there is no record with data, ``ZeroReturnError`` for
                ``close_notify``, others for failures.
        """
        size: int = _SSL_read(self._ssl, self._memory, MAX_PLAINTEXT)
        if size <= 0:
            self._fail(size)
        return self.collected(size)

    def collect(self, offset: int) -> int:
        """Read the plaintext of one record, and leave it in the thread's memory for now.

        Args:
            offset: Where in it, at most ``SCRATCH_PLAINTEXT - MAX_PLAINTEXT``.

        Returns:
            Where it ends.

        Raises:
            SSL.Error: As `read` does.
        """
        size: int = _SSL_read(self._ssl, self._memory + offset, MAX_PLAINTEXT)
        if size <= 0:
            self._fail(size)
        return offset + size

    def collected(self, size: int) -> bytes:
        """Copy the beginning of the thread's memory, before anybody else runs.

        Args:
            size: How many bytes were collected there.

        Returns:
            The bytes.
        """
        copied: bytes = self._view[:size]
        return copied

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """Make a record.

        Args:
            data: Plaintext, at least one byte and at most `MAX_PLAINTEXT`.

        Returns:
            Ciphertext: the record, after what OpenSSL had to say before it.

        Raises:
            SSL.Error: If the connection is broken.
        """
        size = len(data)
        if size > _BIG:
            self.has_grown = True
        plaintext = data if type(data) is bytes else _ffi.from_buffer(data)
        sent: int = _SSL_write(self._ssl, plaintext, size)
        if sent != size:
            self._write_rest(data, sent, size)
        # As `take_output` does; a call less per record (2026-11).
        size = _BIO_read(self._outgoing, self._memory, _SCRATCH_SIZE)
        if size <= 0:
            return b""
        ciphertext: bytes = self._view[:size]
        return ciphertext

    def encrypt_long(self, data: bytes | bytearray | memoryview, start: int) -> tuple[bytes, int]:
        """Make full records, as many as fit into the thread's memory.

        Args:
            data: Plaintext.
            start: Where in it to begin.

        Returns:
            Ciphertext, and where in the plaintext it ends.

        Raises:
            SSL.Error: If the connection is broken.
        """
        self.has_grown = True
        plaintext = _ffi.from_buffer(data)
        memory, outgoing = self._memory, self._outgoing
        end = len(plaintext)
        filled = 0
        while start < end and filled + _SLOT <= _SCRATCH_SIZE:
            size = min(end - start, MAX_PLAINTEXT)
            sent: int = _SSL_write(self._ssl, plaintext + start, size)
            if sent != size:
                self._write_rest(data, start + sent if sent > 0 else sent, start + size)
            filled += max(0, _BIO_read(outgoing, memory + filled, _SCRATCH_SIZE - filled))
            start += size
        return self.collected(filled), start

    def take_output(self) -> bytes:
        """Take what OpenSSL wants to say by itself: handshake, answers, alerts.

        Returns:
            Ciphertext, in pieces: until it is empty.
        """
        size: int = _BIO_read(self._outgoing, self._memory, _SCRATCH_SIZE)
        if size <= 0:
            # Not a slice up to -1: that would be what others have left in the memory.
            return b""
        ciphertext: bytes = self._view[:size]
        return ciphertext

    def shrink(self) -> None:
        """Give up buffers that have grown, if they are empty."""
        null = _ffi.NULL
        if _lib.BIO_get_mem_data(self._incoming, null) or _lib.BIO_get_mem_data(
            self._outgoing, null
        ):
            return
        kind = _lib.BIO_s_mem()
        incoming, outgoing = _lib.BIO_new(kind), _lib.BIO_new(kind)
        if null in {incoming, outgoing}:
            _lib.BIO_free(incoming)
            _lib.BIO_free(outgoing)
            return
        # The library frees the old ones.
        _lib.SSL_set_bio(self._ssl, incoming, outgoing)
        connection = self.connection
        self._incoming = connection._into_ssl = incoming  # noqa: SLF001
        self._outgoing = connection._from_ssl = outgoing  # noqa: SLF001
        self.has_grown = False

    # ---------------------------------------------------------------- private

    def _write_rest(self, data: bytes | bytearray | memoryview, position: int, end: int) -> None:
        """Go on after a record that holds less than was meant to be in it.

        That happens only if the peer wants small records and the context's mode lets the
        library stop after each.

        Args:
            data: Plaintext.
            position: How far the library has got; not positive if it has failed.
            end: How far it should get.
        """
        if position <= 0:
            self._fail(position)
        plaintext = _ffi.from_buffer(data)
        while position < end:
            sent: int = _SSL_write(self._ssl, plaintext + position, end - position)
            if sent <= 0:
                self._fail(sent)
            position += sent

    def _fail(self, result: int) -> None:
        self.connection._raise_ssl_error(self._ssl, result)  # noqa: SLF001
        # It always raises after a result that is not positive.
        raise Error(ErrorType.INTERNAL_ERROR, f"OpenSSL returned {result} without an error")
