"""What a callback may send to the client by itself; part of ``Session``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.json import encode

from pingora_core.apps.serve_http import Response
from pingora_core.modules.module import Answer
from pingora_core.protocols.http.error_page import generate_error
from pingora_http.status import reason_phrase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pingora_core.modules.chain import HttpModuleCtx
    from pingora_core.protocols.http.server import ServerSession
    from pingora_http import HeaderMap, ResponseHeader

__all__ = ["SessionWriting"]


class SessionWriting:
    """The writing half of ``Session``."""

    __slots__ = ()

    downstream_session: ServerSession
    active_modules: HttpModuleCtx | None
    _page_filter: Callable[[ResponseHeader], Awaitable[None]] | None

    async def write_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        """Send a response head to the client, through the modules.

        Args:
            header: Informational or final.
            end: Whether the message ends here.
        """
        modules = self.active_modules
        if modules is not None:
            await modules.response_header_filter(header, end)
        await self.downstream_session.write_response_header(header, end=end)

    async def write_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        """Send a piece of the response body to the client, through the modules.

        Args:
            data: Payload bytes.
            end: Whether the message ends here.
        """
        modules = self.active_modules
        if modules is not None:
            data = modules.response_body_filter(data, end)
            if end and (done := modules.response_done_filter()):
                data = (data or b"") + done
        await self.downstream_session.write_response_body(data, end=end)

    async def write_response_trailers(self, trailers: HeaderMap) -> None:
        """Send the trailers to the client, through the modules, and end the message.

        Args:
            trailers: The fields.
        """
        modules = self.active_modules
        if modules is not None:
            data = modules.response_trailer_filter(trailers)
            if data:
                await self.downstream_session.write_response_body(data)
        # Without fields if a module has put them elsewhere.
        await self.downstream_session.write_response_trailers(trailers or None)

    async def respond(self, response: Response) -> bool:
        """Answer with a whole response.

        It passes ``response_filter`` and the modules, as one of an upstream does. Nothing is sent
        when a final head was sent already.

        Args:
            response: What to answer; ``Response.json`` makes one of a value.

        Returns:
            True, which is what ``request_filter`` returns when it has answered.
        """
        if self.downstream_session.response_written is None:
            await self.write_answer(Answer(response.header, response.body))
        return True

    async def respond_problem(
        self, code: int, detail: str, headers: Iterable[tuple[str, str]] = ()
    ) -> bool:
        """Answer with a problem that programs and people can read (RFC 9457).

        Args:
            code: The status.
            detail: What is wrong with this request, for the client to read.
            headers: Further fields, such as ``Retry-After``.

        Returns:
            True, which is what ``request_filter`` returns when it has answered.
        """
        title = reason_phrase(code).decode()
        body = encode({"title": title, "status": code, "detail": detail})
        fields = (("Content-Type", "application/problem+json"), ("Cache-Control", "no-store"))
        return await self.respond(Response(code, body, (*fields, *headers)))

    async def respond_error(self, code: int, body: bytes = b"") -> None:
        """Answer with an error page; the connection is closed afterwards.

        The page passes ``response_filter``, so that clients see the same fields as on any other
        response, and the modules' ``error_page_filter``. Nothing is sent when a final head was sent
        already.

        Args:
            code: The status.
            body: The page; empty by default.
        """
        header = generate_error(code)
        if body:
            header.set_content_length(len(body))
        downstream = self.downstream_session
        if downstream.response_written is None:
            if self._page_filter is not None:
                await self._page_filter(header)
            if self.active_modules is not None:
                self.active_modules.error_page_filter(header)
        await downstream.write_error_response(header, body)

    # -------------------------------------------------- for the proxy, not for callbacks

    async def write_answer(self, answer: Answer) -> None:
        """Send what a module has answered, through ``response_filter`` and the modules.

        Args:
            answer: The response.
        """
        header, body = answer
        if self._page_filter is not None:
            await self._page_filter(header)
        await self.write_response_header(header, end=not body)
        if body:
            await self.write_response_body(body, end=True)

    async def is_answered_by(self, modules: HttpModuleCtx) -> bool:
        """Send the request head through the modules.

        Args:
            modules: Those of this request.

        Returns:
            Whether one of them has answered.
        """
        answer = await modules.request_header_filter(self.downstream_session.request)
        if answer is None:
            return False
        await self.write_answer(answer)
        return True
