"""The header of the PROXY protocol as data, and how one is made of what is known of a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.digest import Digest, SocketDigest, SslDigest
from pingora_core.protocols.proxy_protocol import (
    ProxyCommand,
    ProxyHeader,
    ProxySsl,
    SslTlvType,
    TlvType,
    encode_proxy_header,
    parse_proxy_header,
)
from pingora_core.protocols.ssl_digest import CertificateFacts

if TYPE_CHECKING:
    import asyncio

    from pingora_core.protocols.address import SocketAddress

CLIENT = InetAddress("192.0.2.1", 56324)
SERVER = InetAddress("198.51.100.7", 443)
CLIENT6 = InetAddress("2001:db8::1", 56324)


class _Transport:
    """Stands for the socket of a connection that has only addresses."""

    def __init__(self, peer: SocketAddress | None, local: SocketAddress | None) -> None:
        self._names = {"peername": peer, "sockname": local}

    def get_extra_info(self, name: str) -> object:
        address = self._names[name]
        return None if address is None else address.sockaddr


def digest(
    peer: SocketAddress | None = CLIENT,
    local: SocketAddress | None = SERVER,
    tls: SslDigest | None = None,
) -> Digest:
    """Make the digest of a client's connection."""
    transport = cast("asyncio.BaseTransport", _Transport(peer, local))
    return Digest(socket_digest=SocketDigest(transport), ssl_digest=tls)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: ProxyHeader(version=3), "versions 1 and 2"),
        (lambda: ProxyHeader(source=CLIENT), "different kinds"),
        (lambda: ProxyHeader(destination=CLIENT), "different kinds"),
        (lambda: ProxyHeader(source=CLIENT, destination=CLIENT6), "different kinds"),
        (lambda: ProxyHeader(source=CLIENT, destination=UnixAddress("/a")), "different kinds"),
        (lambda: ProxyHeader(source=CLIENT.with_port(65536), destination=SERVER), "0..65535"),
        (lambda: ProxyHeader(source=CLIENT.with_port(-1), destination=SERVER), "0..65535"),
        (lambda: ProxyHeader(source=InetAddress("a.b", 1), destination=SERVER), "a.b"),
        (
            lambda: ProxyHeader(source=UnixAddress("/" * 109), destination=UnixAddress("/")),
            "longer than 108",
        ),
        (
            lambda: ProxyHeader(source=UnixAddress("/a\0b"), destination=UnixAddress("/")),
            "NUL within",
        ),
        (lambda: ProxyHeader(is_datagram=True), "datagram"),
        (
            lambda: ProxyHeader(command=ProxyCommand.LOCAL, source=CLIENT, destination=SERVER),
            "LOCAL header announces no",
        ),
        (lambda: ProxyHeader(version=1, command=ProxyCommand.LOCAL), "no LOCAL"),
        (lambda: ProxyHeader(version=1, tlvs=((4, b""),)), "no TLVs"),
        (lambda: ProxyHeader(version=1, checksum=True), "no TLVs"),
        (
            lambda: ProxyHeader(version=1, source=UnixAddress("/a"), destination=UnixAddress("/b")),
            "IPv4 and IPv6 only",
        ),
        (lambda: ProxyHeader(tlvs=((3, bytes(4)),)), "checksum=True"),
        (lambda: ProxyHeader(tlvs=((256, b""),)), "0..255"),
        (lambda: ProxyHeader(tlvs=((0xE0, bytes(65536)),)), "allowed: 65535"),
        (lambda: ProxyHeader(tlvs=((5, bytes(129)),)), "unique id has 129"),
        (lambda: ProxyHeader(tlvs=((2, b"a"), (2, b"b"))), "twice"),
        (lambda: ProxyHeader(tlvs=((0x20, b""),)), "SSL TLV has 0 bytes"),
        (lambda: ProxySsl(verify=-1).to_tlv(), "32 bits"),
        (lambda: ProxySsl(version="TLSv1.3\u2028").to_tlv(), "ascii"),
    ],
)
def test_what_does_not_go_together_cannot_be_made(make: object, why: str) -> None:
    """A header that could not be sent is refused where it is made, with the reason."""
    assert callable(make)
    with pytest.raises(ValueError, match=why):
        make()


def test_padding_and_custom_types_may_repeat() -> None:
    """Only what a reader could take two ways must not."""
    tlvs = (
        (4, b""),
        (4, b"\0\0"),
        (0xEA, b"\1vpce-1"),
        (0xEA, b"\1vpce-2"),
        (0x99, b""),
        (0x99, b""),
    )

    assert ProxyHeader(tlvs=tlvs).get(TlvType.AWS) == b"\1vpce-1"


def test_typed_values() -> None:
    """Text is read as such; what is no text equals no name, and the bytes are there."""
    header = ProxyHeader(
        tlvs=(
            (TlvType.ALPN, b"http/1.1"),
            (TlvType.AUTHORITY, "bücher.example".encode()),
            (TlvType.UNIQUE_ID, b"\x00\xff"),
            (TlvType.NETNS, b"blue"),
            (TlvType.AZURE, b"\x01\x01\x00\x00\x00"),
        )
    )

    assert header.alpn == b"http/1.1"
    assert header.authority == "bücher.example"
    assert header.unique_id == b"\x00\xff"
    assert header.netns == "blue"
    assert header.ssl is None
    assert header.get(TlvType.AZURE) == b"\x01\x01\x00\x00\x00"
    assert header.get(TlvType.GCP) is None
    assert ProxyHeader(tlvs=((TlvType.AUTHORITY, b"a\xff"),)).authority == "a\ufffd"
    nothing = ProxyHeader()
    assert (nothing.authority, nothing.netns, nothing.alpn, nothing.ssl) == (None,) * 4


def test_equal_headers_are_one_key() -> None:
    """A header says by itself which connections may be shared."""
    first = ProxyHeader(source=CLIENT, destination=SERVER, tlvs=((5, b"1"),))
    same = ProxyHeader(source=CLIENT, destination=SERVER, tlvs=((5, b"1"),))
    others = {
        ProxyHeader(source=CLIENT.with_port(1), destination=SERVER, tlvs=((5, b"1"),)),
        ProxyHeader(source=CLIENT, destination=SERVER, tlvs=((5, b"2"),)),
        ProxyHeader(source=CLIENT, destination=SERVER),
    }

    assert hash(first) == hash(same)
    assert first == same
    assert first not in others


def test_the_ssl_tlv_holds_all_it_was_given() -> None:
    """What was written is what is read."""
    ssl = ProxySsl(
        is_tls=True,
        has_certificate=True,
        has_session_certificate=True,
        verify=0xFFFFFFFF,
        version="TLSv1.2",
        common_name="Jörg",
        cipher="ECDHE-RSA-AES128-GCM-SHA256",
        signature_algorithm="SHA256",
        key_algorithm="RSA2048",
        group="X25519MLKEM768",
        signature_scheme="rsa_pss_rsae_sha256",
        client_certificate=b"\x30\x00",
    )

    kind, value = ssl.to_tlv()

    assert kind == TlvType.SSL
    assert ProxySsl.parse(value) == ssl
    assert not ssl.is_verified
    assert bytes((SslTlvType.CN, 0, 5)) + "Jörg".encode() in value


def test_nobody_is_verified_without_a_certificate() -> None:
    """HAProxy says 0, no error, of clients that presented none."""
    assert not ProxySsl(verify=0).is_verified
    assert ProxySsl(verify=0, has_certificate=True).is_verified
    assert ProxySsl(verify=0, has_session_certificate=True).is_verified


def test_a_header_made_from_a_digest_announces_the_client() -> None:
    """In both versions, over IPv4, IPv6 and, in version 2, Unix sockets."""
    unix = (UnixAddress(""), UnixAddress("/run/proxy"))

    assert ProxyHeader.from_digest(digest()) == ProxyHeader(source=CLIENT, destination=SERVER)
    assert ProxyHeader.from_digest(digest(), version=1) == ProxyHeader(
        version=1, source=CLIENT, destination=SERVER
    )
    assert ProxyHeader.from_digest(digest(CLIENT6, CLIENT6)).source == CLIENT6
    assert ProxyHeader.from_digest(digest(*unix)).destination == unix[1]
    assert ProxyHeader.from_digest(digest(*unix), version=1) == ProxyHeader(version=1)
    assert ProxyHeader.from_digest(digest(), checksum=True).checksum


@pytest.mark.parametrize(
    "known",
    [Digest(), digest(None, None), digest(CLIENT, None), digest(CLIENT, CLIENT6)],
)
def test_a_client_that_is_not_known_is_not_announced(known: Digest) -> None:
    """Nothing is made up: the addresses are unspecified then."""
    assert ProxyHeader.from_digest(known) == ProxyHeader()


def test_clients_of_a_dual_stack_listener_are_announced_as_ipv4() -> None:
    """The receiver need not know what kind of socket the sender had."""
    mapped = digest(InetAddress("::ffff:192.0.2.1", 56324), InetAddress("::ffff:198.51.100.7", 443))

    header = ProxyHeader.from_digest(mapped, version=1)

    assert (header.source, header.destination) == (CLIENT, SERVER)


def test_what_was_announced_is_announced_again() -> None:
    """Through a chain of proxies the first client's address stays."""
    known = digest(InetAddress("10.0.0.1", 1), InetAddress("10.0.0.2", 2))
    assert known.socket_digest is not None
    known.socket_digest.announce(CLIENT, SERVER)

    header = ProxyHeader.from_digest(known)

    assert (header.source, header.destination) == (CLIENT, SERVER)
    assert known.socket_digest.transport_peer_addr == InetAddress("10.0.0.1", 1)
    assert known.socket_digest.transport_local_addr == InetAddress("10.0.0.2", 2)


def test_tls_facts_are_announced() -> None:
    """ALPN, the name asked for, and the SSL TLV with the client's certificate."""
    certificate = CertificateFacts(b"", b"hash", "1", common_name="client.example")
    tls = SslDigest(
        "TLS_AES_128_GCM_SHA256",
        "TLSv1.3",
        alpn=b"h2",
        sni="one.example",
        group="X25519MLKEM768",
        verified=True,
        certificate=certificate,
    )

    header = ProxyHeader.from_digest(digest(tls=tls))

    assert header.alpn == b"h2"
    assert header.authority == "one.example"
    assert header.ssl == ProxySsl(
        has_certificate=True,
        has_session_certificate=True,
        verify=0,
        version="TLSv1.3",
        common_name="client.example",
        cipher="TLS_AES_128_GCM_SHA256",
        group="X25519MLKEM768",
    )
    assert ProxyHeader.from_digest(digest(tls=tls), version=1).tlvs == ()
    found = parse_proxy_header(encode_proxy_header(header))
    assert found is not None
    assert found[0] == header


def test_a_client_without_certificate_is_not_called_verified() -> None:
    """Nor is one whose session is an earlier one said to have presented it on this connection."""
    plain = ProxyHeader.from_digest(digest(tls=SslDigest("c", "TLSv1.3"))).ssl
    certificate = CertificateFacts(b"", b"hash", "1")
    resumed = SslDigest("c", "TLSv1.3", resumed=True, verified=True, certificate=certificate)
    again = ProxyHeader.from_digest(digest(tls=resumed)).ssl

    assert plain is not None
    assert (plain.has_certificate, plain.has_session_certificate, plain.verify) == (False, False, 1)
    assert again is not None
    assert (again.has_certificate, again.has_session_certificate) == (False, True)
    assert again.is_verified


def test_tlvs_that_are_given_replace_those_of_the_digest() -> None:
    """The caller has the last word, also to pass on what was announced to it."""
    tls = SslDigest("c", "TLSv1.3", alpn=b"h2", sni="one.example")
    given = [(TlvType.AUTHORITY, b"two.example"), (TlvType.UNIQUE_ID, b"id")]

    header = ProxyHeader.from_digest(digest(tls=tls), tlvs=given)

    assert header.authority == "two.example"
    assert header.alpn == b"h2"
    assert header.unique_id == b"id"
    with pytest.raises(ValueError, match="no TLVs"):
        ProxyHeader.from_digest(digest(), version=1, tlvs=given)
