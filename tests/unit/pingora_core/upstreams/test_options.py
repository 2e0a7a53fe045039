from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.l4.sockopt import BindTo, TcpKeepalive
from pingora_core.protocols.proxy_protocol import ProxyHeader
from pingora_core.protocols.tls import ALPN, CaBundle, CustomALPN
from pingora_core.upstreams import PeerOptions
from tests.support.certificates import CertificateAuthority

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from pingora_core.protocols.address import HostAddress, SocketAddress
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls import TlsStream
    from pingora_http import RequestHeader, ResponseHeader


class Connect:
    """A user's own way of connecting."""

    async def connect(self, address: SocketAddress | HostAddress) -> Stream:
        raise NotImplementedError


class Trace:
    """A user's observer."""

    def on_connected(self) -> None:
        raise NotImplementedError

    def on_disconnected(self) -> None:
        raise NotImplementedError


def tweak(sock: socket.socket) -> None:
    raise NotImplementedError


def look_at_proxy(request: RequestHeader, response: ResponseHeader) -> object:
    raise NotImplementedError


def look_at_tls(stream: TlsStream) -> object:
    raise NotImplementedError


# Another value than the default for every option that says how a connection is made or whom it
# trusts. The certificate authorities are made by the test.
KEYED: dict[str, object] = {
    "bind_to": BindTo(addr=InetAddress("127.0.0.2", 0)),
    "verify_cert": False,
    "verify_hostname": False,
    "alternative_cn": "other.example",
    "alpn": ALPN.H2H1,
    "tcp_keepalive": TcpKeepalive(60, 5, 3),
    "tcp_recv_buf": 65536,
    "dscp": 46,
    "h2_ping_interval": 10.0,
    "max_h2_streams": 1,
    "h2_stream_window_size": 65535,
    "h2_connection_window_size": 65535,
    "extra_proxy_headers": (("Proxy-Authorization", "Basic x"),),
    "send_proxy_protocol": ProxyHeader.local(),
    "curves": "X25519",
    "second_keyshare": False,
    "tcp_fast_open": True,
    "custom_l4": Connect(),
    "upstream_tcp_sock_tweak_hook": tweak,
    "proxy_digest_user_data_hook": look_at_proxy,
    "upstream_tls_handshake_complete_hook": look_at_tls,
}

UNKEYED: dict[str, object] = {
    "connection_timeout": 1.0,
    "total_connection_timeout": 1.0,
    "read_timeout": 1.0,
    "write_timeout": 1.0,
    "idle_timeout": 1.0,
    "allow_h1_response_invalid_content_length": True,
    "tracer": Trace(),
}


def test_every_option_is_keyed_or_known_not_to_be() -> None:
    """Whoever adds an option must decide whether it separates connections."""
    fields = set(PeerOptions.__dataclass_fields__)

    assert fields == KEYED.keys() | UNKEYED.keys() | {"ca"}


@pytest.mark.parametrize("name", KEYED)
def test_a_keyed_option_changes_the_key(name: str) -> None:
    """Connections made one way are not used for requests that ask for another."""
    options = PeerOptions()
    setattr(options, name, KEYED[name])

    assert options.reuse_key() == ((name, KEYED[name]),)
    assert options.reuse_key() != PeerOptions().reuse_key()


def test_the_trusted_authorities_are_keyed(tmp_path: Path) -> None:
    """Peers with different trust roots never share a connection; equal roots do."""
    pems = [CertificateAuthority(tmp_path, name).cert_pem for name in ("A", "B")]
    keys = {PeerOptions(ca=CaBundle.from_pem(pem)).reuse_key() for pem in (*pems, *pems)}

    assert len(keys | {PeerOptions().reuse_key()}) == 3


@pytest.mark.parametrize("name", UNKEYED)
def test_other_options_leave_the_key_alone(name: str) -> None:
    """What applies to one use of a connection does not separate connections."""
    options = PeerOptions()
    setattr(options, name, UNKEYED[name])

    assert options.reuse_key() == ()


def test_the_order_of_assignments_does_not_matter() -> None:
    """Equal options have equal keys."""
    first = PeerOptions.default()
    first.verify_cert = False
    first.alternative_cn = "x"
    second = PeerOptions.default()
    second.alternative_cn = "x"
    second.verify_cert = False

    assert first.reuse_key() == second.reuse_key()


def test_a_value_set_to_its_default_is_as_good_as_unset() -> None:
    """Saying the default does not make a connection special."""
    options = PeerOptions(verify_cert=True, alpn=ALPN.H1, extra_proxy_headers=())

    assert options.reuse_key() == ()


@pytest.mark.parametrize("name", KEYED)
def test_keyed_options_are_frozen_once_the_key_was_read(name: str) -> None:
    """A connection made under one choice cannot be handed to requests that rely on another."""
    options = PeerOptions.default()
    options.read_timeout = 1.0
    key = options.reuse_key()

    with pytest.raises(AttributeError, match=f"{name} cannot change"):
        setattr(options, name, KEYED[name])
    with pytest.raises(AttributeError, match=f"{name} cannot change"):
        delattr(options, name)
    assert options.reuse_key() == key


def test_frozen_options_still_take_timeouts() -> None:
    """What does not select connections can change at any time."""
    options = PeerOptions.default()
    options.reuse_key()
    options.read_timeout = 1.0
    assert options.read_timeout == 1.0
    del options.read_timeout

    assert options.read_timeout == 60.0


def test_a_copy_of_frozen_options_can_be_changed() -> None:
    """It starts with the same values and has a key of its own."""
    options = PeerOptions(verify_cert=False, read_timeout=1.0)
    options.reuse_key()
    copied = options.copy()
    copied.alternative_cn = "x"

    assert (copied.verify_cert, copied.read_timeout) == (False, 1.0)
    assert copied.reuse_key() == (("alternative_cn", "x"), ("verify_cert", False))
    assert options.alternative_cn is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connection_timeout", -1.0),
        ("total_connection_timeout", -0.5),
        ("read_timeout", math.nan),
        ("write_timeout", "10"),
        ("idle_timeout", -1),
        ("h2_ping_interval", -1.0),
        ("tcp_recv_buf", 0),
        ("dscp", 64),
        ("max_h2_streams", 0),
        ("h2_stream_window_size", 2**31),
        ("h2_connection_window_size", 0),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object) -> None:
    """The message names the option, the value and what is allowed; none reaches a socket."""
    options = PeerOptions()
    setattr(options, name, value)

    with pytest.raises(ValueError, match=rf"{name} must be in .*, not {value!r}"):
        options.reuse_key()


@pytest.mark.parametrize("name", ["connection_timeout", "read_timeout", "idle_timeout"])
def test_limits_can_be_switched_off(name: str) -> None:
    """None stands for no limit."""
    options = PeerOptions()
    setattr(options, name, None)

    assert options.reuse_key() == ()


@pytest.mark.parametrize(
    ("maximum", "minimum", "alpn"),
    [(1, 1, ALPN.H1), (1, 0, ALPN.H1), (2, 2, ALPN.H2), (2, 1, ALPN.H2H1), (2, 0, ALPN.H2H1)],
)
def test_http_versions_choose_the_offer(maximum: int, minimum: int, alpn: ALPN) -> None:
    """As Pingora's set_http_version does."""
    options = PeerOptions()
    options.set_http_version(maximum, minimum)

    assert options.alpn is alpn


@pytest.mark.parametrize(("maximum", "minimum"), [(1, 2), (3, 1), (0, 0)])
def test_impossible_http_versions_are_refused(maximum: int, minimum: int) -> None:
    """An empty range, or a version that does not exist here, is a programming error."""
    with pytest.raises(ValueError, match="HTTP versions"):
        PeerOptions().set_http_version(maximum, minimum)


def test_repr_shows_what_differs_from_the_defaults() -> None:
    """Thirty defaults would hide the one that matters."""
    options = PeerOptions(alpn=CustomALPN(b"x"), verify_cert=False)

    assert repr(options) == "PeerOptions(verify_cert=False, alpn=CustomALPN(protocol=b'x'))"
    assert repr(PeerOptions.default()) == "PeerOptions()"
