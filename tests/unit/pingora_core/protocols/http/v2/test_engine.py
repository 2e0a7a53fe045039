from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import CONFIG_ERROR
from pingora_core.protocols.http.v2._engine import load_library, start_engine
from pingora_core.protocols.http.v2._frames import (
    PREFACE,
    ErrorCode,
    parse_goaway,
    settings_frame,
)
from pingora_core.protocols.http.v2.options import Http2Options
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_core.protocols.http.v2.options import EngineName

ENGINES: tuple[EngineName, ...] = ("h2", "jh2")


@pytest.mark.parametrize("name", ENGINES)
def test_two_engines_talk(name: EngineName) -> None:
    """A request and its response cross between a client and a server of the same library."""
    library = load_library(name)
    options = Http2Options(engine=name)
    client, client_preface = start_engine(library, options, client_side=True)
    server, server_preface = start_engine(library, options, client_side=False)
    server.receive_data(client_preface)
    client.receive_data(server_preface)
    client.receive_data(server.data_to_send())
    head = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"a.example"),
        (b":path", b"/"),
        (b"x-upper", b" not trimmed "),
    ]

    client.send_headers(1, head, end_stream=True)
    events = server.receive_data(client.data_to_send())

    request = next(e for e in events if library.kinds[type(e)] == "RequestReceived")
    assert [tuple(field) for field in request.headers] == head  # type: ignore[attr-defined]  # of that kind
    server.send_headers(1, [(b":status", b"200")])
    server.send_data(1, b"hello", end_stream=True)
    kinds = [library.kinds[type(e)] for e in client.receive_data(server.data_to_send())]
    assert kinds == ["ResponseReceived", "DataReceived", "StreamEnded"]


@pytest.mark.parametrize("name", ENGINES)
def test_secrets_stay_out_of_the_compression_table(name: EngineName) -> None:
    """A sensitive field is sent as never indexed (RFC 7541 section 7.1.3)."""
    library = load_library(name)
    client, _ = start_engine(library, Http2Options(engine=name), client_side=True)
    client.clear_outbound_data_buffer()
    head = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]

    client.send_headers(1, [*head, library.sensitive(b"x-secret", b"one")], end_stream=True)
    first = client.data_to_send()
    client.send_headers(3, [*head, library.sensitive(b"x-secret", b"one")], end_stream=True)

    assert len(client.data_to_send()) == len(first)
    assert first[9 + 3] & 0xF0 == 0x10


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("block", [b"\x40", b"\x00", b"\x82\x40", b"\xff\xff\xff", b"\x82\xff"])
def test_a_block_that_is_cut_off_is_an_error_of_the_connection(
    name: EngineName, block: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the engine's decoder does about it, COMPRESSION_ERROR is what the peer is told."""
    library = load_library(name)
    server, _ = start_engine(library, Http2Options(engine=name), client_side=False)
    server.receive_data(PREFACE + settings_frame([]))
    server.clear_outbound_data_buffer()

    with pytest.raises(library.protocol_error):
        server.receive_data(len(block).to_bytes(3, "big") + b"\x01\x05\x00\x00\x00\x01" + block)

    goaway = server.data_to_send()
    assert goaway[3] == 7
    assert parse_goaway(goaway[9:])[1] in {ErrorCode.COMPRESSION_ERROR, ErrorCode.PROTOCOL_ERROR}
    capfd.readouterr()  # what a panic prints


def test_an_engine_that_is_not_installed() -> None:
    """The error says how to install it."""
    with pytest.raises(Error, match=r"pip install 'pingora-core\[nghttp9\]'") as caught:
        load_library("nghttp9")

    assert caught.value.etype is CONFIG_ERROR
