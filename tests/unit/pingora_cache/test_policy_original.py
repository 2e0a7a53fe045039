"""The preset decides as Pingora does."""

from __future__ import annotations

from pingora_cache.filters import CacheMetaDefaults
from pingora_cache.policy import CachePolicy
from pingora_cache.verdict import Cacheable, HitVerdict
from tests.support.cache_policy import NOW, ago, control, get, refusal, respond, store

_POLICY = CachePolicy.pingora(CacheMetaDefaults(lambda status: 10 if status == 200 else None, 1, 2))


def test_what_it_stores() -> None:
    """Explicit freshness is enough for any status, and much is not looked at."""
    for fields in (
        [control("max-age=60"), ("Age", "100")],
        [control("max-age=60"), ("Vary", "*")],
        [control("max-age=60"), ("Set-Cookie", "a")],
        [control("max-age=60"), ("CDN-Cache-Control", "no-store")],
    ):
        assert store(*fields, policy=_POLICY).fresh_until == NOW + 60
    assert store(control("max-age=60"), status=206, policy=_POLICY).fresh_until == NOW + 60
    meta = store(policy=_POLICY)
    assert (meta.fresh_until, meta.stale_while_revalidate, meta.stale_if_error) == (NOW + 10, 1, 2)


def test_what_it_does_not() -> None:
    """Methods, directives, credentials and statuses without a default forbid."""
    post, authorized = get(method="POST"), get(("Authorization", "x"))

    assert refusal(request=post, policy=_POLICY) == "method"
    assert _POLICY.request_cacheable(get(control("no-store"))) is None
    for verdict in (
        _POLICY.response_cacheable(get(), respond(*fields), request_time=NOW, response_time=NOW)
        for fields in ([control("no-store")], [control("private")])
    ):
        assert not isinstance(verdict, Cacheable)
    assert not isinstance(
        _POLICY.response_cacheable(authorized, respond(), request_time=NOW, response_time=NOW),
        Cacheable,
    )


def test_what_clients_ask() -> None:
    """Nobody may ask for anything."""
    meta = store(control("max-age=60"), policy=_POLICY)
    request = get(control("no-cache, only-if-cached"), ("Pragma", "no-cache"))

    assert _POLICY.hit_verdict(request, meta, NOW) is HitVerdict.FRESH
    assert _POLICY.hit_verdict(get(control("max-stale")), meta, NOW + 61) is HitVerdict.STALE
    assert not _POLICY.only_if_cached(request)


def test_a_304_changes_five_fields() -> None:
    """Only the fields about caching, and the tag, are taken from a 304."""
    meta = store(
        control("max-age=1"), ("ETag", '"a"'), ("X", "1"), ("Cache-Tag", "t"), policy=_POLICY
    )
    new = respond(
        control("max-age=5"), control("public"), ("ETag", '"b"'), ("X", "2"), ("Vary", "y"),
        ("Date", ago(0)), ("Expires", "0"), status=304,
    )  # fmt: skip

    verdict = _POLICY.merge_304(meta, new, get(), request_time=NOW + 9, response_time=NOW + 9)

    assert isinstance(verdict, Cacheable)
    assert (verdict.meta.created, verdict.meta.updated) == (NOW, NOW + 9)
    assert verdict.meta.fresh_until == NOW + 14
    assert list(verdict.meta.header) == [
        ("X", "1"), ("Cache-Tag", "t"), control("max-age=5"), control("public"), ("ETag", '"b"'),
        ("Expires", "0"),
    ]  # fmt: skip
    forbidding = respond(control("no-store"), status=304)
    assert not isinstance(
        _POLICY.merge_304(meta, forbidding, get(), request_time=NOW, response_time=NOW), Cacheable
    )


def test_what_is_left_to_the_application() -> None:
    """No variants, no invalidation, nothing learnt from HEAD."""
    meta = store(control("max-age=60"), ("Vary", "Foo"), policy=_POLICY)
    post = get(method="POST")

    assert not _POLICY.varies(meta)
    assert _POLICY.variance(meta, get(("Foo", "1"))) is None
    assert _POLICY.invalidated(post, respond(("Location", "/")), scheme="http") == []
    assert (
        _POLICY.freshened_by_head(meta, respond(), get(), request_time=NOW, response_time=NOW)
        is None
    )
