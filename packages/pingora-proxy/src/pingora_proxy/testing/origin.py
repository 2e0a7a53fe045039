"""An origin that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

from pingora_core.apps.http_app import HttpServerApp
from pingora_core.services.listening import Service
from pingora_error import Error
from pingora_http import ResponseHeader
from pingora_proxy.testing.service import RunningService

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from pingora_core.apps.http_app import HttpServerOptions
    from pingora_core.listeners.tls import TlsSettings
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_http import HeaderMap, RequestHeader

__all__ = ["OriginRequest", "ScriptedOrigin", "Step", "cut_off", "hang", "reply", "reset", "stream"]

Step: TypeAlias = Callable[["ServerSession"], Awaitable[None]]
"""Answers one request; the body of the request has been read."""


@dataclass(frozen=True, slots=True)
class OriginRequest:
    """A request that has reached the origin.

    Attributes:
        header: Its head.
        body: Its body.
        trailers: The fields after it; None if there were none.
    """

    header: RequestHeader
    body: bytes
    trailers: HeaderMap | None = None

    @property
    def path(self) -> str:
        """Its path, without the query."""
        return self.header.path


def reply(status: int = 200, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> Step:
    """Answer with a whole response.

    Args:
        status: The status.
        body: The body.
        headers: Fields; ``Content-Length`` is added.

    Returns:
        The step.
    """
    fields = list(headers)

    async def step(session: ServerSession) -> None:
        header = ResponseHeader(status, headers=fields)
        if status not in {204, 304}:
            header.set_content_length(len(body))
        await session.write_response_header(header, end=not body)
        if body:
            await session.write_response_body(body, end=True)

    return step


def stream(
    pieces: Sequence[bytes],
    headers: Iterable[tuple[str, str]] = (),
    *,
    gate: asyncio.Event | None = None,
) -> Step:
    """Answer 200 with a body of unknown length, piece by piece.

    Args:
        pieces: The body.
        headers: Fields.
        gate: The pieces after the first are sent once it is set; None sends them at once.

    Returns:
        The step.
    """
    fields = list(headers)

    async def step(session: ServerSession) -> None:
        await session.write_response_header(ResponseHeader(200, headers=fields))
        for number, piece in enumerate(pieces):
            if number == 1 and gate is not None:
                await gate.wait()
            await session.write_response_body(piece)
        await session.write_response_body(None, end=True)

    return step


def cut_off(body: bytes, promised: int, headers: Iterable[tuple[str, str]] = ()) -> Step:
    """Answer 200, and close the connection before the body is complete.

    Args:
        body: What is sent of it.
        promised: Its ``Content-Length``.
        headers: Further fields.

    Returns:
        The step.
    """
    fields = list(headers)

    async def step(session: ServerSession) -> None:
        header = ResponseHeader(200, headers=fields)
        header.set_content_length(promised)
        await session.write_response_header(header)
        await session.write_response_body(body)
        session.shutdown()

    return step


async def hang(session: ServerSession) -> None:
    """Answer nothing until the peer has gone, or the test ends.

    Args:
        session: The request.
    """
    gone = asyncio.Event()
    session.watch_disconnect(gone.set)
    watch = session.shutdown_watch
    unsubscribe = None if watch is None else watch.subscribe(gone.set)
    try:
        await gone.wait()
    finally:
        if unsubscribe is not None:
            unsubscribe()
        session.watch_disconnect(None)
    session.shutdown()


async def reset(session: ServerSession) -> None:
    """Close the connection without an answer.

    Args:
        session: The request.
    """
    session.shutdown()


class ScriptedOrigin:
    """An HTTP server on a free port of 127.0.0.1, as an async context manager.

    What no script is for is answered with 404. Leaving the context raises what was wrong with the
    scripts: a step that has raised, what was expected and did not come, what came too often.

    Args:
        tls: Certificate and protocols, for an origin that speaks TLS; with ``enable_h2()`` HTTP/2 as
            well.
        server_options: How proxies are spoken to, such as ``HttpServerOptions(h2c=True)``.

    Attributes:
        requests: What has come in, in order.

    Examples:
        >>> origin = ScriptedOrigin()
        >>> origin.on("/flaky", reply(503), reply(200, b"at last"))
    """

    def __init__(
        self, *, tls: TlsSettings | None = None, server_options: HttpServerOptions | None = None
    ) -> None:
        self.requests: list[OriginRequest] = []
        self._scripts: dict[str, _Script] = {}
        self._failure: Exception | None = None
        app = _OriginApp(self)
        if server_options is not None:
            app.server_options = server_options
        service = Service("origin", app)
        if tls is not None:
            service.add_tls_with_settings("127.0.0.1:0", None, tls)
        self._running = RunningService(service)

    @property
    def address(self) -> str:
        """Where it listens: ``127.0.0.1:port``."""
        return self._running.address

    def on(self, path: str, *steps: Step) -> None:
        """Say how requests for a path are answered.

        Args:
            path: The path, without a query; ``*`` for all that have no script of their own.
            steps: One for each request in turn; the last one goes on for ever.

        Raises:
            ValueError: Without a step.
        """
        self._scripts[path] = _Script(steps, is_exact=False)

    def expect(self, path: str, *steps: Step) -> None:
        """Say how requests for a path are answered, and how many have to come.

        Args:
            path: As for `on`.
            steps: One for each request in turn. One more is answered with 500, and is an
                ``AssertionError`` at the end, as is one less.

        Raises:
            ValueError: Without a step.
        """
        self._scripts[path] = _Script(steps, is_exact=True)

    def next_step(self, path: str) -> Step:
        """Take the next step of a path's script.

        Args:
            path: The path.

        Returns:
            The step; 404 without a script, 500 where it has run out.
        """
        script = self._scripts.get(path) or self._scripts.get("*")
        return reply(404) if script is None else script.next_step()

    def note_failure(self, failure: Exception) -> None:
        """Remember what a step has raised; the first one is raised when the context is left.

        Args:
            failure: It.
        """
        self._failure = self._failure or failure

    def check(self) -> None:
        """Compare what has come with what was expected; leaving the context does it as well.

        Raises:
            AssertionError: If other requests were expected.
            Exception: What a step has raised.
        """
        if self._failure is not None:
            raise self._failure
        wrong = [
            f"{path}: {script.taken} came, {len(script.steps)} were expected"
            for path, script in self._scripts.items()
            if script.is_exact and script.taken != len(script.steps)
        ]
        if wrong:
            came = ", ".join(f"{each.header.method} {each.path}" for each in self.requests)
            msg = f"requests to the origin: {'; '.join(wrong)} (in all: {came or 'none'})"
            raise AssertionError(msg)

    async def __aenter__(self) -> Self:
        await self._running.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._running.__aexit__(kind, error, traceback)
        if kind is None:
            self.check()


class _Script:
    def __init__(self, steps: Sequence[Step], *, is_exact: bool) -> None:
        if not steps:
            msg = "a script has at least one step"
            raise ValueError(msg)
        self.steps = steps
        self.is_exact = is_exact
        self.taken = 0

    def next_step(self) -> Step:
        number = self.taken
        self.taken += 1
        if number < len(self.steps):
            return self.steps[number]
        return reply(500, b"the script has run out") if self.is_exact else self.steps[-1]


class _OriginApp(HttpServerApp):
    def __init__(self, origin: ScriptedOrigin) -> None:
        self._origin = origin

    async def process_new_http(self, session: ServerSession, shutdown: ShutdownWatch) -> bool:
        session.shutdown_watch = shutdown
        try:
            if not await session.read_request():
                return False
            pieces: list[bytes] = []
            while (piece := await session.read_request_body()) is not None:
                pieces.append(piece)
            request = OriginRequest(
                session.request.copy(), b"".join(pieces), session.request_trailers
            )
            self._origin.requests.append(request)
            await self._origin.next_step(request.path)(session)
            return await session.finish()
        except Error:
            session.shutdown()
            return False
        except Exception as failure:  # noqa: BLE001 - a step is the test's own, and its asserts count
            self._origin.note_failure(failure)
            session.shutdown()
            return False
