"""Numbers, reasons and durations: what is told about requests and stores."""

from __future__ import annotations

import pytest

from pingora_cache.body_size import BodySizeTracker
from pingora_cache.phase import CachePhase, ForcedFreshness, HitStatus
from pingora_cache.reason import NoCacheReason
from pingora_cache.stats import CacheStats, StorageStats


def test_every_phase_is_counted_somewhere() -> None:
    """A request ends in one of the phases, and is counted once in one of the numbers."""
    stats = CacheStats()
    for phase in CachePhase:
        stats.count(phase)
    assert stats.requests == len(CachePhase)
    assert (stats.hits, stats.misses, stats.stale, stats.expired, stats.uncached) == (1,) * 5
    assert (stats.revalidated, stats.unfinished) == (2, 2)
    assert repr(stats) == "<CacheStats 1 hits of 11 requests>"


def test_reasons_are_bounded() -> None:
    """However many reasons an application invents, they do not fill the memory."""
    stats = CacheStats()
    for number in range(100):
        stats.count_reason(NoCacheReason.custom(str(number)))
    stats.count_reason(NoCacheReason.custom("0"))
    assert len(stats.reasons) == 65
    assert stats.reasons["0"] == 2
    assert stats.reasons["other"] == 36


def test_a_snapshot_has_everything() -> None:
    """One flat table of numbers, for whoever exports them."""
    stats = CacheStats()
    stats.count(CachePhase.DISABLED)
    stats.count_reason(NoCacheReason.UPSTREAM_ERROR)
    stats.count_age(5.0)
    stats.count_age(3.0)
    numbers = stats.snapshot()
    assert set(numbers) == {*CacheStats.__slots__, "requests", "reasons.UpstreamError"} - {
        "reasons"
    }
    assert numbers["reasons.UpstreamError"] == numbers["requests"] == numbers["uncached"] == 1
    assert (numbers["age_sum"], numbers["age_max"]) == (8.0, 5.0)


def test_the_numbers_of_a_store() -> None:
    """All of them are 0 at first."""
    stats = StorageStats()
    assert stats.snapshot() == dict.fromkeys(StorageStats.__slots__, 0)
    stats.objects, stats.used_bytes = 2, 30
    assert repr(stats) == "<StorageStats 2 objects, 30 bytes>"


def test_reasons() -> None:
    """A reason prints as Pingora's name; an application's own is another one of that name."""
    assert str(NoCacheReason.CACHE_LOCK_GIVE_UP) == "CacheLockGiveUp"
    assert NoCacheReason.custom("Deferred") != NoCacheReason.DEFERRED
    assert NoCacheReason("Deferred") == NoCacheReason.DEFERRED
    assert NoCacheReason.custom("x") == NoCacheReason.custom("x")
    assert len({NoCacheReason.custom("x"), NoCacheReason.custom("x"), NoCacheReason("x")}) == 2
    assert NoCacheReason("x") != "x"
    assert repr(NoCacheReason("x")) == "NoCacheReason('x')"
    assert repr(NoCacheReason.custom("x")) == "NoCacheReason('x', is_custom=True)"
    with pytest.raises(AttributeError, match="immutable"):
        NoCacheReason.DEFERRED.name = "x"


def test_texts_of_phases() -> None:
    """The words of Pingora's logs."""
    assert [str(phase) for phase in CachePhase] == [
        "disabled",
        "uninitialized",
        "bypass",
        "key",
        "hit",
        "miss",
        "stale",
        "stale-updating",
        "expired",
        "revalidated",
        "revalidated-nocache",
    ]


@pytest.mark.parametrize(
    ("status", "is_fresh", "is_miss"),
    [
        (HitStatus.EXPIRED, False, False),
        (HitStatus.FORCE_EXPIRED, False, False),
        (HitStatus.FORCE_MISS, False, True),
        (HitStatus.FAILED_HIT_FILTER, False, True),
        (HitStatus.FRESH, True, False),
        (HitStatus.FORCE_FRESH, True, False),
    ],
    ids=str,
)
def test_hit_status(status: HitStatus, is_fresh: bool, is_miss: bool) -> None:
    """What can be served, and what is not even looked at."""
    assert (status.is_fresh, status.is_treated_as_miss) == (is_fresh, is_miss)


def test_forced_freshness() -> None:
    """What an application forces is a hit status of the same name."""
    for forced in ForcedFreshness:
        assert forced.hit_status.name == forced.name
        assert str(forced) == str(forced.hit_status)


def test_body_size() -> None:
    """The limit itself is allowed; beyond it is beyond it, also if nothing more comes."""
    tracker = BodySizeTracker(10)
    assert tracker.add(4)
    assert tracker.add(6)
    exceeded = [tracker.is_exceeded]
    assert not tracker.add(1)
    assert not tracker.add(0)
    exceeded.append(tracker.is_exceeded)
    assert exceeded == [False, True]
    assert (tracker.seen, tracker.limit) == (11, 10)
    with pytest.raises(ValueError, match="smaller than nothing"):
        BodySizeTracker(-1)
