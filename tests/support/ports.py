"""Addresses that nobody listens on."""

from __future__ import annotations

import socket

__all__ = ["free_address"]


def free_address() -> str:
    """Find a free port of 127.0.0.1, for programs that must be told where to listen.

    Returns:
        ``127.0.0.1:port``.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
