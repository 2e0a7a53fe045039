"""Every store of ours passes the suite that the package ships for those of its users."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pingora_cache.disk import DiskStorage
from pingora_cache.memory import MemoryStorage
from pingora_cache.testing import StorageSuite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from pingora_cache.storage import Storage
    from pingora_cache.testing import StorageOptions


class TestMemoryStorage(StorageSuite):
    """The store in memory."""

    def make_storage(self, options: StorageOptions) -> AbstractAsyncContextManager[Storage]:
        return MemoryStorage(
            options.max_bytes or 100_000_000,
            max_object_size=options.max_object_size,
            stall_timeout=options.stall_timeout or 60.0,
        )


class TestDiskStorage(StorageSuite):
    """The store on disk."""

    # It counts whole blocks, some milliseconds later.
    counts = False

    @asynccontextmanager
    async def make_storage(self, options: StorageOptions) -> AsyncIterator[Storage]:
        with tempfile.TemporaryDirectory() as directory:
            storage = DiskStorage(
                directory,
                max_bytes=options.max_bytes or 100_000_000,
                max_object_size=options.max_object_size,
                stall_timeout=options.stall_timeout or 60.0,
            )
            async with storage:
                yield storage

    def make_second(self, first: Storage) -> DiskStorage:
        assert isinstance(first, DiskStorage)
        return DiskStorage(first.path, max_bytes=100_000_000)
