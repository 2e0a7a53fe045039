"""Clients come back to the backend that they had before."""

from __future__ import annotations

from functools import partial

import pytest

from pingora_http import RequestHeader, ResponseHeader
from pingora_load_balancing import (
    Backend,
    KetamaHashing,
    LoadBalancer,
    Sticky,
    StickyCookie,
    sticky_token,
)

_A, _B, _C = (Backend(f"10.0.0.{n}:80") for n in (1, 2, 3))


def test_token_brings_the_backend_back() -> None:
    """As often as it is shown."""
    balancer = LoadBalancer([_A, _B, _C], selection=Sticky)

    for backend in (_A, _B, _C):
        token = sticky_token(backend)
        assert [balancer.select(token, 256) for _ in range(4)] == [backend] * 4


def test_without_a_token_others_decide() -> None:
    """New clients are spread, and so are those whose token means nothing."""
    balancer = LoadBalancer([_A, _B, _C], selection=Sticky)

    assert {balancer.select(b"", 256) for _ in range(6)} == {_A, _B, _C}
    assert {balancer.select(b"nonsense", 256) for _ in range(6)} == {_A, _B, _C}


def test_fallback_when_the_backend_cannot_be_used() -> None:
    """A session moves rather than fail, and comes back when its backend does."""
    balancer = LoadBalancer([_A, _B, _C], selection=Sticky)
    token = sticky_token(_B)
    balancer.set_enable(_B, False)
    assert balancer.select(token, 256) in {_A, _C}

    balancer.set_enable(_B, True)

    assert balancer.select(token, 256) == _B


async def test_fallback_when_the_backend_is_gone() -> None:
    """Its token is one among the unknown then."""
    balancer = LoadBalancer([_A, _B], selection=Sticky)

    balancer.pool.replace([_A, _C])

    assert {balancer.select(sticky_token(_B), 256) for _ in range(4)} == {_A, _C}


def test_session_identifiers_stick_by_hashing() -> None:
    """A value that the backend gave, such as a session identifier, is kept at one backend."""
    balancer = LoadBalancer([_A, _B, _C], selection=partial(Sticky, inner=KetamaHashing))

    assert len({balancer.select(b"session-17", 256) for _ in range(8)}) == 1
    assert len({balancer.select(b"session-%d" % n, 256) for n in range(50)}) == 3


@pytest.mark.parametrize("keep", [False, True])
def test_drained_backend_may_keep_its_sessions(keep: bool) -> None:
    """Weight 0 gets no new clients; whether it keeps the old ones is an option."""
    drained = Backend("10.0.0.2:80", 0)
    balancer = LoadBalancer([_A, drained], selection=partial(Sticky, keep_drained=keep))

    assert balancer.select(sticky_token(_B), 256) == (drained if keep else _A)
    assert balancer.select(b"", 256) == _A


def test_tokens_are_made_in_small_steps() -> None:
    """A large set does not hold anything up; used in a hurry it is completed."""
    backends = [Backend(f"10.0.{n >> 8}.{n & 255}:80") for n in range(1000)]
    balancer = LoadBalancer(backends)
    selection = Sticky(balancer.pool.current, KetamaHashing)
    next(selection.prepare())

    assert next(selection.iter(sticky_token(backends[0]))) == backends[0]
    # 4 for the tokens, 1 for the turns of the selection behind them.
    assert sum(1 for _ in Sticky(balancer.pool.current).prepare()) == 4 + 1


def test_secret_hides_what_a_token_stands_for() -> None:
    """Tokens with another secret are unknown."""
    balancer = LoadBalancer([_A, _B], selection=partial(Sticky, secret=b"s"))

    assert sticky_token(_A) != sticky_token(_A, b"s")
    assert {balancer.select(sticky_token(_A), 256) for _ in range(4)} == {_A, _B}
    assert {balancer.select(sticky_token(_A, b"s"), 256) for _ in range(4)} == {_A}


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ([], b""),
        ([("Cookie", "lb=abc")], b"abc"),
        ([("cookie", "a=1; lb=abc; b=2")], b"abc"),
        ([("cookie", "a=1"), ("cookie", "lb=abc")], b"abc"),
        ([("cookie", "xlb=no;lb=yes")], b"yes"),
        ([("cookie", "LB=no; lb; ; =; lb=x")], b""),
    ],
)
def test_cookie_is_read(fields: list[tuple[str, str]], key: bytes) -> None:
    """Wherever it stands among the others; HTTP/2 splits them into fields."""
    assert StickyCookie().key(RequestHeader("GET", "/", headers=fields)) == key


def test_cookie_is_given_once() -> None:
    """A client that has the right one already gets none."""
    cookie = StickyCookie("route", secret=b"s", attributes="Path=/; Secure")
    token = sticky_token(_A, b"s").decode()
    new, known = ResponseHeader(200), ResponseHeader(200)

    cookie.give(RequestHeader("GET", "/", headers=[("Cookie", "route=old")]), new, _A)
    cookie.give(RequestHeader("GET", "/", headers=[("Cookie", f"route={token}")]), known, _A)

    assert new.get("set-cookie") == f"route={token}; Path=/; Secure"
    assert "set-cookie" not in known
