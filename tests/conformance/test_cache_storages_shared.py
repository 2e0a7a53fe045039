"""Stores that are shared, or made of two, pass the suite that the package ships as well."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from pingora_cache.admission import AlwaysAdmit
from pingora_cache.disk import DiskStorage
from pingora_cache.memory import MemoryStorage
from pingora_cache.redis import RedisStorage
from pingora_cache.testing import StorageOptions, StorageSuite
from pingora_cache.tiered import TieredStorage
from tests.support.redis_server import shared_redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from pingora_cache.storage import Storage
    from tests.support.redis_server import RedisServer

_ANY = StorageOptions()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with shared_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def _memory(options: StorageOptions) -> MemoryStorage:
    return MemoryStorage(
        options.max_bytes or 100_000_000,
        max_object_size=options.max_object_size,
        stall_timeout=options.stall_timeout or 60.0,
    )


class _WithRedis(StorageSuite):
    """What has a Redis in it, whose room is its own affair."""

    bounded = False
    counts = False
    tells_purges = False
    _server: RedisServer

    @pytest.fixture(autouse=True)
    def _use(self, redis_server: RedisServer) -> None:
        self._server = redis_server

    def _redis(self, options: StorageOptions = _ANY, *, like: Storage | None = None) -> Storage:
        prefix = secrets.token_hex(8)
        if like is not None:
            assert isinstance(like, RedisStorage)
            prefix = like.prefix
        return RedisStorage(
            self._server.url,
            prefix=prefix,
            timeout=20.0,
            max_object_size=options.max_object_size,
        )


class TestRedisStorage(_WithRedis):
    """The store in Redis."""

    def make_storage(self, options: StorageOptions) -> AbstractAsyncContextManager[Storage]:
        return self._redis(options)

    def make_second(self, first: Storage) -> AbstractAsyncContextManager[Storage]:
        return self._redis(like=first)


class TestMemoryOverRedis(_WithRedis):
    """Two tiers of which the first streams; each lookup is compared, as other processes need it."""

    def make_storage(self, options: StorageOptions) -> AbstractAsyncContextManager[Storage]:
        return TieredStorage(
            _memory(options), self._redis(options), promote=AlwaysAdmit(), recheck_interval=0
        )

    def make_second(self, first: Storage) -> AbstractAsyncContextManager[Storage]:
        assert isinstance(first, TieredStorage)
        return TieredStorage(_memory(_ANY), self._redis(like=first.second), recheck_interval=0)

    async def test_a_write_is_followed_from_another_process(self) -> None:
        """Not in a tier that each process has for itself."""

    async def test_a_write_fails_in_another_process(self) -> None:
        """Which nobody but that process notices."""


class TestMemoryOverDisk(StorageSuite):
    """Two tiers that both stream, the first of them for small objects."""

    bounded = False
    counts = False
    _directory: Path

    @pytest.fixture(autouse=True)
    def _use(self, tmp_path: Path) -> None:
        self._directory = tmp_path

    def make_storage(self, options: StorageOptions) -> AbstractAsyncContextManager[Storage]:
        return self._over_disk(options, self._directory / secrets.token_hex(8))

    def make_second(self, first: Storage) -> AbstractAsyncContextManager[Storage]:
        (path,) = self._directory.iterdir()
        return self._over_disk(_ANY, path)

    def _over_disk(self, options: StorageOptions, path: Path) -> TieredStorage:
        disk = DiskStorage(
            path,
            max_bytes=options.max_bytes or 100_000_000,
            max_object_size=options.max_object_size,
            stall_timeout=options.stall_timeout or 60.0,
        )
        return TieredStorage(
            _memory(options),
            disk,
            promote=AlwaysAdmit(),
            first_max_object_size=200_000,
            recheck_interval=0,
        )
