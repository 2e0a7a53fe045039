"""The suite: all tests in one class."""

from __future__ import annotations

from pingora_cache.testing.failing import FailingTests
from pingora_cache.testing.metas import MetaTests
from pingora_cache.testing.model import ModelTests
from pingora_cache.testing.objects import ObjectTests
from pingora_cache.testing.pressure import PressureTests
from pingora_cache.testing.purging import PurgingTests
from pingora_cache.testing.ranges import RangeTests
from pingora_cache.testing.streaming import StreamingTests

__all__ = ["StorageSuite"]


class StorageSuite(
    ObjectTests,
    MetaTests,
    RangeTests,
    FailingTests,
    StreamingTests,
    PurgingTests,
    PressureTests,
    ModelTests,
):
    """What every ``Storage`` has to do, as tests.

    Derive a class whose name begins with ``Test`` and say how to make a store; pytest with
    pytest-asyncio (or any other runner that awaits test methods) does the rest. What a store
    cannot do is told by attributes of the class and of the store; tests of it are skipped.

    Tests use real time, wait for conditions, and give up after twenty seconds. They need nothing
    but this package.

    Attributes:
        bounded: Whether the store keeps to ``StorageOptions.max_bytes``.
        limits_objects: Whether it keeps to ``StorageOptions.max_object_size``.
        has_tags: Whether it can purge by tag.
        counts: Whether its ``stats.objects`` and ``stats.used_bytes`` tell what is in it.
        tells_purges: Whether ``purge`` tells exactly if there was anything. A store that purges
            by tag without looking at objects may find some that cannot be found any more.

    Examples:
        >>> from contextlib import AbstractAsyncContextManager
        >>> from pingora_cache.memory import MemoryStorage
        >>> from pingora_cache.storage import Storage
        >>> from pingora_cache.testing import StorageOptions
        >>> class TestMyStorage(StorageSuite):
        ...     def make_storage(
        ...         self, options: StorageOptions
        ...     ) -> AbstractAsyncContextManager[Storage]:
        ...         return MemoryStorage(
        ...             options.max_bytes or 100_000_000,
        ...             max_object_size=options.max_object_size,
        ...             stall_timeout=options.stall_timeout or 60.0,
        ...         )
    """
