"""The HTTP/2 test client and the strict HTTP/2 test origin talk to each other as tests assume."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import CertificateAuthority
from tests.support.h2client import Ended, RawH2Client
from tests.support.h2origin import StrictH2Origin, answer, echo
from tests.support.h2wire import (
    Code,
    Kind,
    Setting,
    data_frame,
    goaway_frame,
    ping_frame,
    rst_frame,
    settings_frame,
    window_frame,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.h2origin import H2Exchange


async def test_exchange() -> None:
    """A request with a body and trailers comes to the handler, its response to the client."""
    async with (
        StrictH2Origin(echo) as origin,
        await RawH2Client.connect(origin.address) as client,
    ):
        stream_id = await client.send_request("POST", "/a?b", [("x-a", "1")], b"body", end=False)
        await client.send(*client.head_frames(stream_id, [(b"x-sum", b"4")], end=True))
        response = await client.response(stream_id)

        assert (response.status, response.get(b"x-path")) == (200, b"/a?b")
        assert response.body == b"body"
        assert response.trailers == [(b"x-sum", b"4")]
        [request] = origin.requests
        assert (request.method, request.path, request.target) == ("POST", "/a", "/a?b")
        assert (request.get("X-A"), request.complete) == ("1", True)
        assert request.body == b"body"
    assert origin.violations == []


async def test_many_streams_and_large_bodies() -> None:
    """Bodies beyond all windows go both ways on several streams at once."""
    body = bytes(range(256)) * 1000
    async with (
        StrictH2Origin(answer(body)) as origin,
        await RawH2Client.connect(origin.address) as client,
    ):
        ids = [await client.send_request("POST", body=b"x" * 20000) for _ in range(3)]
        responses = [await client.response(stream_id) for stream_id in ids]

        assert [response.body for response in responses] == [body] * 3
        assert [bytes(request.body) for request in origin.requests] == [b"x" * 20000] * 3
    assert origin.violations == []


async def test_informational_heads_and_head_requests() -> None:
    """Informational heads come first; a response to HEAD has no data."""

    async def hints(exchange: H2Exchange) -> None:
        exchange.head(103, [("link", "</a>")])
        await exchange.respond(200, b"body")

    async with (
        StrictH2Origin(hints) as origin,
        await RawH2Client.connect(origin.address) as client,
    ):
        response = await client.request("HEAD")

        assert response.informational == [103]
        assert (response.status, response.get(b"content-length")) == (200, b"4")
        assert not response.body
        assert response.trailers is None


async def test_tiny_windows_and_settings_in_flight() -> None:
    """The origin sends as windows allow, and its own may change in the middle."""
    settings = {Setting.INITIAL_WINDOW_SIZE: 10}
    async with (
        StrictH2Origin(answer(b"y" * 100), settings=settings) as origin,
        await RawH2Client.connect(origin.address, settings=settings) as client,
    ):
        assert (await client.request()).body == b"y" * 100
        assert all(len(frame.payload) <= 10 for frame in client.received(Kind.DATA))

        [connection] = origin.connections
        connection.announce({Setting.INITIAL_WINDOW_SIZE: 5})
        stream_id = await client.send_request("POST", end=False)
        await client.send(data_frame(stream_id, b"z" * 5))
        await client.send(data_frame(stream_id, b"z" * 6, end=True))
        await eventually(lambda: origin.requests[-1].complete)
    assert len(origin.violations) == 1


async def test_windows_are_withheld() -> None:
    """An origin may open no window until the test does."""
    async with (
        StrictH2Origin(echo, auto_credit=False) as origin,
        await RawH2Client.connect(origin.address) as client,
    ):
        stream_id = await client.send_request("POST", body=b"x" * 65535, end=False)
        await origin.requests_arrived()
        await eventually(lambda: len(origin.requests[0].body) == 65535)
        [connection] = origin.connections
        assert connection.judge.window == 0
        assert not client.received(Kind.WINDOW_UPDATE)

        connection.grant(0, 5)
        connection.grant(stream_id, 5)
        await client.expect(Kind.WINDOW_UPDATE, stream_id)
        await client.send(data_frame(stream_id, b"y" * 5, end=True))
        assert len((await client.response(stream_id)).body) == 65540
    assert origin.violations == []


async def test_violations_are_written_down() -> None:
    """What a client does wrong is found, and the origin goes on."""
    async with (
        StrictH2Origin(answer()) as origin,
        await RawH2Client.connect(origin.address) as client,
    ):
        await client.send(window_frame(0, 0), data_frame(7, b"x"))
        fields = [*client.head(), (b"Upper", b"case"), (b"connection", b"close")]
        response = await client.response(await client.send_fields(fields))

        assert response.status == 200
        assert len(origin.violations) == 4


async def test_resets_and_goaways() -> None:
    """Streams are reset from either side, and either side says goodbye."""

    async def refuse(exchange: H2Exchange) -> None:
        if exchange.request.path == "/wait":
            await exchange.read_body()
        exchange.reset(Code.REFUSED_STREAM)
        exchange.connection.goaway(exchange.stream_id, Code.ENHANCE_YOUR_CALM, b"enough")

    async with (
        StrictH2Origin(refuse) as origin,
        await RawH2Client.connect(origin.address) as client,
    ):
        waiting = await client.send_request("POST", "/wait", end=False)
        await client.send(rst_frame(waiting, Code.CANCEL))
        response = await client.request()
        goaway = await client.goaway()
        await client.send(goaway_frame(0, Code.NO_ERROR))

        assert response.reset == Code.REFUSED_STREAM
        assert (goaway.number, goaway.code) == (3, Code.ENHANCE_YOUR_CALM)
        await eventually(lambda: origin.connections[0].judge.goaway is not None)
        assert origin.requests[0].reset == Code.CANCEL
    assert origin.violations == []


async def test_settings_and_pings_are_acknowledged() -> None:
    """Both sides answer by themselves; what is not answered is found."""
    async with (
        StrictH2Origin(answer()) as origin,
        await RawH2Client.connect(origin.address) as client,
    ):
        await client.send(ping_frame(b"abcdefgh"), settings_frame({Setting.ENABLE_PUSH: 0}))
        assert (await client.expect(Kind.PING)).payload == b"abcdefgh"
        await origin.connections[0].ping()
        assert origin.violations == []

        client.auto_ack = False
        origin.connections[0].announce({Setting.MAX_CONCURRENT_STREAMS: 1})
        await client.expect(Kind.SETTINGS)
        assert len(origin.violations) == 1


async def test_gates_pace_a_handler() -> None:
    """A handler stands at a gate until the test opens it."""

    async def gated(exchange: H2Exchange) -> None:
        await exchange.passed("gate")
        await exchange.respond(204)

    async with (
        StrictH2Origin(gated) as origin,
        await RawH2Client.connect(origin.address) as client,
    ):
        stream_id = await client.send_request()
        await origin.requests_arrived()
        assert not client.received(Kind.HEADERS)
        origin.open("gate")
        assert (await client.response(stream_id)).status == 204


async def test_ends_are_seen() -> None:
    """A closed connection ends every wait, and is seen by the origin as well."""

    async def vanish(exchange: H2Exchange) -> None:
        exchange.connection.close()

    async with StrictH2Origin(vanish) as origin:
        async with await RawH2Client.connect(origin.address) as client:
            with pytest.raises(Ended):
                await client.request()
            await client.closed()
            await client.flood([ping_frame()] * 100)
        await origin.all_closed()


async def test_waits_have_deadlines() -> None:
    """What never comes is an error, which tells what came instead."""
    async with (
        StrictH2Origin(answer()) as origin,
        await RawH2Client.connect(origin.address) as client,
    ):
        client.timeout = 0.02
        with pytest.raises(TimeoutError, match=r"no GOAWAY.*SETTINGS"):
            await client.goaway()


async def test_paused_clients_take_nothing() -> None:
    """A client that does not read leaves the origin with its data."""
    async with StrictH2Origin(answer(b"x" * 200_000)) as origin:
        settings = {Setting.INITIAL_WINDOW_SIZE: 1 << 20}
        async with await RawH2Client.connect(
            origin.address, settings=settings, receive_buffer=4096
        ) as client:
            client.pause()
            stream_id = await client.send_request()
            await origin.requests_arrived()
            await asyncio.sleep(0.01)
            taken = len(client.streams[stream_id].body)
            client.resume()
            response = await client.response(stream_id)

            assert taken < len(response.body) == 200_000


async def test_failing_handlers_fail_the_test() -> None:
    """An error of a handler is raised when the origin stops."""

    async def fail(exchange: H2Exchange) -> None:
        msg = "the handler"
        raise ValueError(msg)

    async def run() -> None:
        async with (
            StrictH2Origin(fail) as origin,
            await RawH2Client.connect(origin.address) as client,
        ):
            await client.send_request()
            await origin.requests_arrived()

    with pytest.raises(ValueError, match="the handler"):
        await run()


async def test_tls(tmp_path: Path) -> None:
    """Both speak TLS, with h2 agreed on by ALPN; another protocol is refused."""
    authority = CertificateAuthority(tmp_path)
    leaf = authority.issue("origin.example")
    client_tls = ssl.create_default_context(cafile=str(authority.cert_path))
    client_tls.set_alpn_protocols(["h2"])
    async with (
        StrictH2Origin(answer(), tls=leaf.server_context(alpn=("h2",))) as origin,
        await RawH2Client.connect(
            origin.address, tls=client_tls, server_hostname="origin.example"
        ) as client,
    ):
        assert (await client.request()).body == b"ok"
    async with StrictH2Origin(answer(), tls=leaf.server_context()) as plain:
        with pytest.raises(Ended, match="None"):
            await RawH2Client.connect(
                plain.address, tls=client_tls, server_hostname="origin.example"
            )


async def test_garbage_instead_of_a_preface() -> None:
    """A client that speaks something else is found at once."""
    async with (
        StrictH2Origin(answer()) as origin,
        await RawH2Client.connect(origin.address, handshake=False) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        await client.closed()

        assert "preface" in origin.violations[0]
