"""Handing the listening sockets to a successor, and taking them from a predecessor.

Theory of operation. The successor listens on the upgrade socket, a file that only its owner may
connect to. The predecessor connects when it is told to hand over; each looks at the user of the
other, which the kernel vouches for. Then duplicates of the listening sockets travel, and both
processes accept connections of the same queues: there is no moment at which nobody does. The
predecessor keeps everything until the successor has said that it is ready, and whatever goes wrong
before that, the death of either included, leaves it as it was.

One case needs care: the predecessor gives up waiting while the successor is saying that it is
ready. The predecessor therefore closes the way in before it looks a last time. A word that was on
its way counts; a later one cannot be sent any more, and the successor learns that it must not stay.

Source: pingora-core/src/server/transfer_fd/mod.rs.
"""

from __future__ import annotations

import logging
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from pingora_core.server.upgrade._rendezvous import Incoming, peer_of, rendezvous
from pingora_core.server.upgrade._sending import Successor
from pingora_core.server.upgrade._wire import (
    UPGRADE_ERROR,
    Accepted,
    Failed,
    Hello,
    Ready,
    encode,
    refuse,
)
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["UPGRADE_ERROR", "Predecessor", "hand_over"]

_logger = logging.getLogger(__name__)

_INTERVAL = 1.0
"""Seconds that one of the attempts to meet stands for."""

_EXCHANGE_TIMEOUT = 10.0
"""Seconds in which all sockets have to be sent, received and checked."""

_LAST_WORD_TIMEOUT: Final = 1.0


# ------------------------------------------------------------------------ the predecessor


async def hand_over(
    path: str,
    sockets: Mapping[str, socket.socket],
    *,
    retries: int,
    ready_timeout: float,
    shared: Collection[str] = (),
    on_transferred: Callable[[], None] | None = None,
) -> None:
    """Give a successor duplicates of the listening sockets; return when it is ready.

    Cancelled, as by a server that has to stop at once, this leaves the field to a successor that
    has the sockets already.

    Args:
        path: The upgrade socket, which the successor listens on.
        sockets: The listening sockets by address key; they stay the caller's.
        retries: How many seconds to wait for a successor to listen; one attempt at least.
        ready_timeout: How long the successor may take to become ready, seconds.
        shared: Keys of the sockets that somebody else keeps too.
        on_transferred: Called once the successor has all sockets.

    Raises:
        Error: ``UPGRADE_ERROR`` if there is no successor, or it is not ready in time or fails:
            the caller goes on serving.
    """
    successor = await Successor.meet(path, retries * _INTERVAL)
    try:
        await successor.give(sockets, _EXCHANGE_TIMEOUT, shared=shared)
        _logger.info("successor %d has %d listening sockets", successor.pid, len(sockets))
        if on_transferred is not None:
            on_transferred()
        await successor.wait_until_ready(ready_timeout)
    except Error as error:
        successor.say(Failed(error.context))
        raise
    finally:
        successor.close()
    _logger.info("successor %d is ready", successor.pid)


# -------------------------------------------------------------------------- the successor


@final
class Predecessor:
    """The server whose sockets this process has received; made by `receive`.

    Processes that are forked while it is open close their copy of it, so that the predecessor
    notices when this one ends.

    Args:
        connection: To the predecessor; closed with this.
        pid: The predecessor's process.
        version: Of its package.
        sockets: The listening sockets by address key.

    Attributes:
        sockets: The listening sockets by address key, checked; whoever takes them closes them.
        pid: The predecessor's process.
        version: Of its package.
        shared: Keys of the sockets that somebody else keeps too.
    """

    __slots__ = ("_connection", "pid", "shared", "sockets", "version")

    def __init__(
        self, connection: socket.socket, pid: int, version: str, sockets: dict[str, socket.socket]
    ) -> None:
        self._connection = connection
        self.pid: int = pid
        self.version: str = version
        self.sockets: dict[str, socket.socket] = sockets
        self.shared: frozenset[str] = frozenset()

    @classmethod
    def receive(
        cls,
        path: str,
        *,
        retries: int,
        owner: int | None = None,
        on_listening: Callable[[], None] | None = None,
    ) -> Predecessor:
        """Wait for a running server to hand over its sockets, and take them.

        Blocks: to be called before there is an event loop.

        Args:
            path: Where to make the upgrade socket. It is removed again.
            retries: How many seconds to wait for the server; one at least.
            owner: User id that the server runs as if it has given up the privileges that this
                process still has; None for the user of this process.
            on_listening: Called once the upgrade socket is there: whoever waits for it can now
                tell the running server.

        Returns:
            The server, with its sockets, waiting to hear that this process is ready.

        Raises:
            Error: ``UPGRADE_ERROR``; everything received is closed, and the server goes on.
        """
        with rendezvous(path, owner) as listener:
            if on_listening is not None:
                on_listening()
            connection, hello = _meet(listener, path, retries, owner)
        sockets: dict[str, socket.socket] = {}
        try:
            pid = peer_of(connection, owner)
            incoming = Incoming(connection, _EXCHANGE_TIMEOUT)
            try:
                incoming.take_sockets(hello, sockets)
                connection.sendall(encode(Accepted()))
            finally:
                incoming.close_unclaimed()
            connection.settimeout(_LAST_WORD_TIMEOUT)
        except BaseException as error:
            _give_up(connection, _reason_of(error))
            for sock in sockets.values():
                sock.close()
            if isinstance(error, OSError):
                refuse("receiving sockets from the predecessor", error)
            raise
        _logger.info(
            "received %d listening sockets from process %d, version %s",
            len(sockets),
            pid,
            hello.version,
        )
        predecessor = cls(connection, pid, hello.version, sockets)
        predecessor.shared = frozenset(hello.shared)
        return predecessor

    def say_ready(self) -> None:
        """Tell the predecessor that it may stop: this process serves in its place.

        A predecessor that has died meanwhile needs not be told.

        Raises:
            Error: ``UPGRADE_ERROR`` if it has given up waiting and goes on serving.
        """
        try:
            self._connection.sendall(encode(Ready()))
        except OSError as error:
            reason = self._read_reason()
            if reason is not None:
                context = f"the predecessor, process {self.pid}, goes on serving: {reason}"
                refuse(context, error)
            _logger.warning("the predecessor, process %d, is gone already", self.pid)
        finally:
            self.close()

    def say_failed(self, why: str) -> None:
        """Tell the predecessor to go on serving: this process will not.

        Args:
            why: For the predecessor's log.
        """
        _give_up(self._connection, why)

    def close(self) -> None:
        """Close the connection; before `say_ready` the predecessor takes it for a failure."""
        self._connection.close()

    def _read_reason(self) -> str | None:
        try:
            said = Incoming(self._connection, _LAST_WORD_TIMEOUT).read()
        except (Error, OSError):
            return None
        return said.reason if isinstance(said, Failed) else None


def _reason_of(error: BaseException) -> str:
    return error.context if isinstance(error, Error) else repr(error)


def _give_up(connection: socket.socket, why: str) -> None:
    # Harmless for one that is closed already.
    with suppress(OSError, Error):
        connection.settimeout(_LAST_WORD_TIMEOUT)
        connection.sendall(encode(Failed(why)))
    connection.close()


def _meet(
    listener: socket.socket, path: str, retries: int, owner: int | None
) -> tuple[socket.socket, Hello]:
    # The first connection that says anything; others are strangers, or look whether we live.
    deadline = time.monotonic() + max(retries, 1) * _INTERVAL
    while True:
        try:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            connection, _ = listener.accept()
        except TimeoutError:
            context = f"no running server has come to the upgrade socket {path}: is SIGQUIT sent?"
            refuse(context)
        except OSError as error:
            refuse(f"accepting on the upgrade socket {path}", error)
        try:
            hello = _greet(connection, owner)
        except BaseException as error:
            _give_up(connection, _reason_of(error))
            if isinstance(error, OSError):
                refuse("hearing from the predecessor", error)
            raise
        if hello is not None:
            return connection, hello
        connection.close()


def _greet(connection: socket.socket, owner: int | None) -> Hello | None:
    try:
        peer_of(connection, owner)
    except Error as error:
        _logger.warning("upgrade socket: %s", error.context)
        return None
    connection.settimeout(_EXCHANGE_TIMEOUT)
    if not connection.recv(1, socket.MSG_PEEK):
        return None
    incoming = Incoming(connection, _EXCHANGE_TIMEOUT)
    try:
        hello = incoming.read()
        if incoming.has_unclaimed:
            refuse("sockets came with the first message")
    finally:
        incoming.close_unclaimed()
    if not isinstance(hello, Hello):
        refuse(f"the predecessor begins with {type(hello).__name__}")
    return hello
