"""Two requests share a variant if the fields that count mean the same (RFC 9111 section 4.1)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.policy import CachePolicy
from pingora_cache.vary import normalise_list, normalise_set
from tests.support.cache_policy import POLICY, control, get, store

_PLAIN = CachePolicy(normalisers={})


def _variance(vary: str, *fields: tuple[str, str], policy: CachePolicy = POLICY) -> bytes | None:
    return policy.variance(store(control("max-age=60"), ("Vary", vary)), get(*fields))


def _alike(
    vary: str,
    one: list[tuple[str, str]],
    other: list[tuple[str, str]],
    policy: CachePolicy = POLICY,
) -> bool:
    first = _variance(vary, *one, policy=policy)
    assert first is not None
    assert len(first) == 16
    return first == _variance(vary, *other, policy=policy)


def test_without_vary() -> None:
    """A response that does not vary has no variants."""
    meta = store(control("max-age=60"))

    assert not POLICY.varies(meta)
    assert POLICY.variance(meta, get(("Accept", "x"))) is None
    assert _variance(", ,") is None
    assert POLICY.varies(store(control("max-age=60"), ("Vary", "Foo")))


@pytest.mark.parametrize(
    ("vary", "one", "other", "alike"),
    [
        ("Foo", [("Foo", "1")], [("foo", "1")], True),
        ("Foo", [("Foo", "1")], [("Foo", "2")], False),
        ("Foo", [("Foo", "1")], [], False),
        ("Foo", [("Foo", "")], [], False),
        ("Foo", [], [], True),
        ("Foo", [("Foo", "1"), ("Bar", "1")], [("Bar", "2"), ("Foo", "1")], True),
        ("Foo, Bar", [("Foo", "1"), ("Bar", "2")], [("Bar", "2"), ("Foo", "1")], True),
        ("Foo, Bar", [("Foo", "1"), ("Bar", "2")], [("Foo", "2"), ("Bar", "1")], False),
        ("Foo, Bar", [("Foo", "1")], [("Bar", "1")], False),
        ("Foo, Bar, Baz", [("Foo", "1"), ("Baz", "2")], [("Foo", "1"), ("Baz", "2")], True),
        ("Foo", [("Foo", "1, 2")], [("Foo", "1"), ("Foo", "2")], True),
        ("Foo", [("Foo", "1,2")], [("Foo", " 1, 2 ")], True),
        ("Foo", [("Foo", "2,1")], [("Foo", "1,2")], False),
        ("Foo", [("Foo", "a b")], [("Foo", "ab")], False),
        ("Foo", [("Foo", "A")], [("Foo", "a")], False),
        ("Foo", [("Foo", '"1, 2"')], [("Foo", '"1,2"')], False),
        ("Foo", [("Foo", '"1", "2"')], [("Foo", '"1", "2" ')], True),
        ("Cookie", [("Cookie", "a=1; b=2")], [("Cookie", "a=1"), ("Cookie", "b=2")], True),
    ],
)
def test_variants(
    vary: str, one: list[tuple[str, str]], other: list[tuple[str, str]], *, alike: bool
) -> None:
    """Only named fields count; lines are joined, white space around commas is none."""
    assert _alike(vary, one, other) is alike


@pytest.mark.parametrize("name", ["Accept-Language", "accept-encoding", "Accept-Charset"])
@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("en, de", "de, en", True),
        ("en, de", "eN, De", True),
        ("en, de", " en ,   de", True),
        ("en;q=0.5, de", "de,en; q=0.5", True),
        ("en;q=0.5, de", "\tde\t, en ;\tq=0.5", True),
        ("d e", "de", False),
        ("de, e n", "de, en", False),
        ("en, en", "en", True),
        ("en;q=0.5, de", "en, de;q=0.5", False),
        ("en", "en-gb", False),
    ],
)
def test_known_lists(name: str, one: str, other: str, *, alike: bool) -> None:
    """Of lists with weights, order and case say nothing."""
    assert _alike(name, [(name, one)], [(name, other)]) is alike


@pytest.mark.parametrize("other", ["de, en", "eN, De"])
def test_known_lists_as_any_other(other: str) -> None:
    """Whoever does without the normalisers has order and case count."""
    name = "Accept-Language"

    assert not _alike(name, [(name, "en, de")], [(name, other)], _PLAIN)
    assert _alike(name, [(name, "en, de")], [(name, "en ,de")], _PLAIN)


def test_normalisers_of_ones_own() -> None:
    """An application knows better what its origin tells apart."""
    policy = CachePolicy(
        normalisers={"User-Agent": lambda value: b"phone" if b"Mobile" in value else b""}
    )
    one, other = [("User-Agent", "Mobile 1")], [("User-Agent", "Mobile 2")]

    assert _alike("User-Agent", one, other, policy)
    assert not _alike("User-Agent", one, [("User-Agent", "x")], policy)
    assert not _alike("User-Agent", one, other)


def test_names_of_vary() -> None:
    """``Vary`` may be in lines, in any case, and name a field twice."""
    fields = [("Foo", "1"), ("Bar", "2")]
    request = get(*fields)
    both = store(control("max-age=60"), ("Vary", "FOO, foo"), ("vary", "Bar"))

    assert POLICY.variance(both, request) == _variance("Bar, Foo", *fields)


def test_a_response_for_nobody() -> None:
    """What another policy stored in spite of ``Vary: *`` matches no request's variant."""
    meta = store(control("max-age=60"))
    star = meta.replace(header=meta.header.copy())
    star.header.insert_header("Vary", "*")

    assert POLICY.varies(star)
    assert POLICY.variance(star, get()) not in {None, star.variance, _variance("Foo")}


_field = st.tuples(
    st.sampled_from(["a", "b", "c"]), st.text(alphabet='1,2 "=\t', max_size=5).map(str.strip)
)


@settings(deadline=None)
@given(st.lists(_field, max_size=4), st.lists(_field, max_size=4))
def test_variants_differ_where_values_do(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    """Values that differ in more than white space never meet, whatever stands in which field."""

    def seen(fields: list[tuple[str, str]]) -> dict[str, str]:
        joined: dict[str, str] = {}
        for name, value in fields:
            joined[name] = f"{joined[name]},{value}" if name in joined else value
        return {name: "".join(value.split()) for name, value in joined.items()}

    if seen(one) != seen(other):
        assert not _alike("a, b, c", one, other)


@settings(deadline=None)
@given(st.binary(max_size=30).filter(lambda value: b"\n" not in value and b"\r" not in value))
def test_normalising_twice(value: bytes) -> None:
    """What is normalised stays as it is."""
    for normalise in (normalise_list, normalise_set):
        once = normalise(value)
        assert normalise(once) == once
