"""The reference engine: h11, which follows the grammar of the RFCs to the letter.

Speed does not matter here; it is for comparison, and for whoever trusts Python more than C. h11
decides framing too, and tidies the fields that it decides by; that is undone, because the one
judge is ``framing`` and it must see what was sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import h11

from pingora_core.protocols.http.v1._start_line import (
    split_request_line,
    split_status_line,
    substitute_request_line,
)
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import RequestHeader, ResponseHeader

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["H11Parser"]

_TIDIED: Final = frozenset({b"content-length", b"transfer-encoding"})


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
            Error: ``INVALID_HTTP_HEADER``, or ``HTTPStatus`` of 501 or 505.
        """
        # One connection for one head: it never gets as far as a second one.
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
        try:
            connection.receive_data(head)
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            _refuse_request(head, error)
        if not isinstance(event, h11.Request):
            raise Error(ErrorType.INVALID_HTTP_HEADER, "malformed request header")
        _, _, version = split_request_line(head)
        return RequestHeader.from_wire(
            bytes(event.method),
            bytes(event.target),
            version,
            _as_sent(head, event.headers.raw_items()),
        )

    def parse_response(self, head: bytes) -> ResponseHeader:
        """Take a response head apart.

        Args:
            head: The whole head.

        Returns:
            The head.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` or ``HTTPStatus(505)``.
        """
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=len(head))
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
        _, _, version = split_status_line(head)
        return ResponseHeader.from_wire(
            event.status_code,
            bytes(event.reason),
            version,
            _as_sent(head, event.headers.raw_items()),
        )


def _as_sent(head: bytes, items: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Restore the values that h11 tidies: ``Chunked`` to ``chunked``, ``5, 5`` to ``5``.

    Args:
        head: The whole head.
        items: The fields that h11 made of it.

    Returns:
        The fields with those values as they were sent. Where h11 has merged lines nothing is
        restored: then lines and fields do not add up, and ``framing`` refuses the head.
    """
    fields = [(bytes(name), bytes(value)) for name, value in items]
    lines = head.split(b"\r\n")[1:-2]
    if len(lines) != len(fields):
        return fields
    return [
        (name, line.partition(b":")[2].strip(b" \t") if name.lower() in _TIDIED else value)
        for (name, value), line in zip(fields, lines, strict=True)
    ]


def _refuse_request(head: bytes, error: h11.RemoteProtocolError) -> NoReturn:
    # Our own judgement on the line comes first, for it names the version.
    substitute_request_line(head)
    if error.error_status_hint == 501:
        raise Error(HTTPStatus(501), str(error), cause=error) from error
    raise Error(
        ErrorType.INVALID_HTTP_HEADER, f"malformed request header: {error}", cause=error
    ) from error
