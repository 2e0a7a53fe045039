"""What a request may be answered with from the cache (RFC 9111 sections 4 and 5.2.1)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.policy import CachePolicy
from pingora_cache.verdict import HitVerdict
from tests.support.cache_policy import NOW, POLICY, ago, control, get, store

FRESH, STALE, VALIDATE = HitVerdict.FRESH, HitVerdict.STALE, HitVerdict.VALIDATE

_SIXTY = store(control("max-age=60"), ("ETag", '"a"'))


def test_without_wishes() -> None:
    """Fresh to the last instant, stale from then on."""
    assert POLICY.hit_verdict(get(), _SIXTY, NOW) is FRESH
    assert POLICY.hit_verdict(get(), _SIXTY, NOW + 60) is FRESH
    assert POLICY.hit_verdict(get(), _SIXTY, NOW + 60.1) is STALE


@pytest.mark.parametrize(
    ("value", "age", "verdict"),
    [
        ("", 10, FRESH),
        ("", 70, STALE),
        ("nothing-to-see-here", 10, FRESH),
        ("no-cache", 10, VALIDATE),
        ("No-Cache", 70, VALIDATE),
        ('no-cache="x"', 10, VALIDATE),
        ("max-age=0", 0, VALIDATE),
        ("max-age=0", 10, VALIDATE),
        ("max-age=9", 10, VALIDATE),
        ("max-age=10", 10, FRESH),
        ("max-age=600", 70, STALE),
        ("max-age=x", 10, VALIDATE),
        ("max-age", 10, VALIDATE),
        ('max-age="10"', 10, FRESH),
        ("min-fresh=50", 10, FRESH),
        ("min-fresh=51", 10, VALIDATE),
        ("min-fresh=0", 10, FRESH),
        ("min-fresh=0", 70, VALIDATE),
        ("min-fresh=x", 10, VALIDATE),
        ("max-stale", 70, FRESH),
        ("max-stale=10", 70, FRESH),
        ("max-stale=9", 70, STALE),
        ("max-stale=x", 70, STALE),
        ("max-stale=0", 10, FRESH),
        ("max-stale, max-age=65", 70, VALIDATE),
        ("max-stale, max-age=75", 70, FRESH),
        ("max-stale, no-cache", 70, VALIDATE),
        ("only-if-cached", 10, FRESH),
    ],
)
def test_directives_of_a_request(value: str, age: float, verdict: HitVerdict) -> None:
    """A client may want it younger, or take it older."""
    assert POLICY.hit_verdict(get(control(value)), _SIXTY, NOW + age) is verdict
    ignoring = CachePolicy(request_directives=False)
    plain = FRESH if age <= 60 else STALE
    assert ignoring.hit_verdict(get(control(value)), _SIXTY, NOW + age) is plain


def test_age_counts_from_when_it_was_made() -> None:
    """``max-age`` and ``min-fresh`` are about the age of the response, not of the stored copy."""
    meta = store(control("max-age=3600"), ("Age", "1800"))

    assert POLICY.hit_verdict(get(control("max-age=600")), meta, NOW) is VALIDATE
    assert POLICY.hit_verdict(get(control("min-fresh=1801")), meta, NOW) is VALIDATE
    assert POLICY.hit_verdict(get(control("min-fresh=1800")), meta, NOW) is FRESH


@pytest.mark.parametrize(
    "value", ["max-age=60, must-revalidate", "max-age=60, proxy-revalidate", "s-maxage=60", "no-cache"]
)  # fmt: skip
def test_max_stale_where_it_is_forbidden(value: str) -> None:
    """What the origin forbids, no client may have (section 4.2.4)."""
    meta = store(control(value), ("ETag", '"a"'))

    assert POLICY.hit_verdict(get(control("max-stale")), meta, NOW + 61) is STALE


def test_max_stale_and_a_clock_set_back() -> None:
    """A response from the future is not one that is a little stale."""
    assert POLICY.hit_verdict(get(control("max-stale")), _SIXTY, NOW - 3600) is STALE


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ([("Pragma", "no-cache")], VALIDATE),
        ([("Pragma", "x, NO-CACHE")], VALIDATE),
        ([("Pragma", "foo")], FRESH),
        ([("Pragma", "no-cache"), control("x")], FRESH),
        ([("Pragma", "no-cache"), control("")], FRESH),
    ],
)
def test_pragma(fields: list[tuple[str, str]], verdict: HitVerdict) -> None:
    """``Pragma`` counts only where ``Cache-Control`` is missing (section 5.4)."""
    assert POLICY.hit_verdict(get(*fields), _SIXTY, NOW + 1) is verdict
    ignoring = CachePolicy(request_directives=False)
    assert ignoring.hit_verdict(get(*fields), _SIXTY, NOW + 1) is FRESH


def test_pragma_and_a_stale_response() -> None:
    """Another ``Pragma`` changes nothing."""
    assert POLICY.hit_verdict(get(("Pragma", "foo")), _SIXTY, NOW + 61) is STALE


def test_only_if_cached() -> None:
    """A client may want a stored response or none, if clients may have wishes."""
    request = get(control("max-age=5"), control("Only-If-Cached"))

    assert POLICY.only_if_cached(request)
    assert not POLICY.only_if_cached(get())
    assert not POLICY.only_if_cached(get(control("max-age=5")))
    assert not CachePolicy(request_directives=False).only_if_cached(request)


def test_no_store_in_a_request() -> None:
    """So it is with not being stored."""
    request = get(control("no-store"))

    assert POLICY.request_cacheable(request) is not None
    assert CachePolicy(request_directives=False).request_cacheable(request) is None


def test_cookies_and_credentials_do_not_matter() -> None:
    """What was stored may be served to anybody: it would not have been stored otherwise."""
    request = get(("Cookie", "a=b"), ("Authorization", "x"))

    assert POLICY.hit_verdict(request, _SIXTY, NOW) is FRESH


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([
            "no-cache", "max-age=0", "max-age=5", "max-age=x", "min-fresh=5", "min-fresh=99",
            "max-stale", "max-stale=5", "only-if-cached", "foo", 'x="no-cache"', "stale-if-error=5",
        ]),
        max_size=4,
    ),
    st.floats(0, 200),
)  # fmt: skip
def test_wishes_never_loosen_but_by_max_stale(values: list[str], age: float) -> None:
    """Whatever else a client asks for, it gets nothing that it would not get without asking."""
    plain = POLICY.hit_verdict(get(), _SIXTY, NOW + age)
    asked = POLICY.hit_verdict(get(control(", ".join(values))), _SIXTY, NOW + age)

    if plain is STALE and asked is FRESH:
        assert any(value.startswith("max-stale") for value in values)
    if "no-cache" in values or "max-age=0" in values:
        assert asked is VALIDATE


def test_responses_with_a_date_of_their_own() -> None:
    """The verdict follows the clock, not the date that a response has."""
    meta = store(control("max-age=60"), ("Date", ago(-1000)))

    assert POLICY.hit_verdict(get(), meta, NOW + 60) is FRESH
    assert POLICY.hit_verdict(get(), meta, NOW + 61) is STALE
