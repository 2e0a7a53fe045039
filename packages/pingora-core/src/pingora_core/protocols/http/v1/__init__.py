"""HTTP/1: heads, framing, bodies, and the sessions of both sides."""

from pingora_core.protocols.http.v1.body_reader import BodyReader
from pingora_core.protocols.http.v1.body_writer import BodyWriter
from pingora_core.protocols.http.v1.framing import CHUNKED, UNTIL_CLOSE, FramingOptions
from pingora_core.protocols.http.v1.parser import HeadLimits, Http1Parser, get_parser

__all__ = [
    "CHUNKED",
    "UNTIL_CLOSE",
    "BodyReader",
    "BodyWriter",
    "FramingOptions",
    "HeadLimits",
    "Http1Parser",
    "get_parser",
]
