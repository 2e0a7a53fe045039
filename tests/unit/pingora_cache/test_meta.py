"""Metas: when a stored response may be used."""

from __future__ import annotations

import pytest

from pingora_cache.meta import CacheMeta
from pingora_http import ResponseHeader

_NOW = 1_700_000_000.0


def _meta(**changes: float | bytes | tuple[bytes, ...] | None) -> CacheMeta:
    meta = CacheMeta(ResponseHeader(200), created=_NOW, fresh_until=_NOW + 100)
    return meta.replace(**changes)  # type: ignore[arg-type]  # any of them


# ------------------------------------------------------------------- as the original


def test_cache_meta_age_without_override() -> None:
    """The age counts from when the response was stored, or validated last."""
    meta = CacheMeta(ResponseHeader(200), created=_NOW, fresh_until=_NOW + 100)
    assert meta.epoch == meta.updated == _NOW
    assert meta.age(_NOW) == 0
    assert meta.age(_NOW + 1.5) == 1.5

    meta = CacheMeta(ResponseHeader(200), created=_NOW, updated=_NOW + 5, fresh_until=_NOW + 100)
    assert meta.epoch == _NOW + 5
    assert meta.age(_NOW + 6) == 1


def test_cache_meta_age_with_epoch_override_past() -> None:
    """A response that was old when it came is that much older."""
    meta = _meta(epoch_override=_NOW - 10)

    assert meta.epoch == _NOW - 10
    assert meta.age(_NOW) == 10


def test_cache_meta_age_with_epoch_override_future() -> None:
    """An age is never negative."""
    meta = _meta(epoch_override=_NOW + 10)

    assert meta.epoch == _NOW + 10
    assert meta.age(_NOW) == 0


def test_cache_meta_fresh_sec() -> None:
    """How long it is fresh counts from the epoch."""
    meta = CacheMeta(ResponseHeader(200), created=_NOW, fresh_until=_NOW + 100.9)
    assert meta.fresh_sec == 100

    meta = meta.replace(epoch_override=_NOW + 50)
    assert meta.fresh_sec == 50
    assert meta.replace(epoch_override=_NOW + 150).fresh_sec == 0
    assert meta.replace(epoch_override=None).fresh_sec == 100


# ------------------------------------------------------------------- freshness


def test_freshness_is_inclusive() -> None:
    """It is fresh up to the last instant, and not after it."""
    meta = _meta()

    assert meta.is_fresh(_NOW)
    assert meta.is_fresh(_NOW + 100)
    assert not meta.is_fresh(_NOW + 100.001)


def test_a_clock_that_was_set_back() -> None:
    """What comes from the future by more than a minute is stale: the clock was wrong, or is."""
    meta = _meta()
    assert meta.is_fresh(_NOW - 60)
    assert not meta.is_fresh(_NOW - 61)

    # It was validated by the clock that was ahead.
    assert not _meta(created=_NOW - 1000, updated=_NOW + 61).is_fresh(_NOW)


def test_to_be_validated_always() -> None:
    """With no-cache it is never fresh, and never served stale."""
    meta = _meta(revalidate=True, stale_while_revalidate=1000, stale_if_error=1000)

    assert not meta.is_fresh(_NOW)
    assert not meta.serve_stale_while_revalidate(_NOW + 101)
    assert not meta.serve_stale_if_error(_NOW + 101)


def test_stale_windows() -> None:
    """Each window begins when freshness ends, and is inclusive too; none means never."""
    meta = _meta(stale_while_revalidate=5, stale_if_error=10)
    assert meta.serve_stale_while_revalidate(_NOW + 105)
    assert not meta.serve_stale_while_revalidate(_NOW + 105.001)
    assert meta.serve_stale_if_error(_NOW + 110)
    assert not meta.serve_stale_if_error(_NOW + 110.001)

    for never in (_meta(), meta.without_stale()):
        assert not never.serve_stale_while_revalidate(_NOW)
        assert not never.serve_stale_if_error(_NOW)


def test_soft_purge() -> None:
    """What is made to expire is stale at once; its stale windows begin then."""
    meta = _meta(stale_if_error=10)
    purged = meta.expired(_NOW + 50)
    assert not purged.is_fresh(_NOW + 50)
    assert purged.serve_stale_if_error(_NOW + 59)
    assert not purged.serve_stale_if_error(_NOW + 60)
    assert meta.is_fresh(_NOW + 50)

    # What had expired before stays as stale as it was.
    assert meta.expired(_NOW + 500).fresh_until == meta.fresh_until


# ------------------------------------------------------------------- copies


def test_replace() -> None:
    """A copy differs in what is named, and in nothing else."""
    meta = CacheMeta(
        ResponseHeader(200),
        created=1.0,
        updated=2.0,
        fresh_until=3.0,
        stale_while_revalidate=4,
        stale_if_error=5,
        variance=bytes(16),
        epoch_override=0.5,
        tags=(b"a",),
        revalidate=True,
    )
    assert meta.replace() == meta
    assert meta.replace().header is meta.header

    changed = meta.replace(variance=None, tags=(b"b",), updated=2.5, epoch_override=None)
    assert changed != meta
    assert (changed.variance, changed.tags, changed.epoch) == (None, (b"b",), 2.5)
    assert (
        changed.replace(variance=bytes(16), tags=(b"a",), updated=2.0, epoch_override=0.5) == meta
    )
    head = ResponseHeader(404)
    assert meta.replace(header=head).header is head


def test_replace_checks() -> None:
    """A copy is as right as an original."""
    with pytest.raises(TypeError, match="'epoch'"):
        _meta(epoch=1.0)
    with pytest.raises(ValueError, match="16 bytes"):
        _meta(variance=b"short")
    with pytest.raises(ValueError, match="negative"):
        _meta(stale_if_error=-1)
    with pytest.raises(ValueError, match="negative"):
        _meta(stale_while_revalidate=-1)
    with pytest.raises(ValueError, match="16 bytes"):
        CacheMeta(ResponseHeader(200), created=1.0, fresh_until=2.0, variance=b"")


def test_extensions_are_copied() -> None:
    """What is hung on a copy is not seen on the original."""
    meta = _meta()
    assert meta.extensions == {}
    meta.extensions["a"] = 1
    other = meta.replace(stale_if_error=1)
    other.extensions["b"] = 2

    assert meta.extensions == {"a": 1}
    assert other.extensions == {"a": 1, "b": 2}
    assert meta == meta.replace()


def test_equality() -> None:
    """All that is stored counts; a meta is no key of a dictionary."""
    assert _meta() == _meta()
    assert _meta() != _meta(created=_NOW - 1)
    assert _meta() != 1
    assert _meta().replace(header=ResponseHeader(201)) != _meta()
    with pytest.raises(TypeError):
        hash(_meta())


def test_size() -> None:
    """It counts for about what it takes: fields and tags are not free."""
    small = _meta()
    head = ResponseHeader(200, headers=[("X", "y" * 1000)])
    large = small.replace(header=head, tags=(b"t" * 100,) * 3)

    assert 300 < small.size < 1000
    assert 1300 < large.size - small.size < 2000


def test_repr() -> None:
    """A meta in a log tells its status and times."""
    assert repr(_meta()) == "<CacheMeta 200 created=1700000000.000 fresh_until=1700000100.000>"
