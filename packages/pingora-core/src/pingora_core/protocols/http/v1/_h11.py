"""The reference engine: h11, which follows the grammar of the RFCs to the letter."""

from __future__ import annotations

import re

import h11

from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import RequestHeader, ResponseHeader, Version

__all__ = ["H11Parser"]

# The head's size has been judged before the engine sees it.
_NO_LIMIT = 1 << 24
_OTHER_VERSION = re.compile(rb"[^\r\n]* HTTP/(?!1\.[01]\r\n)[0-9]\.[0-9]\r\n")
_VERSIONS = {b"1.1": Version.HTTP_11, b"1.0": Version.HTTP_10}


class H11Parser:
    """Takes heads apart with h11; see `Http1Parser`."""

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
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_NO_LIMIT)
        try:
            connection.receive_data(head)
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            if _OTHER_VERSION.match(head):
                raise Error(
                    HTTPStatus(505), "another version than HTTP/1.0 and HTTP/1.1", cause=error
                ) from error
            raise Error(
                ErrorType.INVALID_HTTP_HEADER, f"malformed request header: {error}", cause=error
            ) from error
        if not isinstance(event, h11.Request):
            raise Error(ErrorType.INVALID_HTTP_HEADER, "malformed request header")
        return RequestHeader.from_wire(
            bytes(event.method),
            bytes(event.target),
            _version(bytes(event.http_version)),
            [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()],
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
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_NO_LIMIT)
        # h11 takes a response only to a request, and a 101 only to one that asked for it;
        # whether it was really asked for is the session's to judge.
        connection.send(
            h11.Request(
                method="GET",
                target="/",
                headers=[("Host", "h"), ("Connection", "upgrade"), ("Upgrade", "any")],
            )
        )
        connection.send(h11.EndOfMessage())
        try:
            connection.receive_data(head)
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise Error(
                ErrorType.INVALID_HTTP_HEADER, f"malformed response header: {error}", cause=error
            ) from error
        if not isinstance(event, h11.Response | h11.InformationalResponse):
            raise Error(ErrorType.INVALID_HTTP_HEADER, "malformed response header")
        return ResponseHeader.from_wire(
            event.status_code,
            bytes(event.reason),
            _version(bytes(event.http_version)),
            [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()],
        )


def _version(text: bytes) -> Version:
    version = _VERSIONS.get(text)
    if version is None:
        raise Error(HTTPStatus(505), f"HTTP/{text.decode('latin-1')} is not supported")
    return version
