"""Typed errors with a kind, a source and a retry decision, shared by all Pingora packages."""

from pingora_error._error import Error
from pingora_error._kind import (
    COMPRESSION_ERROR,
    INVALID_CHUNK,
    INVALID_TRAILER_END,
    PING_TIMEDOUT,
    PREMATURE_BODY_END,
    TLS_CONFIG_ERROR,
    Custom,
    CustomCode,
    ErrorKind,
    ErrorType,
    HTTPStatus,
)
from pingora_error._source import ErrorSource, RetryType
from pingora_error._version import __version__
from pingora_error._wrap import error_context, or_err, wrap

__all__ = [
    "COMPRESSION_ERROR",
    "INVALID_CHUNK",
    "INVALID_TRAILER_END",
    "PING_TIMEDOUT",
    "PREMATURE_BODY_END",
    "TLS_CONFIG_ERROR",
    "Custom",
    "CustomCode",
    "Error",
    "ErrorKind",
    "ErrorSource",
    "ErrorType",
    "HTTPStatus",
    "RetryType",
    "__version__",
    "error_context",
    "or_err",
    "wrap",
]
