"""Addresses that nobody listens on, and which kinds of them there are."""

from __future__ import annotations

import socket

import pytest

__all__ = ["HAS_IPV6", "free_address", "needs_ipv6"]


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


def free_address() -> str:
    """Find a free port of 127.0.0.1, for programs that must be told where to listen.

    Returns:
        ``127.0.0.1:port``.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
