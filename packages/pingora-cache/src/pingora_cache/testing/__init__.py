"""Tests for stores: what every ``Storage`` has to do, ready to be run against yours."""

from pingora_cache.testing.harness import StorageOptions
from pingora_cache.testing.suite import StorageSuite

__all__ = ["StorageOptions", "StorageSuite"]
