"""Floods over HTTP/2: each ends its own connection, costs little, and is counted.

The attacks are those of RFC 9113 section 10.5, of CVE-2019-9511 to 9518, of CVE-2023-44487 (rapid
reset), of the CONTINUATION floods of 2024, and of CVE-2025-8671 (MadeYouReset).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import chain, count
from typing import TYPE_CHECKING, TypeAlias

import pytest

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.protocols.http.v2 import Http2Options
from tests.support.h2client import Ended, RawH2Client
from tests.support.h2wire import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PREFACE,
    PRIORITY_FLAG,
    Code,
    Frame,
    Kind,
    Setting,
    data_frame,
    header_frames,
    hpack_indexed,
    hpack_literal,
    hpack_table_size,
    ping_frame,
    priority_frame,
    rst_frame,
    settings_ack,
    settings_frame,
    window_frame,
)
from tests.support.leaks import resident_memory
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.support.origin import Origin
    from tests.support.proxy import RigContext

_MANY = 20_000
_MEMORY = 48 << 20

Attack: TypeAlias = Callable[[RawH2Client], "Iterable[Frame | bytes]"]


@pytest.fixture(params=["h2", "jh2"])
def options(request: pytest.FixtureRequest) -> Http2Options:
    """How the proxy speaks HTTP/2, with either engine."""
    return Http2Options(engine=request.param)


@pytest.fixture
async def proxy(origin: Origin, options: Http2Options) -> AsyncIterator[RunningProxy[RigContext]]:
    """A proxy that speaks HTTP/2 in clear."""
    server_options = HttpServerOptions(h2c=True, http2=options)
    async with RunningProxy(RigProxy(origin), server_options=server_options) as running:
        yield running


@pytest.fixture
async def bystander(proxy: RunningProxy[RigContext]) -> AsyncIterator[RawH2Client]:
    """Another client, that is served before the flood and after it."""
    async with await RawH2Client.connect(proxy.address) as client:
        assert (await client.request()).status == 200
        yield client
        assert (await client.request()).status == 200
        assert not client.received(Kind.GOAWAY)


@pytest.fixture
async def attacker(
    proxy: RunningProxy[RigContext], bystander: RawH2Client
) -> AsyncIterator[RawH2Client]:
    """The client that floods."""
    async with await RawH2Client.connect(proxy.address, timeout=20.0) as client:
        yield client


@pytest.fixture(autouse=True)
def _memory(attacker: RawH2Client) -> Iterable[None]:
    """No attack makes the process grow by much."""
    gc.collect()
    before = resident_memory()
    yield
    gc.collect()
    assert resident_memory() - before < _MEMORY


async def _is_calmed(client: RawH2Client, options: Http2Options, kind: str) -> None:
    """Wait until the connection was ended as one that floods, and see that it was counted."""
    goaway = await client.goaway()
    assert goaway.code == Code.ENHANCE_YOUR_CALM, goaway.payload
    await client.closed()
    assert options.stats.floods == {kind: 1}


# --------------------------------------------------------------- frames that cost


def _rapid_reset(client: RawH2Client) -> Iterable[Frame | bytes]:
    for _ in range(_MANY):
        stream_id = client.take_id()
        yield from client.head_frames(stream_id, client.head(), end=True)
        yield rst_frame(stream_id)


def _resets_one_by_one(client: RawH2Client) -> Iterable[Frame | bytes]:
    # In batches of their own, so that the requests have begun when they are given up.
    for _ in range(_MANY // 50):
        ids = [client.take_id() for _ in range(50)]
        for stream_id in ids:
            yield from client.head_frames(stream_id, client.head("POST", "/echo"))
        yield from [rst_frame(stream_id) for stream_id in ids]


def _malformed_requests(client: RawH2Client) -> Iterable[Frame | bytes]:
    fields = [*client.head(), (b"connection", b"close")]
    for _ in range(_MANY):
        yield from client.head_frames(client.take_id(), fields, end=True)


def _empty_heads(client: RawH2Client) -> Iterable[Frame | bytes]:
    for _ in range(_MANY):
        yield Frame(Kind.HEADERS, END_HEADERS | END_STREAM, client.take_id())


def _wrong_lengths(client: RawH2Client) -> Iterable[Frame | bytes]:
    fields = [*client.head("POST", "/echo"), (b"content-length", b"1")]
    for _ in range(_MANY):
        stream_id = client.take_id()
        yield from client.head_frames(stream_id, fields)
        yield data_frame(stream_id, b"too long")


def _too_many_streams(client: RawH2Client) -> Iterable[Frame | bytes]:
    for _ in range(_MANY):
        yield from client.head_frames(client.take_id(), client.head("POST", "/echo"))


def _empty_data(client: RawH2Client) -> Iterable[Frame | bytes]:
    stream_id = client.take_id()
    yield from client.head_frames(stream_id, client.head("POST", "/echo"))
    yield from [data_frame(stream_id)] * _MANY


def _empty_data_padded(client: RawH2Client) -> Iterable[Frame | bytes]:
    stream_id = client.take_id()
    yield from client.head_frames(stream_id, client.head("POST", "/echo"))
    yield from [data_frame(stream_id, padding=0)] * _MANY


def _endless_block(client: RawH2Client) -> Iterable[Frame | bytes]:
    yield Frame(Kind.HEADERS, 0, client.take_id(), b"")
    literal = hpack_literal(b"x", b"y" * 8000, first=0x00)
    yield from [Frame(Kind.CONTINUATION, 0, client.next_id - 2, literal)] * _MANY


def _empty_continuations(client: RawH2Client) -> Iterable[Frame | bytes]:
    yield Frame(Kind.HEADERS, 0, client.take_id(), b"")
    yield from [Frame(Kind.CONTINUATION, 0, client.next_id - 2)] * _MANY


def _small_windows(client: RawH2Client) -> Iterable[Frame | bytes]:
    yield from [window_frame(0, 1)] * _MANY


def _small_windows_on_a_stream(client: RawH2Client) -> Iterable[Frame | bytes]:
    stream_id = client.take_id()
    yield from client.head_frames(stream_id, client.head("POST", "/echo"))
    yield from [window_frame(stream_id, 1)] * _MANY


def _data_after_a_reset(client: RawH2Client) -> Iterable[Frame | bytes]:
    stream_id = client.take_id()
    fields = [*client.head("POST", "/echo"), (b"connection", b"close")]
    yield from client.head_frames(stream_id, fields)
    yield from [data_frame(stream_id, b"x")] * _MANY


def _settings_that_change(client: RawH2Client) -> Iterable[Frame | bytes]:
    for number in range(_MANY):
        yield settings_frame({Setting.INITIAL_WINDOW_SIZE: number})


_FLOODS: list[tuple[str, Attack]] = [
    ("reset", _rapid_reset),
    ("reset", _resets_one_by_one),
    ("reset", _malformed_requests),
    ("reset", _empty_heads),
    ("reset", _wrong_lengths),
    ("reset", _too_many_streams),
    ("closed", _data_after_a_reset),
    ("empty", _empty_data),
    ("empty", _empty_data_padded),
    ("continuation", _empty_continuations),
    ("header block", _endless_block),
    ("settings", lambda _: [settings_frame()] * _MANY),
    ("settings", _settings_that_change),
    ("ping", lambda _: [ping_frame()] * _MANY),
    ("priority", lambda _: [priority_frame(1 + 2 * number) for number in range(_MANY)]),
    ("window", _small_windows),
    ("window", _small_windows_on_a_stream),
    ("unknown", lambda _: [Frame(0x77, 0, 0, b"grease")] * _MANY),
]


@pytest.mark.parametrize(("kind", "attack"), _FLOODS)
async def test_floods(
    attacker: RawH2Client, options: Http2Options, origin: Origin, kind: str, attack: Attack
) -> None:
    """Frames that cost the client nothing are counted, and too many end the connection."""
    await attacker.flood(attack(attacker))

    await _is_calmed(attacker, options, kind)
    assert len(origin.requests) < 1000


@pytest.mark.parametrize("frame", [ping_frame(), settings_frame()])
async def test_floods_of_clients_that_do_not_read(
    proxy: RunningProxy[RigContext], bystander: RawH2Client, options: Http2Options, frame: Frame
) -> None:
    """Answers that nobody takes do not pile up either."""
    async with await RawH2Client.connect(
        proxy.address, receive_buffer=4096, timeout=20.0
    ) as client:
        client.pause()
        await client.flood([frame.encode() * 100] * 200)
        client.resume()
        await client.closed()

        assert sum(options.stats.floods.values()) == 1


@pytest.mark.parametrize("frame", [settings_ack(), ping_frame(ack=True)])
async def test_answers_to_nothing(
    attacker: RawH2Client, options: Http2Options, frame: Frame
) -> None:
    """Acknowledgements that nobody asked for cost nothing, or end the connection."""
    await attacker.flood([frame] * _MANY)

    if not attacker.is_closed:
        try:
            assert (await attacker.request()).status == 200
        except Ended:
            assert attacker.received(Kind.GOAWAY)


# ------------------------------------------------------------------ MadeYouReset


def _after_end(client: RawH2Client, *frames: Frame) -> Iterable[Frame]:
    # A request that is whole, and then what may not follow.
    yield from client.head_frames(client.take_id(), client.head(path="/sleep"), end=True)
    yield from frames


def _provocations() -> dict[str, Callable[[int], list[Frame]]]:
    """Return frames that make a server reset the stream."""
    return {
        "zero increment": lambda i: [window_frame(i, 0)],
        "window overflow": lambda i: [window_frame(i, MAX_WINDOW)],
        "data after the end": lambda i: [data_frame(i, b"x")],
        "headers after the end": lambda i: [Frame(Kind.HEADERS, END_HEADERS | END_STREAM, i)],
        "short priority": lambda i: [Frame(Kind.PRIORITY, 0, i, b"1234")],
        "own parent": lambda i: [priority_frame(i, i)],
        "own parent in trailers": lambda i: [
            Frame(
                Kind.HEADERS,
                END_HEADERS | END_STREAM | PRIORITY_FLAG,
                i,
                i.to_bytes(4, "big") + b"\0",
            )
        ],
        "data beyond the window": lambda i: [data_frame(i, bytes(16384))] * 5,
    }


@pytest.mark.parametrize("name", _provocations())
@pytest.mark.parametrize("whole", [True, False])
async def test_made_you_reset(
    attacker: RawH2Client, options: Http2Options, origin: Origin, name: str, whole: bool
) -> None:
    """Resets that a client provokes count as its own, if they do not end the connection at once."""
    provoke = _provocations()[name]

    def attack() -> Iterable[Frame]:
        for _ in range(2000):
            stream_id = attacker.take_id()
            head = attacker.head("POST", "/sleep")
            yield from attacker.head_frames(stream_id, head, end=whole)
            yield from provoke(stream_id)

    await attacker.flood(attack())

    goaway = await attacker.goaway()
    await attacker.closed()
    if goaway.code == Code.ENHANCE_YOUR_CALM:
        assert sum(options.stats.floods.values()) == 1
    else:
        assert goaway.code in {
            Code.PROTOCOL_ERROR,
            Code.FLOW_CONTROL_ERROR,
            Code.STREAM_CLOSED,
            Code.FRAME_SIZE_ERROR,
        }
    assert len(origin.requests) < 500


# ------------------------------------------------------------------- window games


@pytest.mark.parametrize(
    ("frames", "codes"),
    [
        ([window_frame(0, MAX_WINDOW)], {Code.FLOW_CONTROL_ERROR}),
        ([window_frame(0, 0)], {Code.PROTOCOL_ERROR}),
        ([settings_frame({Setting.INITIAL_WINDOW_SIZE: 1 << 31})], {Code.FLOW_CONTROL_ERROR}),
        ([settings_frame({Setting.MAX_FRAME_SIZE: 1})], {Code.PROTOCOL_ERROR}),
        ([settings_frame({Setting.ENABLE_PUSH: 2})], {Code.PROTOCOL_ERROR}),
        ([Frame(Kind.SETTINGS, payload=b"12345")], {Code.FRAME_SIZE_ERROR}),
        ([Frame(Kind.SETTINGS, ACK, payload=b"123456")], {Code.FRAME_SIZE_ERROR}),
        ([Frame(Kind.PING, payload=b"1234567")], {Code.FRAME_SIZE_ERROR}),
        ([Frame(Kind.WINDOW_UPDATE, payload=b"123")], {Code.FRAME_SIZE_ERROR}),
        ([window_frame(9, 1)], {Code.PROTOCOL_ERROR}),
        ([data_frame(9, b"x")], {Code.PROTOCOL_ERROR, Code.STREAM_CLOSED}),
        ([rst_frame(9)], {Code.PROTOCOL_ERROR}),
        ([Frame(Kind.CONTINUATION, END_HEADERS, 1)], {Code.PROTOCOL_ERROR}),
        ([Frame(Kind.HEADERS, 0, 1), ping_frame()], {Code.PROTOCOL_ERROR}),
        ([Frame(Kind.DATA, 0, 0, b"x")], {Code.PROTOCOL_ERROR}),
        ([Frame(Kind.PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2")], {Code.PROTOCOL_ERROR}),
        ([Frame(Kind.DATA, 0, 1, bytes(20000))], {Code.FRAME_SIZE_ERROR}),
    ],
)
async def test_errors_of_the_connection(
    attacker: RawH2Client, frames: list[Frame], codes: set[Code]
) -> None:
    """What breaks the connection's rules ends it with the code that the RFC names."""
    await attacker.flood(frames)

    assert (await attacker.goaway()).code in codes
    await attacker.closed()


async def test_window_shrunk_below_zero(attacker: RawH2Client) -> None:
    """A window may become negative in the middle of a response, which then waits for credit."""
    attacker.auto_credit = False
    stream_id = await attacker.send_request("GET", "/download")
    stream = attacker.streams[stream_id]
    await attacker.wait_for(lambda: len(stream.body) >= 65535)
    await attacker.send(
        window_frame(0, 1 << 24),
        settings_frame({Setting.INITIAL_WINDOW_SIZE: 0}),
        # From -65535 to exactly 100.
        window_frame(stream_id, 65535 + 100),
        ping_frame(),
    )
    await attacker.wait_for(lambda: len(stream.body) == 65535 + 100)
    await attacker.send(settings_frame({Setting.INITIAL_WINDOW_SIZE: 1 << 24}))
    response = await attacker.response(stream_id)

    assert response.ended
    assert len(response.body) == int(response.get(b"content-length") or 0)


async def test_zero_window_stall(
    attacker: RawH2Client, proxy: RunningProxy[RigContext], origin: Origin
) -> None:
    """Responses that a client has no window for are not fetched into memory."""
    attacker.auto_credit = False
    await attacker.send(settings_frame({Setting.INITIAL_WINDOW_SIZE: 0}))
    ids = [await attacker.send_request("GET", "/download") for _ in range(100)]
    for stream_id in ids:
        stream = attacker.streams[stream_id]
        await attacker.wait_for(lambda stream=stream: stream.status == 200)  # type: ignore[misc]

    assert not attacker.received(Kind.DATA)
    async with await RawH2Client.connect(proxy.address) as other:
        assert (await other.request("GET", "/download")).status == 200


async def test_one_byte_windows(attacker: RawH2Client) -> None:
    """A client that takes a response byte by byte is counted as any other flood."""
    attacker.auto_credit = False
    await attacker.send(settings_frame({Setting.INITIAL_WINDOW_SIZE: 0}))
    stream_id = await attacker.send_request("GET", "/download")
    await attacker.flood([window_frame(stream_id, 1)] * 1000)
    await attacker.send(ping_frame())
    await attacker.expect(Kind.PING)

    assert len(attacker.streams[stream_id].body) <= 1000
    assert not attacker.is_closed


# -------------------------------------------------------------------- header lists


def _hpack_bomb(client: RawH2Client) -> list[Frame]:
    # 4 KB in the table, and 15,000 references to them: 60 MB out of 20 KB.
    block = hpack_literal(b"x", b"y" * 4000) + hpack_indexed(62) * 15_000
    return header_frames(client.take_id(), block, end=True)


def _many_small_fields(client: RawH2Client) -> list[Frame]:
    # 32 bytes each as RFC 9113 section 6.5.2 counts, one byte each on the wire.
    return header_frames(client.take_id(), hpack_indexed(2) * 50_000, end=True)


@pytest.mark.parametrize("attack", [_hpack_bomb, _many_small_fields])
async def test_header_list_bombs(
    attacker: RawH2Client, options: Http2Options, attack: Callable[[RawH2Client], list[Frame]]
) -> None:
    """A header list that is far beyond the limit is not even decoded to its end."""
    await attacker.flood(attack(attacker))

    assert (await attacker.goaway()).code == Code.ENHANCE_YOUR_CALM
    await attacker.closed()
    assert options.stats.floods == {"header list": 1}


async def test_a_bomb_in_trailers(attacker: RawH2Client, options: Http2Options) -> None:
    """Trailers are limited as heads are."""
    stream_id = await attacker.send_request("POST", "/echo", end=False)
    block = hpack_literal(b"x", b"y" * 4000) + hpack_indexed(62) * 15_000
    await attacker.flood(header_frames(stream_id, block, end=True))

    assert (await attacker.goaway()).code == Code.ENHANCE_YOUR_CALM
    assert options.stats.floods == {"header list": 1}


@pytest.mark.parametrize(
    "block",
    [
        hpack_table_size(1 << 20),
        hpack_indexed(0),
        hpack_indexed(1000),
        b"\x40\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x40\x05ab",
    ],
)
async def test_broken_header_blocks(attacker: RawH2Client, block: bytes) -> None:
    """What is no HPACK ends the connection: the table is common to all streams."""
    await attacker.flood(header_frames(attacker.take_id(), block, end=True))

    assert (await attacker.goaway()).code in {Code.COMPRESSION_ERROR, Code.PROTOCOL_ERROR}
    await attacker.closed()


async def test_table_size_changes(attacker: RawH2Client) -> None:
    """A table that is emptied with every request is allowed, and costs nothing that stays."""
    for _ in range(20):
        stream_id = attacker.take_id()
        block = (
            hpack_table_size(0)
            + hpack_table_size(4096)
            + hpack_indexed(2)
            + hpack_indexed(6)
            + hpack_indexed(4)
            + hpack_literal(b":authority", b"h")
            + hpack_literal(b"x", b"y" * 3000)
        )
        await attacker.send(*header_frames(stream_id, block, end=True))
        assert (await attacker.response(stream_id)).status == 200


# ------------------------------------------------------------------------- others


async def test_many_connections_at_once(
    proxy: RunningProxy[RigContext], bystander: RawH2Client, options: Http2Options
) -> None:
    """Twenty floods at once end twenty connections, while another client is served."""
    clients = [await RawH2Client.connect(proxy.address, timeout=20.0) for _ in range(20)]
    try:
        for client in clients:
            await client.flood(_rapid_reset(client))
            assert (await bystander.request()).status == 200
        for client in clients:
            await client.closed()
        assert options.stats.floods == {"reset": 20}
    finally:
        for client in clients:
            await client.close()


async def test_honest_clients_are_not_taken_for_floods(
    attacker: RawH2Client, options: Http2Options, proxy: RunningProxy[RigContext]
) -> None:
    """Many requests, some given up, PINGs now and then and small windows: all in order."""
    for number in count():
        if number == 300:
            break
        stream_id = await attacker.send_request("GET", "/")
        if number % 5 == 0:
            await attacker.send(rst_frame(stream_id), ping_frame())
        else:
            assert (await attacker.response(stream_id)).status == 200
        await attacker.send(priority_frame(stream_id), window_frame(0, 100))

    assert options.stats.floods == {}


async def test_preface_and_flood_in_one_write(
    proxy: RunningProxy[RigContext], bystander: RawH2Client, options: Http2Options
) -> None:
    """A flood that comes with the preface is no better."""
    async with await RawH2Client.connect(proxy.address, handshake=False, timeout=20.0) as client:
        await client.flood(chain([PREFACE, settings_frame()], [ping_frame()] * _MANY))
        await eventually(lambda: options.stats.floods == {"ping": 1})
        await client.closed()
