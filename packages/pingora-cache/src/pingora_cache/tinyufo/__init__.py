"""TinyUFO: a cache that keeps what is asked for often, and little of what is not."""

from pingora_cache.tinyufo.collection import TinyUfo

__all__ = ["TinyUfo"]
