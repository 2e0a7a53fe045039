"""Whom a rate limit counts for: ready key functions.

A key function gets the client's side of a request and returns what it counts as. None means that
the request is not limited. Limiters take keys of whatever length, but what these functions make is
short, because keys come from clients.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote_to_bytes

from pingora_core.modules.module import Downstream
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.networks import TrustedNetworks, parse_host

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "KeyFunction",
    "by_all",
    "by_client",
    "by_header",
    "by_path",
    "clients_in",
    "everyone",
]

KeyFunction: TypeAlias = Callable[[Downstream], str | bytes | None]

_IPV6_BITS = 128


def by_client(*, ipv6_prefix: int = 64, trusted: Iterable[str] = ()) -> KeyFunction:
    """Count for each client address.

    Who has an IPv6 address has a network of them, so IPv6 clients count by network. Behind proxies
    of your own name these: the client is then the last address in ``X-Forwarded-For`` that is not
    one of theirs. From anybody else that field is not believed.

    Args:
        ipv6_prefix: Bits of an IPv6 address that count, 1 to 128.
        trusted: Addresses and networks of proxies in front of this server.

    Returns:
        The key function. Clients without an IP address (Unix sockets) are not limited.

    Raises:
        ValueError: If the prefix is out of range, or a network is none.
    """
    if not 1 <= ipv6_prefix <= _IPV6_BITS:
        msg = f"an IPv6 prefix has 1 to 128 bits, not {ipv6_prefix}"
        raise ValueError(msg)
    shift = _IPV6_BITS - ipv6_prefix
    networks = TrustedNetworks(trusted)

    @lru_cache(maxsize=4096)
    def ipv6_key(host: str) -> str:
        address = parse_host(host)
        if isinstance(address, IPv6Address):
            return f"{IPv6Address(int(address) >> shift << shift)}/{ipv6_prefix}"
        return host if address is None else str(address)

    def key(downstream: Downstream) -> str | None:
        address = downstream.client_addr
        if not isinstance(address, InetAddress):
            return None
        host = address.host
        if not networks.is_empty and networks.contains(address):
            host = _origin(downstream, networks) or host
        return ipv6_key(host) if ":" in host else host

    return key


def by_header(name: str, *, max_length: int = 64, missing: str | None = None) -> KeyFunction:
    """Count for each value of a field, such as an API key.

    Only what has been checked before can be relied on: a client may send any value, and another
    one with each request. Limit such a service by address too.

    Args:
        name: The field. If it comes more than once, all values together count.
        max_length: Bytes of a value that are used as they are, at least 1. Of a longer one a
            digest is.
        missing: The key of requests without it; None does not limit them.

    Returns:
        The key function.

    Raises:
        ValueError: If the length is out of range.
    """
    if max_length < 1:
        msg = f"a key has room for at least 1 byte, not {max_length}"
        raise ValueError(msg)
    field = name.lower().encode("ascii")

    def key(downstream: Downstream) -> str | bytes | None:
        request = downstream.req_header
        value = request.get_raw(field)
        if value is None:
            return missing
        if request.has_duplicates:
            value = b", ".join(request.get_all_raw(field))
        if len(value) > max_length:
            # A prefix would let one client use up the limit of another.
            return blake2b(value, digest_size=16).digest()
        return value

    return key


def by_path(*prefixes: str) -> KeyFunction:
    """Count for each of some parts of a site.

    Args:
        prefixes: Paths such as ``/api``, which has ``/api`` and ``/api/...`` in it. Of several
            that fit the longest counts.

    Returns:
        The key function. Requests for other paths are not limited. A path is looked at as a file
        server would: percent-encoded characters are decoded, ``//`` and ``/../`` resolved.

    Raises:
        ValueError: If there is no prefix, or one does not begin with a slash.
    """
    if not prefixes or not all(each.startswith("/") for each in prefixes):
        msg = f"prefixes of paths begin with a slash, not {prefixes}"
        raise ValueError(msg)
    ordered = sorted({each.rstrip("/") for each in prefixes}, key=len, reverse=True)
    encoded = [(each.encode("utf-8"), each or "/") for each in ordered]

    def key(downstream: Downstream) -> str | None:
        path = _resolved(downstream.req_header.raw_path.partition(b"?")[0])
        for prefix, name in encoded:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {b"", b"/"}:
                return name
        return None

    return key


def by_all(*keys: KeyFunction) -> KeyFunction:
    """Count for each combination, such as each client in each part of a site.

    Args:
        keys: The functions, at least one.

    Returns:
        The key function. A request is not limited if one of them does not limit it.

    Raises:
        ValueError: If there is none.
    """
    if not keys:
        msg = "a combination of keys needs at least one"
        raise ValueError(msg)

    def key(downstream: Downstream) -> bytes | None:
        parts: list[bytes] = []
        for each in keys:
            part = each(downstream)
            if part is None:
                return None
            raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            # With its length, so that no two combinations look alike.
            parts.append(b"%d:%b" % (len(raw), raw))
        return b"".join(parts)

    return key


def everyone(downstream: Downstream) -> str:
    """Count all requests together; a key function itself.

    Args:
        downstream: Not looked at.

    Returns:
        The same for all.
    """
    _ = downstream
    return "everyone"


def clients_in(networks: Iterable[str]) -> Callable[[Downstream], bool]:
    """Tell clients by their networks: for the ``exempt`` of a policy.

    Args:
        networks: IP addresses and networks (``10.0.0.0/8``, ``::1``).

    Returns:
        A function that tells whether the client's own address is in one of them.

    Raises:
        ValueError: If one of the networks is none; the message quotes it.
    """
    named = TrustedNetworks(networks)

    def is_in(downstream: Downstream) -> bool:
        return named.contains(downstream.client_addr)

    return is_in


def _origin(downstream: Downstream, trusted: TrustedNetworks) -> str | None:
    hops = b",".join(downstream.req_header.get_all_raw(b"x-forwarded-for")).split(b",")
    for hop in reversed(hops):
        address = parse_host(hop.strip().decode("latin-1"))
        if address is None:
            return None
        if not trusted.contains(InetAddress(str(address), 0)):
            return str(address)
    return None


def _resolved(path: bytes) -> bytes:
    if b"%" in path:
        path = unquote_to_bytes(path)
    if b"//" in path or b"/." in path:
        path = posixpath.normpath(b"/" + path.lstrip(b"/"))
    return path
