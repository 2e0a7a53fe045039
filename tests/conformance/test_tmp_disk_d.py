from __future__ import annotations
import shutil, tempfile
from contextlib import asynccontextmanager
from pingora_cache.disk import DiskStorage
from pingora_cache.testing import StorageSuite

class TestDisk(StorageSuite):
    counts = False
    @asynccontextmanager
    async def make_storage(self, options):
        path = tempfile.mkdtemp(dir="/tmp/team/D6/t")
        self.opts = options
        st = DiskStorage(path, max_bytes=options.max_bytes or 100_000_000, max_object_size=options.max_object_size, stall_timeout=options.stall_timeout or 60.0)
        try:
            async with st:
                yield st
        finally:
            shutil.rmtree(path)
    @asynccontextmanager
    async def make_second(self, first):
        async with DiskStorage(first._tree.root, max_bytes=100_000_000) as st:
            yield st
