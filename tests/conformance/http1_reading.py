"""Reading whole HTTP/1 byte strings as a session does, without the session.

What the sessions do with sockets is done here with one byte string: skip empty lines, find the
head, parse, check, decide the length, decode the body, go on behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from pingora_core.protocols.http.v1 import BodyReader, FramingOptions, get_parser
from pingora_core.protocols.http.v1.framing import (
    check_request_head,
    check_response_head,
    is_upgrade_request,
    request_body_length,
    response_body_length,
    wants_keepalive,
)
from pingora_core.protocols.http.v1.parser import (
    DEFAULT_LIMITS,
    check_incomplete_head,
    find_head_end,
)
from pingora_error import Error
from pingora_http import RequestHeader

if TYPE_CHECKING:
    from pingora_http import HeaderMap, ResponseHeader

Kind: TypeAlias = Literal["request", "response"]
Verdict: TypeAlias = Literal["accept", "refuse", "incomplete"]

ENGINES = ("httptools", "h11")
STRICT = FramingOptions()
_MAX_EMPTY_LINES = 4


@dataclass(slots=True)
class Message:
    """One message that was read whole."""

    head: RequestHeader | ResponseHeader
    body: bytes
    trailers: HeaderMap | None


@dataclass(slots=True)
class Reading:
    """What became of a byte string.

    Attributes:
        verdict: ``refuse`` if any part of it was refused, ``incomplete`` if it ends early.
        messages: The messages before that.
        rest: What was not read: it follows the last message or the last upgrade.
        error: Why it was refused.
    """

    verdict: Verdict = "accept"
    messages: list[Message] = field(default_factory=list)
    rest: bytes = b""
    error: Error | None = None


def read_head(engine: str, kind: Kind, head: bytes) -> tuple[RequestHeader | ResponseHeader, int]:
    """Parse and check one head; return it and the length of its body."""
    parser = get_parser(engine)
    if kind == "request":
        request = parser.parse_request(head)
        check_request_head(head, request, DEFAULT_LIMITS)
        return request, request_body_length(request)
    response = parser.parse_response(head)
    check_response_head(head, response, DEFAULT_LIMITS, STRICT)
    return response, response_body_length(response, b"GET", STRICT)


def read_all(engine: str, kind: Kind, data: bytes, *, add_host: bool = False) -> Reading:
    """Read a byte string as the bytes of one connection that stays open behind them.

    With ``add_host`` a request that has no Host is read as if it had one: third parties' data
    is mostly about something else, which would not be seen behind that.
    """
    reading = Reading(rest=data)
    try:
        while reading.rest and _read_one(engine, kind, reading, add_host=add_host):
            pass
    except Error as error:
        reading.verdict = "refuse"
        reading.error = error
    return reading


def _read_one(engine: str, kind: Kind, reading: Reading, *, add_host: bool) -> bool:
    data = reading.rest
    empty_lines = 0
    while kind == "request" and data.startswith(b"\r\n") and empty_lines < _MAX_EMPTY_LINES:
        data = data[2:]
        empty_lines += 1
    end = find_head_end(data, 0)
    if end < 0:
        check_incomplete_head(data, DEFAULT_LIMITS)
        reading.verdict = "incomplete" if data else "accept"
        return False
    raw = data[:end]
    if add_host and kind == "request" and b"\nhost:" not in raw.lower():
        raw = raw.replace(b"\r\n", b"\r\nHost: added\r\n", 1)
    head, length = read_head(engine, kind, raw)
    body = BodyReader(length)
    payload = body.feed(data[end:])
    if not body.is_done:
        reading.verdict = "incomplete"
        return False
    reading.messages.append(Message(head, payload, body.trailers))
    reading.rest = body.excess
    if isinstance(head, RequestHeader):
        if is_upgrade_request(head):
            return False
    elif head.status == 101:
        return False
    return wants_keepalive(head)
