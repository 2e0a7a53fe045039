"""ClientHellos of real clients are read, and nothing else is taken for one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st
from OpenSSL import SSL

from pingora_core.protocols.tls.client_hello import (
    MAX_CLIENT_HELLO,
    UNRECOGNIZED_NAME,
    ClientHelloParser,
    fatal_alert,
    looks_like_http,
    parse_client_hello,
)
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.nginx import require_program
from tests.unit.pingora_core.protocols.tls.hellos import (
    GREASE,
    alpn,
    build,
    from_openssl,
    from_program,
    from_stdlib,
    message,
    number_list,
    records,
    server_name,
    vector,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.tls.client_hello import ClientHello

STDLIB = from_stdlib()


def parsed(data: bytes) -> ClientHello:
    hello = parse_client_hello(data)
    assert hello is not None
    return hello


def outcome(data: bytes) -> ClientHello | Error | None:
    try:
        return parse_client_hello(data)
    except Error as error:
        return error


def is_refused(result: object) -> bool:
    return isinstance(result, Error) and result.etype is ErrorType.HANDSHAKE_ERROR


def refusal(data: bytes, **limits: int) -> str:
    with pytest.raises(Error) as caught:
        parse_client_hello(data, **limits)
    error = caught.value
    assert error.etype is ErrorType.HANDSHAKE_ERROR
    assert error.esource is ErrorSource.DOWNSTREAM
    return error.context.removeprefix("the client sent ")


# ------------------------------------------------------------------------------ real clients


@pytest.mark.parametrize("data", [STDLIB, from_openssl()], ids=["ssl", "pyOpenSSL"])
def test_what_libraries_write(data: bytes) -> None:
    """Name, protocols, versions, groups and algorithms are what the client was told to offer."""
    hello = parsed(data)

    assert hello.server_name == "www.example.org"
    assert hello.alpn_protocols == (b"h2", b"http/1.1")
    assert {0x0304, 0x0303} <= set(hello.supported_versions)
    assert 0x1301 in hello.cipher_suites
    assert 0x001D in hello.groups
    assert 0x0403 in hello.signature_algorithms
    assert (hello.legacy_version, len(hello.random), len(hello.session_id)) == (0x0303, 32, 32)
    assert hello.raw == data[5:]
    assert hello.extension(16) == alpn(b"h2", b"http/1.1")[1]
    assert hello.extension(0xABCD) is None


def test_post_quantum_group() -> None:
    """A recent OpenSSL offers X25519MLKEM768, and its hello is far below the limit."""
    data = from_openssl()

    assert 0x11EC in parsed(data).groups
    assert len(data) < MAX_CLIENT_HELLO / 8


def test_tls_1_2_client() -> None:
    """A client that knows no TLS 1.3 has no list of versions."""
    hello = parsed(from_openssl(None, version=SSL.TLS1_2_VERSION))

    assert hello.supported_versions == ()
    assert hello.legacy_version == 0x0303
    assert hello.server_name is None


async def test_openssl_program() -> None:
    """``openssl s_client`` is understood."""
    openssl = require_program("openssl")
    data = await from_program(
        openssl, "s_client", "-connect", "127.0.0.1:{port}", "-servername", "One.Test",
        "-alpn", "h2", "-tls1_3",
    )  # fmt: skip

    hello = parsed(data)

    assert hello.server_name == "one.test"
    assert hello.alpn_protocols == (b"h2",)
    assert hello.supported_versions == (0x0304,)


async def test_curl() -> None:
    """``curl`` is understood."""
    curl = require_program("curl")
    data = await from_program(
        curl, "-s", "--connect-to", "two.test:443:127.0.0.1:{port}", "https://two.test/"
    )

    hello = parsed(data)

    assert hello.server_name == "two.test"
    assert b"http/1.1" in hello.alpn_protocols


# ------------------------------------------------------------------------------------ pieces


@pytest.mark.parametrize("data", [STDLIB, from_openssl()], ids=["ssl", "pyOpenSSL"])
def test_every_prefix_is_incomplete(data: bytes) -> None:
    """As long as one byte is missing more is asked for, and nothing is refused."""
    assert [size for size in range(len(data)) if parse_client_hello(data[:size])] == []


@given(sizes=st.lists(st.integers(1, 120), max_size=12), cuts=st.lists(st.integers(1, 700)))
def test_pieces_do_not_matter(sizes: list[int], cuts: list[int]) -> None:
    """However a hello is split into records and arrivals, it is the same hello."""
    whole = records(STDLIB[5:], sizes)
    parser = ClientHelloParser()
    hello: ClientHello | None = None

    start = 0
    for cut in [*sorted(set(cuts)), len(whole)]:
        hello = parser.feed(whole[start:cut])
        start = min(cut, len(whole))
        if hello is not None:
            break

    assert hello == parsed(STDLIB) == parsed(whole)


def test_one_byte_records() -> None:
    """The smallest records there are, one byte at a time."""
    whole = records(message(server_name(b"a.test")), [1] * 200)
    parser = ClientHelloParser()

    *nothing, hello = [parser.feed(whole[i : i + 1]) for i in range(len(whole))]

    assert not any(nothing)
    assert hello is not None
    assert hello.server_name == "a.test"


def test_what_follows_is_not_looked_at() -> None:
    """Early data and whatever else comes after the hello is no concern of its reader."""
    assert parsed(STDLIB + b"\x17\x03\x03\x00\x05early") == parsed(STDLIB)
    assert parsed(STDLIB + b"nonsense") == parsed(STDLIB)


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes(data: bytes, as_record: bool) -> None:
    """Random bytes are incomplete or refused, never a crash."""
    whole = b"\x16\x03\x01" + vector(2, data) if as_record else data
    result = outcome(whole)

    assert result is None or is_refused(result)


@given(st.integers(0, len(STDLIB) - 1), st.integers(1, 255))
def test_damaged_hello(position: int, change: int) -> None:
    """One wrong byte makes another hello, an incomplete or a refused one, never a crash."""
    data = bytearray(STDLIB)
    data[position] ^= change
    result = outcome(bytes(data))

    if isinstance(result, Error):
        assert is_refused(result)
    else:
        # The version of a record is the only thing that means nothing.
        assert result != parsed(STDLIB) or position == 2


# ------------------------------------------------------------------------------------ limits


def test_largest_hello() -> None:
    """A hello may fill the limit to the last byte, record headers included, and not more."""
    data = build((0xABCD, bytes(5000)))

    assert parse_client_hello(data, max_size=len(data)) is not None
    assert refusal(data, max_size=len(data) - 1) == (
        f"a ClientHello of more than {len(data) - 1} bytes"
    )


@pytest.mark.parametrize(
    "start",
    [
        b"\x16\x03\x01\x40\x00" + b"\x01\x00\x3f\xfc",
        records(b"\x01\x00\x40\x01\x03\x03"),
        records(message((1, bytes(16200))), [1] * 40),
    ],
    ids=["record", "message", "record headers"],
)
def test_too_large_is_refused_early(start: bytes) -> None:
    """A length beyond the limit is enough; the bytes are not waited for."""
    assert refusal(start) == f"a ClientHello of more than {MAX_CLIENT_HELLO} bytes"


def accepted_bytes(feed: Callable[[bytes], object], data: bytes) -> int:
    for position in range(len(data)):
        try:
            feed(data[position : position + 1])
        except Error:
            return position
    return len(data)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(64, 400))
def test_memory_is_bounded(sizes: list[int], limit: int) -> None:
    """What never becomes a hello is refused at the latest when the limit is reached."""
    endless = records(b"\x01" + (limit - 9).to_bytes(3, "big") + bytes(sum(sizes)), sizes)
    data = endless + bytes((22, 3, 1, 1, 0)) + bytes(limit)

    taken = accepted_bytes(ClientHelloParser(limit).feed, data)

    assert taken < limit


# ---------------------------------------------------------------------------- something else


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"GET / HTTP/1.1\r\n", "plain HTTP instead of TLS"),
        (b"G", "plain HTTP instead of TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "plain HTTP instead of TLS"),
        (b"\x80\x2e\x01\x03\x01\x00\x15", "an SSL 2.0 hello"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "a TLS record of type 21 instead of a ClientHello"),
        (b"\x17\x03\x03", "a TLS record of type 23 instead of a ClientHello"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no TLS (first byte 0x53)"),
        (b"\x00", "no TLS (first byte 0x00)"),
        (b"\x16\xfe", "a TLS record of version 254"),
        (b"\x16\x03\x01\x00\x00", "a TLS record of 0 bytes"),
        (b"\x16\x03\x01\x40\x01", "a TLS record of 16385 bytes"),
        (records(b"\x02\x00\x00\x00"), "a handshake message of type 2 instead of a ClientHello"),
        (
            records(message()[:20]) + b"\x15\x03\x01\x00\x02\x01\x00",
            "a TLS record of type 21 within a ClientHello",
        ),
        (records(message() + b"\x0b"), "a ClientHello that ends within a record"),
    ],
)  # fmt: skip
def test_something_else(data: bytes, what: str) -> None:
    """What is no ClientHello is refused as soon as that can be seen, and named."""
    assert refusal(data) == what


@pytest.mark.parametrize(
    "data",
    [
        b"G",
        b"GET",
        b"GET /",
        b"POST /x HTTP/1.1\r\n",
        b"OPTIONS *",
        b"CONNECT a:443",
        b"PRI * ",
        b"PROPFIND /dav",
        b"VERSION-CONTROL /x",
    ],
)
def test_looks_like_http(data: bytes) -> None:
    """The start of a request is recognised, however little of it has arrived."""
    assert looks_like_http(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GO",
        b"get / HTTP/1.1",
        b"GET\r\n",
        b"SSH-2.0-x",
        b"EHLO",
        b"\x16\x03\x01",
        pytest.param(b"X" * 100, id="much"),
        # Random, and so no name: parallel runs must agree on the names of tests.
        pytest.param(STDLIB, id="TLS"),
    ],
)
def test_does_not_look_like_http(data: bytes) -> None:
    """Other protocols, and nothing at all, are not taken for HTTP."""
    assert not looks_like_http(data)


# -------------------------------------------------------------------------------- structure


def test_least_hello() -> None:
    """A hello without extensions names nothing."""
    for with_extensions in (False, True):
        hello = parsed(records(message(with_extensions=with_extensions)))
        assert hello.extensions == ()
        assert hello.server_name is None
        assert hello.alpn_protocols == ()
        assert hello.groups == hello.supported_versions == hello.signature_algorithms == ()


def test_grease_and_the_unknown_are_kept() -> None:
    """Reserved and unknown numbers are part of the offer and hurt nobody."""
    extensions = (
        (GREASE, b""),
        (43, number_list(1, GREASE, 0x0304)),
        (10, number_list(2, GREASE, 0x001D)),
        (0xFE0D, b"\x00\x01\x02"),
        (0x5A5A, b"\x00"),
    )
    hello = parsed(records(message(*extensions, ciphers=(GREASE, 0x1301))))

    assert hello.extensions == extensions
    assert hello.cipher_suites == (GREASE, 0x1301)
    assert hello.supported_versions == (GREASE, 0x0304)
    assert hello.groups == (GREASE, 0x001D)


@pytest.mark.parametrize(
    ("wire", "name"),
    [
        (b"Example.ORG", "example.org"),
        (b"example.org.", "example.org"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"a_b.internal", "a_b.internal"),
        (b"localhost", "localhost"),
        (b"a" * 63 + b".x", "a" * 63 + ".x"),
        (b"127.0.0.1", None),
        (b"::1", None),
        (b"*.example.org", None),
        (b"a..b", None),
        (b".a", None),
        (b".", None),
        (b"-a.b", None),
        (b"a-.b", None),
        (b"a b", None),
        (b"a\0.example.org", None),
        (b"example.org\n", None),
        ("bücher.example".encode(), None),
        (b"a" * 64 + b".x", None),
        (b".".join([b"a" * 49] * 6), None),
    ],
)
def test_server_names(wire: bytes, name: str | None) -> None:
    """A host name is taken in lower case; what is none does not count as a name."""
    assert parsed(build(server_name(wire))).server_name == name


def test_other_name_types_are_ignored() -> None:
    """A name of another type beside the host name changes nothing."""
    body = vector(2, b"\x07" + vector(2, b"other") + b"\0" + vector(2, b"a.test"))

    assert parsed(build((0, body))).server_name == "a.test"


MALFORMED = {
    "version": message(version=0x0200),
    "session id": message(session_id=bytes(33)),
    "no ciphers": message(ciphers=()),
    "no compression": message(compression=b""),
    "trailing bytes": message(rest=b"\0"),
    "extensions cut off": message(with_extensions=False, rest=b"\x00\x05\x00\x10\x00\x09"),
    "extension twice": message((5, b""), (5, b"")),
    "grease twice": message((GREASE, b""), (GREASE, b"")),
    "two SNI extensions": message(server_name(b"a"), server_name(b"b")),
    "empty SNI": message((0, b"")),
    "empty SNI list": message((0, vector(2, b""))),
    "empty name": message(server_name(b"")),
    "two host names": message((0, vector(2, (b"\0" + vector(2, b"a")) * 2))),
    "SNI too long": message((0, server_name(b"a")[1] + b"\0")),
    "SNI too short": message((0, server_name(b"a")[1][:-1])),
    "empty ALPN": message((16, vector(2, b""))),
    "empty protocol": message((16, vector(2, b"\x00\x02h2"))),
    "ALPN too long": message((16, alpn(b"h2")[1] + b"\0")),
    "no versions": message((43, b"\0")),
    "odd versions": message((43, vector(1, b"\x03\x04\x03"))),
    "odd groups": message((10, vector(2, b"\0\x1d\0"))),
    "groups too long": message((10, number_list(2, 29) + b"\0")),
    "no algorithms": message((13, b"\0\0")),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(data: bytes) -> None:
    """A hello whose lengths do not add up, or which says something twice, is refused."""
    assert re.match("a malformed |a ClientHello (of version|that repeats)", refusal(records(data)))


@pytest.mark.parametrize("data", [message(), STDLIB[5:]], ids=["least", "stdlib"])
def test_shortened_messages(data: bytes) -> None:
    """A message that was cut anywhere, its length corrected, is refused or has fewer fields."""
    for size in range(4, len(data)):
        short = b"\x01" + vector(3, data[4:size])
        result = outcome(records(short))
        if isinstance(result, Error):
            assert is_refused(result)
        else:
            assert result is not None
            assert result.extensions == ()


# ------------------------------------------------------------------------------------ alert


def test_alert_is_understood() -> None:
    """OpenSSL knows the alert for what it is."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    connection.bio_write(fatal_alert(UNRECOGNIZED_NAME))

    with pytest.raises(SSL.Error, match="unrecognized name"):
        connection.do_handshake()
