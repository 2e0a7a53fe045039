"""Responses of servers that know backends, read piece by piece within a deadline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

from pingora_core.protocols.http.task import BodyTask, FailedTask, HeaderTask
from pingora_load_balancing.discovery.interfaces import refuse

if TYPE_CHECKING:
    from pingora_core.connectors.http import Connector
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_http import RequestHeader, ResponseHeader

__all__ = ["HttpResponse", "refuse_status"]


class HttpResponse:
    """A response that is being read.

    Args:
        session: The exchange.
        header: The head that has come.
        deadline: When all of it has to be there, on the event loop's clock.

    Attributes:
        header: As given.
    """

    __slots__ = ("_deadline", "_has_ended", "_session", "header")

    def __init__(self, session: ClientSession, header: ResponseHeader, deadline: float) -> None:
        self._session = session
        self._deadline = deadline
        self._has_ended = False
        self.header = header

    @classmethod
    async def begin(
        cls, session: ClientSession, request: RequestHeader, deadline: float
    ) -> HttpResponse:
        """Send a request and wait for the head of the answer.

        Args:
            session: The exchange; given up if this raises.
            request: What to send.
            deadline: When all of the answer has to be there.

        Returns:
            The response.

        Raises:
            Error: Why there is none.
        """
        try:
            session.send_request_header(request.copy())
            session.finish_request_body()
            while True:
                task = await session.read_task()
                if isinstance(task, HeaderTask) and task.header.status >= 200:
                    response = cls(session, task.header, deadline)
                    response._has_ended = task.end
                    return response
                if isinstance(task, FailedTask):
                    raise task.error
        except BaseException:
            session.shutdown()
            raise

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.header.status)

    async def read(self, *, is_wanted: bool = True) -> bytes:
        """Wait for the next piece of the body.

        Args:
            is_wanted: Whether the content is going to be looked at.

        Returns:
            The piece; empty at the end.

        Raises:
            Error: Why there is none, or that it is not readable.
        """
        coding = self.header.get("Content-Encoding", "identity")
        if is_wanted and coding.lower() != "identity":
            refuse(f"the answer is encoded ({coding}), unasked")
        while not self._has_ended:
            async with asyncio.timeout_at(self._deadline):
                task = await self._session.read_task()
            if isinstance(task, FailedTask):
                raise task.error
            self._has_ended = task.end
            if isinstance(task, BodyTask) and task.data:
                return task.data
        return b""

    def end(self, connector: Connector | None, peer: HttpPeer) -> None:
        """Give the connection back if the answer was read to its end, else close it.

        Args:
            connector: Where to; None if it was closed meanwhile.
            peer: The peer it was made for.
        """
        if self._has_ended and connector is not None:
            connector.release_http_session(self._session, peer)
        else:
            self._session.shutdown()


def refuse_status(status: int, what: str) -> NoReturn:
    """Say that a server refuses to answer.

    Args:
        status: The code it answered with; what it said with it is not repeated.
        what: What was asked for.

    Raises:
        Error: ``DISCOVERY_ERROR`` from upstream.
    """
    hint = {401: ", the token is not accepted", 403: ", the token does not allow it"}
    refuse(f"{what}: the server answers {status}{hint.get(status, '')}")
