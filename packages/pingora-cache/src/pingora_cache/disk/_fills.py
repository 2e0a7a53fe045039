"""The writes that go on: those of this process, and those of others that somebody here follows."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, final

from pingora_cache._handlers import RESPONSE_TOO_LARGE, STORAGE_CLOSED
from pingora_cache.disk._fill import Fill
from pingora_cache.disk._following import PartialHit, RemoteProgress, find_write
from pingora_cache.disk._writing import Subject
from pingora_cache.meta import CacheMeta
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.disk._purge_records import Verdict
    from pingora_cache.disk._shop import Shop

__all__ = ["Fills"]

_RANDOM_BITS = 12


@final
class Fills:
    """The writes.

    Args:
        shop: The store.
        clock: Wall clock seconds.
    """

    __slots__ = ("_by_slot", "_by_tag", "_clock", "_last_tag", "_own", "_remote", "_shop")

    def __init__(self, shop: Shop, clock: Callable[[], float]) -> None:
        self._shop = shop
        self._clock = clock
        # By slot, the oldest first; a slot without writes is not in here.
        self._by_slot: dict[bytes, list[Fill]] = {}
        self._by_tag: dict[bytes, Fill] = {}
        # Also those that are over and have left a file, for the moment.
        self._own: set[bytes] = set()
        self._remote: dict[bytes, tuple[RemoteProgress, CacheMeta]] = {}
        self._last_tag = 0

    # ------------------------------------------------------------------------ beginning

    def begin(self, slot: bytes, meta: CacheMeta) -> Fill:
        """Begin a write; the log of purges has just been read.

        Args:
            slot: The hash of its key.
            meta: What is known about the response.

        Returns:
            The write.

        Raises:
            Error: If the meta cannot be kept.
        """
        shop = self._shop
        text = meta.to_bytes()
        if shop.limits.largest(len(text)) < 0:
            msg = f"a meta of {len(text)} bytes for the store on disk"
            raise Error(RESPONSE_TOO_LARGE, msg, source=ErrorSource.INTERNAL)
        purges = shop.log.purges
        subject = Subject(slot, self._new_tag(), text, meta.tags, purges.epoch, purges.position)
        fill = Fill(shop, subject, _declared_size(meta), on_over=self._over, on_gone=self._forget)
        self._by_slot.setdefault(slot, []).append(fill)
        self._by_tag[subject.tag] = fill
        self._own.add(subject.tag)
        return fill

    def _new_tag(self) -> bytes:
        # Later ones are greater, in all processes; as far as the clock can be relied on.
        now = int(self._clock() * 1e6) << _RANDOM_BITS
        tag = max(now | secrets.randbits(_RANDOM_BITS), self._last_tag + 1)
        self._last_tag = tag
        return tag.to_bytes(8, "big")

    def _over(self, fill: Fill) -> None:
        slot, tag = fill.subject.slot, fill.subject.tag
        del self._by_tag[tag]
        fills = self._by_slot[slot]
        fills.remove(fill)
        if not fills:
            del self._by_slot[slot]

    def _forget(self, fill: Fill) -> None:
        self._own.discard(fill.subject.tag)

    def close(self) -> None:
        """Fail all."""
        for fill in list(self._by_tag.values()):
            fill.fail(STORAGE_CLOSED, "the store was closed")
        for progress, _ in list(self._remote.values()):
            progress.fail(STORAGE_CLOSED, "the store was closed")

    def abandon(self) -> None:
        """Close what a forked process has inherited."""
        for fill in self._by_tag.values():
            fill.abandon()

    # ------------------------------------------------------------------------- finding

    def tagged(self, slot: bytes, tag: bytes) -> tuple[CacheMeta, PartialHit] | None:
        """Find a write of this process by its tag.

        Args:
            slot: The hash of its key.
            tag: The tag.

        Returns:
            Its meta and a reader; None if there is none.
        """
        fill = self._by_tag.get(tag)
        return None if fill is None or fill.subject.slot != slot else self._join(fill)

    def _join(self, fill: Fill) -> tuple[CacheMeta, PartialHit]:
        return fill.meta(), PartialHit(fill.progress)

    def is_filling(self, slot: bytes) -> bool:
        """Tell whether this process writes an object that was not purged.

        Args:
            slot: The hash of its key.

        Returns:
            Whether.
        """
        return any(not self._judge(fill.subject).deleted for fill in self._by_slot.get(slot, ()))

    def _judge(self, subject: Subject) -> Verdict:
        return self._shop.log.purges.judge_write(
            subject.slot, subject.tags, subject.epoch, subject.position
        )

    async def join(self, slot: bytes) -> tuple[CacheMeta, PartialHit] | None:
        """Find the write that a new reader is to follow.

        Args:
            slot: The hash of its key.

        Returns:
            Its meta and a reader; None if there is none that was not purged and gets on, or that
            cannot be found out.
        """
        try:
            return await self._find(slot)
        except OSError as error:
            self._shop.io.failed(error, ErrorType.FILE_READ_ERROR, "a write")
            return None

    async def _find(self, slot: bytes) -> tuple[CacheMeta, PartialHit] | None:
        fills = self._by_slot.get(slot)
        if fills:
            await self._shop.refresh_log()
            for fill in reversed(fills):
                verdict = self._judge(fill.subject)
                if not verdict.deleted and not fill.progress.stalled():
                    meta, reader = self._join(fill)
                    return meta.expired(verdict.expired) if verdict.expired else meta, reader
        for tag, path in self._shop.tree.writes_of(slot):
            if tag not in self._own and (found := await self._follow(tag, path, slot)):
                return found
        return None

    async def _follow(
        self, tag: bytes, path: str, slot: bytes
    ) -> tuple[CacheMeta, PartialHit] | None:
        shop = self._shop
        seen = find_write(shop.io, path, slot, tag)
        if seen is None:
            return None
        front, descriptor, text = seen
        try:
            await shop.refresh_log()
            meta = CacheMeta.from_bytes(text)
            pointer = front.pointer
            verdict = shop.log.purges.judge_write(slot, meta.tags, pointer.epoch, pointer.position)
            if verdict.deleted:
                return None
            if tag not in self._remote:
                progress = RemoteProgress(
                    shop.io,
                    descriptor.hold(),
                    front,
                    stall_timeout=shop.stall_timeout,
                    on_over=lambda: self._leave(tag),
                )
                self._remote[tag] = progress, meta
        except Error:
            return None  # its meta is not written yet, or damaged
        finally:
            descriptor.release()
        when = max(front.expired, verdict.expired)
        progress, meta = self._remote[tag]
        if progress.failure is not None:
            return None  # given up here, and some have not noticed yet
        return meta.expired(when) if when else meta, PartialHit(progress)

    def _leave(self, tag: bytes) -> None:
        self._remote.pop(tag, None)


def _declared_size(meta: CacheMeta) -> int | None:
    text = meta.header.get("content-length")
    if text is None or not text.isdecimal() or len(text) > 15:
        return None
    return int(text)
