"""Addresses that nobody listens on, and which kinds of them there are."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

import pytest

__all__ = ["HAS_IPV6", "free_address", "free_port", "needs_ipv6"]

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10240
# For each process of a run; more of them than that begin anew.
_SHARE = 2000


def _has_ipv6() -> bool:
    # Containers often have none, even where Python was built with it.
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


HAS_IPV6 = _has_ipv6()
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="the loopback interface has no ::1")


def _candidates() -> list[int]:
    """Return the ports that are tried: none that the kernel would choose for somebody else."""
    ephemeral, _ = map(int, _RANGE.read_text(encoding="ascii").split())
    shares = max((ephemeral - _LOWEST) // _SHARE, 1)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    low = _LOWEST + worker % shares * _SHARE
    ports = range(low, low + _SHARE)
    # A run beside this one begins elsewhere.
    start = os.getpid() * 7 % _SHARE
    return [*ports[start:], *ports[:start]]


_ports = itertools.cycle(_candidates())


def free_port() -> int:
    """Find a free TCP port, for programs that must be told where to listen, or to be refused at.

    A port that a socket was bound to and let go is the kernel's to give away again, to another
    test in this process or in the one beside it. These ports the kernel gives to nobody, and
    every process of a run has its own.

    Returns:
        The port; nobody listens there, at any address of either version.
    """
    for port in itertools.islice(_ports, _SHARE):
        if _is_free(port):
            return port
    msg = "no port is free"
    raise RuntimeError(msg)


def _is_free(port: int) -> bool:
    family, host = (socket.AF_INET6, "::") if HAS_IPV6 else (socket.AF_INET, "0.0.0.0")
    with socket.socket(family) as sock:
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


def free_address() -> str:
    """Find a free port of 127.0.0.1.

    Returns:
        ``127.0.0.1:port``.
    """
    return f"127.0.0.1:{free_port()}"
