"""A store in the memory of one process, bounded in bytes."""

from pingora_cache.memory.store import MemoryStorage

__all__ = ["MemoryStorage"]
