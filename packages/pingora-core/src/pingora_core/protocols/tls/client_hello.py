"""The first message of a TLS client, read before any TLS library sees it.

Theory of operation. The bytes at the start of a connection are TLS records (RFC 8446 section 5.1)
whose payloads, put together, are one handshake message (section 4.1.2). `ClientHelloParser` takes
the bytes in whatever pieces they arrive, unpacks each record once and parses the message when its
last byte is there, so its work grows with the bytes and not with the number of pieces.

Lengths are judged strictly: a vector that does not fill its field exactly, a repeated extension
or an extension read here with a malformed body is refused. A router and the server behind it must
not read two names out of one hello. What is unknown is kept and not judged: later extensions,
cipher suites, versions and the reserved GREASE values (RFC 8701).

No ClientHello is authenticated: whoever is on the wire can write one. What it says is good for
choosing a certificate or a server, not for trusting a client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pingora_error import Error, ErrorType

__all__ = [
    "MAX_CLIENT_HELLO",
    "UNRECOGNIZED_NAME",
    "ClientHello",
    "ClientHelloParser",
    "fatal_alert",
    "looks_like_http",
    "parse_client_hello",
]

MAX_CLIENT_HELLO: Final = 16384
"""Bytes from the start of the connection to the end of the hello, the record headers included.

With post-quantum key shares a hello is about 2 KiB.
"""

UNRECOGNIZED_NAME: Final = 112
"""The alert for a server name that nobody here answers to; RFC 6066 section 3."""

_ALERT: Final = 21
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_HEADER: Final = 5
_MAX_PLAINTEXT: Final = 1 << 14

# IANA, TLS ExtensionType values.
_SERVER_NAME: Final = 0
_SUPPORTED_GROUPS: Final = 10
_SIGNATURE_ALGORITHMS: Final = 13
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43

# Letters, digits, hyphens, not at the edges of a label (RFC 5890 section 2.3.1); underscores, too,
# because inner networks have them.
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*"
    r"(?!\d+\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
).fullmatch
_METHODS: Final = (
    b"CONNECT ",
    b"DELETE ",
    b"GET ",
    b"HEAD ",
    b"OPTIONS ",
    b"PATCH ",
    b"POST ",
    b"PRI ",
    b"PUT ",
    b"TRACE ",
)
_REQUEST_START = re.compile(rb"[A-Z][A-Z_-]{1,31} [\x21-\x7e]").match


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client offers and asks for; lists are in its order, GREASE values included.

    Attributes:
        legacy_version: The version field; 0x0303 for TLS 1.2 and everything later.
        random: 32 bytes.
        session_id: 0 to 32 bytes.
        cipher_suites: Their numbers.
        extensions: Type and body of each.
        server_name: The host it wants (SNI) in lower case, without a dot at its end; None if it
            names none, or one that is no host name, such as an IP address.
        alpn_protocols: Application protocols as on the wire, the preferred one first.
        supported_versions: Versions offered by the extension of that name; empty before TLS 1.3.
        groups: Groups for the key exchange.
        signature_algorithms: Signature algorithms.
        raw: The handshake message with its four-byte header, without record headers.
    """

    legacy_version: int
    random: bytes
    session_id: bytes
    cipher_suites: tuple[int, ...]
    extensions: tuple[tuple[int, bytes], ...]
    server_name: str | None
    alpn_protocols: tuple[bytes, ...]
    supported_versions: tuple[int, ...]
    groups: tuple[int, ...]
    signature_algorithms: tuple[int, ...]
    raw: bytes

    def extension(self, number: int) -> bytes | None:
        """Find an extension.

        Args:
            number: Its type.

        Returns:
            Its body, which may be empty; None if the client did not send it.
        """
        return next((body for kind, body in self.extensions if kind == number), None)


class ClientHelloParser:
    """Takes a connection's first bytes in pieces until its ClientHello is complete.

    Args:
        max_size: Most bytes until the end of the hello, the record headers included.
    """

    __slots__ = ("_consumed", "_max_size", "_message", "_pending")

    def __init__(self, max_size: int = MAX_CLIENT_HELLO) -> None:
        self._max_size = max_size
        self._message = bytearray()
        # What follows the last complete record, and how much lies before it.
        self._pending = b""
        self._consumed = 0

    def feed(self, data: bytes) -> ClientHello | None:
        """Take more bytes; not to be called again once it has returned a hello or raised.

        Args:
            data: What arrived, in order; what follows the hello is not looked at.

        Returns:
            The hello, or None while it is incomplete.

        Raises:
            Error: ``HANDSHAKE_ERROR`` if no acceptable ClientHello can come of it; the context
                says what came instead.
        """
        data = self._pending + data
        position = 0
        end = len(data)
        while position < end:
            record_end = self._record_end(data, position)
            if record_end is None or record_end > end:
                break
            self._message += data[position + _HEADER : record_end]
            position = record_end
            if self._is_complete():
                return _parse_message(bytes(self._message))
        self._pending = data[position:]
        self._consumed += position
        # One more byte at least is to come.
        self._check_size(self._consumed + len(self._pending) + 1)
        return None

    def _record_end(self, data: bytes, position: int) -> int | None:
        # Judges as much of the header as is there; None if that is not all of it.
        header = data[position : position + _HEADER]
        if header[0] != _HANDSHAKE:
            if self._message:
                raise _refused(f"a TLS record of type {header[0]} within a ClientHello")
            raise _refused(_describe_start(data))
        if len(header) > 1 and header[1] != 3:
            raise _refused(f"a TLS record of version {header[1]}")
        if len(header) < _HEADER:
            return None
        size = int.from_bytes(header[3:], "big")
        if not 1 <= size <= _MAX_PLAINTEXT:
            raise _refused(f"a TLS record of {size} bytes")
        record_end = position + _HEADER + size
        self._check_size(self._consumed + record_end)
        return record_end

    def _check_size(self, size: int) -> None:
        if size > self._max_size:
            raise _refused(f"a ClientHello of more than {self._max_size} bytes")

    def _is_complete(self) -> bool:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise _refused(f"a handshake message of type {message[0]} instead of a ClientHello")
        if len(message) < 4:
            return False
        size = 4 + int.from_bytes(message[1:4], "big")
        self._check_size(size)
        if len(message) > size:
            raise _refused("a ClientHello that ends within a record")
        return len(message) == size


def parse_client_hello(data: bytes, *, max_size: int = MAX_CLIENT_HELLO) -> ClientHello | None:
    """Parse the start of a connection; for bytes that come in pieces see `ClientHelloParser`.

    Args:
        data: All that has arrived from the first byte on.
        max_size: Most bytes until the end of the hello, the record headers included.

    Returns:
        The hello, or None if it is incomplete.

    Raises:
        Error: ``HANDSHAKE_ERROR`` if no acceptable ClientHello can come of it; the context says
            what came instead.
    """
    return ClientHelloParser(max_size).feed(data)


def looks_like_http(data: bytes) -> bool:
    """Tell whether a connection begins with an HTTP request in clear instead of TLS.

    Args:
        data: What has arrived from the first byte on.

    Returns:
        True if it begins with a method and a space, or, where that much has not arrived, with the
        start of a well-known method.
    """
    if not data:
        return False
    known = any(method.startswith(data) for method in _METHODS)
    return known or data.startswith(_METHODS) or _REQUEST_START(data) is not None


def fatal_alert(description: int) -> bytes:
    """Make the record that breaks off a handshake before it has begun.

    Args:
        description: Why: a number from IANA's TLS Alerts registry.

    Returns:
        The record, in clear.
    """
    return bytes((_ALERT, 3, 1, 0, 2, 2, description))


def _describe_start(data: bytes) -> str:
    kind = data[0]
    if looks_like_http(data):
        return "plain HTTP instead of TLS"
    if kind & 0x80 and len(data) > 2 and data[2] == _CLIENT_HELLO:
        return "an SSL 2.0 hello"
    if 20 <= kind <= 24:
        return f"a TLS record of type {kind} instead of a ClientHello"
    return f"no TLS (first byte 0x{kind:02x})"


def _refused(what: str) -> Error:
    return Error.down(ErrorType.HANDSHAKE_ERROR, f"the client sent {what}")


class _Reader:
    """Takes fields off the front of a message; whatever is too short is an error."""

    __slots__ = ("_data", "_position", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._position = 0
        self._what = what

    @property
    def is_done(self) -> bool:
        return self._position == len(self._data)

    def malformed(self) -> Error:
        return _refused(f"a malformed {self._what}")

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise self.malformed()
        data = self._data[self._position : end]
        self._position = end
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, prefix: int, least: int, most: int) -> bytes:
        # RFC 8446 section 3.4.
        size = self.number(prefix)
        if not least <= size <= most:
            raise self.malformed()
        return self.take(size)

    def numbers(self, prefix: int, most: int) -> tuple[int, ...]:
        data = self.vector(prefix, 2, most)
        if len(data) % 2:
            raise self.malformed()
        return tuple(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))

    def end(self) -> None:
        if not self.is_done:
            raise self.malformed()


def _parse_message(raw: bytes) -> ClientHello:
    reader = _Reader(raw, "ClientHello")
    reader.take(4)
    legacy_version = reader.number(2)
    if legacy_version < 0x0300:
        raise _refused(f"a ClientHello of version 0x{legacy_version:04x}")
    random = reader.take(32)
    session_id = reader.vector(1, 0, 32)
    cipher_suites = reader.numbers(2, 0xFFFE)
    reader.vector(1, 1, 255)
    # Before TLS 1.3 a hello may end here (RFC 5246 section 7.4.1.2).
    extensions = () if reader.is_done else _parse_extensions(reader.vector(2, 0, 0xFFFF))
    reader.end()
    bodies = dict(extensions)
    if len(bodies) != len(extensions):
        raise _refused("a ClientHello that repeats an extension")
    return ClientHello(
        legacy_version=legacy_version,
        random=random,
        session_id=session_id,
        cipher_suites=cipher_suites,
        extensions=extensions,
        server_name=_server_name(bodies.get(_SERVER_NAME)),
        alpn_protocols=_alpn_protocols(bodies.get(_ALPN)),
        supported_versions=_numbers(bodies.get(_SUPPORTED_VERSIONS), "supported_versions", 1),
        groups=_numbers(bodies.get(_SUPPORTED_GROUPS), "supported_groups", 2),
        signature_algorithms=_numbers(bodies.get(_SIGNATURE_ALGORITHMS), "signature_algorithms", 2),
        raw=raw,
    )


def _parse_extensions(data: bytes) -> tuple[tuple[int, bytes], ...]:
    reader = _Reader(data, "list of extensions")
    extensions: list[tuple[int, bytes]] = []
    while not reader.is_done:
        extensions.append((reader.number(2), reader.vector(2, 0, 0xFFFF)))
    return tuple(extensions)


def _numbers(body: bytes | None, what: str, prefix: int) -> tuple[int, ...]:
    if body is None:
        return ()
    reader = _Reader(body, what)
    numbers = reader.numbers(prefix, 0xFFFE)
    reader.end()
    return numbers


def _server_name(body: bytes | None) -> str | None:
    # RFC 6066 section 3: names of several types, at most one of each; only host_name exists.
    if body is None:
        return None
    outer = _Reader(body, "server_name")
    names = _Reader(outer.vector(2, 1, 0xFFFF), "server_name")
    outer.end()
    host: bytes | None = None
    while not names.is_done:
        kind = names.number(1)
        name = names.vector(2, 1, 0xFFFF)
        if kind == 0:
            if host is not None:
                raise names.malformed()
            host = name
    if host is None or not host.isascii():
        return None
    server_name = host.decode("ascii").lower().removesuffix(".")
    return server_name if _HOST_NAME(server_name) else None


def _alpn_protocols(body: bytes | None) -> tuple[bytes, ...]:
    # RFC 7301 section 3.1.
    if body is None:
        return ()
    outer = _Reader(body, "ALPN extension")
    names = _Reader(outer.vector(2, 2, 0xFFFF), "ALPN extension")
    outer.end()
    protocols: list[bytes] = []
    while not names.is_done:
        protocols.append(names.vector(1, 1, 255))
    return tuple(protocols)
