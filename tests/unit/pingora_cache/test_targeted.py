"""Targeted fields are structured fields, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache._directives import Directive, parse
from pingora_cache._structured import InnerList, Token, parse_dictionary
from pingora_cache.targeted import parse_surrogate_control, parse_targeted, select_targeted
from pingora_http import ResponseHeader


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("", {}),
        ("   ", {}),
        ("a", {"a": True}),
        ("a=1, b=?0,c=?1 ,\td=-5", {"a": 1, "b": False, "c": True, "d": -5}),
        ("a=1, b=2, a=3", {"a": 3, "b": 2}),
        ("a=1.5;x;y=2; z=q", {"a": 1.5}),
        ('a="x\\"y\\\\", b=tok/en', {"a": 'x"y\\', "b": Token("tok/en")}),
        ('a=(1 "b"  c;d);e', {"a": InnerList((1, "b", Token("c")))}),
        ("a=(), *x-1.y_=:YQ==:", {"a": InnerList(()), "*x-1.y_": b":YQ==:"}),
        ('a=@1659578233, b=%"f%c3%bc"', {"a": b"@1659578233", "b": b'%"f%c3%bc"'}),
        ("a=123456789012345", {"a": 123456789012345}),
    ],
)
def test_dictionaries(text: str, members: dict[str, object]) -> None:
    """Each kind of value is read as what it is."""
    assert parse_dictionary(text) == members


@pytest.mark.parametrize(
    "text",
    [
        ",", "a,", "a,,b", "a b", "A=1", "1a", "a=", "a =1", "a= 1", "a=1 b", "a=&", "a=1;", "a=1;B",
        'a="', 'a="\\x"', 'a="\x7f"', "a=?2", "a=1234567890123456", "a=1.", "a=1.2345", "a=1.2.3",
        "a=-", "a=(", "a=(1", "a=(1,2)", 'a=("a""b")', "a=1\tb", "a;=1", "=1", "a=:a", "a=ü", "\ta",
        "a=@1.5", 'a=%"%C3"',
    ],
)  # fmt: skip
def test_what_is_no_dictionary(text: str) -> None:
    """One wrong byte makes the whole wrong."""
    assert parse_dictionary(text) is None


@settings(deadline=None)
@given(st.text(alphabet='ab=,;? "()\\10.:@%*-', max_size=24))
def test_reading_anything(text: str) -> None:
    """No text makes the reader fail."""
    parse_dictionary(text)
    parse_targeted([text.encode()])
    parse_surrogate_control([text.encode()])


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z*][a-z0-9_.*-]{0,8}", fullmatch=True),
        st.one_of(st.none(), st.integers(0, 10**15 - 1), st.text(alphabet="ab, -=;", max_size=8)),
        max_size=5,
    )
)
def test_both_readers_agree_on_what_both_understand(
    members: dict[str, int | str | None],
) -> None:
    """A field that is right is the same directives to the strict reader and to the other one."""
    line = ", ".join(
        name
        if value is None
        else f"{name}={value}"
        if isinstance(value, int)
        else f'{name}="{value}"'
        for name, value in members.items()
    ).encode()

    strict = parse_targeted([line])
    typed = {"max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"}
    if not typed & members.keys():
        assert strict == parse([line]).directives


@pytest.mark.parametrize(
    ("lines", "directives"),
    [
        ([b"max-age=60"], [Directive("max-age", b"60")]),
        ([b"max-age=60", b"private"], [Directive("max-age", b"60"), Directive("private", None)]),
        ([b'private="a, b"'], [Directive("private", b'"a, b"')]),
        ([b'private=("a" b)'], [Directive("private", b'"a,b"')]),
        ([b"no-store=?0, x=1.5"], [Directive("no-store", None), Directive("x", b"1.5")]),
        ([b"max-age=-1"], [Directive("max-age", b"-1")]),
        ([b""], []),
    ],
)
def test_directives(lines: list[bytes], directives: list[Directive]) -> None:
    """Members become the directives that ``Cache-Control`` would have."""
    assert parse_targeted(lines) == directives


@pytest.mark.parametrize(
    "value", [b'max-age="60"', b"max-age=6.0", b"max-age", b"s-maxage=x", b"a,"]
)
def test_wrong_types(value: bytes) -> None:
    """A number of seconds that is no integer makes the field as good as absent."""
    assert parse_targeted([value]) is None


def test_the_first_that_says_something() -> None:
    """Fields that are absent, wrong or empty are passed over (RFC 9213 section 2.2)."""
    fields = [("B", "max-age=&"), ("C", ""), ("D", "no-store"), ("E", "max-age=5")]
    response = ResponseHeader(200, headers=fields)

    assert select_targeted(response, [b"a", b"b", b"c", b"d", b"e"]) == [
        Directive("no-store", None)
    ]
    assert select_targeted(response, [b"e", b"d"]) == [Directive("max-age", b"5")]
    assert select_targeted(response, [b"a", b"b", b"c"]) is None
    assert select_targeted(response, []) is None


@pytest.mark.parametrize(
    ("value", "directives"),
    [
        (b"max-age=60", [("max-age", b"60")]),
        (b"MAX-AGE=60", [("max-age", b"60")]),
        (
            b"max-age=60 + 30",
            [("max-age", b"60"), ("stale-while-revalidate", b"30"), ("stale-if-error", b"30")],
        ),
        (b'no-store, content="ESI/1.0, x"', [("no-store", None)]),
        (b"no-store-remote", [("no-store", None)]),
        (b"max-age=5;abc, max-age=7", [("max-age", b"7")]),
        (b"max-age", [("max-age", b"")]),
    ],
)
def test_surrogate_control(value: bytes, directives: list[tuple[str, bytes | None]]) -> None:
    """The older field has words of its own, and cares for those with a name elsewhere."""
    assert parse_surrogate_control([value]) == directives


@pytest.mark.parametrize("value", [b"", b'content="ESI/1.0"', b"no-store;abc", b"foo"])
def test_surrogate_control_that_says_nothing(value: bytes) -> None:
    """Without a word about caching the field does not count."""
    assert parse_surrogate_control([value]) is None
