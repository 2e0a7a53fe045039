"""Telling clients apart by the keys they bring (``Authorization: Bearer``, RFC 6750 section 2.1)."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pingora_http import RequestHeader

__all__ = ["BearerKeys"]

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class BearerKeys:
    """Who has which key, without knowing the keys.

    A key is looked for by its SHA-256, so how long that takes tells nothing that helps to guess
    one, and a configuration that leaks lets nobody in. Keys must be long and random: a hash
    protects no password.

    Args:
        names: The name of each client by the SHA-256 of its key, in hexadecimal digits:
            ``printf %s "$KEY" | sha256sum``.

    Attributes:
        challenge: The field that a 401 must have.

    Raises:
        ValueError: If something is no SHA-256; the message quotes the client's name, not the key.

    Examples:
        >>> from pingora_http import RequestHeader
        >>> keys = BearerKeys({sha256(b"secret").hexdigest(): "alice"})
        >>> keys.name_of(RequestHeader("GET", "/", headers=[("Authorization", "Bearer secret")]))
        'alice'
    """

    __slots__ = ("_names",)

    challenge: Final = ("WWW-Authenticate", "Bearer")

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = {digest.lower(): name for digest, name in names.items()}
        for digest, name in self._names.items():
            if not _DIGEST.fullmatch(digest):
                msg = f"the key of {name!r} must be given as its SHA-256, 64 hexadecimal digits"
                raise ValueError(msg)

    def name_of(self, request: RequestHeader) -> str | None:
        """Find out who sends a request.

        Args:
            request: Its head.

        Returns:
            The name; None without a key that is known, and if there are several.
        """
        given = request.get_all_raw(b"authorization")
        if len(given) != 1:
            return None
        scheme, _, key = given[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        return self._names.get(sha256(key.strip()).hexdigest())
