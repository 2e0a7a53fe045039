"""What the tests of the HTTP/2 client have in common: sessions to an origin of the test's own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pingora_core.connectors.http import Connector
from pingora_core.protocols.http.task import BodyTask, HeaderTask, TrailerTask, UpgradedBodyTask
from pingora_core.protocols.http.v2._client_connection import ClientConnection
from pingora_core.protocols.http.v2.client import HttpSession
from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.upstreams import HttpPeer, PeerOptions
from pingora_error import Error
from pingora_http import RequestHeader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_core.connectors import ConnectorOptions
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.v2.options import EngineName
    from pingora_http import HeaderMap, ResponseHeader

__all__ = [
    "Answer",
    "answer_of",
    "ask",
    "connection_of",
    "connector",
    "error_of",
    "h2c_peer",
    "request",
    "session_to",
    "submit",
]


class Answer:
    """A whole response.

    Attributes:
        informational: Status codes of the 1xx heads.
        header: The final head.
        body: The body.
        trailers: The trailers; None without any.
        ended_with_head: Whether the head said that nothing follows.
    """

    def __init__(self) -> None:
        self.informational: list[int] = []
        self.header: ResponseHeader | None = None
        self.body = b""
        self.trailers: HeaderMap | None = None
        self.ended_with_head = False

    @property
    def status(self) -> int:
        assert self.header is not None
        return self.header.status


@asynccontextmanager
async def connector(
    engine: EngineName = "h2", options: ConnectorOptions | None = None
) -> AsyncIterator[Connector]:
    """Make a connector, and close it."""
    made = Connector(options, http2_engine=engine)
    try:
        yield made
    finally:
        await made.close()


def h2c_peer(address: str, **options: object) -> HttpPeer:
    """A peer that is known to speak HTTP/2 in clear."""
    made = PeerOptions(alpn=ALPN.H2)
    for name, value in options.items():
        setattr(made, name, value)
    return HttpPeer(address, options=made)


def request(
    method: str = "GET", target: str = "/", *fields: tuple[str, str], host: str = "example.com"
) -> RequestHeader:
    """A head as the proxy makes it."""
    return RequestHeader(method, target, headers=[("Host", host), *fields])


def connection_of(session: HttpSession) -> ClientConnection:
    """The connection below a session."""
    carrier = session.stream.carrier
    assert isinstance(carrier, ClientConnection)
    return carrier


async def session_to(upstreams: Connector, peer: HttpPeer) -> HttpSession:
    """A session that must be one of HTTP/2."""
    session, _ = await upstreams.get_http_session(peer)
    assert isinstance(session, HttpSession)
    return session


def submit(session: ClientSession, header: RequestHeader, body: bytes | None = None) -> None:
    """Send a request whole."""
    session.send_request_header(header)
    if body is not None:
        session.send_request_body(body)
    session.finish_request_body()


async def answer_of(session: ClientSession) -> Answer:
    """Read a response to its end."""
    answer = Answer()
    async with asyncio.timeout(30):
        while True:
            task = await session.read_task()
            match task:
                case HeaderTask():
                    if task.header.status < 200:
                        answer.informational.append(task.header.status)
                    else:
                        answer.header = task.header
                        answer.ended_with_head = task.end
                    if task.end:
                        return answer
                case BodyTask() | UpgradedBodyTask():
                    answer.body += task.data or b""
                    if task.end:
                        return answer
                case TrailerTask():
                    answer.trailers = task.trailers
                    return answer
                case _:
                    raise AssertionError(task)


async def ask(
    upstreams: Connector, peer: HttpPeer, header: RequestHeader, body: bytes | None = None
) -> Answer:
    """Do one exchange and give the session back."""
    session = await session_to(upstreams, peer)
    try:
        submit(session, header, body)
        return await answer_of(session)
    finally:
        upstreams.release_http_session(session, peer)


async def error_of(session: ClientSession) -> Error:
    """Read until something fails."""
    try:
        await answer_of(session)
    except Error as error:
        return error
    raise AssertionError("nothing failed")
