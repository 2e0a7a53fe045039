"""Static discovery tells what it was given."""

from __future__ import annotations

import pytest

from pingora_load_balancing import Backend, Static


async def test_static_backends() -> None:
    """Text and backends mix; the answer is the same every time."""
    static = Static(["10.0.0.1:80", Backend("10.0.0.2:80", 2), "10.0.0.1:80"])

    first = await static.discover()

    assert (
        first.backends
        == static.backends
        == (
            Backend("10.0.0.1:80"),
            Backend("10.0.0.2:80", 2),
        )
    )
    assert first.enabled == {}
    assert await static.discover() is first


def test_one_text_is_not_a_list() -> None:
    """A forgotten pair of brackets is told as such, not as a bad address "1"."""
    with pytest.raises(TypeError, match=r"write \['10\.0\.0\.1:80'\]"):
        Static("10.0.0.1:80")


def test_empty_list_is_allowed() -> None:
    """A set of no backends is a set."""
    assert Static([]).backends == ()
