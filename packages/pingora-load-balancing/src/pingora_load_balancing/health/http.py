"""The check that a backend answers an HTTP request as it should."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from pingora_core.protocols.address import UnixAddress
from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.upstreams.peer import HttpPeer
from pingora_error import CustomCode, Error, ErrorSource, ErrorType
from pingora_http import RequestHeader
from pingora_http.names import CONNECTION, HOST, USER_AGENT
from pingora_load_balancing.health._exchange import HealthRequest, HealthResponse, perform
from pingora_load_balancing.health._network import NetworkCheck, server_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pingora_load_balancing.health._network import Attempt

__all__ = ["HealthResponse", "HttpHealthCheck", "Validator"]

Validator: TypeAlias = Callable[[HealthResponse], Awaitable[None]]
"""Looks at an answer; raises what is wrong with it."""


@dataclass(eq=False)
class HttpHealthCheck(NetworkCheck):
    """Sends a request and looks at the answer, which has to end in time.

    Attributes:
        host: The Host field, and the name for TLS; empty for the address of the backend.
        tls: Whether to speak TLS.
        method: The method.
        path: Path and query.
        headers: Further fields; they come before those that are added by default.
        expected_statuses: What counts as healthy; a ``range`` will do. None for 200 or, with a
            validator, for any.
        validator: Looks at the answer once its status is as expected. What it raises makes the
            check a failure.
        http2: Whether to speak HTTP/2: negotiated over TLS, in clear by prior knowledge.
            Otherwise ``options.alpn`` decides, which is HTTP/1.1 by default.
        sni: The name for TLS instead of ``host``.
        max_body: Bytes of the body that are read. A longer one is a failure for a validator, which
            could not see all of it; without one the rest is not read.
        timeout: Total deadline of one check, from connecting to the end of the answer, seconds.
        port_override: Port to connect to instead of the backend's.
        host_override: Host name or IP address to connect to instead of the backend's.
        reuse_connection: Whether the connection is kept for the next check. Otherwise each check
            does all handshakes, and so sees more of what a client will meet.
        options: How to connect: authorities, verification, source address.
        connector_options: For the connections in general; None for the defaults.

    Raises:
        ValueError: If an attribute makes no sense.
        Error: ``INVALID_HTTP_HEADER`` if the request could not be sent.

    Examples:
        >>> check = HttpHealthCheck(
        ...     "example.com", path="/healthz", expected_statuses=range(200, 300)
        ... )
        >>> check.port_override = 8081

    Source: pingora-load-balancing/src/health_check.rs. The deadline is a total one, and what is
    read is bounded.
    """

    host: str = ""
    tls: bool = False
    _: KW_ONLY
    method: str = "GET"
    path: str = "/"
    headers: Iterable[tuple[str, str]] = ()
    expected_statuses: Collection[int] | None = None
    validator: Validator | None = None
    http2: bool = False
    sni: str | None = None
    max_body: int = 65536
    _request: RequestHeader = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_body < 0:
            msg = f"max_body must not be negative: {self.max_body}"
            raise ValueError(msg)
        request = RequestHeader(self.method, self.path, headers=self.headers)
        if self.host and request.get_raw(HOST) is None:
            request.append_header("Host", self.host)
        if request.get_raw(USER_AGENT) is None:
            request.append_header("User-Agent", "pingora-health-check")
        self._request = request

    async def _check(self, attempt: Attempt) -> None:
        validator = self.validator
        header = self._request.copy()
        if header.get_raw(HOST) is None:
            address = attempt.backend.addr
            header.append_header(
                "Host", "localhost" if isinstance(address, UnixAddress) else str(address)
            )
        if not self.reuse_connection and header.get_raw(CONNECTION) is None:
            header.append_header("Connection", "close")
        request = HealthRequest(header, b"", self.max_body, whole_body=validator is not None)
        response = await perform(self._connections(), self._peer(attempt), request, attempt)
        self._judge(response.status)
        if validator is not None:
            await _validate(validator, response)

    def _peer(self, attempt: Attempt) -> HttpPeer:
        options = self._peer_options()
        if self.http2:
            options.alpn = ALPN.H2
        sni = server_name(self.host) if self.sni is None else self.sni
        return HttpPeer(attempt.address, tls=self.tls, sni=sni, options=options)

    def _judge(self, status: int) -> None:
        expected = self.expected_statuses
        if expected is None:
            expected = (200,) if self.validator is None else (status,)
        if status not in expected:
            raise Error(
                CustomCode("UnexpectedStatus", status),
                f"{self.method} {self.path}",
                source=ErrorSource.UPSTREAM,
            )


async def _validate(validator: Validator, response: HealthResponse) -> None:
    try:
        await validator(response)
    except Error:
        raise
    except Exception as error:
        msg = "the validator refuses the answer"
        raise Error.up(ErrorType.UNKNOWN_ERROR, msg, cause=error) from error
