"""What failed: the closed set of error types, and the open kinds beside it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

__all__ = [
    "COMPRESSION_ERROR",
    "INVALID_CHUNK",
    "INVALID_TRAILER_END",
    "PING_TIMEDOUT",
    "PREMATURE_BODY_END",
    "TLS_CONFIG_ERROR",
    "Custom",
    "CustomCode",
    "ErrorKind",
    "ErrorType",
    "HTTPStatus",
]


class ErrorType(Enum):
    """The types of failure that the framework itself reports.

    The value of a member is Pingora's name for it, which is also how it is printed.

    Source: pingora-error/src/lib.rs.
    """

    # Connecting
    CONNECT_TIMEDOUT = "ConnectTimedout"
    CONNECT_REFUSED = "ConnectRefused"
    CONNECT_NO_ROUTE = "ConnectNoRoute"
    TLS_WANT_X509_LOOKUP = "TLSWantX509Lookup"
    TLS_HANDSHAKE_FAILURE = "TLSHandshakeFailure"
    TLS_HANDSHAKE_TIMEDOUT = "TLSHandshakeTimedout"
    INVALID_CERT = "InvalidCert"
    HANDSHAKE_ERROR = "HandshakeError"
    CONNECT_ERROR = "ConnectError"
    BIND_ERROR = "BindError"
    ACCEPT_ERROR = "AcceptError"
    SOCKET_ERROR = "SocketError"
    CONNECT_PROXY_FAILURE = "ConnectProxyFailure"
    # Protocol
    INVALID_HTTP_HEADER = "InvalidHTTPHeader"
    H1_ERROR = "H1Error"
    H2_ERROR = "H2Error"
    H2_DOWNGRADE = "H2Downgrade"
    INVALID_H2 = "InvalidH2"
    # Reading and writing
    READ_ERROR = "ReadError"
    WRITE_ERROR = "WriteError"
    READ_TIMEDOUT = "ReadTimedout"
    WRITE_TIMEDOUT = "WriteTimedout"
    CONNECTION_CLOSED = "ConnectionClosed"
    # Files
    FILE_OPEN_ERROR = "FileOpenError"
    FILE_CREATE_ERROR = "FileCreateError"
    FILE_READ_ERROR = "FileReadError"
    FILE_WRITE_ERROR = "FileWriteError"
    # The rest
    INTERNAL_ERROR = "InternalError"
    UNKNOWN_ERROR = "UnknownError"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class HTTPStatus:
    """The application decided to answer with a status; the error page shows it.

    Attributes:
        code: The status code, 100 to 999.

    Raises:
        ValueError: If the code has not three digits.

    Examples:
        >>> str(HTTPStatus(503))
        'HTTPStatus 503'
    """

    code: int

    def __post_init__(self) -> None:
        _check_code(self.code)

    def __str__(self) -> str:
        return f"HTTPStatus {self.code}"


@dataclass(frozen=True, slots=True)
class Custom:
    """A failure that only the application, or one module, knows.

    Attributes:
        name: Its name, for comparison and for logs; CamelCase by custom.
    """

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class CustomCode:
    """A failure of the application's own that also carries a status for the client.

    Attributes:
        name: Its name, for comparison and for logs; CamelCase by custom.
        code: The status code, 100 to 999.

    Raises:
        ValueError: If the code has not three digits.
    """

    name: str
    code: int

    def __post_init__(self) -> None:
        _check_code(self.code)

    def __str__(self) -> str:
        return f"{self.name} {self.code}"


def _check_code(code: int) -> None:
    if not 100 <= code <= 999:
        msg = f"a status code has three digits (100 to 999), not {code}"
        raise ValueError(msg)


ErrorKind: TypeAlias = ErrorType | HTTPStatus | Custom | CustomCode

INVALID_CHUNK: Final = Custom("InvalidChunk")
INVALID_TRAILER_END: Final = Custom("InvalidTrailerEnd")
PREMATURE_BODY_END: Final = Custom("PrematureBodyEnd")
PING_TIMEDOUT: Final = Custom("PingTimedout")
COMPRESSION_ERROR: Final = Custom("CompressionError")
TLS_CONFIG_ERROR: Final = Custom("TLSConfigError")
