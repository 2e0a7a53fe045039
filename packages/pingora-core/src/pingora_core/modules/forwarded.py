"""Tells the origin whom the proxy speaks for: ``X-Forwarded-*`` and ``Forwarded`` (RFC 7239).

What a client sends in these fields is a claim. It is believed only from the addresses the
operator trusts, which are the operator's own proxies in front of this one; from anybody else it
is removed. The fields are set on the request head of the client's side once, so a retry, which
copies that head again, does not add them twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_core.modules.module import HttpModule, HttpModuleBuilder
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.networks import TrustedNetworks, parse_host
from pingora_http.grammar import is_token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.modules.module import Downstream
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.networks import IPAddress
    from pingora_http import RequestHeader

__all__ = ["Forwarded", "ForwardedBuilder", "ForwardedPolicy"]


class ForwardedPolicy:
    """Whom to believe and what to send.

    From a client that is not trusted every field that claims an origin is removed first:
    ``Forwarded``, ``X-Real-IP``, everything that starts with ``X-Forwarded-``, and the same with
    underscores, which CGI and WSGI cannot tell apart. Fields of a trusted client are kept:
    its lists are extended, its ``X-Forwarded-Proto`` and ``X-Forwarded-Host`` stay.

    Args:
        trusted: Addresses and networks whose claims are believed (``10.0.0.0/8``, ``::1``).
        trust_unix: Whether clients on Unix sockets are believed.
        x_forwarded: Whether to send ``X-Forwarded-For``, ``-Proto`` and ``-Host``.
        forwarded: Whether to send ``Forwarded``.

    Raises:
        ValueError: If one of the networks is none; the message quotes it.

    Source: RFC 7239; the trust model is that of nginx's realip and Caddy's trusted_proxies.
    """

    __slots__ = ("_forwarded", "_trusted", "_x_forwarded")

    def __init__(
        self,
        trusted: Iterable[str] = (),
        *,
        trust_unix: bool = False,
        x_forwarded: bool = True,
        forwarded: bool = True,
    ) -> None:
        self._trusted = TrustedNetworks(trusted, unix=trust_unix)
        self._x_forwarded = x_forwarded
        self._forwarded = forwarded

    def is_trusted(self, client: SocketAddress | None) -> bool:
        """Tell whether a client's claims are believed.

        Args:
            client: Its address; None when unknown, which is never trusted.

        Returns:
            Whether they are.
        """
        return self._trusted.contains(client)

    def apply(self, request: RequestHeader, downstream: Downstream) -> None:
        """Set the fields.

        Args:
            request: The head that goes to the origin, or that its copies are made of; changed
                in place. Apply it once.
            downstream: The client's side: its address, and whether it uses TLS.
        """
        client = downstream.client_addr
        if not self.is_trusted(client):
            _remove_claims(request)
        address = parse_host(client.host) if isinstance(client, InetAddress) else None
        proto = "http" if downstream.digest.ssl_digest is None else "https"
        host = request.authority or request.get("host") or ""
        if self._forwarded:
            # First, because it may have to be begun with what X-Forwarded-For says so far.
            elements = request.get_all("forwarded") or _elements_of_legacy(request)
            elements.append(_element(address, host, proto))
            request.insert_header("Forwarded", ", ".join(elements))
        if self._x_forwarded:
            if address is not None:
                hops = [*request.get_all("x-forwarded-for"), str(address)]
                request.insert_header("X-Forwarded-For", ", ".join(filter(None, hops)))
            if "x-forwarded-proto" not in request:
                request.insert_header("X-Forwarded-Proto", proto)
            if host and "x-forwarded-host" not in request:
                request.insert_header("X-Forwarded-Host", host)


class Forwarded(HttpModule):
    """Sets the fields on each request before the application sees it.

    Args:
        policy: Whom to believe and what to send.
        downstream: The client's side; None when unknown, and then nothing is believed and
            nothing but removal is done.
    """

    __slots__ = ("_downstream", "_policy")

    def __init__(self, policy: ForwardedPolicy, downstream: Downstream | None) -> None:
        self._policy = policy
        self._downstream = downstream

    async def request_header_filter(self, request: RequestHeader) -> None:
        """Set the fields; see ``HttpModule``."""
        if self._downstream is None:
            _remove_claims(request)
        else:
            self._policy.apply(request, self._downstream)


class ForwardedBuilder(HttpModuleBuilder):
    """Adds ``Forwarded`` and ``X-Forwarded-*`` to the requests of a service.

    Args:
        policy: Whom to believe and what to send; None believes nobody and sends everything.
        order: When the module runs; higher is earlier.
    """

    module_type = Forwarded

    def __init__(self, policy: ForwardedPolicy | None = None, *, order: int = 0) -> None:
        self._policy = policy or ForwardedPolicy()
        self.order = order

    def init(self) -> Forwarded:
        """Make a module that knows no client; see ``HttpModuleBuilder``.

        Returns:
            The module.
        """
        return Forwarded(self._policy, None)

    def init_for(self, downstream: Downstream) -> Forwarded:
        """Make the module of one request; see ``HttpModuleBuilder``.

        Args:
            downstream: The client's side.

        Returns:
            The module.
        """
        return Forwarded(self._policy, downstream)


_CLAIMS: Final = frozenset({b"forwarded", b"x-real-ip"})


def _remove_claims(request: RequestHeader) -> None:
    claims = [
        name
        for name in request.keys_lower()
        if (dashed := name.replace(b"_", b"-")) in _CLAIMS or dashed.startswith(b"x-forwarded-")
    ]
    if claims:
        request.remove_headers(claims)


def _element(address: IPAddress | None, host: str, proto: str) -> str:
    """Describe one hop (RFC 7239 section 4).

    Returns:
        The element, such as ``for=192.0.2.1;host=example.com;proto=https``.
    """
    parts = [f"for={_node(address)}"]
    if host:
        parts.append(f"host={_value(host)}")
    parts.append(f"proto={proto}")
    return ";".join(parts)


def _elements_of_legacy(request: RequestHeader) -> list[str]:
    """Begin ``Forwarded`` with the hops of ``X-Forwarded-For`` (RFC 7239 section 7.4).

    Otherwise an origin that prefers ``Forwarded`` would take the last proxy for the client.

    Returns:
        An element for each hop, with ``unknown`` for what is no address.
    """
    hops = ",".join(request.get_all("x-forwarded-for")).split(",")
    return [f"for={_node(_parse_hop(hop.strip()))}" for hop in hops if hop.strip()]


def _parse_hop(hop: str) -> IPAddress | None:
    address = parse_host(hop)
    if address is None:
        # Some proxies add the port.
        address = parse_host(hop.rpartition(":")[0].removeprefix("[").removesuffix("]"))
    return address


def _node(address: IPAddress | None) -> str:
    if address is None:
        return "unknown"
    return str(address) if address.version == 4 else f'"[{address}]"'


def _value(text: str) -> str:
    if is_token(text.encode("latin-1")):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
