"""HTTP request and response headers that keep case, order and raw bytes."""

from pingora_http._fields import HeaderMap, HeaderName, HeaderValue
from pingora_http._version import __version__
from pingora_http.date import format_http_date, parse_http_date
from pingora_http.grammar import is_field_value, is_target, is_token
from pingora_http.request import RequestHeader
from pingora_http.response import ResponseHeader
from pingora_http.status import reason_phrase
from pingora_http.version import Version

__all__ = [
    "HeaderMap",
    "HeaderName",
    "HeaderValue",
    "RequestHeader",
    "ResponseHeader",
    "Version",
    "__version__",
    "format_http_date",
    "is_field_value",
    "is_target",
    "is_token",
    "parse_http_date",
    "reason_phrase",
]
