"""The check that asks a gRPC server how it is, by gRPC's own health protocol."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.address import UnixAddress
from pingora_core.protocols.http.bridge.grpc import (
    GrpcStatus,
    decode_grpc_message,
    format_grpc_timeout,
    grpc_status_of_http,
)
from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.upstreams.peer import HttpPeer
from pingora_error import Custom, Error, ErrorSource, ErrorType
from pingora_http import RequestHeader
from pingora_http.names import CONTENT_TYPE, HOST
from pingora_load_balancing.health._exchange import HealthRequest, perform
from pingora_load_balancing.health._grpc_messages import (
    ServingStatus,
    decode_response,
    encode_request,
)
from pingora_load_balancing.health._network import NetworkCheck, server_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_load_balancing.health._exchange import HealthResponse
    from pingora_load_balancing.health._network import Attempt

__all__ = ["GrpcHealthCheck"]

_METHOD: Final = "/grpc.health.v1.Health/Check"
# The message has a few bytes; whoever sends more has something else in mind.
_MAX_BODY: Final = 4096


@dataclass(eq=False)
class GrpcHealthCheck(NetworkCheck):
    """Calls ``grpc.health.v1.Health/Check``; only ``SERVING`` counts as healthy.

    Attributes:
        service: Which service to ask about; empty for the server as a whole.
        host: The authority, and the name for TLS; empty for the address of the backend.
        tls: Whether to speak TLS.
        metadata: Further fields of the request, such as an authorization.
        sni: The name for TLS instead of ``host``.
        timeout: Total deadline of one check, seconds; the server is told what it is.
        port_override: Port to connect to instead of the backend's.
        host_override: Host name or IP address to connect to instead of the backend's.
        reuse_connection: Whether the connection is kept for the next check.
        options: How to connect: authorities, verification, source address.
        connector_options: For the connections in general; None for the defaults.

    Raises:
        ValueError: If an attribute makes no sense.
        Error: ``INVALID_HTTP_HEADER`` if the request could not be sent.

    Examples:
        >>> check = GrpcHealthCheck("shop.Cart", timeout=1.0)
        >>> check.service
        'shop.Cart'

    Source: GRPC Health Checking Protocol (grpc/doc/health-checking.md). Not in Pingora.
    """

    service: str = ""
    _: KW_ONLY
    host: str = ""
    tls: bool = False
    metadata: Iterable[tuple[str, str]] = ()
    sni: str | None = None
    _request: RequestHeader = field(init=False, repr=False)
    _body: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._body = encode_request(self.service)
        request = RequestHeader("POST", _METHOD, headers=self.metadata)
        if self.host:
            request.insert_header("Host", self.host)
        request.insert_header("TE", "trailers")
        request.insert_header("Content-Type", "application/grpc")
        request.insert_header("grpc-timeout", format_grpc_timeout(self.timeout))
        request.insert_header("User-Agent", "pingora-health-check")
        request.insert_header("Content-Length", str(len(self._body)))
        self._request = request

    async def _check(self, attempt: Attempt) -> None:
        header = self._request.copy()
        if header.get_raw(HOST) is None:
            address = attempt.backend.addr
            header.insert_header(
                "Host", "localhost" if isinstance(address, UnixAddress) else str(address)
            )
        options = self._peer_options()
        options.alpn = ALPN.H2
        sni = server_name(self.host) if self.sni is None else self.sni
        peer = HttpPeer(attempt.address, tls=self.tls, sni=sni, options=options)
        request = HealthRequest(header, self._body, _MAX_BODY, whole_body=True)
        response = await perform(self._connections(), peer, request, attempt)
        self._judge(response)

    def _judge(self, response: HealthResponse) -> None:
        _check_outcome(response)
        status = decode_response(response.body)
        if status != ServingStatus.SERVING:
            name = ServingStatus(status).name if status in set(ServingStatus) else str(status)
            what = self.service or "the server"
            raise Error.up(Custom("NotServing"), f"{what} is {name}")


def _check_outcome(response: HealthResponse) -> None:
    header = response.header
    content_type = header.get_raw(CONTENT_TYPE) or b""
    if header.status != 200 or not content_type.lower().startswith(b"application/grpc"):
        outcome = grpc_status_of_http(header.status).name
        msg = f"no gRPC server: HTTP status {header.status} ({outcome}), {content_type[:64]!r}"
        raise Error.up(Custom("GrpcStatus"), msg)
    # In the head if there is nothing else ("trailers-only").
    fields = header if response.trailers is None else response.trailers
    text = fields.get_raw(b"grpc-status")
    if text == b"0":
        return
    if text is None or not text.isdigit() or len(text) > 2:
        raise Error(
            ErrorType.INVALID_HTTP_HEADER, f"grpc-status {text!r}", source=ErrorSource.UPSTREAM
        )
    number = int(text)
    name = GrpcStatus(number).name if number in set(GrpcStatus) else str(number)
    message = decode_grpc_message(fields.get_raw(b"grpc-message") or b"")[:200]
    raise Error.up(Custom("GrpcStatus"), f"{name} {message}".rstrip())
