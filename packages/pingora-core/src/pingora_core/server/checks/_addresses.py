"""Whether addresses could be listened on, found out without listening on them."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pingora_core.listeners.l4 import UdpServerAddress, UdsServerAddress, resolve_blocking
from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.l4.sockopt import apply_listener_options
from pingora_core.server.checks._files import reason_of, require_creatable
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_core.listeners.l4 import ServerAddress, TcpServerAddress

__all__ = ["Place", "Probe", "find_overlaps", "probe", "probe_source"]

_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised, not bound
_NO_RIGHTS: Final = frozenset({errno.EACCES, errno.EPERM})
_UNPRIVILEGED: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What an address comes to once it is looked up.

    Attributes:
        service: Name of the service that listens there.
        key: The address as it was written.
        address: What it stands for.
        is_udp: Whether it takes datagrams.
        is_v6_only: Whether a wildcard of IPv6 leaves IPv4 alone.
        is_shareable: Whether several sockets may be bound to it.
    """

    service: str
    key: str
    address: InetAddress
    is_udp: bool
    is_v6_only: bool
    is_shareable: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found out about an address.

    Attributes:
        problem: Why it cannot be had; None if it can.
        note: What may be meant like that.
        needs_rights: Whether the problem is one of rights, which somebody else may have.
        place: What it comes to, if it is one of TCP or UDP.
    """

    problem: str | None = None
    note: str | None = None
    needs_rights: bool = False
    place: Place | None = None


def probe(service: str, address: ServerAddress) -> Probe:
    """Find out whether an address could be listened on; a name is looked up, which blocks.

    Args:
        service: Name of the service, for messages.
        address: The address.

    Returns:
        What was found.
    """
    try:
        where = resolve_blocking(address)[0]
    except Error as error:
        reason = error.cause.strerror if isinstance(error.cause, OSError) else error
        return Probe(_problem(service, address.key, f"a name that can be looked up ({reason})"))
    if isinstance(where, UnixAddress):
        return _probe_unix(service, address.key, where.path)
    assert not isinstance(address, UdsServerAddress)
    return _probe_inet(service, address, where)


def probe_source(host: str) -> str | None:
    """Find out whether connections could come from an address.

    Args:
        host: An IP address.

    Returns:
        Why they could not; None if they could.
    """
    address = InetAddress(host, 0)
    try:
        with socket.socket(address.family, socket.SOCK_STREAM) as sock:
            sock.bind(address.sockaddr)
    except OSError as error:
        return error.strerror
    return None


def find_overlaps(places: Sequence[Place]) -> list[str]:
    """Find addresses that cannot be listened on at the same time, different as they look.

    The second of them would be found in use when the server starts. One address written in the
    same way is one socket, which services share.

    Args:
        places: All places where the server is going to listen.

    Returns:
        The problems.
    """
    problems = []
    for index, place in enumerate(places):
        for earlier in places[:index]:
            if place.key != earlier.key and _overlap(place, earlier):
                theirs = f"{earlier.key!r} of service {earlier.service!r}"
                allowed = f"an address that {theirs} does not include"
                problems.append(_problem(place.service, place.key, allowed))
                break
    return problems


def _overlap(one: Place, other: Place) -> bool:
    if one.is_udp != other.is_udp or one.address.port != other.address.port:
        return False
    if one.address.port == 0 or (one.is_shareable and other.is_shareable):
        return False
    is_same = (one.address.host, one.address.scope) == (other.address.host, other.address.scope)
    return is_same or _includes(one, other) or _includes(other, one)


def _includes(wide: Place, narrow: Place) -> bool:
    if wide.address.host not in _WILDCARDS:
        return False
    if wide.address.is_ipv6 == narrow.address.is_ipv6:
        return True
    return wide.address.is_ipv6 and not wide.is_v6_only


def _problem(service: str, key: str, allowed: str) -> str:
    return f"service {service!r}: address: got {key!r}, allowed: {allowed}"


# --------------------------------------------------------------------------------------- probing


def _probe_inet(
    service: str, address: TcpServerAddress | UdpServerAddress, where: InetAddress
) -> Probe:
    is_udp = isinstance(address, UdpServerAddress)
    kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
    is_v6_only = False
    code = 0
    failure = ""
    try:
        with socket.socket(where.family, kind) as sock:
            if not is_udp:
                # As the listener does. Without listen() afterwards nobody notices, and a server
                # that starts at this very moment gets the address all the same.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            apply_listener_options(sock, address.options)
            if where.is_ipv6:
                is_v6_only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) != 0
            sock.bind(where.sockaddr)
    except OSError as error:
        code, failure = error.errno or 0, error.strerror or str(error)
    except Error as error:  # an option that the system refuses
        return Probe(f"service {service!r}: address {address.key!r}: {error}")
    place = Place(
        service=service,
        key=address.key,
        address=where,
        is_udp=is_udp,
        is_v6_only=is_v6_only,
        is_shareable=bool(address.options.so_reuseport),
    )
    if not failure:
        return Probe(place=place)
    if code == errno.EADDRINUSE:
        return Probe(note=_in_use(service, address.key), place=place)
    if code in _NO_RIGHTS:
        allowed = f"a port from {_first_unprivileged()} up, or any for root ({failure})"
        problem = _problem(service, address.key, allowed)
        return Probe(problem, needs_rights=True, place=place)
    if code in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
        failure = f"an address of this machine ({failure})"
    return Probe(_problem(service, address.key, failure), place=place)


def _probe_unix(service: str, key: str, path: str) -> Probe:
    try:
        if path.startswith("\0"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.bind(path)
        else:
            require_creatable(path, is_socket=True)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return Probe(note=_in_use(service, key))
        problem = _problem(service, key, f"a socket that can be made ({reason_of(error, path)})")
        return Probe(problem, needs_rights=error.errno in _NO_RIGHTS)
    if path.startswith("\0") or not os.path.lexists(path):
        return Probe()
    note = f"service {service!r}: {key} is there; fine if it is the running server's or left over"
    return Probe(note=note)


def _in_use(service: str, key: str) -> str:
    return f"service {service!r}: {key} is in use; fine if by the server that runs"


def _first_unprivileged() -> int:
    try:
        return int(_UNPRIVILEGED.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 1024
