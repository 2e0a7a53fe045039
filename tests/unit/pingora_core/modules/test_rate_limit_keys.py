"""Key functions of rate limits: who counts as whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.modules.rate_limit_keys import (
    by_all,
    by_client,
    by_header,
    by_path,
    clients_in,
    everyone,
)
from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.digest import Digest
from pingora_http import RequestHeader

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress


class Client:
    """A client's side without a connection."""

    def __init__(
        self,
        address: str | SocketAddress | None = "192.0.2.1",
        target: str = "/",
        *fields: tuple[str, str],
    ) -> None:
        self.req_header = RequestHeader("GET", target, headers=fields)
        self.client_addr = InetAddress(address, 4711) if isinstance(address, str) else address
        self.digest = Digest()


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        (UnixAddress("/tmp/a"), None),
        (None, None),
    ],
)
def test_clients_count_by_address(address: str | SocketAddress | None, key: str | None) -> None:
    """IPv4 by address, IPv6 by network; who has none is not limited."""
    assert by_client()(Client(address)) == key


def test_the_part_of_an_ipv6_address_that_counts_can_be_chosen() -> None:
    """Providers hand out networks of different sizes."""
    client = Client("2001:db8:1:2:3:4:5:6")

    assert by_client(ipv6_prefix=48)(client) == "2001:db8:1::/48"
    assert by_client(ipv6_prefix=128)(client) == "2001:db8:1:2:3:4:5:6/128"
    for wrong in (0, 129):
        with pytest.raises(ValueError, match="1 to 128"):
            by_client(ipv6_prefix=wrong)


@pytest.mark.parametrize(
    ("peer", "forwarded", "key"),
    [
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 2001:db8::7", "2001:db8::/64"),
        ("10.0.0.1", "6.6.6.6, rubbish", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
    ],
)
def test_only_trusted_proxies_say_who_the_client_is(peer: str, forwarded: str, key: str) -> None:
    """The last address that is not a proxy's counts; what a client claims itself does not."""
    client = Client(peer, "/", ("X-Forwarded-For", forwarded))

    assert by_client(trusted=["10.0.0.0/8"])(client) == key
    assert by_client()(client) == peer


def test_headers_count_by_value() -> None:
    """Absent ones do not, unless there is a key for them."""
    key = by_header("X-Api-Key")

    assert key(Client("::1", "/", ("x-api-key", "secret"))) == b"secret"
    assert key(Client("::1", "/", ("x-api-key", "a"), ("X-API-Key", "b"))) == b"a, b"
    assert key(Client()) is None
    assert by_header("X-Api-Key", missing="nobody")(Client()) == "nobody"


@given(st.text("ab", min_size=60, max_size=200), st.text("ab", min_size=60, max_size=200))
def test_keys_from_headers_are_short(one: str, other: str) -> None:
    """However long a value is; two values never share a key."""
    key = by_header("k")
    keys = [key(Client("::1", "/", ("k", value))) for value in (one, other)]

    assert all(each is not None and len(each) <= 64 for each in keys)
    assert (keys[0] == keys[1]) == (one == other)


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("/api", "/api"),
        ("/api/users?x=/api/v2", "/api"),
        ("/api?x", "/api"),
        ("/api/v2/users", "/api/v2"),
        ("/apis", None),
        ("/", None),
        ("//api", "/api"),
        ("/%61pi/x", "/api"),
        ("/static/../api/x", "/api"),
        ("/api/../static", None),
        ("/./api%2Fv2", "/api/v2"),
        ("http://example.com/api/x", "/api"),
        ("*", None),
    ],
)
def test_paths_count_by_prefix(target: str, key: str | None) -> None:
    """The longest prefix counts, however the path is spelt."""
    assert by_path("/api", "/api/v2/")(Client("::1", target)) == key


@given(st.binary(), st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc"])))
def test_no_request_is_a_fault(path: bytes, field: str) -> None:
    """Whatever a client sends counts as somebody or nobody."""
    client = Client("10.0.0.1", "/", ("X-Forwarded-For", field), ("k", field))
    client.req_header.set_raw_target(b"/" + path)

    assert by_client(trusted=["10.0.0.0/8"])(client) is not None
    assert by_path("/api")(client) in {"/api", None}
    assert by_header("k")(client) is not None


def test_a_prefix_of_everything() -> None:
    """The root holds all paths."""
    assert by_path("/")(Client("::1", "/any/thing")) == "/"


def test_keys_can_be_combined() -> None:
    """Each combination counts by itself, and one that does not limit decides."""
    key = by_all(by_client(), by_path("/api"))

    assert key(Client("192.0.2.1", "/api/x")) == b"9:192.0.2.14:/api"
    assert key(Client("192.0.2.1", "/x")) is None


@given(st.tuples(st.binary(), st.binary()), st.tuples(st.binary(), st.binary()))
def test_combinations_do_not_look_alike(
    one: tuple[bytes, bytes], other: tuple[bytes, bytes]
) -> None:
    """No client can choose a value that makes it count as another one."""

    def key(parts: tuple[bytes, bytes]) -> str | bytes | None:
        return by_all(lambda _: parts[0], lambda _: parts[1])(Client())

    assert (key(one) == key(other)) == (one == other)


def test_everyone_is_one() -> None:
    """One limit for all."""
    assert everyone(Client("192.0.2.1")) == everyone(Client(None, "/x"))


def test_networks_can_be_exempt() -> None:
    """By the address of the connection."""
    is_own = clients_in(["10.0.0.0/8", "::1"])

    assert is_own(Client("10.1.1.1"))
    assert is_own(Client("::1"))
    assert not is_own(Client("192.0.2.1"))
    assert not is_own(Client(None))


def test_mistakes_are_told_when_the_function_is_made() -> None:
    """Not by the first request."""
    with pytest.raises(ValueError, match="begin with a slash"):
        by_path("api")
    with pytest.raises(ValueError, match="begin with a slash"):
        by_path()
    with pytest.raises(ValueError, match="at least one"):
        by_all()
    with pytest.raises(ValueError, match="at least 1 byte"):
        by_header("k", max_length=0)
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        clients_in(["10.0.0.0/99"])
