"""A small HTTP client for sources: one server, bounded answers, secrets kept out of messages.

Redirects are not followed: a token would go wherever the answer points. Compressed answers are
refused, since they were not asked for.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from pingora_core.connectors.http import Connector
from pingora_core.protocols.address import parse_address
from pingora_core.protocols.l4.sockopt import TcpKeepalive
from pingora_core.protocols.tls import CaBundle
from pingora_core.upstreams.options import PeerOptions
from pingora_core.upstreams.peer import HttpPeer
from pingora_error import Error, ErrorSource, ErrorType
from pingora_http import RequestHeader
from pingora_load_balancing.discovery._files import FollowedFile
from pingora_load_balancing.discovery._http_response import HttpResponse
from pingora_load_balancing.discovery.interfaces import DISCOVERY_ERROR, refuse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_http import ResponseHeader
    from pingora_load_balancing.discovery.access import HttpAccess

__all__ = ["HttpAnswer", "HttpClient", "off_the_loop"]

_T = TypeVar("_T")

_MAX_TOKEN: Final = 64 << 10
_MAX_CA: Final = 4 << 20
_PORTS: Final = {"http": 80, "https": 443}
_UNIX: Final = "unix:"
_USER_AGENT: Final = "pingora-load-balancing"
# Shorter texts are parsed at once; what takes longer than a millisecond or so goes to a thread.
_SMALL: Final = 4 << 10
# Of an answer that is read only to have its connection back.
_MAX_REST: Final = 64 << 10
# Notices within two minutes that the other machine is gone while it is not supposed to say anything.
_KEEPALIVE: Final = TcpKeepalive(idle=60.0, interval=10.0, count=5)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole response.

    Attributes:
        status: Its code.
        header: Its head.
        body: Its body; empty unless the status is 200.
    """

    status: int
    header: ResponseHeader
    body: bytes


class HttpClient:
    """Asks one server.

    Args:
        url: ``http://host[:port]/target``, ``https://...``, or ``unix:/path:/target`` for a Unix
            socket; the target may be left out.
        access: How it is reached.
        token_field: Name of the field that carries the token, and what precedes it there.

    Attributes:
        url: As given, without a query.
        target: Path and query of the URL.

    Raises:
        ValueError: If the URL is none, or contains a password.
    """

    __slots__ = (
        "_access",
        "_address",
        "_ca",
        "_connector",
        "_host",
        "_server_name",
        "_tls",
        "_token",
        "_token_field",
        "target",
        "url",
    )

    def __init__(
        self,
        url: str,
        access: HttpAccess,
        *,
        token_field: tuple[str, str] = ("Authorization", "Bearer "),
    ) -> None:
        self._access = access
        self._token_field = token_field
        self._connector: Connector | None = None
        self._token = _follow_token(access)
        self._ca = (
            None
            if access.ca_file is None
            else FollowedFile(access.ca_file, _MAX_CA, CaBundle.from_pem)
        )
        self._tls = False
        self._server_name = access.server_name
        self._address: PeerAddress
        if url.startswith(_UNIX):
            path, _, target = url.removeprefix(_UNIX).partition(":")
            self.url, self.target, self._host = url.partition("?")[0], target or "/", "localhost"
            self._address = parse_address(_UNIX + path)
            return
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            # Not the whole text: whoever mistypes a URL may have put a secret into it.
            msg = "a URL begins with http://, https:// or unix:/ and names a host"
            raise ValueError(msg)
        if parts.username is not None or parts.password is not None:
            msg = "a URL must not contain user and password; give a token or a header"
            raise ValueError(msg)
        self._tls = parts.scheme == "https"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._host = host if parts.port is None else f"{host}:{parts.port}"
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        self._address = parse_address(f"{host}:{port}")
        path = parts.path or "/"
        self.target = f"{path}?{parts.query}" if parts.query else path
        self.url = f"{parts.scheme}://{self._host}{'' if path == '/' else path}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    async def get(
        self,
        target: str,
        *,
        max_bytes: int,
        headers: Iterable[tuple[str, str]] = (),
        wait: float = 0.0,
    ) -> HttpAnswer:
        """Get a whole answer.

        Args:
            target: Path and query.
            max_bytes: Refuse a longer body.
            headers: Fields of this request.
            wait: Seconds for which the server was asked to wait before it answers.

        Returns:
            The answer, whatever its status.

        Raises:
            Error: Why there is none.
        """
        async with self.open(target, headers=headers, wait=wait) as response:
            is_good = response.status == 200
            limit = max_bytes if is_good else _MAX_REST
            pieces: list[bytes] = []
            length = 0
            while piece := await response.read(is_wanted=is_good):
                length += len(piece)
                if length > limit:
                    refuse(f"the answer ({response.status}) is longer than {limit} bytes")
                if is_good:
                    pieces.append(piece)
            return HttpAnswer(response.status, response.header, b"".join(pieces))

    @asynccontextmanager
    async def open(
        self, target: str, *, headers: Iterable[tuple[str, str]] = (), wait: float = 0.0
    ) -> AsyncGenerator[HttpResponse, None]:
        """Begin an exchange; the answer is read piece by piece.

        Args:
            target: Path and query.
            headers: Fields of this request.
            wait: Seconds for which the server was asked to wait, or to go on.

        Yields:
            The answer, of which the head is there.

        Raises:
            Error: Why there is none; also what the body of the ``with`` raises, with the URL.
        """
        seconds = self._access.timeout + wait
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                peer = await self._peer()
                request = await self._request(target, headers)
                response = await self._begin(peer, request, deadline)
            try:
                yield response
            finally:
                # Without the pool's consent the connection is closed.
                response.end(self._connector, peer)
        except TimeoutError as error:
            msg = f"{self._describe(target)}: not done within {seconds:g} s"
            raise Error(
                ErrorType.READ_TIMEDOUT, msg, source=ErrorSource.UPSTREAM, cause=error
            ) from error
        except Error as error:
            raise error.more_context(self._describe(target)) from error

    async def close(self) -> None:
        """Close the connections that idle."""
        connector, self._connector = self._connector, None
        if connector is not None:
            await connector.close()

    def _describe(self, target: str) -> str:
        # A query may hold a secret.
        path = target.partition("?")[0]
        return f"GET {self.url}" if self.url.endswith(path) else f"GET {self.url} {path}"

    async def _peer(self) -> HttpPeer:
        access = self._access
        options = PeerOptions(
            connection_timeout=access.connection_timeout,
            total_connection_timeout=access.timeout,
            read_timeout=None,  # the exchange has a deadline
            tcp_keepalive=_KEEPALIVE,
        )
        if self._ca is not None:
            options.ca = await self._ca.read()
        return HttpPeer(
            self._address,
            tls=self._tls,
            sni=self._server_name,
            client_cert_key=access.client_cert_key,
            options=options,
        )

    async def _request(self, target: str, headers: Iterable[tuple[str, str]]) -> RequestHeader:
        fields = [("Host", self._host), ("User-Agent", _USER_AGENT), ("Accept", "application/json")]
        request = RequestHeader("GET", target, headers=fields)
        if self._token is not None:
            name, prefix = self._token_field
            token = self._token if isinstance(self._token, str) else await self._token.read()
            request.insert_header(name, prefix + token)
        for name, value in (*self._access.headers, *headers):
            request.insert_header(name, value)
        return request

    async def _begin(self, peer: HttpPeer, request: RequestHeader, deadline: float) -> HttpResponse:
        if self._connector is None:
            self._connector = Connector()
        connector = self._connector
        session = connector.reused_http_session(peer)
        if session is not None:
            try:
                return await HttpResponse.begin(session, request, deadline)
            except Error as error:
                # A connection that was kept and turns out to be dead proves nothing.
                error.decide_reuse(reused=True)
                if not error.should_retry:
                    raise
        session = await connector.new_http_session(peer)
        return await HttpResponse.begin(session, request, deadline)


async def off_the_loop(parse: Callable[[bytes], _T], data: bytes) -> _T:
    """Parse a text without holding the event loop up.

    Args:
        parse: Does it; must be safe in another thread.
        data: The text; a short one is parsed at once.

    Returns:
        What ``parse`` returns.
    """
    if len(data) <= _SMALL:
        return parse(data)
    return await asyncio.to_thread(parse, data)


def _follow_token(access: HttpAccess) -> str | FollowedFile[str] | None:
    if access.token_file is None:
        return access.token
    path = access.token_file

    def parse(data: bytes) -> str:
        token = data.strip()
        # Not shown, not even in part.
        if not token or not token.isascii() or not token.decode("latin-1").isprintable():
            raise Error.internal(DISCOVERY_ERROR, f"file {path} holds no token")
        return token.decode("ascii")

    return FollowedFile(path, _MAX_TOKEN, parse)
