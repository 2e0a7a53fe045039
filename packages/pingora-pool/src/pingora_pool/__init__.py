"""A keyed, bounded pool of idle connections with least-recently-used eviction."""

from pingora_pool._version import __version__

__all__ = ["__version__"]
