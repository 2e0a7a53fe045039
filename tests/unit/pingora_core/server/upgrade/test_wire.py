"""The messages of a hand-over, and what is checked of a socket that was received."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.server.upgrade._wire import (
    HEADER_SIZE,
    MAX_SIZE,
    UPGRADE_ERROR,
    Accepted,
    Descriptors,
    Failed,
    Hello,
    Ready,
    body_size,
    decode,
    encode,
    open_listener,
)
from pingora_error import Error
from tests.support.ports import needs_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pingora_core.server.upgrade._wire import Message

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
NUMBERS = st.integers(0, 2**62)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, st.just(1), NUMBERS, TEXT, st.lists(TEXT, max_size=50).map(tuple)),
    st.builds(Descriptors, NUMBERS),
    st.just(Accepted()),
    st.just(Ready()),
    st.builds(Failed, TEXT),
)


@given(message=MESSAGES)
def test_what_is_written_is_read(message: Message) -> None:
    """A message survives the way, and its header tells its length."""
    data = encode(message)

    assert body_size(data[:HEADER_SIZE]) == len(data) - HEADER_SIZE
    assert decode(data[HEADER_SIZE:]) == message


@given(body=st.binary(max_size=300))
def test_garbage_is_refused(body: bytes) -> None:
    """Whatever arrives is a message or an error of our own, nothing else."""
    with pytest.raises(Error) as caught:
        decode(body)
    assert caught.value.etype == UPGRADE_ERROR


@given(message=MESSAGES, where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_message_is_another_one_or_refused(
    message: Message, where: float, byte: int
) -> None:
    """One wrong byte never gets out as a foreign exception."""
    body = bytearray(encode(message)[HEADER_SIZE:])
    body[int(where * len(body))] = byte
    try:
        decode(bytes(body))
    except Error as error:
        assert error.etype == UPGRADE_ERROR  # noqa: PT017 - both ways are good


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"type":"farewell"}',
        b'{"type":"descriptors","count":"3"}',
        b'{"type":"hello","protocol":1,"pid":1,"version":"1","keys":[1]}',
        b'{"type":"failed","reason":"\xff"}',
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    """Wrong shapes, wrong types, wrong bytes, and nesting without end."""
    with pytest.raises(Error, match="no message of a hand-over"):
        decode(body)


def test_another_version_is_named() -> None:
    """The versions differ in what follows, never in how they say so."""
    body = json.dumps({"type": "hello", "protocol": 7, "keys": "quite different"})

    with pytest.raises(Error, match="version 7 of the hand-over is spoken there, 1 here"):
        decode(body.encode())


def test_fields_that_are_not_known_are_ignored() -> None:
    """A later release may say more."""
    assert decode(b'{"type":"ready","since":"yesterday"}') == Ready()


def test_the_length_is_bounded() -> None:
    """Neither is more announced than is taken, nor more sent."""
    assert body_size(MAX_SIZE.to_bytes(4, "big")) == MAX_SIZE
    with pytest.raises(Error, match="are allowed"):
        body_size((MAX_SIZE + 1).to_bytes(4, "big"))
    with pytest.raises(Error, match="can be sent"):
        encode(Hello(1, 1, "x" * MAX_SIZE, ()))


def test_a_long_reason_is_cut() -> None:
    """A reason with a whole log in it is told all the same."""
    assert decode(encode(Failed("x" * MAX_SIZE))[HEADER_SIZE:]) == Failed("x" * 2000)


def test_an_address_that_is_no_text_is_refused() -> None:
    """A path may hold bytes that no text can."""
    with pytest.raises(Error, match="cannot be written as text"):
        encode(Hello(1, 1, "", ("unix:/tmp/\udcff",)))


# --------------------------------------------------------------------------------- sockets


def tcp(host: str = "127.0.0.1", *, listens: bool = True) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    if listens:
        sock.listen()
    return sock


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def unix(path: Path, kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(path / "listener"))
    if kind != socket.SOCK_DGRAM:
        sock.listen()
    return sock


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("127.0.0.1:0", lambda _: tcp()),
        ("127.0.0.1:{port}", lambda _: tcp()),
        ("localhost:{port}", lambda _: tcp()),
        pytest.param("[::1]:0", lambda _: tcp("::1"), marks=needs_ipv6),
        ("unix:/listener", unix),
        ("udp:127.0.0.1:{port}", lambda _: udp()),
        ("a name of systemd's", lambda _: tcp()),
        ("a name of systemd's", unix),
    ],
)
@pytest.mark.usefixtures("no_leaks")
async def test_a_socket_that_fits_is_taken(
    tmp_path: Path, key: str, make: Callable[[Path], socket.socket]
) -> None:
    """Type and family are the key's, and the port too if it names one."""
    with make(tmp_path) as sock:
        name = sock.getsockname()
        key = key.format(port=name[1])
        with open_listener(key, os.dup(sock.fileno())) as received:
            assert received.getsockname() == name
            assert not received.getblocking()


@pytest.mark.parametrize(
    ("key", "make", "problem"),
    [
        ("127.0.0.1:0", lambda _: tcp(listens=False), "does not listen"),
        ("127.0.0.1:1", lambda _: tcp(), "is bound to 127.0.0.1:"),
        ("127.0.0.1:0", lambda _: udp(), "is no stream socket"),
        ("[::1]:0", lambda _: tcp(), "is of the family"),
        ("localhost:0", unix, "is of the family"),
        ("unix:/listener", lambda _: tcp(), "is of the family"),
        ("udp:127.0.0.1:0", lambda _: tcp(), "is no datagram socket"),
        ("udp:127.0.0.1:1", lambda _: udp(), "is bound to 127.0.0.1:"),
        ("udp:127.0.0.1:0", lambda path: unix(path, socket.SOCK_DGRAM), "is of the family"),
        ("unix:/listener", lambda path: unix(path, socket.SOCK_SEQPACKET), "is no stream socket"),
    ],
)
@pytest.mark.usefixtures("no_leaks")
async def test_a_socket_that_does_not_fit_is_refused_and_closed(
    tmp_path: Path, key: str, make: Callable[[Path], socket.socket], problem: str
) -> None:
    """The error names the address and what is wrong with the socket."""
    with make(tmp_path) as sock, pytest.raises(Error, match=problem) as caught:
        open_listener(key, os.dup(sock.fileno()))
    assert key in str(caught.value)


@pytest.mark.usefixtures("no_leaks")
async def test_what_is_no_socket_is_refused_and_closed() -> None:
    """A file, for instance."""
    descriptor = os.open("/dev/null", os.O_RDONLY)

    with pytest.raises(Error, match="is no socket"):
        open_listener("127.0.0.1:0", descriptor)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
