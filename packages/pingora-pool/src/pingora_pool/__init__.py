"""A keyed, bounded pool of idle connections with least-recently-used eviction."""

from pingora_pool._version import __version__
from pingora_pool.meta import ConnectionMeta
from pingora_pool.pool import ConnectionPool

__all__ = ["ConnectionMeta", "ConnectionPool", "__version__"]
