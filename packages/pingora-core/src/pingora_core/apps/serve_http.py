"""The small way to answer HTTP: one coroutine that turns a request into a whole response."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from msgspec.json import encode

from pingora_core.apps.http_app import HttpServerApp
from pingora_core.modules.chain import HttpModules
from pingora_core.protocols.http.error_page import generate_error
from pingora_error import Error, ErrorSource, ErrorType, HTTPStatus
from pingora_http import ResponseHeader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.apps.http_app import HttpServerOptions
    from pingora_core.apps.load_shedding import LoadShedder, RequestPermit
    from pingora_core.modules.chain import HttpModuleCtx
    from pingora_core.modules.module import Answer, HttpModuleBuilder
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = ["HttpServer", "Response", "ServeHttp"]

_logger = logging.getLogger(__name__)


class Response:
    """A whole response in memory.

    Args:
        status: The status.
        body: The body.
        headers: Fields; Content-Length is added.

    Attributes:
        header: The head.
        body: The body.
    """

    __slots__ = ("body", "header")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Iterable[tuple[str | bytes, str | bytes]] = (),
    ) -> None:
        self.header: ResponseHeader = ResponseHeader(status, headers=headers)
        self.body: bytes = body
        if status >= 200 and status not in {204, 304}:
            self.header.set_content_length(len(body))

    @classmethod
    def json(
        cls, status: int, value: object, headers: Iterable[tuple[str | bytes, str | bytes]] = ()
    ) -> Self:
        """Make a response whose body is JSON.

        Args:
            status: The status.
            value: What msgspec encodes: dicts, lists, texts and numbers, structures, dataclasses,
                times.
            headers: Fields beside ``Content-Type: application/json`` and Content-Length.

        Returns:
            The response.

        Raises:
            TypeError: If the value cannot be encoded.
        """
        fields = [("Content-Type", "application/json"), *headers]
        return cls(status, encode(value), fields)


class ServeHttp(ABC):
    """Answers requests, each with a response that is made in one piece."""

    @abstractmethod
    async def response(self, session: ServerSession) -> Response:
        """Answer one request.

        Args:
            session: The request; its body can be read with ``read_request_body``.

        Returns:
            The response.
        """


class HttpServer(HttpServerApp):
    """Serves a :class:`ServeHttp`, with modules around it.

    An error raised while answering becomes an error page: the status of an ``HTTPStatus`` kind,
    400 for what the client did wrong, else 500.

    Args:
        app: What answers.
        server_options: How clients are spoken to.
        load_shedder: Refuses requests that are too many; None lets all of them in.

    Attributes:
        app: What answers.
    """

    def __init__(
        self,
        app: ServeHttp,
        *,
        server_options: HttpServerOptions | None = None,
        load_shedder: LoadShedder | None = None,
    ) -> None:
        self.app: ServeHttp = app
        if server_options is not None:
            self.server_options = server_options
        self.load_shedder = load_shedder
        self._modules = HttpModules()

    def add_module(self, builder: HttpModuleBuilder) -> None:
        """Add a module that sees every request and response.

        Args:
            builder: Makes the module's instance for a request.
        """
        self._modules.add_module(builder)

    async def process_new_http(
        self,
        session: ServerSession,
        shutdown: ShutdownWatch,  # noqa: ARG002 - the connection's loop heeds it
    ) -> bool:
        """Serve one request.

        Args:
            session: The client's side, nothing read yet.
            shutdown: Tells when the server stops.

        Returns:
            Whether the connection can carry another request.
        """
        modules: HttpModuleCtx | None = None
        permit: RequestPermit | None = None
        try:
            if not await session.read_request():
                return False
            shedder = self.load_shedder
            if shedder is not None:
                permit = shedder.admit(session.request)
                if permit is None:
                    return await shedder.refuse(session)
            if self._modules.has_eager:
                modules = self._modules.build_ctx(session)
            await self._answer(session, modules)
            return await session.finish()
        except Error as error:
            await self._fail(session, error, modules)
        except Exception as error:  # noqa: BLE001 - an application may raise anything
            wrapped = Error.internal(ErrorType.INTERNAL_ERROR, cause=error)
            await self._fail(session, wrapped, modules)
        finally:
            if permit is not None:
                permit.release(session.response_written)
        return False

    async def _answer(self, session: ServerSession, modules: HttpModuleCtx | None) -> None:
        if session.request.raw_method == b"CONNECT":
            raise Error.down(HTTPStatus(405), "CONNECT is not supported")
        response: Response | Answer | None = None
        if modules is not None:
            response = await modules.request_header_filter(session.request)
        if response is None:
            response = await self.app.response(session)
        header = response.header
        body: bytes | None = response.body
        end = not body
        if modules is not None:
            await modules.response_header_filter(header, end)
        session.send_response_header(header, end=end)
        if not end:
            end = True
            if modules is not None:
                body = modules.response_body_filter(body, end)
            session.send_response_body(body, end=end)
        if session.needs_drain:
            await session.drain()

    async def _fail(
        self, session: ServerSession, error: Error, modules: HttpModuleCtx | None
    ) -> None:
        kind = error.etype
        code = kind.code if isinstance(kind, HTTPStatus) else 500
        if code == 500 and error.esource is ErrorSource.DOWNSTREAM:
            code = 408 if kind is ErrorType.READ_TIMEDOUT else 400
        # What clients do wrong is nobody's fault here, and they decide how often.
        _logger.log(
            logging.INFO if error.esource is ErrorSource.DOWNSTREAM else logging.ERROR,
            "Fail to serve: %s, status: %d, %s",
            error,
            code,
            session.request_summary(),
            exc_info=error.root_cause if error.root_etype is ErrorType.INTERNAL_ERROR else None,
        )
        if session.response_written is not None or kind in {
            ErrorType.CONNECTION_CLOSED,
            ErrorType.WRITE_ERROR,
            ErrorType.READ_ERROR,
        }:
            session.shutdown()
            return
        header = generate_error(code)
        if modules is not None:
            modules.error_page_filter(header)
        try:
            await session.write_error_response(header)
        except Error:
            session.shutdown()
