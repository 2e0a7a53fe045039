"""The default engine: httptools, which is llhttp, the parser of Node.js."""

from __future__ import annotations

import re

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import RequestHeader, ResponseHeader, Version

__all__ = ["HttptoolsParser"]

_VERSIONS = {"1.1": Version.HTTP_11, "1.0": Version.HTTP_10}
_METHOD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ")
_OTHER_VERSION = re.compile(rb"[^\r\n]* HTTP/(?!1\.[01]\r\n)[0-9]\.[0-9]\r\n")


class _Sink:
    """Where httptools puts the parts of one head."""

    __slots__ = ("items", "reason", "target")

    def __init__(self) -> None:
        self.items: list[tuple[bytes, bytes]] = []
        self.target = b""
        self.reason = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.items.append((name, value))


class HttptoolsParser:
    """Takes heads apart with httptools; see `Http1Parser`."""

    __slots__ = ()

    def parse_request(self, head: bytes) -> RequestHeader:
        """Take a request head apart.

        Args:
            head: The whole head.

        Returns:
            The head.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` or ``HTTPStatus(505)``.
        """
        sink = _Sink()
        parser = HttpRequestParser(sink)
        try:
            parser.feed_data(head)
        except HttpParserUpgrade:
            pass
        except HttpParserInvalidMethodError as error:
            # llhttp knows a list of methods; a proxy passes every token on.
            match = _METHOD.match(head)
            if match is None:
                raise _refusal(head, error) from error
            method = match[1]
            if method == b"GET":
                raise _refusal(head, error) from error
            header = self.parse_request(b"GET " + head[match.end() :])
            header.raw_method = method
            return header
        except HttpParserError as error:
            raise _refusal(head, error) from error
        return RequestHeader.from_wire(
            parser.get_method(), sink.target, _version(parser.get_http_version()), sink.items
        )

    def parse_response(self, head: bytes) -> ResponseHeader:
        """Take a response head apart.

        Args:
            head: The whole head.

        Returns:
            The head.

        Raises:
            Error: ``INVALID_HTTP_HEADER``.
        """
        sink = _Sink()
        parser = HttpResponseParser(sink)
        try:
            parser.feed_data(head)
        except HttpParserUpgrade:
            pass
        except HttpParserError as error:
            raise Error(
                ErrorType.INVALID_HTTP_HEADER, f"malformed response header: {error}", cause=error
            ) from error
        return ResponseHeader.from_wire(
            parser.get_status_code(), sink.reason, _version(parser.get_http_version()), sink.items
        )


def _version(text: str) -> Version:
    version = _VERSIONS.get(text)
    if version is None:
        raise Error(HTTPStatus(505), f"HTTP/{text} is not supported")
    return version


def _refusal(head: bytes, error: HttpParserError) -> Error:
    if _OTHER_VERSION.match(head):
        return Error(HTTPStatus(505), "another version than HTTP/1.0 and HTTP/1.1", cause=error)
    return Error(ErrorType.INVALID_HTTP_HEADER, f"malformed request header: {error}", cause=error)
