"""Which objects go when a store is full: the managers that decide it."""

from pingora_cache.eviction.lru import ShardedLru
from pingora_cache.eviction.manager import EvictionManager
from pingora_cache.eviction.simple_lru import SimpleLru
from pingora_cache.eviction.tinyufo import TinyUfoEviction

__all__ = ["EvictionManager", "ShardedLru", "SimpleLru", "TinyUfoEviction"]
