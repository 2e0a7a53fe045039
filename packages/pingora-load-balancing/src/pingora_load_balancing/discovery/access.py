"""How a source that speaks HTTP is reached: names, secrets and whom to trust."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pingora_core.protocols.tls import CertKey

__all__ = ["HttpAccess"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAccess:
    """How to reach an HTTP server that knows backends. Secrets are not shown in ``repr`` or logs.

    Attributes:
        token: What to show to be let in; None for nothing.
        token_file: A file with the token, read again when it has changed.
        ca_file: PEM file with the authorities to trust instead of the system's, read again when
            it has changed.
        client_cert_key: The certificate to present when the server asks for one.
        server_name: The name to ask for and to verify in the TLS handshake; empty for the one in
            the URL.
        headers: Further fields of each request.
        connection_timeout: Seconds for each step of connecting.
        timeout: Seconds for a whole exchange, connecting and the body included. Requests that
            wait for a change have that much beyond the time they wait.

    Raises:
        ValueError: If a time is not positive, or the token is given twice.
    """

    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    ca_file: str | None = None
    client_cert_key: CertKey | None = None
    server_name: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    connection_timeout: float = 5.0
    timeout: float = 10.0

    def __post_init__(self) -> None:
        if self.token is not None and self.token_file is not None:
            msg = "a token is given as well as a file with one"
            raise ValueError(msg)
        for name, seconds in (
            ("connection_timeout", self.connection_timeout),
            ("timeout", self.timeout),
        ):
            if not 0 < seconds < math.inf:
                msg = f"{name} must be more than 0 seconds, not {seconds}"
                raise ValueError(msg)
