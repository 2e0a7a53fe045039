"""Addresses of sockets: an IP address with a port, or the path of a Unix socket.

A host name is not a socket address: `HostAddress` holds one until a resolver has turned it into
an `InetAddress`. Nothing here looks a name up.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeAlias

__all__ = [
    "HostAddress",
    "InetAddress",
    "SocketAddress",
    "UnixAddress",
    "parse_address",
    "parse_socket_address",
    "socket_address_from_sockname",
]

_UNIX_PREFIX: Final = "unix:"
# Longest path that fits sockaddr_un.sun_path with its closing NUL (unix(7)).
_MAX_UNIX_PATH: Final = 107
# RFC 1123 letters, digits and hyphens, and the underscore that real names use.
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True, slots=True)
class InetAddress:
    """An IPv4 or IPv6 address and a port.

    Attributes:
        host: The address in its canonical text form, without brackets or zone.
        port: 0 to 65535; 0 means "any" when binding.
        flow: IPv6 flow label, else 0.
        scope: IPv6 scope (interface index) for link-local addresses, else 0.
    """

    host: str
    port: int
    flow: int = 0
    scope: int = 0

    @property
    def is_ipv6(self) -> bool:
        """Whether the address is an IPv6 one."""
        return ":" in self.host

    @property
    def family(self) -> socket.AddressFamily:
        """``AF_INET`` or ``AF_INET6``."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The tuple that the `socket` module takes for this family."""
        if ":" in self.host:
            return (self.host, self.port, self.flow, self.scope)
        return (self.host, self.port)

    def with_port(self, port: int) -> InetAddress:
        """Return the same address with another port.

        Args:
            port: 0 to 65535.

        Returns:
            A new address.
        """
        return replace(self, port=port)

    def __str__(self) -> str:
        if ":" not in self.host:
            return f"{self.host}:{self.port}"
        zone = f"%{self.scope}" if self.scope else ""
        return f"[{self.host}{zone}]:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix stream socket.

    Attributes:
        path: File system path; a leading NUL stands for Linux's abstract namespace; empty for
            an unnamed socket, as a connecting client has.
    """

    path: str

    @property
    def family(self) -> socket.AddressFamily:
        """Always ``AF_UNIX``."""
        return socket.AF_UNIX

    @property
    def sockaddr(self) -> str:
        """What the `socket` module takes for this family."""
        return self.path

    def __str__(self) -> str:
        return _UNIX_PREFIX + self.path.replace("\0", "@", 1)


@dataclass(frozen=True, slots=True)
class HostAddress:
    """A host name and a port, still to be resolved.

    Attributes:
        host: The name, lower case, without a final dot.
        port: 0 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


SocketAddress: TypeAlias = InetAddress | UnixAddress


@lru_cache(maxsize=4096)
def parse_address(text: str) -> InetAddress | UnixAddress | HostAddress:
    """Read ``1.2.3.4:80``, ``[::1]:80``, ``unix:/path`` or ``name:80``.

    Results are cached, so a peer built per request from the same text costs a lookup.

    Args:
        text: The address.

    Returns:
        The address it names; a host name is not looked up.

    Raises:
        ValueError: If the text is none of these; the message quotes it.

    Examples:
        >>> parse_address("[::1]:443")
        InetAddress(host='::1', port=443, flow=0, scope=0)
        >>> parse_address("one.one.one.one:443")
        HostAddress(host='one.one.one.one', port=443)
    """
    if text.startswith(_UNIX_PREFIX):
        return _unix(text)
    if "://" in text:
        raise ValueError(f"address {text!r} is a URL; expected HOST:PORT or unix:/PATH")
    host, colon, port_text = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"address {text!r} has no port; expected HOST:PORT or unix:/PATH")
    port = _port(port_text, text)
    if host.startswith("["):
        if not host.endswith("]"):
            raise ValueError(f"address {text!r}: '[' without ']'")
        return _inet6(host[1:-1], port, text)
    if ":" in host:
        raise ValueError(f"address {text!r}: an IPv6 address is written in brackets, [::1]:80")
    # What looks numeric must be a full IPv4 address: "1.2.3" or "0x7f.1" as a name is an
    # invitation to read the same text as two different hosts.
    if host.rpartition(".")[2].isdecimal() or host.rpartition(".")[2].lower().startswith("0x"):
        try:
            return InetAddress(str(ipaddress.IPv4Address(host)), port)
        except ValueError:
            raise ValueError(f"address {text!r}: {host!r} is no IPv4 address") from None
    return HostAddress(_name(host, text), port)


def parse_socket_address(text: str) -> SocketAddress:
    """Read an address that needs no lookup: ``1.2.3.4:80``, ``[::1]:80`` or ``unix:/path``.

    Args:
        text: The address.

    Returns:
        The address.

    Raises:
        ValueError: If the text is something else, a host name included.
    """
    address = parse_address(text)
    if isinstance(address, HostAddress):
        raise ValueError(f"address {text!r}: {address.host!r} is a name, not an IP address")
    return address


def socket_address_from_sockname(name: object) -> SocketAddress | None:
    """Convert what ``getpeername`` or ``getsockname`` returned.

    Args:
        name: A tuple for IP sockets, text or bytes for Unix sockets.

    Returns:
        The address, or None if it is of a kind not known here.
    """
    match name:
        case (str(host), int(port)):
            return InetAddress(host, port)
        case (str(host), int(port), int(flow), int(scope)):
            return InetAddress(host.partition("%")[0], port, flow, scope)
        case str(path):
            return UnixAddress(path)
        case bytes(raw):
            return UnixAddress(os.fsdecode(raw))
        case _:
            return None


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix(_UNIX_PREFIX)
    if path.startswith("@"):
        path = "\0" + path[1:]
    if len(path) < 2 and path in {"", "\0"}:
        raise ValueError(f"address {text!r}: the path is empty")
    if "\0" in path[1:]:
        raise ValueError(f"address {text!r}: a path cannot contain NUL")
    if len(os.fsencode(path)) > _MAX_UNIX_PATH:
        raise ValueError(f"address {text!r}: the path is longer than {_MAX_UNIX_PATH} bytes")
    return UnixAddress(path)


def _port(port_text: str, text: str) -> int:
    if port_text.isascii() and port_text.isdecimal() and len(port_text) <= 5:
        port = int(port_text)
        if port <= 65535:
            return port
    raise ValueError(f"address {text!r}: port {port_text!r} is not in 0..65535")


def _inet6(host: str, port: int, text: str) -> InetAddress:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"address {text!r}: {host!r} is no IPv6 address") from None
    zone = address.scope_id
    if zone is None:
        return InetAddress(str(address), port)
    bare = str(address).partition("%")[0]
    if zone.isascii() and zone.isdecimal():
        return InetAddress(bare, port, 0, int(zone))
    try:
        return InetAddress(bare, port, 0, socket.if_nametoindex(zone))
    except OSError:
        raise ValueError(f"address {text!r}: there is no interface {zone!r}") from None


def _name(host: str, text: str) -> str:
    name = host.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"address {text!r}: {host!r} is no valid host name") from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"address {text!r}: {host!r} is no valid host name")
    return name
