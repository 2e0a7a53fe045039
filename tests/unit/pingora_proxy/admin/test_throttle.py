"""How often a client may try tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pingora_proxy.admin.throttle import Throttle, client_key


def test_some_at_once_and_then_one_now_and_then() -> None:
    """Waiting costs nothing; each failure more takes its time."""
    throttle = Throttle(attempts=3, interval=2.0)
    for _ in range(3):
        assert throttle.wait("a", 10.0) == 0
        throttle.fail("a", 10.0)

    assert throttle.wait("a", 10.0) == 2.0
    assert throttle.wait("b", 10.0) == 0
    assert throttle.wait("a", 11.5) == 0.5
    assert throttle.wait("a", 12.0) == 0
    throttle.fail("a", 12.0)
    assert throttle.wait("a", 12.0) == 2.0
    assert throttle.wait("a", 1000.0) == 0


@given(st.lists(st.floats(0, 20), max_size=60))
def test_within_any_time_there_are_only_so_many(steps: list[float]) -> None:
    """Whoever tries as soon as it is allowed, or later, gets no more than that."""
    throttle = Throttle(attempts=4, interval=3.0)
    now, tried = 0.0, []
    for step in steps:
        now += step
        if throttle.wait("a", now) == 0:
            throttle.fail("a", now)
            tried.append(now)

    for at, since in enumerate(tried):
        for count, until in enumerate(tried[at:], start=1):
            assert count <= 4 + (until - since) / 3.0 + 1e-6


def test_it_is_bounded() -> None:
    """Of very many clients the one that failed longest ago is forgotten."""
    throttle = Throttle(attempts=1, interval=3.0, max_clients=2)
    for client in ("a", "b", "a", "c"):
        throttle.fail(client, 0.0)

    assert [throttle.wait(client, 0.0) > 0 for client in "abc"] == [True, False, True]


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1:2:3:4", "2001:db8::"),
        ("fe80::1%eth0", "fe80::"),
        ("", "local"),
        ("nonsense", "local"),
    ],
)
def test_who_is_one_client(address: str, key: str) -> None:
    """A network of IPv6 is; so are all on a Unix socket."""
    assert client_key(address) == key
