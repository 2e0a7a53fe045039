"""Which fields say who somebody is: what remembers fields, whatever the version, keeps none of them."""

from __future__ import annotations

from typing import Final

__all__ = ["CREDENTIALS"]

CREDENTIALS: Final[frozenset[bytes]] = frozenset(
    {
        b"api-key",
        b"authorization",
        b"cookie",
        b"proxy-authorization",
        b"set-cookie",
        b"x-api-key",
        b"x-auth-token",
        b"x-csrf-token",
    }
)
"""Their names, in lower case."""
