"""Rate estimation, in-flight counting and limiters, in bounded memory.

What is here counts for one process. ``pingora_limits.shared`` counts for all worker processes of a
server, ``pingora_limits.redis`` (the extra ``redis``) for many machines.
"""

from pingora_limits._hashing import Key
from pingora_limits._version import __version__
from pingora_limits.estimator import Estimator
from pingora_limits.inflight import Guard, Inflight
from pingora_limits.limiter import AsyncLimiter, Decision, Limiter
from pingora_limits.rate import Rate, RateComponents, proportional_rate_estimate
from pingora_limits.sliding_window import SlidingWindow
from pingora_limits.token_bucket import TokenBucket

__all__ = [
    "AsyncLimiter",
    "Decision",
    "Estimator",
    "Guard",
    "Inflight",
    "Key",
    "Limiter",
    "Rate",
    "RateComponents",
    "SlidingWindow",
    "TokenBucket",
    "__version__",
    "proportional_rate_estimate",
]
