from __future__ import annotations

import socket

import pytest
from hypothesis import given, strategies as st

from pingora_core.protocols.address import (
    HostAddress,
    InetAddress,
    UnixAddress,
    parse_address,
    parse_socket_address,
    socket_address_from_sockname,
)


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("127.0.0.1:80", InetAddress("127.0.0.1", 80), None),
        ("0.0.0.0:0", InetAddress("0.0.0.0", 0), None),
        ("[::1]:443", InetAddress("::1", 443), None),
        ("[::]:1", InetAddress("::", 1), None),
        ("[2001:DB8:0:0:0:0:0:1]:1", InetAddress("2001:db8::1", 1), "[2001:db8::1]:1"),
        ("[fe80::1%1]:80", InetAddress("fe80::1", 80, 0, 1), None),
        ("[fe80::1%lo]:80", InetAddress("fe80::1", 80, 0, 1), "[fe80::1%1]:80"),
        ("unix:/run/x.sock", UnixAddress("/run/x.sock"), None),
        ("unix:x", UnixAddress("x"), None),
        ("unix:@name", UnixAddress("\0name"), None),
        ("localhost:80", HostAddress("localhost", 80), None),
        ("One.One.One.One:443", HostAddress("one.one.one.one", 443), "one.one.one.one:443"),
        ("example.com.:443", HostAddress("example.com", 443), "example.com:443"),
        ("my_host-1:1", HostAddress("my_host-1", 1), None),
        ("bücher.example:80", HostAddress("xn--bcher-kva.example", 80), "xn--bcher-kva.example:80"),
    ],
)
def test_an_address_is_read_and_shown(
    text: str, address: InetAddress | UnixAddress | HostAddress, shown: str | None
) -> None:
    """What is shown reads as the same address again."""
    parsed = parse_address(text)

    assert parsed == address
    assert str(parsed) == (shown or text)
    assert parse_address(str(parsed)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":80",
        "localhost",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1: 1",
        "127.0.0.1:65536",
        "127.0.0.1:1_0",
        "127.0.0.1:٣",
        "127.0.0.1:000080",
        "127.1:80",
        "127.0.0.256:80",
        "1.2.3.4.5:80",
        "0x7f.1:80",
        "0x7f000001:80",
        "2130706433:80",
        "010.0.0.1:80",
        "::1:80",
        "[::1]",
        "[::1:80",
        "[::1]x:80",
        "[1.2.3.4]:80",
        "[::1%nosuchif]:80",
        "a b:80",
        "a..b:80",
        "-a:80",
        "a-:80",
        "a/b:80",
        "user@host:80",
        "\u2488com\u3002\u3002:80",
        f"{'a' * 64}:80",
        f"{'.'.join(['a' * 60] * 5)}:80",
        "unix:",
        "unix:@",
        "unix:a\0b",
        f"unix:/{'x' * 107}",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """The message quotes the text."""
    with pytest.raises(ValueError, match="address") as caught:
        parse_address(text)

    assert repr(text) in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    """Nothing else is raised, and what is shown reads back."""
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address_reads_back(ip: object, port: int) -> None:
    """Both families, any port."""
    address = InetAddress(str(ip), port)

    assert parse_socket_address(str(address)) == address


def test_a_name_is_no_socket_address() -> None:
    """It must be resolved first."""
    with pytest.raises(ValueError, match="'localhost' is a name"):
        parse_socket_address("localhost:80")


def test_a_socket_address_knows_its_family() -> None:
    """And what the socket module takes for it."""
    v4 = InetAddress("127.0.0.1", 80)
    v6 = InetAddress("::1", 80, 1, 2)
    unix = UnixAddress("/x")

    assert (v4.family, v4.sockaddr, v4.is_ipv6) == (socket.AF_INET, ("127.0.0.1", 80), False)
    assert (v6.family, v6.sockaddr, v6.is_ipv6) == (socket.AF_INET6, ("::1", 80, 1, 2), True)
    assert (unix.family, unix.sockaddr) == (socket.AF_UNIX, "/x")
    assert v4.with_port(81) == InetAddress("127.0.0.1", 81)


def test_a_url_is_no_address() -> None:
    """Whoever writes one is told so, and not about brackets or ports."""
    for url in ("http://127.0.0.1:80", "https://a.example"):
        with pytest.raises(ValueError, match="is a URL; expected HOST:PORT"):
            parse_address(url)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        (("127.0.0.1", 80), InetAddress("127.0.0.1", 80)),
        (("::1", 80, 0, 0), InetAddress("::1", 80)),
        (("fe80::1%eth0", 80, 0, 2), InetAddress("fe80::1", 80, 0, 2)),
        ("/run/x", UnixAddress("/run/x")),
        ("", UnixAddress("")),
        (b"\0abstract", UnixAddress("\0abstract")),
        (None, None),
        ((1, 2), None),
    ],
)
def test_a_name_of_a_socket_becomes_an_address(
    name: object, address: InetAddress | UnixAddress | None
) -> None:
    """What getpeername and getsockname return, for every family known here."""
    assert socket_address_from_sockname(name) == address


def test_addresses_are_keys() -> None:
    """Equal addresses are one key, and parsing the same text twice gives the same object."""
    assert len({InetAddress("::1", 1), InetAddress("::1", 1), UnixAddress("/x")}) == 2
    assert parse_address("127.0.0.1:1") is parse_address("127.0.0.1:1")
