"""An HTTP cache as a library: policy, phases, stores; and caches for anything else.

The disk store is in :mod:`pingora_cache.disk`, the one in Redis in :mod:`pingora_cache.redis`
(extra ``redis``), the conformance suite for stores in :mod:`pingora_cache.testing`.
"""

from pingora_cache._version import __version__
from pingora_cache.admission import (
    Admission,
    AdmissionPolicy,
    AlwaysAdmit,
    NthRequest,
    TinyLfuAdmission,
)
from pingora_cache.cache import HttpCache
from pingora_cache.cache_status import CacheStatusValue, append_cache_status
from pingora_cache.fill import CacheFill
from pingora_cache.key import CacheKey, CompactCacheKey
from pingora_cache.lock import CacheLock, LockStatus
from pingora_cache.memory import MemoryStorage
from pingora_cache.memory_cache import CacheStatus, MemoryCache
from pingora_cache.meta import CacheMeta
from pingora_cache.phase import CachePhase, CachePhaseError, ForcedFreshness, HitStatus
from pingora_cache.policy import CachePolicy
from pingora_cache.predictor import Predictor
from pingora_cache.read_through import Lookup, MultiLookup, RTCache
from pingora_cache.reason import NoCacheReason
from pingora_cache.stats import CacheStats, StorageStats
from pingora_cache.storage import (
    Finished,
    HitHandler,
    MissHandler,
    PurgeAction,
    PurgeKind,
    PurgeResult,
    Storage,
)
from pingora_cache.tags import parse_tags
from pingora_cache.tiered import TieredStorage
from pingora_cache.tinyufo import TinyUfo
from pingora_cache.variance import VarianceBuilder
from pingora_cache.verdict import Cacheable, HitVerdict, RespCacheable, Uncacheable

__all__ = [
    "Admission",
    "AdmissionPolicy",
    "AlwaysAdmit",
    "CacheFill",
    "CacheKey",
    "CacheLock",
    "CacheMeta",
    "CachePhase",
    "CachePhaseError",
    "CachePolicy",
    "CacheStats",
    "CacheStatus",
    "CacheStatusValue",
    "Cacheable",
    "CompactCacheKey",
    "Finished",
    "ForcedFreshness",
    "HitHandler",
    "HitStatus",
    "HitVerdict",
    "HttpCache",
    "LockStatus",
    "Lookup",
    "MemoryCache",
    "MemoryStorage",
    "MissHandler",
    "MultiLookup",
    "NoCacheReason",
    "NthRequest",
    "Predictor",
    "PurgeAction",
    "PurgeKind",
    "PurgeResult",
    "RTCache",
    "RespCacheable",
    "Storage",
    "StorageStats",
    "TieredStorage",
    "TinyLfuAdmission",
    "TinyUfo",
    "Uncacheable",
    "VarianceBuilder",
    "__version__",
    "append_cache_status",
    "parse_tags",
]
