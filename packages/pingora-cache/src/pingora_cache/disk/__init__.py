"""A store on disk, shared by all processes of a machine."""

from pingora_cache.disk.store import DiskStats, DiskStorage
from pingora_cache.disk.verify import Verification, verify

__all__ = ["DiskStats", "DiskStorage", "Verification", "verify"]
