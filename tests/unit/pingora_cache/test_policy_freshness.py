"""How long a stored response is fresh, and how old it is (RFC 9111 section 4.2)."""

from __future__ import annotations

import time
from unittest.mock import patch

import pytest
from hishel import Headers, Response
from hishel._core._spec import get_age, get_freshness_lifetime
from hypothesis import given, settings, strategies as st

from pingora_cache.policy import CachePolicy
from pingora_cache.verdict import Cacheable, HitVerdict
from pingora_http import ResponseHeader
from tests.support.cache_policy import NOW, POLICY, ago, control, get, store

_ETAG = ("ETag", '"a"')
_FOREVER = 2147483647


def _lifetime(*fields: tuple[str, str], policy: CachePolicy = POLICY, status: int = 200) -> float:
    """Seconds that a response is fresh for from now on; negative if it is stale."""
    return store(*fields, _ETAG, policy=policy, status=status).fresh_until - NOW


# ---------------------------------------------------------- explicit freshness


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ([control("max-age=60")], 60),
        ([control('max-age="60"')], 60),
        ([control("MAX-AGE=060")], 60),
        ([control("max-age=2147483648")], 2147483648),
        ([control("max-age=99999999999")], _FOREVER),
        ([control("max-age=0")], -1),
        ([control("max-age=60, s-maxage=5")], 5),
        ([control("s-maxage=60, max-age=0"), ("Expires", ago(10))], 60),
        ([control("max-age=60"), ("Expires", ago(10))], 60),
        ([control("max-age=60"), ("Expires", "0")], 60),
        ([control("max-age=0"), ("Expires", ago(-60))], -1),
        ([("Expires", ago(-60))], 60),
        ([("Expires", ago(-60)), ("Date", ago(0))], 60),
        ([("Expires", ago(-60)), ("Date", "foo")], 60),
        ([("Expires", ago(0)), ("Date", ago(0))], -1),
        ([("Expires", ago(-300)), ("Date", ago(-400))], -100),
        ([("Expires", ago(-60)), ("Expires", ago(-60))], 60),
        ([("CDN-Cache-Control", "max-age=60"), control("max-age=1")], 60),
        ([("CDN-Cache-Control", "max-age=60"), ("Expires", "0")], 60),
        ([("CDN-Cache-Control", "max-age=0"), ("Expires", ago(-60))], -1),
        ([control("foo, max-age=60")], 60),
        ([control('x="max-age=3600", max-age=1')], 1),
        ([control('max-age=1, x="max-age=3600"')], 1),
        ([control("max-age=60, max-age=60")], 60),
        ([control("max-age=60"), control("max-age=60")], 60),
    ],
)
def test_explicit_freshness(fields: list[tuple[str, str]], seconds: float) -> None:
    """The first of ``s-maxage``, ``max-age`` and ``Expires`` counts; the field for caches before."""
    assert _lifetime(*fields) == seconds


@pytest.mark.parametrize(
    "fields",
    [
        [control("max-age")],
        [control("max-age=")],
        [control("max-age=-3600")],
        [control("max-age='3600'")],
        [control("max-age=a3600")],
        [control("max-age=3600a")],
        [control("max-age=3600.5")],
        [control("max-age= 3600")],
        [control("max-age =3600")],
        [control("s-maxage=x, max-age=60")],
        [control("s-maxage, max-age=60")],
        [control("max-age=60, max-age=1")],
        [control("max-age=60"), control("max-age=x")],
        [control("s-maxage=1, s-maxage=2, max-age=60")],
        [("CDN-Cache-Control", "max-age=-1"), control("max-age=60")],
        [("Expires", "0")],
        [("Expires", "Thu, 18 Aug 2050 02:01:18 UTC")],
        [("Expires", ago(-60)), ("Expires", ago(-61))],
        [("Expires", "Sun, 13 Feb 0002 12:00:00 GMT")],
    ],
)
def test_freshness_that_makes_no_sense(fields: list[tuple[str, str]]) -> None:
    """What cannot be read, or contradicts itself, means stale, never something else."""
    assert _lifetime(*fields, ("Last-Modified", ago(86400))) <= -1
    policy = CachePolicy(default_ttl={200: 60})
    assert _lifetime(*fields, policy=policy) <= -1


def test_formats_of_expires() -> None:
    """All three formats of dates are read; the one with two digits means the near century."""
    for text in ("Thursday, 18-Aug-50 02:01:18 GMT", "Thu Aug 18 02:01:18 2050"):
        assert _lifetime(("Expires", text)) == 2544400878 - NOW


@pytest.mark.parametrize(
    "fields",
    [
        [control("no-cache, max-age=60")],
        [control("No-Cache"), ("Expires", ago(-60))],
        [control("no-cache=, max-age=60")],
        [control('no-cache="", max-age=60')],
        [("CDN-Cache-Control", "no-cache"), control("max-age=60")],
        [("Pragma", "no-cache"), ("Expires", ago(-60))],
        [("Pragma", "foo, No-Cache"), ("Last-Modified", ago(86400))],
    ],
)
def test_validated_always(fields: list[tuple[str, str]]) -> None:
    """``no-cache`` stores, and validates before each use, whatever else is said."""
    policy = CachePolicy(stale_if_error=60, stale_while_revalidate=60)
    meta = store(*fields, _ETAG, policy=policy)

    assert meta.revalidate
    assert policy.hit_verdict(get(), meta, NOW) is HitVerdict.STALE
    assert not meta.serve_stale_if_error(NOW + 1)
    assert not meta.serve_stale_while_revalidate(NOW + 1)


def test_pragma_beside_cache_control() -> None:
    """``Pragma`` means nothing where there is ``Cache-Control``."""
    assert _lifetime(control("max-age=60"), ("Pragma", "no-cache")) == 60
    assert _lifetime(("CDN-Cache-Control", "max-age=60"), ("Pragma", "no-cache")) == 60
    assert _lifetime(("Expires", ago(-60)), ("Pragma", "foo")) == 60


# ------------------------------------------------------- defaults and guesses


def test_defaults_by_status() -> None:
    """A status with a default needs no word from the origin, which has the last one."""
    policy = CachePolicy(default_ttl={200: 10, 503: 2, 404: 0})

    assert _lifetime(policy=policy) == 10
    assert _lifetime(("Last-Modified", ago(86400)), policy=policy) == 10
    assert _lifetime(control("max-age=60"), policy=policy) == 60
    assert _lifetime(control("public"), policy=policy) == 10
    assert _lifetime(status=503, policy=policy) == 2
    assert _lifetime(status=404, policy=policy) == -1


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ([("Last-Modified", ago(3600))], 360),
        ([("Last-Modified", ago(3600)), ("Date", ago(-600))], 420),
        ([("Last-Modified", ago(8 * 86400))], 0.8 * 86400),
        ([("Last-Modified", ago(86400 * 1000))], 86400),
        ([("Last-Modified", ago(-60))], -1),
        ([("Last-Modified", "foo")], -1),
        ([control("public"), ("Last-Modified", ago(3600))], 360),
    ],
)
def test_heuristics(fields: list[tuple[str, str]], seconds: float) -> None:
    """Without a word, a tenth of the time since the last change, and a day at most."""
    assert _lifetime(*fields) == pytest.approx(seconds)


def test_heuristics_as_told() -> None:
    """Share and bound are the policy's; none means none."""
    field = ("Last-Modified", ago(1000))

    assert _lifetime(field, policy=CachePolicy(heuristic_fraction=0.5)) == 500
    assert _lifetime(field, policy=CachePolicy(heuristic_max=7)) == 7
    assert _lifetime(field, policy=CachePolicy(heuristic_fraction=0)) == -1


def test_longest_time() -> None:
    """No response is fresh for longer than the policy says, from its arrival on."""
    policy = CachePolicy(max_ttl=30)

    assert _lifetime(control("max-age=60"), policy=policy) == 30
    assert _lifetime(control("max-age=60"), ("Age", "20"), policy=policy) == 30
    assert _lifetime(control("max-age=60"), ("Age", "40"), policy=policy) == 20
    assert _lifetime(control("max-age=60"), policy=CachePolicy(max_ttl=0)) == -1


# ------------------------------------------------------------------------- age


@pytest.mark.parametrize(
    ("fields", "delay", "age"),
    [
        ([], 0.0, 0),
        ([], 5.0, 0),
        ([("Date", ago(0))], 0.0, 0),
        ([("Date", ago(1))], 0.0, 0),
        ([("Date", ago(30))], 0.0, 29),
        ([("Date", ago(-30))], 0.0, 0),
        ([("Date", "foo")], 0.0, 0),
        ([("Age", "10")], 0.0, 10),
        ([("Age", "10")], 2.5, 12.5),
        ([("Age", "10"), ("Date", ago(30))], 0.0, 29),
        ([("Age", "40"), ("Date", ago(30))], 0.0, 40),
        ([("Age", "10")], -3.0, 10),
        ([("Age", "0")], 0.0, 0),
    ],
)
def test_initial_age(fields: list[tuple[str, str]], delay: float, age: float) -> None:
    """The age on arrival is what ``Age`` and ``Date`` tell, whichever is more (section 4.2.3)."""
    meta = store(control("max-age=60"), *fields, delay=delay)

    assert meta.age(NOW) == age
    assert meta.age(NOW + 7) == age + 7
    assert meta.fresh_until == NOW + 60 - age
    assert meta.fresh_sec == 60


def test_older_than_fresh() -> None:
    """A response that arrives older than it may get is stale (section 4.2)."""
    assert _lifetime(control("max-age=60"), ("Age", "100")) == -40
    assert _lifetime(control("max-age=60"), ("Age", "60")) == -1
    assert _lifetime(control("max-age=60"), ("Date", ago(7200))) < 0
    assert _lifetime(("Date", ago(10)), ("Expires", ago(-10)), ("Age", "25")) == -5
    assert _lifetime(("Date", ago(-10)), ("Expires", ago(-20)), ("Age", "15")) == -5


@pytest.mark.parametrize(
    ("values", "first"),
    [
        (["abc"], None),
        (["-7200"], None),
        (["7200.0"], None),
        ([""], None),
        (["7200;foo=bar"], None),
        (["7200,0"], 7200),
        (["0,7200"], 0),
        (["0, 0"], 0),
        (["7200", "0"], 7200),
        (["0", "7200"], 0),
        (["30", "30"], 30),
        (["9" * 50], _FOREVER),
    ],
)
def test_age_that_makes_no_sense(values: list[str], first: int | None) -> None:
    """An ``Age`` that is none means stale, or nothing if the policy says so."""
    fields = [control("max-age=3600"), *(("Age", value) for value in values)]

    assert _lifetime(*fields) <= -1
    ignoring = _lifetime(*fields, policy=CachePolicy(bad_age="ignore"))
    assert ignoring == max(3600 - (first or 0), -NOW)


# --------------------------------------------------------------- stale windows


@pytest.mark.parametrize(
    ("value", "revalidating", "error"),
    [
        ("max-age=60", 5, 6),
        ("max-age=60, stale-while-revalidate=10", 10, 6),
        ("max-age=60, stale-if-error=10", 5, 10),
        ("max-age=60, stale-if-error=0", 5, 0),
        ("max-age=60, stale-if-error=x, stale-while-revalidate", 0, 0),
        ("max-age=60, stale-if-error=1, stale-if-error=2", 5, 0),
        ("max-age=60, stale-if-error=99999999999", 5, _FOREVER),
        ("max-age=60, stale-if-error=10, must-revalidate", 0, 0),
        ("max-age=60, stale-while-revalidate=10, proxy-revalidate", 0, 0),
        ("s-maxage=60, stale-while-revalidate=10, stale-if-error=10", 0, 0),
        ("no-cache, stale-while-revalidate=10, stale-if-error=10", 0, 0),
    ],
)
def test_stale_windows(value: str, revalidating: int, error: int) -> None:
    """The response says for how long it may be served stale, or forbids it (section 4.2.4)."""
    policy = CachePolicy(stale_while_revalidate=5, stale_if_error=6)

    meta = store(control(value), _ETAG, policy=policy)

    assert (meta.stale_while_revalidate, meta.stale_if_error) == (revalidating, error)


@pytest.mark.parametrize("fields", [[], [control("max-age=0")], [("Expires", "0")]])
def test_stale_windows_of_what_was_never_fresh(fields: list[tuple[str, str]]) -> None:
    """What may not be served without asking is not, whatever the policy grants to others."""
    policy = CachePolicy(stale_while_revalidate=5, stale_if_error=6)

    meta = store(*fields, _ETAG, policy=policy)

    assert (meta.stale_while_revalidate, meta.stale_if_error) == (0, 0)
    own = store(*fields, control("stale-if-error=7"), _ETAG, policy=policy)
    assert own.stale_if_error == 7


# ----------------------------------------------------------------- the clock


@settings(deadline=None)
@given(
    st.integers(0, 100_000),
    st.one_of(st.none(), st.integers(0, 100_000)),
    st.one_of(st.none(), st.integers(-100_000, 100_000)),
    st.floats(-100_000, 100_000),
    st.floats(-100_000, 100_000),
)
def test_clocks_that_jump(
    max_age: int, age: int | None, date: int | None, delay: float, jump: float
) -> None:
    """Whatever clocks do, nothing is served for longer than it may be fresh, plus a minute."""
    fields = [control(f"max-age={max_age}")]
    fields += [] if age is None else [("Age", str(age))]
    fields += [] if date is None else [("Date", ago(date))]
    response = ResponseHeader(200, headers=[*fields, _ETAG])

    verdict = POLICY.response_cacheable(
        get(), response, request_time=NOW - delay, response_time=NOW
    )

    assert isinstance(verdict, Cacheable)
    meta = verdict.meta
    assert meta.epoch <= NOW
    assert meta.fresh_until <= NOW + max_age
    now = NOW + jump
    assert meta.age(now) >= 0
    if POLICY.hit_verdict(get(), meta, now) is HitVerdict.FRESH:
        assert -60 <= now - NOW <= max_age
        assert age is None or age + now - NOW <= max_age + 1e-3


# ------------------------------------------------------------------ the oracle

_seconds = st.one_of(st.none(), st.integers(0, 10**7))


@settings(max_examples=300, deadline=None)
@given(_seconds, _seconds, _seconds, st.integers(0, 10**6), st.one_of(st.none(), _seconds))
def test_as_hishel_reckons(
    max_age: int | None,
    s_maxage: int | None,
    expires: int | None,
    made: int,
    modified: int | None,
) -> None:
    """An independent implementation reckons the same lifetime and age, within a second."""
    directives = [f"max-age={max_age}"] if max_age is not None else []
    directives += [f"s-maxage={s_maxage}"] if s_maxage is not None else []
    fields = [("Date", ago(made))]
    fields += [control(", ".join(directives))] if directives else []
    fields += [("Expires", ago(made - expires))] if expires is not None else []
    fields += [("Last-Modified", ago(made + modified))] if modified is not None else []
    theirs = Response(200, Headers(dict(fields)))

    meta = store(*fields, _ETAG, policy=CachePolicy(heuristic_max=604800.0))

    with patch.object(time, "time", return_value=NOW):
        lifetime, age = get_freshness_lifetime(theirs, is_cache_shared=True), get_age(theirs)
    assert meta.age(NOW) == pytest.approx(age, abs=1.0)
    heuristic = not directives and expires is None
    # It measures the time since Last-Modified to now, the RFC to Date.
    slack = 2.0 + (0.1 * made if heuristic else 0.0)
    ours = meta.fresh_until - meta.epoch
    if ours > 0 or (lifetime or 0) > age + slack:
        assert ours == pytest.approx(lifetime or 0, abs=slack)
