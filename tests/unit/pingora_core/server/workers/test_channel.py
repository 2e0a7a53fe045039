"""The line between the supervisor and a worker."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.listeners.l4 import TcpServerAddress, UdpServerAddress, UdsServerAddress
from pingora_core.protocols.l4.sockopt import TcpKeepalive, TcpSocketOptions
from pingora_core.server.signals import ShutdownSignal
from pingora_core.server.workers.channel import (
    Beat,
    Channel,
    Failed,
    Lead,
    Obtain,
    Ready,
    Recycle,
    Released,
    Reload,
    Reloaded,
    ReopenLogs,
    Resigned,
    Stop,
    Supply,
    pack_text,
    unpack_text,
)
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.server.workers.channel import FromWorker, ToWorker

OPTIONS = TcpSocketOptions(
    ipv6_only=True,
    tcp_fastopen=7,
    so_reuseport=True,
    dscp=46,
    tcp_keepalive=TcpKeepalive(idle=1.0, interval=2.0, count=3),
)
TO_WORKER: list[ToWorker] = [
    Stop(ShutdownSignal.GRACEFUL_TERMINATE, 1.5, is_whole_server=False),
    Reload("conf.yaml"),
    ReopenLogs(),
    Lead(),
    Supply("127.0.0.1:80", "in use"),
]
FROM_WORKER: list[FromWorker] = [
    Ready(("127.0.0.1:80", "unix:/a")),
    Beat(7, 1 << 40),
    Recycle("old"),
    Resigned(),
    Reloaded("no"),
    Failed("why\nnot", is_config=True),
    Released("[::1]:80"),
]


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda each: type(each).__name__)
def test_orders_arrive(message: ToWorker) -> None:
    """What the supervisor says is what the worker hears, in order and whole."""
    ours, theirs = Channel.pair()
    ours.send(message)
    ours.send(Lead())

    assert theirs.receive_from_supervisor() == (message, [])
    assert theirs.receive_from_supervisor() == (Lead(), [])
    with pytest.raises(BlockingIOError):
        theirs.receive_from_supervisor()
    ours.close()
    assert theirs.receive_from_supervisor() is None
    theirs.close()


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda each: type(each).__name__)
def test_news_arrives(message: FromWorker) -> None:
    """What the worker says is what the supervisor hears."""
    ours, theirs = Channel.pair()
    theirs.send(message)

    assert ours.receive_from_worker() == (message, [])
    theirs.close()
    assert ours.receive_from_worker() is None
    ours.close()


@pytest.mark.parametrize(
    "address",
    [
        TcpServerAddress("127.0.0.1:80"),
        TcpServerAddress("[::]:443", OPTIONS),
        UdsServerAddress("/run/a.sock", 0o640),
        UdpServerAddress("127.0.0.1:53"),
    ],
    ids=lambda each: each.key,
)
def test_an_address_keeps_its_options(address: ServerAddress) -> None:
    """The supervisor binds just what the worker was told to listen on."""
    ours, theirs = Channel.pair()
    theirs.send(Obtain.of(address))

    received = ours.receive_from_worker()

    assert received is not None
    assert isinstance(received[0], Obtain)
    assert received[0].address == address
    ours.close()
    theirs.close()


def test_descriptors_go_along() -> None:
    """A socket that is sent works at the other end, and is not inherited from there by accident."""
    ours, theirs = Channel.pair()
    near, far = socket.socketpair()
    ours.send(Supply("key"), (near.fileno(),))
    near.close()

    received = theirs.receive_from_supervisor()

    assert received is not None
    (fd,) = received[1]
    assert not os.get_inheritable(fd)
    with socket.socket(fileno=fd) as arrived:
        arrived.sendall(b"hello")
    assert far.recv(5) == b"hello"
    far.close()
    ours.close()
    theirs.close()


@given(st.binary(min_size=1, max_size=200))
def test_nonsense_is_an_error(data: bytes) -> None:
    """Whatever else arrives is refused, and what comes after it is heard."""
    ours, theirs = Channel.pair()
    with socket.socket(fileno=os.dup(theirs.fileno())) as raw:
        raw.send(b"\xff" + data)
    theirs.send(Resigned())

    with pytest.raises(Error) as caught:
        ours.receive_from_worker()

    assert caught.value.etype is ErrorType.READ_ERROR
    assert ours.receive_from_worker() == (Resigned(), [])
    ours.close()
    theirs.close()


def test_the_dead_cannot_be_told() -> None:
    """Sending to a side that is gone, or that does not read, is an error and never blocks."""
    ours, theirs = Channel.pair()

    def send_for_ever() -> None:
        while True:
            ours.send(ReopenLogs())

    with pytest.raises(Error) as caught:
        send_for_ever()
    assert caught.value.etype is ErrorType.WRITE_ERROR
    theirs.close()

    with pytest.raises(Error):
        ours.send(Lead())
    ours.close()


@pytest.mark.parametrize("text", ["", "a: ü\n", "x" * 3_000_000], ids=["empty", "small", "big"])
def test_a_text_of_any_size_can_be_sent(text: str) -> None:
    """A configuration is not limited by what a message may hold."""
    assert unpack_text([pack_text(text)]) == text


def test_a_text_that_is_missing_is_an_error() -> None:
    """Without its descriptor a message is no order, and what else came is closed."""
    with pytest.raises(Error):
        unpack_text([])
    fds = [pack_text("a"), pack_text("b")]
    with pytest.raises(Error):
        unpack_text(fds)
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
