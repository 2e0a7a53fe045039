"""Reaching a peer through an HTTP proxy, with CONNECT (RFC 9110 section 9.3.6)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.address import UnixAddress
from pingora_core.protocols.digest import ProxyDigest
from pingora_core.protocols.http.v1.framing import check_response_head
from pingora_core.protocols.http.v1.limits import FramingOptions, HeadLimits
from pingora_core.protocols.http.v1.parser import (
    check_incomplete_head,
    find_head_end,
    get_parser,
)
from pingora_error import Error, ErrorSource, ErrorType
from pingora_http import RequestHeader

if TYPE_CHECKING:
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.upstreams.peer import Peer, Proxy
    from pingora_http import ResponseHeader

__all__ = ["ConnectProxyError", "connect_through", "make_connect_request"]

# A proxy's answer says yes or no; what some add (Proxy-Status, cookies) fits many times.
_LIMITS: Final = HeadLimits(max_head_size=16384, max_fields=100)
_OPTIONS: Final = FramingOptions()


class ConnectProxyError(Exception):
    """A proxy did not open the tunnel; the cause of the `Error` that is raised.

    Attributes:
        response: What it answered; None if that was no HTTP response.
        reason: What was wrong, in words; from ``Proxy-Status`` (RFC 9209) if it has one.
    """

    def __init__(self, reason: str, response: ResponseHeader | None = None) -> None:
        super().__init__(reason)
        self.reason: str = reason
        self.response: ResponseHeader | None = response


def make_connect_request(peer: Peer, proxy: Proxy) -> RequestHeader:
    """Make the request for a tunnel to a peer.

    Args:
        peer: Where the tunnel should lead; a host name is left for the proxy to look up.
        proxy: Whom to ask.

    Returns:
        The request head.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` if a header that was configured is malformed,
            ``CONNECT_PROXY_FAILURE`` if the peer is a Unix socket.
    """
    if isinstance(peer.address, UnixAddress):
        msg = f"a proxy cannot be asked for a Unix socket, {peer.address}"
        raise Error(ErrorType.CONNECT_PROXY_FAILURE, msg, source=ErrorSource.INTERNAL)
    authority = str(peer.address)
    request = RequestHeader("CONNECT", authority)
    request.insert_header("Host", authority)
    for name, value in (*proxy.headers, *peer.options.extra_proxy_headers):
        request.append_header(name, value)
    return request


async def connect_through(stream: Stream, peer: Peer, request: RequestHeader) -> None:
    """Ask a proxy for a tunnel to a peer, within the peer's ``connection_timeout``.

    Args:
        stream: Connected to the proxy; leads to the peer afterwards. Left to the caller to close
            if this fails.
        peer: Where the tunnel should lead.
        request: What `make_connect_request` made for it.

    Raises:
        Error: From upstream: ``CONNECT_TIMEDOUT``, or ``CONNECT_PROXY_FAILURE`` whose cause is a
            `ConnectProxyError` if the proxy has answered, or what broke the connection.
    """
    context = f"CONNECT to {peer.address}" + (
        f" through {peer.proxy.next_hop}" if peer.proxy else ""
    )
    try:
        async with asyncio.timeout(peer.options.connection_timeout):
            stream.write(request.to_wire())
            response = await _read_response(stream)
    except TimeoutError as error:
        raise Error(ErrorType.CONNECT_TIMEDOUT, context, source=ErrorSource.UPSTREAM) from error
    except (ConnectProxyError, Error) as error:
        raise Error(
            ErrorType.CONNECT_PROXY_FAILURE,
            context,
            source=ErrorSource.UPSTREAM,
            cause=error,
        ) from error
    digest = stream.digest
    digest.proxy_digest = ProxyDigest(response)
    hook = peer.options.proxy_digest_user_data_hook
    if hook is not None:
        digest.proxy_digest.user_data = hook(request, response)


async def _read_response(stream: Stream) -> ResponseHeader:
    """Read the proxy's final response, and leave what follows it in the stream.

    Args:
        stream: Connected to the proxy.

    Returns:
        A response that opens the tunnel.

    Raises:
        ConnectProxyError: If it does not, or is too large or malformed.
    """
    buffer = b""
    while True:
        try:
            response, buffer = _next_response(buffer)
        except Error as error:
            msg = "the proxy's answer is not acceptable HTTP"
            raise ConnectProxyError(msg) from error
        if response is None:
            if not await stream.fill():
                msg = "the proxy closed the connection"
                raise ConnectProxyError(msg)
            buffer += stream.take()
        elif response.status >= 200:
            _check(response)
            stream.unread(buffer)
            return response


def _next_response(buffer: bytes) -> tuple[ResponseHeader | None, bytes]:
    """Take one response head off the front of a buffer.

    Args:
        buffer: What has arrived.

    Returns:
        The head and what follows it; None and the same bytes if it is not complete.
    """
    end = find_head_end(buffer, 0)
    if end < 0:
        check_incomplete_head(buffer, _LIMITS)
        return None, buffer
    response = get_parser().parse_response(buffer[:end])
    check_response_head(buffer[:end], response, _LIMITS, _OPTIONS)
    return response, buffer[end:]


def _check(response: ResponseHeader) -> None:
    if not 200 <= response.status < 300:
        status = response.get("proxy-status")
        reason = f"{response.status} {response.reason}" + (f" ({status})" if status else "")
        raise ConnectProxyError(reason, response)
    # A tunnel has no length (RFC 9110 section 9.3.6), and who expects a body here would cut the
    # first bytes off it. Content-Length is tolerated because proxies in use send it.
    if response.get("transfer-encoding") is not None:
        msg = f"Transfer-Encoding in a {response.status} response to CONNECT"
        raise ConnectProxyError(msg, response)
