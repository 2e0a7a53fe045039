"""Sessions without a connection, for testing one callback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.modules.chain import HttpModules
from pingora_core.protocols.address import HostAddress, parse_address
from pingora_core.protocols.digest import Digest
from pingora_core.protocols.http.subrequest import SubrequestSession
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_http import RequestHeader
from pingora_proxy.session import ServiceParts, Session
from pingora_proxy.testing.client import ClientResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.protocols.ssl_digest import SslDigest
    from pingora_http import HeaderMap, ResponseHeader

__all__ = ["FakeSession", "make_session"]


class _FakeDownstream(SubrequestSession):
    # A request from nobody, whose response is kept.

    def __init__(
        self, request: RequestHeader, body: bytes, client: str, tls: SslDigest | None
    ) -> None:
        address = parse_address(client)
        if isinstance(address, HostAddress):
            msg = f"a client has an address, not a name ({client})"
            raise ValueError(msg)
        super().__init__(request, client_addr=address, digest=Digest(ssl_digest=tls))
        self.request = request
        self._request_body = body
        self._body_read = 0
        self._parts: list[bytes] = []
        self._trailers: HeaderMap | None = None
        self._informational: list[int] = []

    @property
    def body_bytes_read(self) -> int:
        return self._body_read

    @property
    def is_body_empty(self) -> bool:
        return not self._request_body and not self._body_read

    @property
    def is_body_done(self) -> bool:
        return not self._request_body

    def next_request_body(self) -> bytes | None:
        body, self._request_body = self._request_body, b""
        self._body_read += len(body)
        return body or None

    async def read_request_body(self) -> bytes | None:
        return self.next_request_body()

    def send_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        if header.status < 200:
            self._informational.append(header.status)
        super().send_response_header(header, end=end)

    def send_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        super().send_response_body(data, end=end)
        if data:
            self._parts.append(data)

    def send_response_trailers(self, trailers: HeaderMap | None) -> None:
        self._trailers = trailers

    @property
    def sent(self) -> ClientResponse | None:
        header = self.response_written
        if header is None:
            return None
        body = b"".join(self._parts)
        return ClientResponse(header, body, self._trailers, tuple(self._informational))


class FakeSession(Session):
    """A session without a connection: what a callback sends is kept in ``sent``.

    Args:
        downstream: What stands for the client; `make_session` makes it.
    """

    __slots__ = ("_fake",)

    def __init__(self, downstream: _FakeDownstream) -> None:
        parts = ServiceParts(HttpModules(), HttpModules(), None)
        super().__init__(downstream, parts, ShutdownSwitch().watch)
        self._fake = downstream

    @property
    def sent(self) -> ClientResponse | None:
        """What was sent to the client so far; None before a final head."""
        return self._fake.sent

    @property
    def is_subrequest(self) -> bool:
        """False: it stands for a client's request."""
        return False


def make_session(
    method: str = "GET",
    target: str = "/",
    headers: Iterable[tuple[str, str]] = (("Host", "example.test"),),
    body: bytes = b"",
    *,
    client: str = "203.0.113.7:40000",
    tls: SslDigest | None = None,
) -> FakeSession:
    """Make a session for testing one callback, without any socket.

    Args:
        method: The method of the request.
        target: Its path and query.
        headers: Its fields; Content-Length is added for a body.
        body: Its body.
        client: Address of the client.
        tls: What TLS has agreed on, such as ``SslDigest("TLS_AES_128_GCM_SHA256", "TLSv1.3")``;
            None for a request in clear.

    Returns:
        The session.

    Raises:
        ValueError: If ``client`` is no address.

    Examples:
        >>> session = make_session("POST", "/login", [("Host", "a.test")], b"user=me")
        >>> session.req_header.path
        '/login'
    """
    request = RequestHeader(method, target, headers=headers)
    if body and request.get_raw(b"content-length") is None:
        request.insert_header("Content-Length", str(len(body)))
    return FakeSession(_FakeDownstream(request, body, client, tls))
