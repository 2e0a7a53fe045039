"""The rate limit fields: what is written is what RFC 9651 allows, and says what was meant."""

from __future__ import annotations

import base64
import json
import math
import re

import pytest
from hypothesis import example, given, strategies as st

from pingora_core.modules._rate_limit_fields import (
    is_printable,
    limit_item,
    partition,
    policy_item,
    quota_exceeded,
    seconds,
    string,
)

_PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
# RFC 9651 section 3: a string, then parameters that are integers, strings or bytes.
_STRING = r'"((?:[ !#-\[\]-~]|\\["\\])*)"'
_ITEM = re.compile(_STRING + r"((?:;[a-z*][a-z0-9_.*-]*=(?:[^;\"]+|" + _STRING + r"))*)")
_PARAMETER = re.compile(
    r";([a-z*][a-z0-9_.*-]*)=(?:(-?[0-9]{1,15})|:([A-Za-z0-9+/]*={0,2}):|" + _STRING + r")"
)


def parse(item: bytes) -> tuple[str, dict[str, int | str | bytes]]:
    """Read an item by the letter of the RFC; anything else is an error of the test."""
    match = _ITEM.fullmatch(item.decode("ascii"))
    assert match is not None, item
    parameters: dict[str, int | str | bytes] = {}
    rest = match[2]
    while rest:
        found = _PARAMETER.match(rest)
        assert found is not None, rest
        name, number, data, text = found.groups()
        if number is not None:
            parameters[name] = int(number)
        elif data is not None:
            parameters[name] = base64.b64decode(data, validate=True)
        else:
            parameters[name] = re.sub(r"\\(.)", r"\1", text)
        rest = rest[found.end() :]
    return re.sub(r"\\(.)", r"\1", match[1]), parameters


@given(
    _PRINTABLE,
    st.integers(-5, 10**20),
    st.one_of(st.floats(min_value=0, allow_nan=False), st.just(math.inf)),
    st.one_of(st.none(), _PRINTABLE),
    st.binary(max_size=40),
)
@example('a"\\b', 10**15, 1e300, 'q"', b"")
def test_a_policy_can_be_read(
    name: str, limit: int, window: float, unit: str | None, key: bytes
) -> None:
    """Names, numbers and keys of any kind come out as they went in, numbers within bounds."""
    item = policy_item(string(name), limit, window, unit) + partition(key)

    read, parameters = parse(item)

    assert read == name
    assert parameters["q"] == min(max(limit, 0), 10**15 - 1)
    assert parameters.get("qu") == unit
    assert parameters["pk"] == key
    if math.isinf(window):
        assert "w" not in parameters
    else:
        assert parameters["w"] == seconds(window)


@given(
    _PRINTABLE,
    st.integers(-5, 10**20),
    st.one_of(st.floats(min_value=0, allow_nan=False), st.just(math.inf)),
)
def test_a_limit_can_be_read(name: str, remaining: int, window: float) -> None:
    """What is left is never negative, and its window never nothing."""
    read, parameters = parse(limit_item(string(name), remaining, window))

    assert read == name
    assert parameters["r"] == min(max(remaining, 0), 10**15 - 1)
    assert ("t" in parameters) == math.isfinite(window)
    assert parameters.get("t", 1) != 0


def test_the_examples_of_the_draft_are_written_as_they_are_there() -> None:
    """Sections 3 and 4 of draft-ietf-httpapi-ratelimit-headers-11."""
    assert policy_item(string("permin"), 50, 60, None) == b'"permin";q=50;w=60'
    assert (
        policy_item(string("peruser"), 65535, 10, "content-bytes")
        == b'"peruser";q=65535;qu="content-bytes";w=10'
    )
    assert limit_item(string("default"), 50, 30) == b'"default";r=50;t=30'
    assert partition(b"App-999") == b";pk=:QXBwLTk5OQ==:"


@pytest.mark.parametrize(
    ("duration", "whole"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.01, 2), (60, 60), (60 + 1e-9, 60)]
)
def test_seconds_are_rounded_up(duration: float, whole: int) -> None:
    """Who waits that long has waited long enough; nobody is told to wait for nothing."""
    assert seconds(duration) == whole


@given(st.lists(_PRINTABLE, min_size=1, max_size=3))
def test_the_problem_is_json(names: list[str]) -> None:
    """Whatever policies are called, the page names them."""
    problem = json.loads(quota_exceeded([string(name) for name in names], 429))

    assert problem["type"].endswith("#quota-exceeded")
    assert problem["status"] == 429
    assert problem["violated-policies"] == names


def test_what_is_printable() -> None:
    """Letters from space to tilde; neither control characters nor anything beyond ASCII."""
    assert is_printable(" azAZ09~")
    assert not is_printable("a\n")
    assert not is_printable("\x7f")
    assert not is_printable("é")
