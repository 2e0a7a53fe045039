"""What two servers say to each other over the upgrade socket, and what is checked of it.

A message is four bytes of length, most significant first, and that much JSON. The old server says
`Hello` and then `Descriptors` once for every batch, with the batch attached to its first byte; the
new one answers `Accepted` and later `Ready`, or `Failed` at any time. Fields that are not known are
ignored; what cannot be understood without them is another `PROTOCOL`.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import msgspec

from pingora_core.protocols.address import (
    HostAddress,
    InetAddress,
    UnixAddress,
    parse_address,
    socket_address_from_sockname,
)
from pingora_error import Custom, Error, ErrorSource

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress

__all__ = [
    "BATCH",
    "HEADER_SIZE",
    "MAX_SIZE",
    "PROTOCOL",
    "UPGRADE_ERROR",
    "Accepted",
    "Descriptors",
    "Failed",
    "Hello",
    "Message",
    "Ready",
    "body_size",
    "decode",
    "encode",
    "open_listener",
    "refuse",
]

UPGRADE_ERROR: Final = Custom("UpgradeError")
"""A server could not hand over to its successor, or the successor could not take over."""

PROTOCOL: Final = 1
"""Version of what is said here."""

BATCH: Final = 64
"""Descriptors that are attached to one message at most; the kernel allows 253."""

HEADER_SIZE: Final = 4
"""Bytes that tell the length of a message."""

MAX_SIZE: Final = 16 * 1024 * 1024
"""Longest message, bytes: the addresses of more sockets than a process can have."""

_MAX_REASON: Final = 2000
_INET: Final = (socket.AF_INET, socket.AF_INET6)
_UDP_PREFIX: Final = "udp:"


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first message: who hands over, and what.

    Attributes:
        protocol: `PROTOCOL` of the sender.
        pid: Its process.
        version: Of the sender's package.
        keys: Address keys of the sockets that follow, in this order.
        shared: Those of them that somebody else keeps too, such as systemd.
    """

    protocol: int
    pid: int
    version: str
    keys: tuple[str, ...]
    shared: tuple[str, ...] = ()


class Descriptors(msgspec.Struct, frozen=True, tag="descriptors"):
    """A batch of sockets.

    Attributes:
        count: How many are attached, at most `BATCH`.
    """

    count: int


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """The successor has all sockets and finds them in order."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The successor serves: the predecessor may stop."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Whoever says this gives up; the predecessor goes on serving.

    Attributes:
        reason: Why, for the other's log.
    """

    reason: str


Message: TypeAlias = Hello | Descriptors | Accepted | Ready | Failed


class _Greeting(msgspec.Struct, frozen=True):
    # What every version of the protocol has in common.
    type: str
    protocol: int = PROTOCOL


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)
_GREETING_DECODER: Final = msgspec.json.Decoder(_Greeting)


def refuse(context: str, cause: BaseException | None = None) -> NoReturn:
    """Say that a hand-over does not come off.

    Args:
        context: What is wrong.
        cause: The failure behind it.

    Raises:
        Error: ``UPGRADE_ERROR``.
    """
    raise Error(UPGRADE_ERROR, context, source=ErrorSource.INTERNAL, cause=cause) from cause


def encode(message: Message) -> bytes:
    """Write a message.

    Args:
        message: What to say; a reason that is very long is cut.

    Returns:
        Length and body.

    Raises:
        Error: ``UPGRADE_ERROR`` if it is longer than `MAX_SIZE`, or no text that can be sent.
    """
    if isinstance(message, Failed):
        message = Failed(message.reason[:_MAX_REASON])
    try:
        body = _ENCODER.encode(message)
    except UnicodeEncodeError as error:
        refuse("an address cannot be written as text", error)
    if len(body) > MAX_SIZE:
        refuse(f"a message of {len(body)} bytes: at most {MAX_SIZE} can be sent")
    return len(body).to_bytes(HEADER_SIZE, "big") + body


def body_size(header: bytes) -> int:
    """Read the length of a message.

    Args:
        header: Its first `HEADER_SIZE` bytes.

    Returns:
        The bytes that follow.

    Raises:
        Error: ``UPGRADE_ERROR`` if they are more than `MAX_SIZE`.
    """
    size = int.from_bytes(header, "big")
    if size > MAX_SIZE:
        refuse(f"a message of {size} bytes is announced: at most {MAX_SIZE} are allowed")
    return size


def decode(body: bytes) -> Message:
    """Read a message.

    Args:
        body: All of it after the header.

    Returns:
        What was said.

    Raises:
        Error: ``UPGRADE_ERROR`` if it is no message of this protocol.
    """
    try:
        greeting = _GREETING_DECODER.decode(body)
        if greeting.protocol != PROTOCOL:
            refuse(f"version {greeting.protocol} of the hand-over is spoken there, {PROTOCOL} here")
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        refuse("what was received is no message of a hand-over", error)


# --------------------------------------------------------------------------------- sockets


def open_listener(key: str, descriptor: int) -> socket.socket:
    """Make a socket of a descriptor that was received, and check that it is what it is said to be.

    Args:
        key: The address that it should listen on.
        descriptor: The descriptor; closed if it is something else.

    Returns:
        The socket, non-blocking; the caller's to close.

    Raises:
        Error: ``UPGRADE_ERROR`` naming the address and what does not fit.
        OSError: If the socket cannot be asked.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        os.close(descriptor)
        refuse(f"what was received for {key} is no socket", error)
    try:
        problem = _find_problem(key, sock)
        if problem is not None:
            refuse(f"the socket received for {key} {problem}")
        sock.settimeout(0)
    except BaseException:
        sock.close()
        raise
    return sock


def _find_problem(key: str, sock: socket.socket) -> str | None:
    if key.startswith(_UDP_PREFIX):
        if sock.type != socket.SOCK_DGRAM:
            return "is no datagram socket"
        return _find_misfit(_parse(key.removeprefix(_UDP_PREFIX)), sock)
    if sock.type == socket.SOCK_STREAM:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "does not listen"
        return _find_misfit(_parse(key), sock)
    return "is no stream socket"


def _parse(key: str) -> SocketAddress | HostAddress | None:
    # A socket that somebody else has bound may go by a name that is no address.
    try:
        return parse_address(key)
    except ValueError:
        return None


def _find_misfit(wanted: SocketAddress | HostAddress | None, sock: socket.socket) -> str | None:
    families: tuple[int, ...] = (*_INET, socket.AF_UNIX)
    if isinstance(wanted, HostAddress):
        families = _INET
    elif wanted is not None:
        families = (wanted.family,)
    if sock.family not in families:
        return f"is of the family {sock.family!r}"
    if wanted is None or isinstance(wanted, UnixAddress):
        return None
    bound = socket_address_from_sockname(sock.getsockname())
    if isinstance(bound, InetAddress) and wanted.port not in {0, bound.port}:
        return f"is bound to {bound}"
    return None
