"""Requests that nobody has accepted yet when the server is told to stop: they are answered."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.listening import Service
from pingora_core.services.service import ServiceContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.protocols.http.server import ServerSession


COUNT = 100


class Numbers(ServeHttp):
    """Says the path."""

    async def response(self, session: ServerSession) -> Response:
        return Response(200, session.request.path.encode())


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for client in made:
        client.close()


def send_requests(address: str, clients: list[socket.socket]) -> None:
    """Connect and send, all in the kernel: the server's loop does not turn meanwhile."""
    host, _, port = address.partition(":")
    for number in range(COUNT):
        client = socket.create_connection((host, int(port)), 5)
        clients.append(client)
        client.sendall(b"GET /%d HTTP/1.1\r\nHost: x.test\r\n\r\n" % number)


def read_answers(clients: list[socket.socket]) -> list[bytes]:
    """Read until the server ends each connection."""
    answers = []
    for client in clients:
        answer = b""
        while data := client.recv(65536):
            answer += data
        answers.append(answer)
    return answers


async def test_requests_in_the_queue_are_answered_at_a_shutdown(
    clients: list[socket.socket],
) -> None:
    """Each gets its own response, which says that the connection ends, and nobody is reset."""
    service = Service("numbers", HttpServer(Numbers()))
    service.add_tcp("127.0.0.1:0")
    switch = ShutdownSwitch()
    context = ServiceContext(shutdown=switch.watch)
    running = asyncio.create_task(service.start_service(context))
    async with asyncio.timeout(30):
        await context.ready.wait()
    send_requests(str(service.addresses[0]), clients)

    switch.start()

    answers = await asyncio.to_thread(read_answers, clients)
    assert [answer.partition(b"\r\n\r\n")[2] for answer in answers] == [
        b"/%d" % number for number in range(COUNT)
    ]
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    assert all(b"connection: close" in answer.lower() for answer in answers)
    await asyncio.wait_for(running, 30)
