from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pingora_core.connectors.l4 import connect_error
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.l4.sockopt import BindTo
from pingora_core.upstreams import HttpPeer, PeerOptions
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.ports import free_port
from tests.unit.pingora_core.connectors.rig import (
    Names,
    connector,
    exchange,
    fails,
    full_backlog,
    origin,
)

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("no_leaks")


# --------------------------------------------------------------------- success


async def test_tcp() -> None:
    """A connection to an address, with its times and addresses."""
    async with origin() as server, connector() as transport:
        stream = await transport.new_stream(HttpPeer(server.address))
        digest = stream.digest

        assert digest.socket_digest is not None
        assert digest.socket_digest.peer_addr == InetAddress("127.0.0.1", server.port)
        assert len(digest.timing_digest) == 1
        assert digest.ssl_digest is None
        assert await exchange(stream) == b"ping"
        assert str(digest.socket_digest.local_addr) == "{}:{}".format(*server.clients[0])
        assert transport.connected_count == 1


async def test_unix(tmp_path: Path) -> None:
    """The same over a Unix socket."""
    path = str(tmp_path / "origin.sock")
    async with origin(path=path) as server, connector() as transport:
        stream = await transport.new_stream(HttpPeer(server.address))

        assert await exchange(stream) == b"ping"


async def test_a_name_is_looked_up() -> None:
    """By the resolver, when connecting and not before."""
    names = Names(**{"origin.test": ["127.0.0.1"]})
    async with origin() as server, connector(resolver=names) as transport:
        peer = HttpPeer(f"origin.test:{server.port}")
        asked_before = list(names.asked)
        stream = await transport.new_stream(peer)

        assert asked_before == []
        assert names.asked == ["origin.test"]
        assert await exchange(stream) == b"ping"
    assert names.is_closed


async def test_localhost_with_the_default_resolver() -> None:
    """What ships reaches this machine by name, whichever family the origin listens on."""
    async with origin() as server, connector() as transport:
        stream = await transport.new_stream(HttpPeer(f"localhost:{server.port}"))

        assert await exchange(stream) == b"ping"


async def test_addresses_are_tried_in_order() -> None:
    """A name's second address serves when the first refuses."""
    names = Names(both=["127.0.0.3", "127.0.0.1"])
    async with origin() as server, connector(resolver=names) as transport:
        stream = await transport.new_stream(HttpPeer(f"both:{server.port}"))

        assert await exchange(stream) == b"ping"


async def test_an_address_that_does_not_answer_leaves_time_for_the_next() -> None:
    """Each gets an equal share of the connection timeout."""
    async with full_backlog() as silent:
        host, _, port = silent.rpartition(":")
        with socket.socket() as second:
            second.bind(("127.0.0.5", int(port)))
            second.listen()
            names = Names(both=[host, "127.0.0.5"])
            async with connector(resolver=names) as transport:
                options = PeerOptions(connection_timeout=1.0)
                stream = await transport.new_stream(HttpPeer(f"both:{port}", options=options))
                assert stream.digest.socket_digest is not None
                assert str(stream.digest.socket_digest.peer_addr) == f"127.0.0.5:{port}"
                stream.abort()
                await stream.wait_closed()


# --------------------------------------------------------------------- failure


async def test_conn_error_refused() -> None:
    """Nobody listens: CONNECT_REFUSED from upstream."""
    error = await fails(HttpPeer(f"127.0.0.1:{free_port()}"))

    assert error.etype is ErrorType.CONNECT_REFUSED
    assert error.esource is ErrorSource.UPSTREAM
    assert isinstance(error.root_cause, ConnectionRefusedError)


async def test_conn_error_no_route() -> None:
    """No way there: CONNECT_NO_ROUTE from upstream. TCP has no broadcast."""
    error = await fails(HttpPeer("255.255.255.255:443"))

    assert error.etype is ErrorType.CONNECT_NO_ROUTE
    assert error.esource is ErrorSource.UPSTREAM


async def test_conn_error_addr_not_avail() -> None:
    """A source address that is not ours: INTERNAL_ERROR, because the peer has no part in it."""
    options = PeerOptions(bind_to=BindTo(addr=InetAddress("203.0.113.2", 0)))
    error = await fails(HttpPeer(f"127.0.0.1:{free_port()}", options=options))

    assert error.etype is ErrorType.INTERNAL_ERROR
    assert error.esource is ErrorSource.INTERNAL
    assert error.root_etype is ErrorType.BIND_ERROR


@pytest.mark.parametrize(
    ("code", "etype", "source"),
    [
        (errno.ECONNREFUSED, ErrorType.CONNECT_REFUSED, ErrorSource.UPSTREAM),
        (errno.ETIMEDOUT, ErrorType.CONNECT_TIMEDOUT, ErrorSource.UPSTREAM),
        (errno.ENETUNREACH, ErrorType.CONNECT_NO_ROUTE, ErrorSource.UPSTREAM),
        (errno.EHOSTUNREACH, ErrorType.CONNECT_NO_ROUTE, ErrorSource.UPSTREAM),
        (errno.ECONNRESET, ErrorType.CONNECT_ERROR, ErrorSource.UPSTREAM),
        (errno.EADDRNOTAVAIL, ErrorType.INTERNAL_ERROR, ErrorSource.INTERNAL),
        (errno.EACCES, ErrorType.INTERNAL_ERROR, ErrorSource.INTERNAL),
        (errno.EADDRINUSE, ErrorType.INTERNAL_ERROR, ErrorSource.INTERNAL),
    ],
)
def test_conn_error_other(code: int, etype: ErrorType, source: ErrorSource) -> None:
    """Every refusal of the system has its type, and knows whose fault it is."""
    cause = OSError(code, os.strerror(code))
    error = connect_error(cause, InetAddress("192.0.2.1", 80))

    assert (error.etype, error.esource) == (etype, source)
    assert error.root_cause is cause
    assert "192.0.2.1:80" in str(error)


async def test_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    """CONNECT_ERROR, naming the path; CONNECT_REFUSED if only the listener has gone."""
    path = tmp_path / "gone.sock"
    missing = await fails(HttpPeer(f"unix:{path}"))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    stale = await fails(HttpPeer(f"unix:{path}"))

    assert missing.etype is ErrorType.CONNECT_ERROR
    assert str(path) in str(missing)
    assert stale.etype is ErrorType.CONNECT_REFUSED


async def test_an_unknown_name() -> None:
    """The resolver's error is the error."""
    async with connector(resolver=Names()) as transport:
        with pytest.raises(Error, match="no nowhere") as caught:
            await transport.new_stream(HttpPeer("nowhere:80"))

    assert caught.value.etype is ErrorType.CONNECT_ERROR


async def test_a_resolver_that_finds_nothing() -> None:
    """An empty list from a resolver of the user's own is an unknown name too."""
    async with connector(resolver=Names(empty=[])) as transport:
        with pytest.raises(Error, match="no address") as caught:
            await transport.new_stream(HttpPeer("empty:80"))

    assert caught.value.etype is ErrorType.CONNECT_ERROR


async def test_all_addresses_of_a_name_fail() -> None:
    """The first failure is told, with how many were tried."""
    names = Names(both=["127.0.0.1", "255.255.255.255"])
    async with connector(resolver=names) as transport:
        with pytest.raises(Error, match="2 addresses tried") as caught:
            await transport.new_stream(HttpPeer(f"both:{free_port()}"))

    assert caught.value.etype is ErrorType.CONNECT_REFUSED


async def test_conn_timeout() -> None:
    """A listener that never answers: CONNECT_TIMEDOUT, in time."""
    async with full_backlog() as silent:
        started = time.monotonic()
        options = PeerOptions(connection_timeout=0.03)
        error = await fails(HttpPeer(silent, options=options))

    assert error.etype is ErrorType.CONNECT_TIMEDOUT
    assert error.esource is ErrorSource.UPSTREAM
    assert time.monotonic() - started < 10.0


async def test_conn_timeout_of_a_unix_socket(tmp_path: Path) -> None:
    """A full backlog is waited for, not taken for a connection."""
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        options = PeerOptions(connection_timeout=0.03)
        error = await fails(HttpPeer(f"unix:{path}", options=options))

    assert error.etype is ErrorType.CONNECT_TIMEDOUT


async def test_a_unix_backlog_that_drains_in_time(tmp_path: Path) -> None:
    """The connection is made when there is room again."""
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        async with connector() as transport:
            task = asyncio.ensure_future(transport.new_stream(HttpPeer(f"unix:{path}")))
            await asyncio.sleep(0.02)
            assert not task.done()
            listener.accept()[0].close()
            stream = await task
            stream.abort()
            await stream.wait_closed()


async def test_do_connect_with_total_timeout() -> None:
    """The limit for everything together counts when it is the shorter one."""
    async with full_backlog() as silent:
        options = PeerOptions(connection_timeout=5, total_connection_timeout=0.03)
        error = await fails(HttpPeer(silent, options=options))

    assert error.etype is ErrorType.CONNECT_TIMEDOUT
    assert "total" in error.context


async def test_a_slow_lookup_counts_as_connecting() -> None:
    """The connection timeout covers it."""

    class Slow(Names):
        async def resolve(self, host: str, port: int) -> list[InetAddress]:
            await asyncio.sleep(60)
            raise AssertionError

    async with connector(resolver=Slow()) as transport:
        peer = HttpPeer("slow:80", options=PeerOptions(connection_timeout=0.02))
        with pytest.raises(Error) as caught:
            await transport.new_stream(peer)

    assert caught.value.etype is ErrorType.CONNECT_TIMEDOUT


async def test_cancelling_closes_the_socket() -> None:
    """Nothing is left of a connection that nobody waits for any more."""
    async with full_backlog() as silent, connector() as transport:
        task = asyncio.ensure_future(transport.new_stream(HttpPeer(silent)))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()


@pytest.mark.parametrize("turns", range(6))
async def test_cancelling_at_any_moment(tmp_path: Path, turns: int) -> None:
    """Also between the connected socket and the stream."""
    async with origin(path=str(tmp_path / "s.sock")) as server, connector() as transport:
        task = asyncio.ensure_future(transport.new_stream(HttpPeer(server.address)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result().abort()


async def test_a_transport_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connected socket is closed."""

    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no transport")

    async with origin() as server, connector() as transport:
        loop = asyncio.get_running_loop()
        stand_in = SimpleNamespace(
            create_connection=refuse, sock_connect=loop.sock_connect, time=loop.time
        )
        monkeypatch.setattr("pingora_core.connectors.l4.asyncio.get_running_loop", lambda: stand_in)
        with pytest.raises(RuntimeError, match="no transport"):
            await transport.new_stream(HttpPeer(server.address))
        monkeypatch.undo()


async def test_running_out_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is this machine's trouble, and an Error like any other."""

    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("pingora_core.connectors.l4.socket.socket", refuse)
    async with connector() as transport:
        with pytest.raises(Error) as caught:
            await transport.new_stream(HttpPeer("127.0.0.1:80"))
    monkeypatch.undo()

    assert caught.value.etype is ErrorType.INTERNAL_ERROR
    assert caught.value.esource is ErrorSource.INTERNAL
