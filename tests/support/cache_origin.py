"""What the test origin serves to caches, over HTTP/1 and HTTP/2 alike.

A route makes a ``Reply``, which tells what is sent and where the test decides when: ``Wait`` stands
at a gate of the origin, ``ABORT`` ends the connection or the stream there. ``http1`` and ``http2``
are handlers for the two origins that play it.

Most of what is special about a response is asked for by the request, as in the original's rig, so
that a test says it where it happens:

- ``x-gate``, ``x-body-gate``: wait at this gate before the head, before each piece but the first;
- ``x-abort``, ``x-abort-body``: end the connection before the head, in the middle of the body;
- ``x-chunked``: do not tell the length;
- ``set-<name>``: a field of the response, as often as it is there;
- ``x-status``: another status; ``x-early-hints``: a 103 comes first.

``/unique/<id>`` in front of a path only makes it another one. Each response has an ``x-epoch``, which
is the number of its request at this origin.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.h2origin import H2Exchange
    from tests.support.origin import Exchange

__all__ = [
    "ABORT",
    "DOWNLOAD",
    "ETAG",
    "HELLO",
    "LAST_MODIFIED",
    "Asked",
    "Reply",
    "Wait",
    "http1",
    "http2",
    "route",
]

HELLO: Final = b"hello world"
DOWNLOAD: Final = b"A" * (4 << 20)
ETAG: Final = '"abcd"'
LAST_MODIFIED: Final = "Tue, 03 May 2022 01:04:39 GMT"

_PIECE: Final = 65_536
_REASONS: Final = {200: "OK", 304: "Not Modified", 404: "Not Found", 500: "Internal Server Error"}


@dataclass(frozen=True, slots=True)
class Wait:
    """A gate at which the origin waits.

    Attributes:
        gate: Its name.
    """

    gate: str


class _Abort:
    """The end of the connection, in the middle of something."""


ABORT: Final = _Abort()

Step: TypeAlias = bytes | Wait | _Abort


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent.

    Attributes:
        steps: The body, with gates.
        status: The status.
        fields: The fields, without what tells the length.
        before: Gates in front of the head.
        length: Content-Length; -1 for the true one, None for none.
        hints: Whether a 103 comes first.
    """

    steps: tuple[Step, ...] = (HELLO,)
    status: int = 200
    fields: tuple[tuple[str, str], ...] = ()
    before: tuple[Step, ...] = ()
    length: int | None = -1
    hints: bool = False

    @property
    def size(self) -> int | None:
        """The length that is told."""
        if self.length != -1 or self.status == 304:
            return None if self.status == 304 else self.length
        return sum(len(step) for step in self.steps if isinstance(step, bytes))

    def has(self, *fields: tuple[str, str]) -> Reply:
        """Make the same reply with further fields.

        Args:
            fields: The fields.

        Returns:
            The reply.
        """
        return replace(self, fields=(*self.fields, *fields))


class Asked(Protocol):
    """A request, whatever carried it."""

    @property
    def method(self) -> str:
        """Its method."""

    @property
    def path(self) -> str:
        """Its path without the query."""

    def get(self, name: str) -> str | None:
        """Return the first value of a field, or None."""


def _now(_: Asked) -> Reply:
    return Reply(fields=(("Content-Type", "text/plain"),))


def _revalidate_now(asked: Asked) -> Reply:
    fields = (("ETag", ETAG), ("Last-Modified", LAST_MODIFIED), ("Content-Type", "text/plain"))
    if asked.get("if-none-match") or asked.get("if-modified-since"):
        return Reply((), 304, fields)
    return Reply(fields=fields)


def _cache_control(asked: Asked) -> Reply:
    return Reply((), 304) if asked.get("x-revalidated") else Reply(fields=(("ETag", ETAG),))


def _no_if_headers(asked: Asked) -> Reply:
    names = ("if-modified-since", "if-none-match", "if-range", "range")
    return Reply(status=400 if any(asked.get(name) for name in names) else 200)


def _halves(asked: Asked) -> Reply:
    who = (asked.get("x-hello") or "world").encode()
    return Reply((b"hello ", who), length=None)


def _slow_body(asked: Asked) -> Reply:
    who = (asked.get("x-hello") or "world").encode()
    return Reply((b"hello ", who, b"!"), length=None)


def _file_maker(asked: Asked) -> Reply:
    return Reply((b"A" * int(asked.get("x-set-size") or 1024),))


def _download(_: Asked) -> Reply:
    view = memoryview(DOWNLOAD)
    return Reply(tuple(bytes(view[at : at + _PIECE]) for at in range(0, len(view), _PIECE)))


def _gzip(asked: Asked) -> Reply:
    fields = (
        ("Content-Type", "text/plain"),
        ("ETag", ETAG),
        ("received-accept-encoding", asked.get("accept-encoding") or ""),
    )
    if asked.get("if-none-match"):
        return Reply((), 304, fields)
    if "gzip" not in (asked.get("accept-encoding") or ""):
        return Reply((b"Hello World!\n",), fields=fields)
    return Reply((gzip.compress(b"Hello World!\n"),), fields=fields).has(
        ("Content-Encoding", "gzip")
    )


def _no_compression(_: Asked) -> Reply:
    return Reply((b"B" * 32,), fields=(("Content-Type", "text/plain"),))


def _set_content_length(asked: Asked) -> Reply:
    length = int(asked.get("x-set-content-length") or len(HELLO))
    return Reply((HELLO, *((ABORT,) if length > len(HELLO) else ())), length=length)


def _not_found(_: Asked) -> Reply:
    return Reply((b"no such route",), 404)


_ROUTES: Final[dict[str, Callable[[Asked], Reply]]] = {
    "cache_control": _cache_control,
    "download": _download,
    "file_maker": _file_maker,
    "gzip": _gzip,
    "no_compression": _no_compression,
    "no_if_headers": _no_if_headers,
    "now": _now,
    "revalidate_now": _revalidate_now,
    "set_content_length": _set_content_length,
    "sleep": _halves,
    "slow_body": _slow_body,
    "test2": lambda _: Reply(),
    "test3": lambda _: Reply(length=None),
    "vary": _now,
}


def route(asked: Asked, fields: list[tuple[str, str]], number: int) -> Reply:
    """Decide what is answered.

    Args:
        asked: The request.
        fields: Its fields, names in lower case.
        number: Its number at this origin.

    Returns:
        The reply.
    """
    parts = asked.path.strip("/").split("/")
    if parts[0] == "unique":
        del parts[:2]
    reply = _ROUTES.get(parts[0] if parts else "", _not_found)(asked)
    reply = reply.has(
        ("x-epoch", str(number)),
        *((key.removeprefix("set-"), value) for key, value in fields if key.startswith("set-")),
    )
    if asked.get("x-chunked"):
        reply = replace(reply, length=None)
    if status := asked.get("x-status"):
        reply = replace(reply, status=int(status))
    return replace(
        reply, before=_before(asked), steps=_with_gates(asked, reply.steps), hints=_hints(asked)
    )


def _hints(asked: Asked) -> bool:
    return asked.get("x-early-hints") is not None


def _before(asked: Asked) -> tuple[Step, ...]:
    gate = asked.get("x-gate")
    waits: tuple[Step, ...] = () if gate is None else (Wait(gate),)
    return (*waits, ABORT) if asked.get("x-abort") else waits


def _with_gates(asked: Asked, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    gate = asked.get("x-body-gate")
    if gate is not None and steps:
        first, *others = steps
        steps = (first, *(step for other in others for step in (Wait(gate), other)))
    if asked.get("x-abort-body"):
        steps = (*steps[:-1], ABORT)
    return steps


# ------------------------------------------------------------------------------- HTTP/1


async def http1(exchange: Exchange) -> None:
    """Answer over HTTP/1."""
    await exchange.read_body()
    request = exchange.request
    fields = [(name.lower(), value) for name, value in request.head.fields]
    reply = route(request, fields, len(exchange.origin.requests))
    if not await _wait1(exchange, reply.before):
        return
    if reply.hints:
        await exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
    status = f"{reply.status} {_REASONS.get(reply.status, 'Whatever')}"
    if reply.size is None and reply.status != 304:
        await exchange.start_chunked(status, reply.fields)
    else:
        await exchange.reply(status, fields=reply.fields, length=reply.size)
    if request.method == "HEAD" or reply.status == 304:
        return
    for step in reply.steps:
        if not isinstance(step, bytes):
            if not await _wait1(exchange, (step,)):
                return
        elif reply.size is None:
            await exchange.send_chunk(step)
        else:
            await exchange.send(step)
    if reply.size is None:
        await exchange.send_chunk(b"")


async def _wait1(exchange: Exchange, steps: tuple[Step, ...]) -> bool:
    for step in steps:
        if isinstance(step, Wait):
            await exchange.passed(step.gate)
        else:
            exchange.close()
            return False
    return True


# ------------------------------------------------------------------------------- HTTP/2


async def http2(exchange: H2Exchange) -> None:
    """Answer over HTTP/2."""
    await exchange.read_body()
    fields = [(name.decode(), value.decode()) for name, value in exchange.request.fields]
    asked = exchange.request
    reply = route(asked, fields, len(exchange.origin.requests))
    if not await _wait2(exchange, reply.before):
        return
    if reply.hints:
        exchange.head(103, [("link", "</a.css>; rel=preload")])
    size = reply.size
    told = [(name.lower(), value) for name, value in (*reply.fields, ("origin-http2", "1"))]
    if size is not None:
        told.append(("content-length", str(size)))
    empty = asked.method == "HEAD" or reply.status == 304 or not reply.steps
    exchange.head(reply.status, told, end=empty)
    if empty:
        return
    for step in reply.steps:
        if isinstance(step, bytes):
            await exchange.data(step)
        elif not await _wait2(exchange, (step,)):
            return
    await exchange.data(b"", end=True)


async def _wait2(exchange: H2Exchange, steps: tuple[Step, ...]) -> bool:
    for step in steps:
        if isinstance(step, Wait):
            await exchange.passed(step.gate)
        else:
            exchange.reset()
            return False
    return True
