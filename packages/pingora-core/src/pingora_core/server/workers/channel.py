"""The line between the supervisor and a worker: typed messages, with file descriptors.

A pair of connected sockets that keep the bounds of messages; neither end ever blocks. When a
process dies the kernel closes its end, so each side learns of the death of the other.
"""

from __future__ import annotations

import array
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, final

import msgspec

from pingora_core.listeners.l4 import TcpServerAddress, UdpServerAddress, UdsServerAddress
from pingora_core.server.signals import ShutdownSignal  # noqa: TC001 - msgspec reads it
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_core.listeners.l4 import ServerAddress

__all__ = [
    "Beat",
    "Channel",
    "Failed",
    "FromWorker",
    "Lead",
    "Obtain",
    "Ready",
    "Recycle",
    "Released",
    "Reload",
    "Reloaded",
    "ReopenLogs",
    "Resigned",
    "Stop",
    "Supply",
    "ToWorker",
    "pack_text",
    "unpack_text",
]

Message = TypeVar("Message")

_MAX_MESSAGE: Final = 64 * 1024
_MAX_FDS: Final = 4
_MAX_TEXT: Final = 16 * 1024 * 1024


# ------------------------------------------------------------------------------ to a worker


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Stop.

    Attributes:
        how: Gracefully or fast.
        lame_duck: How long to go on accepting while not ready, seconds.
        is_whole_server: Whether all workers stop and no successor has the sockets.
    """

    how: ShutdownSignal
    lame_duck: float = 0.0
    is_whole_server: bool = True


class Reload(msgspec.Struct, frozen=True, tag=True):
    """Take on a configuration, which comes as a file descriptor.

    Attributes:
        source: The file it came from, for messages.
    """

    source: str


class ReopenLogs(msgspec.Struct, frozen=True, tag=True):
    """Open the log files anew."""


class Lead(msgspec.Struct, frozen=True, tag=True):
    """Run the services that run in one worker only."""


class Supply(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Obtain`: a listening socket, or why there is none.

    Attributes:
        key: The address that was asked for.
        failure: What went wrong; None with a socket.
    """

    key: str
    failure: str | None = None


ToWorker: TypeAlias = Stop | Reload | ReopenLogs | Lead | Supply

# ---------------------------------------------------------------------------- from a worker


class Ready(msgspec.Struct, frozen=True, tag=True):
    """All services of the worker are ready.

    Attributes:
        keys: The addresses that they listen on.
    """

    keys: tuple[str, ...] = ()


class Beat(msgspec.Struct, frozen=True, tag=True):
    """The worker's event loop turns.

    Attributes:
        requests: How many it has served.
        memory: What it occupies, bytes.
    """

    requests: int
    memory: int


class Recycle(msgspec.Struct, frozen=True, tag=True):
    """The worker has reached a limit and asks to be replaced.

    Attributes:
        reason: Which one, for the log.
    """

    reason: str


class Resigned(msgspec.Struct, frozen=True, tag=True):
    """The services that run in one worker only have ended in this one."""


class Reloaded(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Reload`.

    Attributes:
        failure: What went wrong; None if nothing did.
    """

    failure: str | None = None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The worker ends because of an error that stops the server.

    Attributes:
        message: One line.
        is_config: Whether the configuration is to blame.
    """

    message: str
    is_config: bool


class Obtain(msgspec.Struct, frozen=True, tag=True):
    """Ask for the listening socket of an address; exactly one of the attributes is given.

    Attributes:
        tcp: A TCP address.
        uds: A Unix socket.
        udp: A UDP address.
    """

    tcp: TcpServerAddress | None = None
    uds: UdsServerAddress | None = None
    udp: UdpServerAddress | None = None

    @classmethod
    def of(cls, address: ServerAddress) -> Obtain:
        """Ask for an address.

        Args:
            address: Which one.

        Returns:
            The message.
        """
        match address:
            case TcpServerAddress():
                return cls(tcp=address)
            case UdsServerAddress():
                return cls(uds=address)
            case UdpServerAddress():
                return cls(udp=address)

    @property
    def address(self) -> ServerAddress | None:
        """What is asked for."""
        return self.tcp or self.uds or self.udp


class Released(msgspec.Struct, frozen=True, tag=True):
    """The worker does not listen on an address any more.

    Attributes:
        key: Which one.
    """

    key: str


FromWorker: TypeAlias = Ready | Beat | Recycle | Resigned | Reloaded | Failed | Obtain | Released

_TO_WORKER: Final = msgspec.json.Decoder(ToWorker)
_FROM_WORKER: Final = msgspec.json.Decoder(FromWorker)
_ENCODER: Final = msgspec.json.Encoder()


@final
class Channel:
    """One end of the line; made in pairs by `pair`.

    Args:
        sock: The socket; closed with this.
    """

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Make both ends.

        Returns:
            The supervisor's and the worker's.

        Raises:
            OSError: If there are no descriptors left.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        theirs.settimeout(0)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """Return the descriptor, to be watched by an event loop; -1 once it is closed."""
        return self._sock.fileno()

    def send(self, message: ToWorker | FromWorker, fds: Sequence[int] = ()) -> None:
        """Send a message.

        Args:
            message: What to say.
            fds: File descriptors that go with it; they stay the caller's.

        Raises:
            Error: ``WRITE_ERROR`` if the other side is gone or does not read.
        """
        data = _ENCODER.encode(message)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
        except OSError as error:
            context = f"send {type(message).__name__} between supervisor and worker"
            raise Error(
                ErrorType.WRITE_ERROR, context, source=ErrorSource.INTERNAL, cause=error
            ) from error

    def receive_from_worker(self) -> tuple[FromWorker, list[int]] | None:
        """Take a message of the worker's.

        Returns:
            It, with its descriptors, which are the caller's; None if the worker is gone.

        Raises:
            BlockingIOError: If there is none yet.
            Error: ``READ_ERROR`` if it makes no sense.
        """
        received = self._receive()
        return None if received is None else (self._decode(_FROM_WORKER, received), received[1])

    def receive_from_supervisor(self) -> tuple[ToWorker, list[int]] | None:
        """Take a message of the supervisor's.

        Returns:
            As `receive_from_worker`; None if the supervisor is gone.

        Raises:
            BlockingIOError: If there is none yet.
            Error: ``READ_ERROR`` if it makes no sense.
        """
        received = self._receive()
        return None if received is None else (self._decode(_TO_WORKER, received), received[1])

    def _receive(self) -> tuple[bytes, list[int]] | None:
        space = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self._sock.recvmsg(_MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        return (data, list(fds)) if data else None

    def _decode(
        self, decoder: msgspec.json.Decoder[Message], received: tuple[bytes, list[int]]
    ) -> Message:
        data, fds = received
        try:
            return decoder.decode(data)
        except msgspec.MsgspecError as error:
            for fd in fds:
                os.close(fd)
            context = "a message between supervisor and worker"
            raise Error(
                ErrorType.READ_ERROR, context, source=ErrorSource.INTERNAL, cause=error
            ) from error

    def close(self) -> None:
        """Close this end; again does nothing."""
        self._sock.close()


def pack_text(text: str) -> int:
    """Put a text of any size where a descriptor can carry it to another process.

    Args:
        text: Any.

    Returns:
        A descriptor, the caller's to close.
    """
    fd = os.memfd_create("configuration", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(text.encode())
    except BaseException:
        os.close(fd)
        raise
    return fd


def unpack_text(fds: Sequence[int]) -> str:
    """Read what `pack_text` packed, and close the descriptors.

    Args:
        fds: What came with the message.

    Returns:
        The text.

    Raises:
        Error: ``READ_ERROR`` if there is none or too much of it.
    """
    try:
        if len(fds) == 1 and os.fstat(fds[0]).st_size <= _MAX_TEXT:
            return os.pread(fds[0], _MAX_TEXT, 0).decode()
    finally:
        for fd in fds:
            with suppress(OSError):
                os.close(fd)
    context = "a message between supervisor and worker came without its text"
    raise Error(ErrorType.READ_ERROR, context, source=ErrorSource.INTERNAL)
