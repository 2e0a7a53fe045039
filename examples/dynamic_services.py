"""Services that come and go while the server runs, told by a control endpoint.

Run it and try, from another terminal::

    python examples/dynamic_services.py
    curl -X PUT '127.0.0.1:6149/services/hello?listen=127.0.0.1:8001&text=Hello'
    curl 127.0.0.1:8001                                                  # Hello
    curl -X POST '127.0.0.1:6149/services/hello?listen=127.0.0.1:8002'   # moves it
    curl 127.0.0.1:6149/services                                         # who listens where
    curl -X DELETE 127.0.0.1:6149/services/hello

Whoever can reach the control endpoint decides what this server does: keep it on loopback or on a
Unix socket. Each worker would have services of its own: run it with one, as is the default.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from pingora_core import HttpServer, Opt, Response, ServeHttp, Server, Service
from pingora_core.listeners import Listeners
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_core import ServerSession
    from pingora_core.services import ServiceHandle
    from pingora_http import RequestHeader


class Greeter(ServeHttp):
    """Answers everything with the same text."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def response(self, session: ServerSession) -> Response:
        return plain(200, self.text)


class Control(ServeHttp):
    """Starts, moves, lists and stops greeters."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.running: dict[str, tuple[ServiceHandle, Service[HttpServer]]] = {}
        self.changing = asyncio.Lock()

    async def response(self, session: ServerSession) -> Response:
        try:
            async with self.changing:
                return await self.carry_out(session.request)
        except (Error, RuntimeError, ValueError) as error:
            # An address that is not ours or makes no sense, for instance; nothing has changed.
            return plain(409, str(error))

    async def carry_out(self, request: RequestHeader) -> Response:
        collection, _, name = request.path.strip("/").partition("/")
        query = parse_qs(request.raw_target.partition(b"?")[2].decode())
        addresses = query.get("listen", [])
        match collection, name, request.method:
            case "services", "", "GET":
                return plain(200, "\n".join(map(self.describe, self.running)))
            case "services", _, "PUT" if name and name not in self.running:
                return await self.start(name, addresses, "".join(query.get("text", [])))
            case "services", _, "POST" if name in self.running:
                return await self.move(name, addresses)
            case "services", _, "DELETE" if name in self.running:
                return await self.stop(name)
            case _:
                return plain(404, "no such service, or no such thing to do with it")

    async def start(self, name: str, addresses: list[str], text: str) -> Response:
        # When this returns it is ready; when this raises, nothing is left of it.
        service = Service(name, HttpServer(Greeter(text)), listening_on(addresses))
        handle = await self.server.start_service(service)
        self.running[name] = handle, service
        return plain(201, self.describe(name))

    async def move(self, name: str, addresses: list[str]) -> Response:
        # The connections that are there go on.
        _, service = self.running[name]
        await service.update_listeners(listening_on(addresses))
        return plain(200, self.describe(name))

    async def stop(self, name: str) -> Response:
        # What is in flight has five seconds.
        handle, _ = self.running.pop(name)
        await self.server.stop_service(handle, timeout=5)
        return Response(204)

    def describe(self, name: str) -> str:
        _, service = self.running[name]
        return f"{name} {' '.join(map(str, service.addresses))}"


def listening_on(addresses: list[str]) -> Listeners:
    """Make the listeners for some addresses.

    Returns:
        The listeners, which nothing is bound for yet.
    """
    listeners = Listeners()
    for address in addresses:
        listeners.add_tcp(address)
    return listeners


def plain(status: int, text: str) -> Response:
    """Answer in plain text.

    Returns:
        The response.
    """
    return Response(status, text.encode() + b"\n", [("Content-Type", "text/plain")])


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Runs services that come and go.")
    parser.add_argument("--listen", default="127.0.0.1:6149", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    control = Service("control", HttpServer(Control(server)))
    control.add_tcp(args.listen)
    server.add_service(control)
    server.run_forever()


if __name__ == "__main__":
    main()
