"""A tiered store over two that a test holds in its hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache.admission import AlwaysAdmit
from pingora_cache.storage import STORAGE_FULL
from pingora_cache.testing.harness import make_key, make_meta
from pingora_cache.tiered import TieredStorage, WritePolicy
from pingora_error import Error
from tests.support.cache_store import PlainStore
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta

__all__ = ["BODY", "HASH", "KEY", "TROUBLE", "Pair"]

BODY = b"0123456789"
KEY = make_key()
HASH = KEY.combined_hash
TROUBLE = Error(STORAGE_FULL, "a test wants it")


class Pair:
    """Two stores, and the one that is made of them.

    Args:
        streaming: Whether the first and the second stream partial writes.
        limit: Bytes of the largest object of the first.
        write_policy: Where new objects go.
        recheck: Seconds between comparisons.
        max_copying: Bytes that may be gathered.

    Attributes:
        first: The first tier.
        second: The second tier.
        clock: Tells when to compare.
        storage: Both.
    """

    def __init__(
        self,
        *,
        streaming: tuple[bool, bool] = (False, False),
        limit: int = 10_000,
        write_policy: WritePolicy = WritePolicy.BOTH,
        recheck: float | None = 10.0,
        max_copying: int = 10_000,
    ) -> None:
        self.first = PlainStore(streaming=streaming[0])
        self.second = PlainStore(streaming=streaming[1])
        self.clock = FakeClock(1000.0)
        self.storage = TieredStorage(
            self.first,
            self.second,
            promote=AlwaysAdmit(),
            write=write_policy,
            first_max_object_size=limit,
            recheck_interval=recheck,
            max_copying=max_copying,
            monotonic=self.clock,
        )

    def put_second(self, *, meta: CacheMeta | None = None, body: bytes = BODY) -> None:
        """Have an object of two pieces in the second tier.

        Args:
            meta: Its meta; None for any.
            body: Its body.
        """
        half = len(body) // 2
        self.second.put(KEY, meta or make_meta(), *filter(None, (body[:half], body[half:])))

    def check_idle(self) -> None:
        """Nothing is held for what is over."""
        for store in (self.first, self.second):
            assert (store.readers, store.writers) == (0, 0)
        tiers = self.storage._tiers
        assert len(tiers.marks) == tiers.budget.taken == 0
        assert not tiers.turns.is_taken(HASH)
