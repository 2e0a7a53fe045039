"""Counters and limiters that are right over all worker processes of a server."""

from pingora_limits.shared.inflight import SharedInflight
from pingora_limits.shared.rate import SharedRate
from pingora_limits.shared.sliding_window import SharedSlidingWindow
from pingora_limits.shared.token_bucket import SharedTokenBucket

__all__ = ["SharedInflight", "SharedRate", "SharedSlidingWindow", "SharedTokenBucket"]
