"""Lists of backends as text: what is read, and what is refused in which words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from pingora_core.protocols.address import parse_address
from pingora_error import Error
from pingora_load_balancing import Backend
from pingora_load_balancing.discovery._document import parse_document
from pingora_load_balancing.discovery.interfaces import DISCOVERY_ERROR

if TYPE_CHECKING:
    from pingora_load_balancing.discovery._document import Format
    from pingora_load_balancing.discovery.interfaces import Discovered

YAML = b"""\
# Comments are fine.
backends:
  - 10.0.0.1:80
  - "[::1]:80"
  - unix:/run/app.sock
  - {address: "app.test:80", weight: 0, enabled: false, metadata: {zone: a}}
"""


def parse(data: bytes, form: Format = "yaml", *, strict: bool = True) -> Discovered:
    return parse_document(data, form, max_backends=1000, strict=strict)


def test_yaml() -> None:
    """A list of addresses and mappings, under a key."""
    found = parse(YAML)

    assert found.backends == (
        Backend("10.0.0.1:80"),
        Backend("[::1]:80"),
        Backend("unix:/run/app.sock"),
        Backend("app.test:80", 0, {"zone": "a"}),
    )
    assert found.enabled == {parse_address("app.test:80"): False}


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_json(form: Format) -> None:
    """The same as JSON, which is YAML too; a list alone will do; a byte order mark is skipped."""
    document = json.dumps(yaml.safe_load(YAML)["backends"]).encode()

    assert parse(b"\xef\xbb\xbf" + document, form) == parse(YAML)


def test_equal_entries_count_once() -> None:
    """A backend that is listed twice in the same way is one backend."""
    assert len(parse(b"[10.0.0.1:80, {address: 10.0.0.1:80}]").backends) == 1


@dataclass(frozen=True)
class Place:
    zone: str
    rack: int = 0


def test_metadata_type() -> None:
    """Metadata becomes an instance of the type asked for."""
    data = b"[{address: 10.0.0.1:80, metadata: {zone: a, rack: 3}}, 10.0.0.2:80]"
    found = parse_document(data, "yaml", max_backends=9, metadata_type=Place)

    assert [backend.metadata for backend in found.backends] == [Place("a", 3), None]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "Expected `object`, got `null`"),
        (b"backends:\n", "Expected `array`, got `null`"),
        (b"backends: 10.0.0.1:80\n", "Expected `array`, got `str`"),
        (b"servers: []\n", "unknown field `servers`|missing required field `backends`"),
        (b"backends: [7]\n", r"Expected `str \| object`.* at `\$.backends\[0\]`"),
        (b"backends: [{weight: 1}]\n", "missing required field `address`"),
        (b"[{address: 10.0.0.1:80, wieght: 1}]", "unknown field `wieght`"),
        (b"[{address: 10.0.0.1:80, weight: -1}]", r"Expected `int` >= 0"),
        (b"[{address: 10.0.0.1:80, weight: true}]", "Expected `int`, got `bool`"),
        (b"[{address: 10.0.0.1:80, weight: 4294967296}]", "Expected `int` <= 2147483647"),
        (b"[10.0.0.1:80, 10.0.0.2]", r"backends\[1\]: address '10.0.0.2' has no port"),
        (b"[10.0.0.1:0]", r"backends\[0\]: .*port 0"),
        (b"[10.0.0.1:80, {address: 10.0.0.1:80, weight: 2}]", r"backends\[1\]: .* given twice"),
        (b"backends: [\n", "did not find expected|while parsing"),
        (b"- a\n  b: [}\n", "line 2"),
        (b"backends: []\nbackends: [10.0.0.1:80]\n", "key 'backends' is given twice"),
        (b"a: &x [1]\nbackends: *x\n", "aliases are not allowed"),
        (b"{[a]: b}", "a key has to be a text"),
        (b"[]\n---\n[]\n", "single document"),
        (b"!!python/object/apply:os.system [ls]", "constructor"),
        (b"\xff\xfe", "codec can't decode"),
        (b"\x00", "not allowed|unacceptable"),
        (b"[" * 100_000, "nested more than 32 levels"),
        (b"{a: " * 100_000, "nested more than 32 levels"),
        (b"[" + b"10.0.0.1:80, " * 1001 + b"]", "1001 backends, at most 1000"),
    ],
)
def test_bad_yaml(data: bytes, problem: str) -> None:
    """Each mistake is told in one line that says where it is."""
    with pytest.raises(Error, match=problem) as error:
        parse(data)

    assert error.value.etype == DISCOVERY_ERROR
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data", [b"", b"[", b'["10.0.0.1:80"', b"[]]", b"[" * 100_000, b"{}", b"nul", b'["\xff"]']
)
def test_bad_json(data: bytes) -> None:
    """What is cut short or no JSON is refused."""
    with pytest.raises(Error, match="not a list of backends"):
        parse(data, "json")


def test_lenient() -> None:
    """Unknown keys may be ignored."""
    data = b'{"backends": [{"address": "10.0.0.1:80", "new": 1}], "version": 7}'

    assert parse(data, "json", strict=False).backends == (Backend("10.0.0.1:80"),)
    with pytest.raises(Error, match="unknown field"):
        parse(data, "json")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
_ENTRY = st.fixed_dictionaries(
    {"address": st.sampled_from(["10.0.0.1:80", "a:1", "unix:/a", "[::1]:2", "x"]) | st.text()},
    optional={"weight": st.integers(-2, 9) | _JSON, "enabled": st.booleans(), "metadata": _JSON},
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["json", "yaml"]))
def test_any_bytes(data: bytes, form: Format) -> None:
    """Any bytes are a list, or are refused with an error of the right kind."""
    try:
        found = parse(data, form)
    except Error as error:
        assert error.etype == DISCOVERY_ERROR  # noqa: PT017
    else:
        assert len({backend.addr for backend in found.backends}) == len(found.backends)


@settings(max_examples=300, deadline=None)
@given(st.lists(_ENTRY, max_size=6) | _JSON, st.booleans())
def test_any_json(document: object, strict: bool) -> None:
    """Any JSON document, too; and YAML reads JSON in the same way."""
    data = json.dumps(document).encode()
    results: list[Discovered | None] = []
    for form in ("json", "yaml"):
        try:
            results.append(parse(data, form, strict=strict))
        except Error as error:
            assert error.etype == DISCOVERY_ERROR  # noqa: PT017
            results.append(None)
    if results[0] is not None and results[1] is not None:
        assert [b.addr for b in results[0].backends] == [b.addr for b in results[1].backends]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='[]{}:,-"\n \t&*!|>#%@a1.', max_size=60))
def test_any_yaml(text: str) -> None:
    """Text that looks like YAML is a list, or is refused."""
    try:
        parse(text.encode())
    except Error as error:
        assert error.etype == DISCOVERY_ERROR  # noqa: PT017
