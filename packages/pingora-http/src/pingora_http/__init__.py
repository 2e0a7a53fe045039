"""HTTP request and response headers that keep case, order and raw bytes."""

from pingora_http._fields import HeaderMap
from pingora_http._version import __version__
from pingora_http.request import RequestHeader
from pingora_http.response import ResponseHeader
from pingora_http.version import Version

__all__ = ["HeaderMap", "RequestHeader", "ResponseHeader", "Version", "__version__"]
