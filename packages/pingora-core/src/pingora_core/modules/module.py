"""What an HTTP module is: a filter that belongs to a service, not to one application's code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.digest import Digest
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["Answer", "Downstream", "HttpModule", "HttpModuleBuilder"]


class Answer(NamedTuple):
    """A whole response, with which a module answers a request itself.

    Attributes:
        header: The head, with the right Content-Length.
        body: The body.
    """

    header: ResponseHeader
    body: bytes = b""


class Downstream(Protocol):
    """What a module may know of the client's side; ``ServerSession`` is one."""

    @property
    def req_header(self) -> RequestHeader:
        """The request head."""

    @property
    def client_addr(self) -> SocketAddress | None:
        """Address of the client; None when unknown."""

    @property
    def digest(self) -> Digest:
        """What is known of the connection; with an ``ssl_digest`` if the client uses TLS."""


class HttpModule:
    """Filters for one request; each default changes nothing.

    An error that a filter raises ends the exchange as an error of the application's own filters
    does. A body filter returns what replaces the piece it was given.

    Source: pingora-core/src/modules/http/mod.rs.
    """

    __slots__ = ()

    async def request_header_filter(self, request: RequestHeader) -> Answer | None:
        """See, and maybe change, the request head, or answer the request.

        Args:
            request: The head, before the application's ``request_filter``.

        Returns:
            None to go on. An answer ends the request, and neither the modules that run later nor
            the application's filters for requests see it; the answer passes all filters for
            responses.
        """
        _ = request
        return None

    def request_body_start(self) -> None:
        """Be told that the request body comes from its beginning: once for each attempt."""

    async def request_body_filter(self, body: bytes | None, end: bool) -> bytes | None:  # noqa: FBT001 - Pingora's signature
        """Replace a piece of the request body.

        Args:
            body: The piece; None when it only tells the end.
            end: Whether the body ends with it.

        Returns:
            What is sent instead; None for nothing.
        """
        _ = end
        return body

    async def response_header_filter(self, response: ResponseHeader, end: bool) -> None:  # noqa: FBT001 - Pingora's signature
        """See, and maybe change, a response head.

        Args:
            response: The head, informational or final.
            end: Whether the message ends with it.
        """

    def error_page_filter(self, response: ResponseHeader) -> None:
        """See, and maybe change, the head of an error page.

        A page that the server makes up passes no other filter of the module.

        Args:
            response: The head.
        """

    def response_body_filter(self, body: bytes | None, end: bool) -> bytes | None:  # noqa: FBT001 - Pingora's signature
        """Replace a piece of the response body.

        Args:
            body: The piece; None when it only tells the end.
            end: Whether the message ends with it.

        Returns:
            What is sent instead; None for nothing.
        """
        _ = end
        return body

    def response_trailer_filter(self, trailers: HeaderMap | None) -> bytes | None:
        """See, and maybe change, the trailers, and end the body.

        Args:
            trailers: The fields; None when there are none.

        Returns:
            Bytes of the body that are sent before the trailers; None for nothing.
        """
        _ = trailers
        return None

    def response_done_filter(self) -> bytes | None:
        """End a body whose last piece did not know that it was the last.

        Called once at the end of a response that had no trailers, also when the last piece did
        know.

        Returns:
            Bytes that are sent last; None for nothing.
        """
        return None


class HttpModuleBuilder(ABC):
    """Makes the modules of one kind, one for each request.

    Attributes:
        order: Modules with a higher order run first, in both directions.
        lazy: Whether the module is made only when it is asked for.
    """

    order: int = 0
    lazy: bool = False

    @property
    @abstractmethod
    def module_type(self) -> type[HttpModule]:
        """The class of the modules it makes; a class attribute will do."""

    @abstractmethod
    def init(self) -> HttpModule:
        """Make a module.

        Returns:
            A new instance of ``module_type``.
        """

    def init_for(self, downstream: Downstream) -> HttpModule:
        """Make a module that knows whom it serves; the default is ``init``.

        A lazy module may be asked for only after the filters for the request head have run. One
        that needs the head should look at it here.

        Args:
            downstream: The client's side of the exchange. Its request head has been read.

        Returns:
            A new instance of ``module_type``.
        """
        _ = downstream
        return self.init()
