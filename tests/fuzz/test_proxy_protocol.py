"""The PROXY protocol against whatever may arrive: it is read, needs more, or is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, strategies as st

from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.proxy_protocol import (
    PROXY_PROTOCOL_ERROR,
    ProxyCommand,
    ProxyHeader,
    ProxySsl,
    TlvType,
    encode_proxy_header,
    parse_proxy_header,
)
from pingora_error import Error

if TYPE_CHECKING:
    import ipaddress

    from pingora_core.protocols.address import SocketAddress

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def _text6(host: ipaddress.IPv6Address) -> str:
    return f"::ffff:{host.ipv4_mapped}" if host.ipv4_mapped else str(host)


ports = st.integers(0, 65535)
inet = st.builds(lambda host, port: InetAddress(str(host), port), st.ip_addresses(v=4), ports)
inet6 = st.builds(lambda host, port: InetAddress(_text6(host), port), st.ip_addresses(v=6), ports)
unix = st.builds(
    UnixAddress,
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=26).flatmap(
        lambda name: st.sampled_from([name, "\0" + name if name else name])
    ),
)
texts = st.none() | st.text(st.characters(codec="ascii"), max_size=20)
ssl_tlvs = st.builds(
    ProxySsl,
    is_tls=st.booleans(),
    has_certificate=st.booleans(),
    has_session_certificate=st.booleans(),
    verify=st.integers(0, 2**32 - 1),
    version=texts,
    common_name=st.none() | st.text(st.characters(codec="utf-8"), max_size=20),
    cipher=texts,
    group=texts,
    client_certificate=st.none() | st.binary(max_size=50),
).map(ProxySsl.to_tlv)
other_tlvs = st.tuples(
    st.integers(0, 255).filter(lambda kind: kind not in {TlvType.SSL, TlvType.CRC32C}),
    st.binary(max_size=128),
)
tlvs = st.lists(ssl_tlvs | other_tlvs, max_size=5, unique_by=lambda tlv: tlv[0]).map(tuple)


@st.composite
def headers(draw: st.DrawFn) -> ProxyHeader:
    if draw(st.booleans()):
        kinds: list[st.SearchStrategy[InetAddress | None]] = [inet, inet6, st.none()]
        kind = draw(st.sampled_from(kinds))
        return ProxyHeader(version=1, source=draw(kind), destination=draw(kind))
    if draw(st.booleans()):
        return ProxyHeader(
            command=draw(st.sampled_from(ProxyCommand)),
            tlvs=draw(tlvs),
            checksum=draw(st.booleans()),
        )
    families: list[st.SearchStrategy[SocketAddress]] = [inet, inet6, unix]
    known = draw(st.sampled_from(families))
    return ProxyHeader(
        source=draw(known),
        destination=draw(known),
        is_datagram=draw(st.booleans()),
        tlvs=draw(tlvs),
        checksum=draw(st.booleans()),
    )


@given(headers(), st.binary(max_size=20))
def test_what_is_written_is_read(header: ProxyHeader, rest: bytes) -> None:
    """A header comes back as it was, and nothing behind it is touched."""
    raw = encode_proxy_header(header)

    assert parse_proxy_header(raw + rest) == (header, len(raw))


@given(headers(), st.data())
def test_a_prefix_needs_more(header: ProxyHeader, data: st.DataObject) -> None:
    """However a header is cut, its beginning is neither a header nor refused."""
    raw = encode_proxy_header(header)

    assert parse_proxy_header(raw[: data.draw(st.integers(0, len(raw) - 1))]) is None


def _read(data: bytes) -> tuple[ProxyHeader, int] | None:
    try:
        return parse_proxy_header(data)
    except Error as error:
        if error.etype != PROXY_PROTOCOL_ERROR:
            raise
        return None


@given(
    st.binary(max_size=200)
    | st.binary(max_size=300).map(lambda data: SIGNATURE + data)
    | st.builds(
        lambda command, family, block, more: (
            SIGNATURE
            + bytes((0x20 | command, family))
            + len(block).to_bytes(2, "big")
            + block
            + more
        ),
        st.integers(0, 1),
        st.sampled_from([0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x01, 0x10]),
        st.binary(max_size=300),
        st.binary(max_size=5),
    )
    | st.binary(max_size=110).map(lambda data: b"PROXY " + data + b"\r\n")
    | st.text("0123456789abcdef.: ", max_size=95).map(
        lambda text: b"PROXY TCP6 " + text.encode() + b"\r\n"
    )
)
def test_anything_may_arrive(data: bytes) -> None:
    """Bytes of any kind are read, need more, or are refused with the one error."""
    found = _read(data)

    if found is not None:
        header, size = found
        assert 15 <= size <= len(data)
        # What was read can be said again, and means the same.
        again = encode_proxy_header(header)
        assert parse_proxy_header(again) == (header, len(again))


@given(headers(), st.data())
def test_a_damaged_header_does_no_harm(header: ProxyHeader, data: st.DataObject) -> None:
    """With any byte changed it is still read, needs more, or is refused."""
    raw = bytearray(encode_proxy_header(header))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))

    _read(bytes(raw))
