"""The ClientHello is read from a stream, and every byte of it is still there afterwards."""

from __future__ import annotations

import asyncio

import pytest

from pingora_core.protocols.tls.client_hello import parse_client_hello
from pingora_core.protocols.tls.hello_reader import read_client_hello
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.l4.rig import tcp_pair
from tests.unit.pingora_core.protocols.tls.hellos import from_openssl, records
from tests.unit.pingora_core.protocols.tls.rig import Wire

HELLO = from_openssl()

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_bytes_are_put_back() -> None:
    """The hello and what came with it can be read again, in their order."""
    async with tcp_pair() as (stream, peer):
        await peer.send(HELLO[:10])
        task = asyncio.create_task(read_client_hello(stream, timeout=5.0))
        for start in range(10, len(HELLO), 400):
            await asyncio.sleep(0)
            await peer.send(HELLO[start : start + 400])
        hello = await task
        await peer.send(b"more")
        await eventually(lambda: stream.buffered == len(HELLO) + 4)

        assert hello == parse_client_hello(HELLO)
        assert stream.take() == HELLO + b"more"


async def test_what_is_buffered_already() -> None:
    """A hello that has arrived before is found without waiting."""
    async with tcp_pair() as (stream, peer):
        await peer.send(HELLO)
        await eventually(lambda: stream.buffered == len(HELLO))
        peer.end()

        hello = await read_client_hello(stream, timeout=5.0)

        assert hello.server_name == "www.example.org"
        assert stream.take() == HELLO


async def test_timeout_is_for_all_of_it() -> None:
    """A client that drips bytes does not gain time with each of them."""
    async with tcp_pair() as (stream, peer):
        task = asyncio.create_task(read_client_hello(stream, timeout=0.1))
        sent = 0
        while not task.done() and sent < 1000:
            await peer.send(HELLO[sent : sent + 1])
            sent += 1
            await asyncio.sleep(0.01)

        with pytest.raises(Error, match="waiting for the ClientHello") as caught:
            await task
        assert caught.value.etype is ErrorType.TLS_HANDSHAKE_TIMEDOUT
        assert caught.value.esource is ErrorSource.DOWNSTREAM
        await eventually(lambda: stream.buffered == sent)
        assert stream.take() == HELLO[:sent]


async def test_client_leaves() -> None:
    """An end before the hello is complete is told with what had come."""
    async with tcp_pair() as (stream, peer):
        await peer.send(HELLO[:100])
        peer.end()

        with pytest.raises(Error, match="left after 100 bytes") as caught:
            await read_client_hello(stream, timeout=5.0)

        assert caught.value.etype is ErrorType.CONNECTION_CLOSED
        assert stream.take() == HELLO[:100]


async def test_client_resets() -> None:
    """A reset is an error of its own."""
    async with tcp_pair() as (stream, peer):
        await peer.send(HELLO[:100])
        peer.reset()

        with pytest.raises(Error) as caught:
            await read_client_hello(stream, timeout=5.0)

        assert caught.value.etype is ErrorType.READ_ERROR


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 50, records(b"\x02")])
async def test_something_else(first: bytes) -> None:
    """What is no hello is refused, and can be read again by who knows what it is."""
    wire = Wire()
    wire.deliver(first)

    with pytest.raises(Error) as caught:
        await read_client_hello(wire, timeout=5.0)

    assert caught.value.etype is ErrorType.HANDSHAKE_ERROR
    assert wire.take() == first


async def test_limit() -> None:
    """A hello that is larger than allowed is refused."""
    wire = Wire()
    wire.deliver(HELLO)

    with pytest.raises(Error, match="more than 100 bytes"):
        await read_client_hello(wire, max_size=100)


async def test_cancelling_loses_nothing() -> None:
    """A wait that is cancelled leaves the bytes in the stream."""
    wire = Wire()
    task = asyncio.create_task(read_client_hello(wire))
    await asyncio.sleep(0)
    wire.deliver(HELLO[:50])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    wire.deliver(HELLO[50:60])

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert wire.take() == HELLO[:60]
