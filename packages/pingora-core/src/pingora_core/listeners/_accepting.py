"""One endpoint that accepts: the event loop's server, which can be stopped and started.

asyncio's own loop accepts in one turn and makes the transport in the next one; a connection whose server
was closed in between is neither served nor closed (``Server._attach`` fails, and nobody is told). So there
the listening socket is taken from the loop at once, and the server is closed when it has served what it has
accepted.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, final

from pingora_core.listeners._sockets import BACKLOG
from pingora_core.protocols.address import UnixAddress, socket_address_from_sockname
from pingora_core.protocols.l4.stream import L4Stream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pingora_core.listeners.endpoint import Endpoint
    from pingora_core.listeners.limits import AcceptGuard
    from pingora_core.protocols.address import SocketAddress

__all__ = ["Accepting"]


@final
class Accepting:
    """An endpoint and its listening socket.

    Args:
        endpoint: Where and how.
        sock: The listening socket; owned from now on.
        on_connected: Called for each connection, with the endpoint as it is then.
        guard: Pauses it when descriptors run out.
        is_held: Tells whether it must not accept now for a reason of its service.

    Attributes:
        address: Where it listens, with the port that the kernel chose.
    """

    __slots__ = (
        "_connected",
        "_endpoint",
        "_guard",
        "_is_closed",
        "_is_held",
        "_loop",
        "_on_connected",
        "_server",
        "_sock",
        "address",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        sock: socket.socket,
        on_connected: Callable[[Endpoint, L4Stream], None],
        guard: AcceptGuard,
        *,
        is_held: Callable[[], bool],
    ) -> None:
        address = socket_address_from_sockname(sock.getsockname())
        assert address is not None
        self.address: SocketAddress = address
        self._loop = asyncio.get_running_loop()
        self._guard = guard
        self._is_held = is_held
        self._sock = sock
        self._on_connected = on_connected
        self._server: asyncio.AbstractServer | None = None
        self._is_closed = False
        self.endpoint = endpoint

    @property
    def endpoint(self) -> Endpoint:
        """Where and how; what is set here holds for new connections."""
        return self._endpoint

    @endpoint.setter
    def endpoint(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connected = partial(self._on_connected, endpoint)

    async def start(self) -> None:
        """Begin to accept.

        Raises:
            OSError: If that is not possible.
        """
        await self.resume()
        self._guard.add(self)

    def pause(self) -> None:
        """Stop accepting; clients wait in the kernel's queue."""
        server, self._server = self._server, None
        if server is None:
            return
        if isinstance(self._loop, asyncio.SelectorEventLoop) and isinstance(server, asyncio.Server):
            for sock in server.sockets:
                self._loop.remove_reader(sock.fileno())
            self._loop.call_soon(server.close)
        else:
            server.close()

    async def resume(self) -> None:
        """Accept again.

        Raises:
            OSError: If that is not possible.
        """
        if self._server is not None or self._is_over() or self._is_held():
            return
        loop = self._loop
        create = (
            loop.create_unix_server if isinstance(self.address, UnixAddress) else loop.create_server
        )
        sock = self._sock.dup()
        try:
            server = await create(self.make_stream, sock=sock, backlog=BACKLOG)
        except BaseException:
            sock.close()
            raise
        self._server = server
        if self._is_over() or self._is_held() or self._guard.is_paused:
            self.pause()

    def _is_over(self) -> bool:
        return self._is_closed

    def make_stream(self) -> L4Stream:
        """Make the protocol of a new connection.

        Returns:
            The stream.
        """
        buffers = self._endpoint.buffers
        return L4Stream(
            self._loop,
            read_buffer=buffers.read,
            write_buffer=buffers.write,
            on_connected=self._connected,
        )

    async def connect(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted without the event loop.

        Args:
            connection: The connection, non-blocking; the stream's if this returns.
        """
        await self._loop.connect_accepted_socket(self.make_stream, connection)

    def close(self) -> None:
        """Stop accepting for good."""
        self._is_closed = True
        self._guard.remove(self)
        self.pause()
        self._sock.close()
