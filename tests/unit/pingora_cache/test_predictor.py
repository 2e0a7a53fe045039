"""The predictor remembers what was uncacheable, and only that.

Source: the tests of pingora-cache/src/predictor.rs.
"""

from __future__ import annotations

import pytest

from pingora_cache.key import CacheKey
from pingora_cache.predictor import Predictor
from pingora_cache.reason import NoCacheReason

KEY = CacheKey("b", namespace="a", user_tag="c")


def test_mark_cacheability() -> None:
    """Trouble is not remembered; what the origin said is, until it says otherwise."""
    predictor = Predictor(10)
    assert predictor.cacheable_prediction(KEY)

    assert predictor.mark_uncacheable(KEY, NoCacheReason.INTERNAL_ERROR) is None
    assert predictor.cacheable_prediction(KEY)
    assert predictor.mark_uncacheable(KEY, NoCacheReason.STORAGE_ERROR) is None
    assert predictor.cacheable_prediction(KEY)

    assert predictor.mark_uncacheable(KEY, NoCacheReason.ORIGIN_NOT_CACHE) is True
    assert not predictor.cacheable_prediction(KEY)
    assert predictor.mark_uncacheable(KEY, NoCacheReason.ORIGIN_NOT_CACHE) is False

    assert predictor.mark_cacheable(KEY) is False
    assert predictor.cacheable_prediction(KEY)
    assert predictor.mark_cacheable(KEY) is True


def test_custom_skip_predicate() -> None:
    """The application says which of its own reasons are not remembered."""
    predictor = Predictor(10, skip_custom_reason=lambda text: text == "Skipping")
    assert predictor.cacheable_prediction(KEY)

    assert predictor.mark_uncacheable(KEY, NoCacheReason.INTERNAL_ERROR) is None
    assert predictor.cacheable_prediction(KEY)

    assert predictor.mark_uncacheable(KEY, NoCacheReason.custom("DontCacheMe")) is True
    assert not predictor.cacheable_prediction(KEY)

    other = CacheKey("c", namespace="a", user_tag="d")
    assert predictor.cacheable_prediction(other)
    assert predictor.mark_uncacheable(other, NoCacheReason.custom("Skipping")) is None
    assert predictor.cacheable_prediction(other)


def test_mark_uncacheable_lru() -> None:
    """The key that was marked the longest ago is forgotten first; asking marks nothing."""
    predictor = Predictor(3)
    first, second, third, fourth = (CacheKey(name, namespace="a") for name in "1234")
    for key in (first, second, third):
        assert predictor.mark_uncacheable(key, NoCacheReason.ORIGIN_NOT_CACHE) is True
        assert not predictor.cacheable_prediction(key)
    assert predictor.mark_uncacheable(first, NoCacheReason.ORIGIN_NOT_CACHE) is False
    assert not predictor.cacheable_prediction(second)

    assert predictor.mark_uncacheable(fourth, NoCacheReason.ORIGIN_NOT_CACHE) is True
    assert not predictor.cacheable_prediction(first)
    assert predictor.cacheable_prediction(second)
    assert not predictor.cacheable_prediction(third)
    assert not predictor.cacheable_prediction(fourth)
    assert len(predictor) == 3
    assert repr(predictor) == "<Predictor of 3 keys>"


@pytest.mark.parametrize(
    ("reason", "is_remembered"),
    [
        (NoCacheReason.NEVER_ENABLED, False),
        (NoCacheReason.ORIGIN_NOT_CACHE, True),
        (NoCacheReason.RESPONSE_TOO_LARGE, True),
        (NoCacheReason.PREDICTED_RESPONSE_TOO_LARGE, False),
        (NoCacheReason.STORAGE_ERROR, False),
        (NoCacheReason.INTERNAL_ERROR, False),
        (NoCacheReason.DEFERRED, False),
        (NoCacheReason.DECLINED_TO_UPSTREAM, False),
        (NoCacheReason.UPSTREAM_ERROR, False),
        (NoCacheReason.CACHE_LOCK_GIVE_UP, False),
        (NoCacheReason.CACHE_LOCK_TIMEOUT, False),
        (NoCacheReason.custom("OriginNotCache"), True),
        (NoCacheReason.custom("InternalError"), True),
    ],
    ids=str,
)
def test_which_reasons_last(reason: NoCacheReason, is_remembered: bool) -> None:
    """What the response said, and what the application says, holds the next time as well."""
    predictor = Predictor(1)
    assert (predictor.mark_uncacheable(KEY, reason) is True) is is_remembered
    assert predictor.cacheable_prediction(KEY) is not is_remembered


def test_variants_are_not_told_apart() -> None:
    """Prediction comes before lookup, when nobody knows the variant."""
    predictor = Predictor(1)
    variant = CacheKey("b", namespace="a")
    variant.variance = bytes(16)
    assert predictor.mark_uncacheable(variant, NoCacheReason.ORIGIN_NOT_CACHE) is True
    assert not predictor.cacheable_prediction(KEY)


def test_it_remembers_something() -> None:
    """A predictor without a memory is a mistake."""
    with pytest.raises(ValueError, match="at least 1"):
        Predictor(0)
