"""Ready-made routes for the test origin: what the original's test rig serves, minus caching.

``rig`` dispatches on the path. Nothing here sleeps: where the original's rig sleeps, a route waits
at the gate that the request names in ``x-gate`` (default: the path without slashes).
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Final

from tests.support.wire import Truncated

if TYPE_CHECKING:
    from tests.support.origin import Exchange, Handler

__all__ = ["DOWNLOAD_SIZE", "ROUTES", "rig"]

DOWNLOAD_SIZE: Final = 4 * 1024 * 1024

_BLOCK: Final = bytes(range(256)) * 256
_UPGRADED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
)


def _gate(exchange: Exchange) -> str:
    return exchange.request.get("x-gate") or exchange.request.path.strip("/")


async def home(exchange: Exchange) -> None:
    """A 13-byte file."""
    await exchange.read_body()
    await exchange.reply(body=b"Hello World!\n", fields=[("Content-Type", "text/html")])


async def hello(exchange: Exchange) -> None:
    """Two words."""
    await exchange.read_body()
    await exchange.reply(body=b"hello world\n")


async def echo(exchange: Exchange) -> None:
    """The request body, framed as the request was; its trailers too."""
    body = await exchange.read_body()
    request = exchange.request
    fields = [("x-method", request.method), ("x-target", request.target)]
    if not request.chunked:
        await exchange.reply(body=body, fields=fields)
        return
    await exchange.start_chunked(fields=fields)
    if body:
        await exchange.send_chunk(body)
    trailers = "".join(f"{name}: {value}\r\n" for name, value in request.trailers)
    await exchange.send(b"0\r\n" + trailers.encode("latin-1") + b"\r\n")


async def echo_fields(exchange: Exchange) -> None:
    """The request head as it arrived, as the body."""
    await exchange.read_body()
    await exchange.reply(body=exchange.request.head.raw)


async def client_ip(exchange: Exchange) -> None:
    """The address the request came from."""
    await exchange.read_body()
    peer = exchange.connection.writer.get_extra_info("peername")
    await exchange.reply(fields=[("x-client-ip", peer[0] if peer else "unix")])


async def sleep(exchange: Exchange) -> None:
    """Wait at the gate, then answer; ``x-abort`` resets instead, ``x-abort-body`` midway."""
    await exchange.read_body()
    await exchange.passed(_gate(exchange))
    if exchange.request.get("x-abort"):
        exchange.reset()
    elif exchange.request.get("x-abort-body"):
        await exchange.reply(body=b"hello ", length=11)
        exchange.reset()
    else:
        await exchange.reply(exchange.request.get("x-error-header") or "200 OK", b"hello world\n")


async def abort_at(exchange: Exchange) -> None:
    """Reset after the first ``x-abort-at`` bytes of a chunked answer."""
    await exchange.read_body()
    wire = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-kind: chunked\r\n\r\n"
        b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n"
    )
    await exchange.send(wire[: int(exchange.request.get("x-abort-at") or 0)])
    exchange.reset()


async def connection_die(exchange: Exchange) -> None:
    """Promise ten bytes, send five, reset."""
    await exchange.read_body()
    await exchange.reply(body=b"AAAAA", length=10)
    exchange.reset()


async def connection_die_chunked(exchange: Exchange) -> None:
    """Send one chunk, reset."""
    await exchange.read_body()
    await exchange.start_chunked()
    await exchange.send_chunk(b"AAAAA")
    exchange.reset()


async def early_hints(exchange: Exchange) -> None:
    """A 103, then the answer."""
    await exchange.read_body()
    await exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    await exchange.reply(body=b"123456")


async def early_hints_die(exchange: Exchange) -> None:
    """A 103, then the end."""
    await exchange.read_body()
    await exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    exchange.close()


async def unasked_continue(exchange: Exchange) -> None:
    """A 100 that nobody asked for, then the answer."""
    await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await exchange.read_body()
    await exchange.reply(body=b"hello world\n")


async def continue_first(exchange: Exchange) -> None:
    """A 100 for a request that expects one, then an echo."""
    if exchange.request.get("expect"):
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await echo(exchange)


async def chunked(exchange: Exchange) -> None:
    """Three chunks."""
    await exchange.read_body()
    await exchange.start_chunked()
    for piece in (b"hello", b" ", b"world\n", b""):
        await exchange.send_chunk(piece)


async def trailers(exchange: Exchange) -> None:
    """A chunk and trailers."""
    await exchange.read_body()
    await exchange.start_chunked(fields=[("Trailer", "x-checksum")])
    await exchange.send(b"5\r\nhello\r\n0\r\nx-checksum: abc\r\nx-other: 1\r\n\r\n")


async def close_delimited(exchange: Exchange) -> None:
    """A body that only the end of the connection ends."""
    await exchange.read_body()
    await exchange.reply(body=b"until the end", length=None)
    exchange.close()


async def http10(exchange: Exchange) -> None:
    """An HTTP/1.0 answer that the end of the connection ends."""
    await exchange.read_body()
    await exchange.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold times")
    exchange.close()


async def http10_length(exchange: Exchange) -> None:
    """An HTTP/1.0 answer with a length."""
    await exchange.read_body()
    await exchange.send(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nold times")
    exchange.close()


async def set_content_length(exchange: Exchange) -> None:
    """Twelve bytes under whatever length ``x-set-content-length`` says, then an orderly close."""
    await exchange.read_body()
    length = exchange.request.get("x-set-content-length")
    await exchange.reply(
        body=b"hello world\n", fields=[("Content-Length", length or "12")], length=None
    )
    exchange.close()


async def excess(exchange: Exchange) -> None:
    """Five bytes as promised and then more, as no server should; the connection stays open."""
    await exchange.read_body()
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n")


async def bad_lb(exchange: Exchange) -> None:
    """Echo, but close any reused connection in silence."""
    body = await exchange.read_body()
    if exchange.request.number:
        exchange.close()
    else:
        await exchange.reply(body=body or b"dog!")


async def duplex(exchange: Exchange) -> None:
    """Answer in full without looking at the request body; the body is read afterwards."""
    await exchange.reply(body=b"hello world\n")


async def early_response(exchange: Exchange) -> None:
    """Refuse before the body was read, and close."""
    await exchange.reply("413 Content Too Large", b"too large\n", [("Connection", "close")])
    exchange.keep_alive = False
    try:
        await exchange.read_body()
    except Truncated:
        return


async def upload(exchange: Exchange) -> None:
    """How many bytes were uploaded."""
    size = 0
    while piece := await exchange.read_piece():
        size += len(piece)
    await exchange.reply(body=str(size).encode())


async def upload_connection_die(exchange: Exchange) -> None:
    """Answer at once, reset at the gate while the request body still comes in."""
    await exchange.reply(body=b"")
    await exchange.passed(_gate(exchange))
    exchange.reset()


async def download(exchange: Exchange) -> None:
    """Four mebibytes with a length."""
    await exchange.read_body()
    await exchange.reply(length=DOWNLOAD_SIZE)
    for _ in range(DOWNLOAD_SIZE // len(_BLOCK)):
        await exchange.send(_BLOCK)


async def slow_body(exchange: Exchange) -> None:
    """A chunked head, then three pieces, each when the gate opens."""
    await exchange.read_body()
    await exchange.start_chunked()
    for piece in (b"1", b"2", b"3", b""):
        await exchange.passed(_gate(exchange))
        await exchange.send_chunk(piece)


async def no_reuse(exchange: Exchange) -> None:
    """An answer after which the connection closes."""
    await exchange.read_body()
    exchange.keep_alive = False
    await exchange.reply(body=b"hello world\n", fields=[("Connection", "close")])


async def silent_close(exchange: Exchange) -> None:
    """An answer after which the connection closes without having been announced."""
    await exchange.read_body()
    exchange.keep_alive = False
    await exchange.reply(body=b"hello world\n")


async def no_content(exchange: Exchange) -> None:
    """A 204."""
    await exchange.read_body()
    await exchange.reply("204 No Content", length=None)


async def not_modified(exchange: Exchange) -> None:
    """A 304 that tells the length a 200 would have."""
    await exchange.read_body()
    await exchange.reply("304 Not Modified", fields=[("ETag", '"a"')], length=1000)


async def no_compression(exchange: Exchange) -> None:
    """Thirty-two compressible bytes of no particular type."""
    await exchange.read_body()
    await exchange.reply(body=b"B" * 32, fields=[("Content-Type", "application/octet-stream")])


async def gzipped(exchange: Exchange) -> None:
    """A body compressed with gzip."""
    await exchange.read_body()
    fields = [("Content-Encoding", "gzip"), ("Content-Type", "text/plain")]
    await exchange.reply(body=gzip.compress(b"B" * 1024), fields=fields)


async def set_cookie(exchange: Exchange) -> None:
    """Two cookies, in two fields."""
    await exchange.read_body()
    await exchange.reply(fields=[("Set-Cookie", "chocolate chip"), ("Set-Cookie", "b=2")])


async def connect(exchange: Exchange) -> None:
    """What a CONNECT gets."""
    await exchange.reply(body=b"hello world\n")


async def upgrade(exchange: Exchange) -> None:
    """A 101 and a word."""
    await exchange.send(_UPGRADED + b"hello")
    exchange.keep_alive = False


async def upgrade_echo_body(exchange: Exchange) -> None:
    """A 101, then the request body and whatever follows it, as raw bytes."""
    body = await exchange.read_body()
    await exchange.send(_UPGRADED + body)
    exchange.keep_alive = False
    while data := await exchange.receive():
        await exchange.send(data)


async def refuse_upgrade(exchange: Exchange) -> None:
    """An ordinary answer to a request for an upgrade."""
    await exchange.read_body()
    await exchange.reply(body=b"not today\n")


ROUTES: Final[dict[str, Handler]] = {
    "/": home,
    "/100": unasked_continue,
    "/103": early_hints,
    "/103-die": early_hints_die,
    "/abort_at": abort_at,
    "/bad_lb": bad_lb,
    "/chunked": chunked,
    "/client_ip": client_ip,
    "/close_delimited": close_delimited,
    "/connection_die": connection_die,
    "/connection_die_chunked": connection_die_chunked,
    "/continue": continue_first,
    "/download": download,
    "/duplex": duplex,
    "/early_response": early_response,
    "/echo": echo,
    "/echo_fields": echo_fields,
    "/excess": excess,
    "/gzip": gzipped,
    "/http10": http10,
    "/http10_length": http10_length,
    "/no_compression": no_compression,
    "/no_content": no_content,
    "/noreuse": no_reuse,
    "/not_modified": not_modified,
    "/refuse_upgrade": refuse_upgrade,
    "/set_content_length": set_content_length,
    "/set_cookie": set_cookie,
    "/silent_close": silent_close,
    "/sleep": sleep,
    "/slow_body": slow_body,
    "/test2": hello,
    "/trailers": trailers,
    "/upgrade": upgrade,
    "/upgrade_echo_body": upgrade_echo_body,
    "/upload": upload,
    "/upload_connection_die": upload_connection_die,
}


async def rig(exchange: Exchange) -> None:
    """Answer by the path; 404 for a path without a route."""
    if exchange.request.method == "CONNECT":
        await connect(exchange)
        return
    path = exchange.request.path
    handler = ROUTES.get(path if path == "/" else path.rstrip("/"))
    if handler is None:
        await exchange.read_body()
        await exchange.reply("404 Not Found", b"no such route\n")
        return
    await handler(exchange)
