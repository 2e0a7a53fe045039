"""The client of a test: whole responses, over the project's own HTTP client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pingora_core.connectors.http.connector import Connector
from pingora_core.protocols.http.task import (
    BodyTask,
    DoneTask,
    FailedTask,
    HeaderTask,
    TrailerTask,
    UpgradedBodyTask,
)
from pingora_core.upstreams.peer import HttpPeer
from pingora_error import Error, ErrorType
from pingora_http import RequestHeader

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from pingora_core.protocols.http.client import ClientSession
    from pingora_http import HeaderMap, ResponseHeader

__all__ = ["Client", "ClientResponse"]


@dataclass(frozen=True, slots=True)
class ClientResponse:
    """A whole response.

    Attributes:
        header: The final head.
        body: The body.
        trailers: The fields after the body; None if there were none.
        informational: The statuses of the 1xx heads before it.
    """

    header: ResponseHeader
    body: bytes
    trailers: HeaderMap | None = None
    informational: tuple[int, ...] = ()

    @property
    def status(self) -> int:
        """The status code."""
        return self.header.status

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()


class Client:
    """Sends requests to one address and returns whole responses; an async context manager.

    Connections are reused. A response that is cut off raises ``Error``, so that a test notices.

    Args:
        address: ``host:port`` or ``unix:path``; a peer for TLS, HTTP/2 and whatever else upstreams
            can have.
        timeout: Seconds that one wait for bytes may take.
    """

    def __init__(self, address: str | HttpPeer, *, timeout: float = 10.0) -> None:
        self._peer = HttpPeer(address) if isinstance(address, str) else address
        self._authority = self._peer.sni or str(self._peer.address)
        self._timeout = timeout
        self._connector = Connector()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connector.close()

    async def get(
        self, target: str = "/", headers: Iterable[tuple[str, str]] = ()
    ) -> ClientResponse:
        """Send a GET.

        Args:
            target: Path and query.
            headers: Fields; ``Host`` is added.

        Returns:
            The response.
        """
        return await self.request("GET", target, headers)

    async def request(
        self,
        method: str,
        target: str = "/",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> ClientResponse:
        """Send a request and read the response to its end.

        Args:
            method: The method.
            target: Path and query.
            headers: Fields; ``Host`` and ``Content-Length`` are added.
            body: The body.

        Returns:
            The response.

        Raises:
            Error: If the server cannot be reached, answers nonsense or breaks off.
        """
        header = RequestHeader(method, target, headers=headers)
        if header.get_raw(b"host") is None:
            header.insert_header("Host", self._authority)
        if body is not None and header.get_raw(b"content-length") is None:
            header.insert_header("Content-Length", str(len(body)))
        session, _ = await self._connector.get_http_session(self._peer)
        session.read_timeout = self._timeout
        try:
            session.send_request_header(header)
            if body:
                session.send_request_body(body)
            session.finish_request_body()
            return await _read(session)
        finally:
            self._connector.release_http_session(session, self._peer)


async def _read(session: ClientSession) -> ClientResponse:
    head: ResponseHeader | None = None
    informational: list[int] = []
    trailers: HeaderMap | None = None
    body: list[bytes] = []
    ended = False
    while not ended:
        task = await session.read_task()
        match task:
            case HeaderTask():
                if task.header.status >= 200:
                    head = task.header
                    ended = task.end
                else:
                    informational.append(task.header.status)
            case BodyTask() | UpgradedBodyTask():
                if task.data:
                    body.append(task.data)
                ended = task.end
            case TrailerTask():
                trailers = task.trailers
                ended = True
            case DoneTask():
                ended = True
            case FailedTask():
                raise task.error
    if head is None:
        raise Error.up(ErrorType.CONNECTION_CLOSED, "no final response")
    return ClientResponse(head, b"".join(body), trailers, tuple(informational))
