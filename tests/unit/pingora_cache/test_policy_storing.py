"""Which responses are stored, and what of them (RFC 9111 section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.policy import HEURISTIC_STATUSES, NEVER_STORED_STATUSES, CachePolicy
from pingora_cache.reason import NoCacheReason
from pingora_cache.tags import TagField
from pingora_cache.verdict import Cacheable, Uncacheable
from pingora_http import ResponseHeader
from tests.support.cache_policy import NOW, POLICY, ago, control, get, refusal, respond, store

if TYPE_CHECKING:
    from pingora_http import RequestHeader

_FRESH = control("max-age=60")
_ETAG = ("ETag", '"a"')


# ------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("request_", "detail"),
    [
        (get(), None),
        (get(method="HEAD"), None),
        (get(("Content-Length", "0")), None),
        (get(control("max-age=0"), ("Pragma", "no-cache"), ("Cookie", "a=b")), None),
        (get(method="POST"), "method"),
        (get(method="OPTIONS"), "method"),
        (get(method="get"), "method"),
        (get(("Content-Length", "5")), "request body"),
        (get(("Content-Length", "00")), "request body"),
        (get(("Transfer-Encoding", "chunked")), "request body"),
        (get(("X-HTTP-Method-Override", "DELETE")), "method override"),
        (get(("x-http-method", "PUT")), "method override"),
        (get(("X-Method-Override", "PUT")), "method override"),
        (get(control("No-Store")), "no-store in the request"),
        (get(control("a"), control("b, no-store")), "no-store in the request"),
        (get(control('a="no-store"')), None),
    ],
)
def test_which_requests(request_: RequestHeader, detail: str | None) -> None:
    """Only what the key tells apart may use the cache: a GET or HEAD without a body."""
    refused = POLICY.request_cacheable(request_)

    assert refused == (
        None if detail is None else Uncacheable(NoCacheReason.ORIGIN_NOT_CACHE, detail)
    )
    assert refusal(_FRESH, request=request_) == (detail or "")


# ----------------------------------------------------------------- directives


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("max-age=60", ""),
        ("no-store", "no-store"),
        ("No-StOrE", "no-store"),
        ("max-age=60, no-store", "no-store"),
        ("no-store=1, max-age=60", "no-store"),
        ("private, max-age=60", "private"),
        ('max-age=60, private, private="x"', "private"),
        ('private="x", max-age=60, private', "private"),
        ('private="", max-age=60', "private"),
        ('private="a b", max-age=60', "private"),
        ('private="vary", max-age=60', "private"),
        ('private="x", max-age=60', ""),
        ("private=x, max-age=60", ""),
        ('max-age=60, x="no-store, private"', ""),
        ('max-age=60, x="no-store', "malformed Cache-Control"),
        ("max-age=60; no-store", "no-store"),
        ("max-age=60 , ,, foo, no-storex", ""),
        ("must-understand, max-age=60", ""),
        ("must-understand, no-store, max-age=60", ""),
        ("must-understand, no-store, private, max-age=60", "private"),
    ],
)
def test_directives_that_forbid(value: str, detail: str) -> None:
    """What forbids to store wins, in whatever form or company it comes."""
    assert refusal(control(value)) == detail


def test_directives_over_several_lines() -> None:
    """All lines count, also those after one that permits."""
    assert refusal(_FRESH, control("private")) == "private"
    assert refusal(control('a="'), control('b=", no-store, c="')) == "malformed Cache-Control"


@pytest.mark.parametrize(
    ("status", "detail"),
    [(200, ""), (404, ""), (500, ""), (299, "must-understand"), (599, "must-understand")],
)
def test_must_understand(status: int, detail: str) -> None:
    """A status that is not known must not be stored if the response wants it known."""
    assert refusal(control("max-age=60, must-understand"), status=status) == detail
    assert refusal(_FRESH, status=status) == ""


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (None, "Authorization"),
        ("max-age=60", "Authorization"),
        ("proxy-revalidate, max-age=60", "Authorization"),
        ("public", ""),
        ("public, max-age=60", ""),
        ("must-revalidate, max-age=60", ""),
        ("s-maxage=60", ""),
        ("s-maxage=x", ""),
        ("public, private", "private"),
    ],
)
def test_authorization(value: str | None, detail: str) -> None:
    """What is answered to credentials is for one, unless it says otherwise (section 3.5)."""
    fields = [] if value is None else [control(value)]

    request = get(("Authorization", "Basic eA=="))

    assert refusal(*fields, _ETAG, request=request) == detail


# ------------------------------------------------------------ targeted fields


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ([("CDN-Cache-Control", "max-age=60"), control("no-store")], ""),
        ([("CDN-Cache-Control", "max-age=60"), control("private, no-store")], ""),
        ([("CDN-Cache-Control", "no-store"), _FRESH], "no-store"),
        ([("CDN-Cache-Control", "private"), _FRESH], "private"),
        ([("CDN-Cache-Control", 'max-age="60"'), control("no-store")], "no-store"),
        ([("CDN-Cache-Control", "max-age=60, &&&"), control("no-store")], "no-store"),
        ([("CDN-Cache-Control", ""), control("no-store")], "no-store"),
        ([("Surrogate-Control", "max-age=60"), control("no-store")], "no-store"),
    ],
)
def test_targeted_fields(fields: list[tuple[str, str]], detail: str) -> None:
    """A field for caches like this one takes the place of the others, if it can be read."""
    assert refusal(*fields) == detail


def test_targeted_fields_of_ones_own() -> None:
    """Which fields, and in which order, is the policy's to say."""
    fields = [("CDN-Cache-Control", "no-store"), ("My-CC", "max-age=60"), control("private")]
    surrogate = [("Surrogate-Control", "max-age=60"), control("no-store")]

    assert (
        refusal(*fields, policy=CachePolicy(targeted_fields=("My-CC", "CDN-Cache-Control"))) == ""
    )
    assert refusal(*fields, policy=CachePolicy(targeted_fields=())) == "private"
    assert refusal(*surrogate, policy=CachePolicy(surrogate_control=True)) == ""
    fields.append(("Surrogate-Control", "max-age=60"))
    assert refusal(*fields, policy=CachePolicy(surrogate_control=True)) == "no-store"


# ------------------------------------------------------------------- statuses


@pytest.mark.parametrize("status", [100, 101, 103, *sorted(NEVER_STORED_STATUSES)])
def test_statuses_that_are_never_stored(status: int) -> None:
    """What answers one request or one connection is not stored, however fresh."""
    assert refusal(control("public, max-age=60"), status=status) == f"status {status}"


@pytest.mark.parametrize(
    "status", [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599]
)  # fmt: skip
def test_any_other_status_with_explicit_freshness(status: int) -> None:
    """Explicit freshness is enough for any other."""
    assert refusal(_FRESH, status=status) == ""
    assert refusal(("Expires", ago(-60)), status=status) == ""


@pytest.mark.parametrize("status", [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
def test_statuses_that_are_stored_without_being_told(status: int) -> None:
    """Some need no word about storing (RFC 9110 section 15.1)."""
    assert refusal(("Last-Modified", ago(86400)), status=status) == ""
    assert status in HEURISTIC_STATUSES


@pytest.mark.parametrize("status", [201, 202, 302, 307, 403, 500, 502, 503, 504, 599])
def test_statuses_that_are_not(status: int) -> None:
    """Others do, and ``public`` is one."""
    modified = ("Last-Modified", ago(86400))

    assert refusal(modified, status=status) == f"status {status} without freshness"
    assert refusal(modified, control("no-cache"), status=status) != ""
    assert refusal(modified, control("public"), status=status) == ""


def test_what_could_never_be_used() -> None:
    """A response that is stale at once and cannot be validated is not stored."""
    useless = "stale without a validator"

    assert refusal() == useless
    assert refusal(control("max-age=0")) == useless
    assert refusal(control("no-cache")) == useless
    assert refusal(("Expires", "0")) == useless
    assert refusal(_FRESH, ("Age", "100")) == useless
    for more in (_ETAG, ("Last-Modified", ago(0)), control("stale-if-error=5")):
        assert refusal(control("max-age=0"), more) == ""
    windows = CachePolicy(stale_while_revalidate=5, stale_if_error=5)
    for fields in ([], [control("max-age=0")], [control("no-cache")]):
        assert refusal(*fields, policy=windows) == useless
    assert refusal(_FRESH, ("Age", "100"), policy=windows) == ""


# ----------------------------------------------------------------- set-cookie


@pytest.mark.parametrize(
    ("fields", "deny", "strip"),
    [
        ([_FRESH], "Set-Cookie", ""),
        ([("Expires", ago(-60))], "Set-Cookie", ""),
        ([control("max-age=60, public")], "", ""),
        ([control("s-maxage=60")], "", ""),
        ([control('max-age=60, no-cache="set-cookie"')], "", ""),
        ([("CDN-Cache-Control", "max-age=60"), control("private")], "", ""),
    ],
)
def test_set_cookie(fields: list[tuple[str, str]], deny: str, strip: str) -> None:
    """Cookies are stored only where the policy says so; else the response goes without."""
    cookie = ("Set-Cookie", "session=1")

    for mode, detail in (("deny", deny), ("strip", strip)):
        policy = CachePolicy(set_cookie="deny" if mode == "deny" else "strip")
        assert refusal(*fields, cookie, policy=policy) == detail
        if not detail:
            assert "set-cookie" not in store(*fields, cookie, policy=policy).header
    kept = store(*fields, cookie, policy=CachePolicy(set_cookie="store")).header
    assert ("set-cookie" in kept) is ('no-cache="' not in fields[0][1])


# ------------------------------------------------------------- deceptive heads


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("Accept", ""),
        ("accept, ,Foo,", ""),
        ("", ""),
        ("*", "Vary"),
        ("*, *", "Vary"),
        (", *", "Vary"),
        ("Foo, *", "Vary"),
        ("*, Foo", "Vary"),
        ("Foo Bar", "Vary"),
        ('"Foo"', "Vary"),
        (", ".join(f"x-{n}" for n in range(64)), ""),
        (", ".join(f"x-{n}" for n in range(65)), "Vary"),
    ],
)
def test_vary(value: str, detail: str) -> None:
    """A response for nobody else is not stored, nor one whose ``Vary`` cannot be read."""
    assert refusal(_FRESH, ("Vary", value)) == detail


def test_vary_on_several_lines() -> None:
    """The star is found on any line."""
    assert refusal(_FRESH, ("Vary", ""), ("Vary", "*")) == "Vary"
    assert refusal(_FRESH, ("Vary", "a"), ("vary", "b, *")) == "Vary"


@pytest.mark.parametrize(
    "name", ["Vary", "cache-control", "Content-Encoding", "content-type", "CDN-Cache-Control", "Date"]
)  # fmt: skip
def test_fields_that_must_not_go(name: str) -> None:
    """Neither ``Connection`` nor a list of private fields makes another response of it."""
    fields = [("Vary", "Accept"), _FRESH]

    assert refusal(*fields, ("Connection", f"x, {name}")) == "Connection"
    assert refusal(*fields, control(f'private="x, {name}"')) == "private"
    listed = store(*fields, _ETAG, control(f'no-cache="x, {name}"'))
    assert listed.revalidate
    assert listed.header.get("vary") == "Accept"


# ----------------------------------------------------------- what is left out


def test_fields_of_the_connection_are_not_stored() -> None:
    """What belongs to the connection or the proxy stays there (section 3.1); ``Age`` is told anew."""
    meta = store(
        _FRESH,
        ("Connection", "a, B"), ("a", "1"), ("b", "2"), ("Keep-Alive", "x"), ("TE", "x"),
        ("Proxy-Authenticate", "x"), ("Proxy-Authentication-Info", "x"), ("Upgrade", "x"),
        ("Proxy-Authorization", "x"), ("Proxy-Connection", "x"), ("Trailer", "x"),
        ("Transfer-Encoding", "chunked"), ("Age", "1"), ("Date", ago(0)), ("C", "3"),
    )  # fmt: skip

    assert list(meta.header) == [_FRESH, ("Date", ago(0)), ("C", "3")]


def test_other_fields_are_stored() -> None:
    """Everything else is, repeated fields and unknown ones included."""
    fields = [
        _FRESH, _ETAG, ("Date", ago(0)), ("X", "1"), ("x", "2"), ("Set-Cookie2", "a=b"),
        ("Content-Range", "x"), ("Warning", "199 - a"), ("Content-Length", "10"),
    ]  # fmt: skip

    assert list(store(*fields).header) == fields


def test_listed_fields_are_not_stored() -> None:
    """Fields named by ``private`` and ``no-cache`` are left out, the response is fresh."""
    meta = store(control('no-cache="a, Set-Cookie", private="b"'), _FRESH, ("A", "1"), ("B", "2"),
                 ("Set-Cookie", "x"), ("C", "3"))  # fmt: skip

    assert meta.is_fresh(NOW)
    assert not {"a", "b", "set-cookie"} & {name.lower() for name, _ in meta.header}
    assert meta.header.get("c") == "3"


@pytest.mark.parametrize("value", [None, "foo", "0"])
def test_date_is_added(value: str | None) -> None:
    """A response that does not say when it was made was made when it came (RFC 9110 6.6.1)."""
    fields = [] if value is None else [("Date", value)]

    assert store(_FRESH, *fields).header.get_all("date") == [ago(0)]


def test_tags() -> None:
    """Tags are read, from the fields that the policy names."""
    fields = [_FRESH, ("Cache-Tag", "a,b"), ("My-Tags", "c d")]

    assert store(*fields).tags == (b"a", b"b")
    own = CachePolicy(tag_fields=(TagField("My-Tags", " "),))
    assert store(*fields, policy=own).tags == (b"c", b"d")


# -------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "make",
    [
        lambda: CachePolicy(heuristic_fraction=1.5),
        lambda: CachePolicy(heuristic_fraction=float("nan")),
        lambda: CachePolicy(heuristic_max=-1),
        lambda: CachePolicy(stale_if_error=-1),
        lambda: CachePolicy(stale_while_revalidate=-1),
        lambda: CachePolicy(max_ttl=-1),
        lambda: CachePolicy(default_ttl={200: -1}),
        lambda: CachePolicy(default_ttl={429: 5}),
        lambda: CachePolicy(set_cookie="maybe"),  # type: ignore[arg-type]
        lambda: CachePolicy(bad_age="maybe"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_be_meant(make: type[CachePolicy]) -> None:
    """A policy that makes no sense is refused when it is made."""
    with pytest.raises(ValueError, match=r"\w"):
        make()


_names = st.sampled_from([
    "Cache-Control", "CDN-Cache-Control", "Vary", "Age", "Date", "Expires", "Pragma", "Connection",
    "Set-Cookie", "ETag", "Last-Modified", "Content-Range",
])  # fmt: skip
_values = st.one_of(
    st.sampled_from([
        "no-store", "private", "public", "max-age=60", "max-age=-1", "s-maxage=5", "*", "0", "60",
        "Foo", "no-cache", 'no-cache="etag"', "must-revalidate", ago(0), ago(-60), ago(1e6), "close",
        "max-age=99999999999999999999", 'private="', "stale-while-revalidate=9", "must-understand",
    ]),
    st.text(alphabet="".join(map(chr, [*range(32, 127), 9, *range(160, 256)])), max_size=20),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(_names, _values), max_size=6), st.integers(200, 599), st.booleans())
def test_any_head(fields: list[tuple[str, str]], status: int, authorized: bool) -> None:
    """Whatever a response says, there is a decision, and it is one that keeps the promises."""
    request = get(*([("Authorization", "x")] if authorized else []))
    response = ResponseHeader(status, headers=fields)

    verdict = POLICY.response_cacheable(request, response, request_time=NOW, response_time=NOW)

    if not isinstance(verdict, Cacheable):
        assert verdict.detail
        return
    meta = verdict.meta
    assert status not in NEVER_STORED_STATUSES
    assert meta.created == meta.updated == NOW
    assert meta.epoch <= NOW
    assert meta.is_fresh(NOW) or meta.fresh_until <= NOW - 1 or meta.revalidate
    assert "set-cookie" not in meta.header
    assert "age" not in meta.header
    lines = [value for name, value in fields if name == "Cache-Control"]
    if not any(name == "CDN-Cache-Control" for name, _ in fields):
        assert "private" not in lines
        assert "no-store" not in lines or "must-understand" in ",".join(lines)
    assert all("*" not in value.split(",") for value in response.get_all("vary"))
    assert POLICY.hit_verdict(request, meta, NOW) is not None


def test_the_response_is_left_alone() -> None:
    """What comes from the upstream goes on unchanged: the copy is what is cleaned."""
    response = respond(_FRESH, ("Connection", "close"), ("Age", "1"), ("Set-Cookie", "a"))

    POLICY.response_cacheable(get(), response, request_time=NOW, response_time=NOW)

    assert list(response) == list(respond(*response))
