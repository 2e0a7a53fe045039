"""Forwarded and X-Forwarded-*: what is believed, and what is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.modules import Forwarded, ForwardedBuilder, ForwardedPolicy, HttpModules
from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.digest import Digest, SslDigest
from pingora_http import RequestHeader

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress

_CLIENT = InetAddress("192.0.2.7", 40000)
_PROXY = InetAddress("10.1.2.3", 40000)
_TRUST = ForwardedPolicy(["10.0.0.0/8", "2001:db8::/32"])


class _Client:
    """A client's side without a connection."""

    def __init__(self, address: SocketAddress | None = _CLIENT, *, tls: bool = False) -> None:
        self.req_header = RequestHeader("GET", "/")
        self.client_addr = address
        self.digest = Digest(ssl_digest=SslDigest("TLS_AES_128_GCM_SHA256", "TLSv1.3"))
        if not tls:
            self.digest = Digest()


def _request(*fields: tuple[str, str], host: str | None = "example.com") -> RequestHeader:
    request = RequestHeader("GET", "/", headers=fields)
    if host is not None:
        request.insert_header("Host", host)
    return request


def _sent(request: RequestHeader) -> dict[str, str]:
    return {name: value for name, value in request if name != "Host"}


def test_a_first_hop_is_described() -> None:
    """The origin learns the client, the host it asked for and whether it used TLS."""
    request = _request()

    ForwardedPolicy().apply(request, _Client(tls=True))

    assert _sent(request) == {
        "Forwarded": "for=192.0.2.7;host=example.com;proto=https",
        "X-Forwarded-For": "192.0.2.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "example.com",
    }


@pytest.mark.parametrize("policy", [ForwardedPolicy(), _TRUST])
def test_claims_of_a_stranger_are_removed(policy: ForwardedPolicy) -> None:
    """Whatever a client claims in any of the fields, the origin does not see it."""
    request = _request(
        ("X-Forwarded-For", "127.0.0.1"),
        ("x-forwarded-for", "127.0.0.2"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "internal"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Server", "me"),
        ("X_Forwarded_For", "127.0.0.3"),
        ("X-Real-IP", "127.0.0.4"),
        ("X_Real-IP", "127.0.0.5"),
        ("Forwarded", "for=127.0.0.6"),
        ("X-Forward", "stays"),
    )

    policy.apply(request, _Client())

    assert _sent(request) == {
        "X-Forward": "stays",
        "Forwarded": "for=192.0.2.7;host=example.com;proto=http",
        "X-Forwarded-For": "192.0.2.7",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "example.com",
    }


def test_the_lists_of_a_trusted_proxy_are_extended() -> None:
    """What a trusted proxy says of its client stays; its own address is added."""
    request = _request(
        ("Forwarded", "for=198.51.100.1;proto=https"),
        ("X-Forwarded-For", "203.0.113.5"),
        ("X-Forwarded-For", "198.51.100.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "public.example"),
        ("X-Real-IP", "198.51.100.1"),
    )

    _TRUST.apply(request, _Client(_PROXY))

    assert _sent(request) == {
        "Forwarded": "for=198.51.100.1;proto=https, for=10.1.2.3;host=example.com;proto=http",
        "X-Forwarded-For": "203.0.113.5, 198.51.100.1, 10.1.2.3",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "public.example",
        "X-Real-IP": "198.51.100.1",
    }


def test_forwarded_begins_with_what_the_old_field_says() -> None:
    """An origin that prefers Forwarded does not take the last proxy for the client."""
    request = _request(
        ("X-Forwarded-For", "198.51.100.1, 2001:db8::5,, [2001:db8::6]:443, 1.2.3.4:80, _hidden")
    )

    _TRUST.apply(request, _Client(_PROXY))

    assert request.get("forwarded") == (
        'for=198.51.100.1, for="[2001:db8::5]", for="[2001:db8::6]", for=1.2.3.4, for=unknown, '
        "for=10.1.2.3;host=example.com;proto=http"
    )


@pytest.mark.parametrize(
    ("address", "plain", "node"),
    [
        (InetAddress("192.0.2.7", 1), "192.0.2.7", "192.0.2.7"),
        (InetAddress("2001:db8::7", 1), "2001:db8::7", '"[2001:db8::7]"'),
        (InetAddress("fe80::1", 1, 0, 2), "fe80::1", '"[fe80::1]"'),
        (InetAddress("fe80::1%eth0", 1, 0, 2), "fe80::1", '"[fe80::1]"'),
        (InetAddress("::ffff:192.0.2.7", 1), "192.0.2.7", "192.0.2.7"),
        (UnixAddress("/run/app.sock"), None, "unknown"),
        (UnixAddress(""), None, "unknown"),
        (None, None, "unknown"),
    ],
)
def test_how_addresses_are_written(
    address: SocketAddress | None, plain: str | None, node: str
) -> None:
    """IPv6 in brackets and quotes where RFC 7239 wants them; no address is 'unknown'."""
    request = _request(("X-Forwarded-For", "127.0.0.1"))

    ForwardedPolicy().apply(request, _Client(address))

    assert request.get("x-forwarded-for") == plain
    assert request.get("forwarded") == f"for={node};host=example.com;proto=http"


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        (InetAddress("10.255.0.1", 1), True),
        (InetAddress("::ffff:10.0.0.1", 1), True),
        (InetAddress("2001:db8:1::1", 1), True),
        (InetAddress("11.0.0.1", 1), False),
        (InetAddress("2001:db9::1", 1), False),
        (InetAddress("not an address", 1), False),
        (UnixAddress("/run/app.sock"), False),
        (None, False),
    ],
)
def test_who_is_trusted(address: SocketAddress | None, trusted: bool) -> None:
    """Networks of both families, IPv4 also behind a dual-stack listener, and nobody else."""
    assert _TRUST.is_trusted(address) is trusted


def test_unix_clients_are_trusted_on_request() -> None:
    """What such a proxy says stays; it has no address to add."""
    request = _request(("X-Forwarded-For", "198.51.100.1"))

    ForwardedPolicy(trust_unix=True).apply(request, _Client(UnixAddress("")))

    assert request.get("x-forwarded-for") == "198.51.100.1"
    assert request.get("forwarded") == ("for=198.51.100.1, for=unknown;host=example.com;proto=http")


@pytest.mark.parametrize(
    ("host", "value"),
    [
        ("example.com", "example.com"),
        ("example.com:8080", '"example.com:8080"'),
        ("[::1]", '"[::1]"'),
        ('a"b\\c;d', '"a\\"b\\\\c;d"'),
    ],
)
def test_hosts_are_quoted_where_needed(host: str, value: str) -> None:
    """A host cannot break out of its parameter."""
    request = _request(host=host)

    ForwardedPolicy().apply(request, _Client())

    assert request.get("forwarded") == f"for=192.0.2.7;host={value};proto=http"
    assert request.get("x-forwarded-host") == host


def test_a_request_without_a_host_has_none() -> None:
    """HTTP/1.0 may have no Host."""
    request = _request(host=None)

    ForwardedPolicy().apply(request, _Client())

    assert request.get("forwarded") == "for=192.0.2.7;proto=http"
    assert "x-forwarded-host" not in request


def test_the_authority_of_the_target_counts() -> None:
    """In absolute form the target says which host, whatever Host says (RFC 9112 3.2.2)."""
    request = RequestHeader("GET", "http://real.example/", headers=[("Host", "other")])

    ForwardedPolicy().apply(request, _Client())

    assert request.get("x-forwarded-host") == "real.example"


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        (ForwardedPolicy(x_forwarded=False), {"Forwarded"}),
        (
            ForwardedPolicy(forwarded=False),
            {"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"},
        ),
        (ForwardedPolicy(x_forwarded=False, forwarded=False), set()),
    ],
)
def test_either_family_can_be_left_out(policy: ForwardedPolicy, names: set[str]) -> None:
    """What is not sent is removed from strangers' requests all the same."""
    request = _request(("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1"))

    policy.apply(request, _Client())

    assert set(_sent(request)) == names
    assert "127.0.0.1" not in str(list(request))


def test_a_network_that_is_none_is_named() -> None:
    """A wrong configuration says what is wrong."""
    with pytest.raises(
        ValueError, match=r"trusted proxy '10\.0\.0\.1/8' is no IP address or network"
    ):
        ForwardedPolicy(["10.0.0.1/8"])


@given(st.text(alphabet='a1.:[]"\\, ;=_%é', max_size=30), st.text(alphabet="abc:.[]", max_size=20))
def test_nothing_a_trusted_proxy_sends_breaks_it(hops: str, host: str) -> None:
    """Any value leads to fields that can be sent."""
    request = _request(("X-Forwarded-For", hops), host=host)

    _TRUST.apply(request, _Client(_PROXY))

    assert request.get("x-forwarded-for", "").endswith("10.1.2.3")
    assert "for=10.1.2.3;" in request.get("forwarded", "")


async def test_the_module_works_for_its_client() -> None:
    """The builder hands the client on; by default nobody is believed."""
    modules = HttpModules()
    modules.add_module(ForwardedBuilder(order=5))
    request = _request(("X-Forwarded-For", "127.0.0.1"))

    await modules.build_ctx(_Client()).request_header_filter(request)

    assert request.get("x-forwarded-for") == "192.0.2.7"


async def test_a_module_without_a_client_only_removes() -> None:
    """Nobody known, nobody believed, nothing to tell."""
    modules = HttpModules()
    modules.add_module(ForwardedBuilder(_TRUST))
    ctx = modules.build_ctx()
    request = _request(("X-Forwarded-For", "127.0.0.1"))

    await ctx.request_header_filter(request)

    assert isinstance(ctx.get(Forwarded), Forwarded)
    assert _sent(request) == {}
