"""A backend is a value: an address, a weight and what its user knows about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.address import HostAddress, InetAddress, UnixAddress
from pingora_core.upstreams.peer import HttpPeer
from pingora_load_balancing import Backend
from pingora_load_balancing.backend import distinct_backends

if TYPE_CHECKING:
    from pingora_core.upstreams.peer import PeerAddress


@dataclass(frozen=True)
class _Place:
    zone: str


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:80", InetAddress("10.0.0.1", 80)),
        ("[::1]:443", InetAddress("::1", 443)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
        ("one.one.one.one:443", HostAddress("one.one.one.one", 443)),
    ],
    ids=["ipv4", "ipv6", "unix", "name"],
)
def test_address_is_read_from_text(text: str, address: PeerAddress) -> None:
    """All kinds of address that can be connected to are read, and printed again."""
    backend = Backend(text)

    assert backend.addr == address
    assert backend.weight == 1
    assert str(backend) == text
    assert Backend(address) == backend


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.1", "10.0.0.1:http", "10.0.0:80", "::1:80", "unix:", "a b:80", "[::1]:0", ":80"],
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    """The message quotes what was given."""
    with pytest.raises(ValueError, match=r"^(address|backend) ") as caught:
        Backend(text)

    assert text in str(caught.value)


def test_port_zero_is_refused_in_an_address_too() -> None:
    """Port 0 means "any port" when listening and nothing when connecting."""
    with pytest.raises(ValueError, match="port 0 cannot be connected to"):
        Backend(InetAddress("10.0.0.1", 0))


def test_negative_weight_is_refused() -> None:
    """The message says what to write instead."""
    with pytest.raises(ValueError, match=r"10\.0\.0\.1:80: weight -1 is negative; 0 takes it out"):
        Backend("10.0.0.1:80", -1)


@pytest.mark.parametrize("weight", [0.5, "2", None])
def test_weight_that_is_no_integer_is_refused(weight: object) -> None:
    """Configuration files bring floats and texts."""
    with pytest.raises(TypeError):
        Backend("10.0.0.1:80", weight)  # type: ignore[arg-type]


def test_weight_zero_is_a_weight() -> None:
    """A drained backend is a backend."""
    assert Backend("10.0.0.1:80", 0).weight == 0


def test_equality_sees_address_weight_and_metadata() -> None:
    """A change of any part is a change."""
    backend = Backend("10.0.0.1:80", 2, _Place("eu"))

    assert backend == Backend("10.0.0.1:80", 2, _Place("eu"))
    assert hash(backend) == hash(Backend("10.0.0.1:80", 2, _Place("eu")))
    assert backend != replace(backend, addr=InetAddress("10.0.0.1", 81))
    assert backend != replace(backend, weight=3)
    assert backend != replace(backend, metadata=_Place("us"))


@pytest.mark.parametrize("text", ["10.0.0.1:80", "[::1]:443", "unix:/run/app.sock", "name:80"])
def test_backend_makes_a_peer(text: str) -> None:
    """What the balancer chose is what the proxy connects to."""
    backend = Backend(text)

    assert HttpPeer(backend).address == backend.addr


def test_metadata_need_not_be_hashable() -> None:
    """A plain dict will do."""
    assert len({Backend("10.0.0.1:80", metadata={"zone": "eu"})}) == 1


def test_metadata_is_read_with_its_type() -> None:
    """Metadata of another type, or none, is None."""
    backend = Backend("10.0.0.1:80", metadata=_Place("eu"))

    place = backend.metadata_as(_Place)

    assert place is not None
    assert place.zone == "eu"
    assert backend.metadata_as(str) is None
    assert Backend("10.0.0.1:80").metadata_as(_Place) is None


def test_equal_backends_count_once() -> None:
    """A set keeps the order of first mention."""
    a, b = Backend("10.0.0.1:80"), Backend("10.0.0.2:80")

    assert distinct_backends([b, a, Backend("10.0.0.2:80")]) == (b, a)


@pytest.mark.parametrize(
    "other", [Backend("10.0.0.1:80", 2), Backend("10.0.0.1:80", metadata="x")], ids=str
)
def test_one_address_cannot_be_two_backends(other: Backend) -> None:
    """Contradicting entries are refused rather than one of them picked."""
    with pytest.raises(ValueError, match=r"backend 10\.0\.0\.1:80 is given twice"):
        distinct_backends([Backend("10.0.0.1:80"), other])
