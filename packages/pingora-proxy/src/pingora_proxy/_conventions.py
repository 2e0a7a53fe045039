"""What the OpenTelemetry semantic conventions call things, for metrics and traces; no I/O.

Source: opentelemetry.io/docs/specs/semconv/http, and registry/attributes/error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_core.protocols.address import UnixAddress
from pingora_http import Version

if TYPE_CHECKING:
    from pingora_core.upstreams.peer import PeerAddress
    from pingora_error import Error

__all__ = ["METHODS", "OTHER_METHOD", "VERSIONS", "error_type", "name_server"]

METHODS: Final = {
    name.encode(): name
    for name in (
        "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE",
    )
}  # fmt: skip
"""The methods that the convention knows: RFC 9110, RFC 5789 and QUERY."""

OTHER_METHOD: Final = "_OTHER"
"""What it calls all others."""

VERSIONS: Final = {
    Version.HTTP_09: "0.9", Version.HTTP_10: "1.0", Version.HTTP_11: "1.1", Version.HTTP_20: "2",
    Version.HTTP_30: "3",
}  # fmt: skip
"""Values of ``network.protocol.version``."""


def error_type(status: int | None, error: Error | None, *, fails_at: int) -> str:
    """Say what ``error.type`` is.

    Args:
        status: Of the response; 0 or None if there was none.
        error: What has failed.
        fails_at: The first status that is an error: 400 for a client, 500 for a server.

    Returns:
        The kind of the error, or the status; empty if nothing has failed.
    """
    if error is not None:
        return str(error.etype)
    return str(status) if status is not None and status >= fails_at else ""


def name_server(address: PeerAddress) -> tuple[str, str]:
    """Say what ``server.address`` and ``server.port`` are.

    Args:
        address: Of an upstream.

    Returns:
        Name, IP address or path, and the port; empty where there is none.
    """
    if isinstance(address, UnixAddress):
        return address.path.replace("\0", "@", 1), ""
    return address.host, str(address.port)
