"""Version 2 of the PROXY protocol: binary."""

from __future__ import annotations

import pytest

from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.proxy_protocol import (
    MAX_SIZE,
    PROXY_PROTOCOL_ERROR,
    ProxyCommand,
    ProxyFamily,
    ProxyHeader,
    ProxyTransport,
    TlvType,
    encode_proxy_header,
    parse_proxy_header,
    starts_like_proxy_header,
)
from pingora_core.protocols.proxy_protocol._crc32c import crc32c
from pingora_error import Error

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
INET = bytes.fromhex("c0000201 c6336407 dc04 01bb")
INET6 = bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02" + "dc04 01bb")
# Captured from HAProxy 2.6: send-proxy-v2 with proxy-v2-options crc32c,unique-id.
HAPROXY_CRC = bytes.fromhex(
    "0d0a0d0a000d0a515549540a2111001a7f0000017f000001dea0b6b5030004d78516f605000469642d30"
)
# The same with ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c, and a client certificate.
HAPROXY_SSL = bytes.fromhex(
    "0d0a0d0a000d0a515549540a2111007e7f0000017f0000019b768583030004a752e07e010002683202000b6f6e65"
    "2e6578616d706c652000550700000000210007544c5376312e3322000e636c69656e742e6578616d706c65250005"
    "454332353624001165636473612d776974682d534841323536230016544c535f4145535f3235365f47434d5f5348"
    "41333834"
)


def v2(command: int, family: int, block: bytes, size: int | None = None) -> bytes:
    """Put a header together from its parts."""
    length = len(block) if size is None else size
    return SIGNATURE + bytes((0x20 | command, family)) + length.to_bytes(2, "big") + block


def parsed(data: bytes) -> ProxyHeader:
    """Read a whole header that bytes follow."""
    found = parse_proxy_header(data + b"\x00rest", max_size=MAX_SIZE)
    assert found is not None
    assert found[1] == len(data)
    return found[0]


def refusal(data: bytes) -> str:
    """Fail to read a header, and say why."""
    with pytest.raises(Error) as caught:
        parse_proxy_header(data)
    assert caught.value.etype == PROXY_PROTOCOL_ERROR
    return caught.value.context


@pytest.mark.parametrize(
    ("data", "vector"),
    [(b"123456789", 0xE3069283), (b"", 0), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_the_checksum_is_crc32c(data: bytes, vector: int) -> None:
    """The usual check value, and those of RFC 3720 section B.4."""
    assert crc32c(data) == vector


def test_what_haproxy_sends_with_a_checksum() -> None:
    """HAProxy's own bytes: addresses, checksum and unique id."""
    header = parsed(HAPROXY_CRC)

    assert header.source == InetAddress("127.0.0.1", 0xDEA0)
    assert header.checksum
    assert header.unique_id == b"id-0"
    assert header.tlvs == ((TlvType.UNIQUE_ID, b"id-0"),)


def test_what_haproxy_sends_about_tls() -> None:
    """HAProxy's own bytes: ALPN, the name asked for, and all of the SSL TLV."""
    header = parsed(HAPROXY_SSL)

    assert header.checksum
    assert header.alpn == b"h2"
    assert header.authority == "one.example"
    ssl = header.ssl
    assert ssl is not None
    assert ssl.is_tls
    assert ssl.has_certificate
    assert ssl.has_session_certificate
    assert ssl.is_verified
    assert ssl.version == "TLSv1.3"
    assert ssl.common_name == "client.example"
    assert ssl.cipher == "TLS_AES_256_GCM_SHA384"
    assert ssl.key_algorithm == "EC256"
    assert ssl.signature_algorithm == "ecdsa-with-SHA256"
    assert ssl.group is None


def test_tcp_over_ipv4_and_ipv6() -> None:
    """The blocks of the specification, and what is written of them."""
    for code, block, family in ((0x11, INET, ProxyFamily.INET), (0x21, INET6, ProxyFamily.INET6)):
        header = parsed(v2(1, code, block))

        assert header.family is family
        assert header.transport is ProxyTransport.STREAM
        assert str(header.source) == (
            "192.0.2.1:56324" if family is ProxyFamily.INET else "[2001:db8::1]:56324"
        )
        assert str(header.destination) == (
            "198.51.100.7:443" if family is ProxyFamily.INET else "[2001:db8::2]:443"
        )
        assert encode_proxy_header(header) == v2(1, code, block)


def test_datagrams() -> None:
    """A client that came over UDP is announced all the same."""
    header = parsed(v2(1, 0x12, INET))

    assert header.is_datagram
    assert header.transport is ProxyTransport.DGRAM
    assert encode_proxy_header(header) == v2(1, 0x12, INET)


@pytest.mark.parametrize(
    ("field", "path"),
    [
        (b"/run/a", "/run/a"),
        (b"/" + b"x" * 107, "/" + "x" * 107),
        (b"/run/a\0garbage", "/run/a"),
        (b"\0abstract", "\0abstract"),
        (b"", ""),
        (b"/\xff", "/\udcff"),
    ],
)
def test_unix_sockets(field: bytes, path: str) -> None:
    """A path ends at a NUL or with its 108 bytes; a leading NUL is the abstract namespace's."""
    block = field.ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")

    header = parsed(v2(1, 0x31, block))

    assert header.family is ProxyFamily.UNIX
    assert header.source == UnixAddress(path)
    assert header.destination == UnixAddress("/run/b")
    assert parsed(encode_proxy_header(header)) == header


@pytest.mark.parametrize("family", [0x00, 0x11, 0x21, 0x31, 0x10, 0x01])
@pytest.mark.parametrize("block", [b"", b"x", INET, INET6, bytes(300)])
def test_a_local_header_is_accepted_whatever_it_holds(family: int, block: bytes) -> None:
    """The receiver must accept it, skip its block, and use the addresses of the socket."""
    header = parsed(v2(0, family, block))

    assert header.command is ProxyCommand.LOCAL
    assert header.source is None


@pytest.mark.parametrize("family", [0x00, 0x01, 0x10, 0x20, 0x02, 0x30])
def test_unspecified_addresses_are_not_announced(family: int) -> None:
    """Where family or transport is unknown the addresses of the socket hold."""
    header = parsed(v2(1, family, INET6 * 10))

    assert header.command is ProxyCommand.PROXY
    assert header.source is None
    assert header.destination is None
    assert header.family is ProxyFamily.UNSPEC
    assert header.transport is ProxyTransport.UNSPEC


def test_tlvs_of_a_local_header_are_kept_if_they_can_be_read() -> None:
    """HAProxy puts them there; anything else in their place is skipped."""
    header = ProxyHeader(
        command=ProxyCommand.LOCAL, tlvs=((TlvType.UNIQUE_ID, b"id"),), checksum=True
    )

    raw = encode_proxy_header(header)

    assert parsed(raw) == header
    assert "checksum" in refusal(raw[:-1] + bytes((raw[-1] ^ 1,)))
    assert parsed(v2(0, 0, b"\x05\x00\x81" + bytes(129))) == ProxyHeader.local()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (SIGNATURE[:11] + b"\x0b", "signature"),
        (b"\r\n\r\nGET", "signature"),
        (SIGNATURE + b"\x11", "version 1"),
        (SIGNATURE + b"\x31", "version 3"),
        (SIGNATURE + b"\x22", "ProxyCommand"),
        (SIGNATURE + b"\x21\x41", "ProxyFamily"),
        (SIGNATURE + b"\x20\x41", "ProxyFamily"),
        (SIGNATURE + b"\x21\x13", "ProxyTransport"),
        (v2(1, 0x11, b"", 11), "too few"),
        (v2(1, 0x12, b"", 0), "too few"),
        (v2(1, 0x21, b"", 35), "too few"),
        (v2(1, 0x31, b"", 215), "too few"),
        (v2(1, 0x11, b"", 4081), "allowed: 4096"),
        (v2(0, 0x00, b"", 65535), "allowed: 4096"),
        (v2(1, 0x11, INET + b"\xe1"), "after the last TLV"),
        (v2(1, 0x11, INET + b"\xe1\x00"), "after the last TLV"),
        (v2(1, 0x11, INET + b"\xe1\x00\x01"), "0 of its 1 bytes"),
        (v2(1, 0x11, INET + b"\xe1\x00\x02\x00"), "1 of its 2 bytes"),
        (v2(1, 0x11, INET + b"\x05\x00\x81" + bytes(129)), "unique id"),
        (v2(1, 0x11, INET + b"\x01\x00\x01a" * 2), "twice"),
        (v2(1, 0x11, INET + b"\x20\x00\x04" + bytes(4)), "SSL TLV has 4 bytes"),
        (v2(1, 0x11, INET + b"\x20\x00\x06" + bytes(6)), "after the last TLV"),
        (v2(1, 0x11, INET + b"\x20\x00\x09" + bytes(5) + b"!\x00\x02x"), "1 of its 2"),
        (v2(1, 0x11, INET + b"\x20\x00\x0b" + bytes(5) + b"!\x00\x00" * 2), "twice"),
        (v2(1, 0x11, INET + b"\x03\x00\x03abc"), "checksum"),
        (v2(1, 0x11, INET + b"\x03\x00\x04abcd"), "checksum of the header is wrong"),
        (v2(1, 0x11, INET + b"\x03\x00\x04abcd" * 2), "checksum is not one"),
    ],
)
def test_invalid_headers_are_refused(data: bytes, why: str) -> None:
    """The refusal says what is wrong, and comes before the rest of the header does."""
    assert why in refusal(data)


def test_every_byte_counts_for_the_checksum() -> None:
    """A header that was changed on its way is refused, unless it lost its checksum by that."""
    type_of_the_checksum = 28
    for index in set(range(16, len(HAPROXY_CRC))) - {type_of_the_checksum}:
        broken = bytearray(HAPROXY_CRC)
        broken[index] ^= 0x40

        refusal(bytes(broken))


@pytest.mark.parametrize("raw", [v2(1, 0x11, INET), HAPROXY_SSL, v2(0, 0, b"x" * 9)])
def test_a_header_that_is_not_complete_needs_more(raw: bytes) -> None:
    """No prefix is taken for a header or refused."""
    for end in range(len(raw)):
        assert parse_proxy_header(raw[:end]) is None


def test_the_limit_is_the_callers() -> None:
    """Up to the largest size that the length field can say."""
    raw = v2(1, 0x11, INET + b"\xe1\xff\xf0" + bytes(0xFFF0))

    assert len(raw) == MAX_SIZE == 65551
    assert parsed(raw).get(0xE1) == bytes(0xFFF0)
    assert encode_proxy_header(parsed(raw)) == raw
    assert "allowed: 4096" in refusal(raw)


def test_tlvs_that_are_too_long_together_cannot_be_written() -> None:
    """The length field has 16 bits."""
    header = ProxyHeader(tlvs=((0xE1, bytes(60000)), (0xE2, bytes(60000))))

    with pytest.raises(ValueError, match="allowed: 65551"):
        encode_proxy_header(header)


def test_the_start_of_a_header_can_be_told() -> None:
    """After at most twelve bytes it is clear whether a header was meant."""
    assert starts_like_proxy_header(b"") is None
    assert starts_like_proxy_header(b"PROXY") is None
    assert starts_like_proxy_header(b"PROXY nonsense") is True
    assert starts_like_proxy_header(b"POST /") is False
    assert starts_like_proxy_header(SIGNATURE[:11]) is None
    assert starts_like_proxy_header(SIGNATURE + b"\xff") is True
    assert starts_like_proxy_header(b"\r\n\r\nGET") is False
