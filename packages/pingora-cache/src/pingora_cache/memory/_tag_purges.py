"""Purging by tag in one step, however many objects carry the tag.

Theory of operation: nobody keeps a list of who carries a tag. A purge only notes the tag and a
number, the *epoch*, that grows with each purge; an object remembers the epoch in which it was
published. Whoever finds an object asks whether one of its tags was purged in a later epoch. That
costs a comparison of two numbers as long as nothing was purged since somebody asked last.

What was purged and is not looked for takes room until it is evicted or swept: after a purge the
store walks through all objects once, in small steps. When it is through, the purges from before
the walk have nothing left to apply to and are forgotten. Should there be too many to remember, all
objects with any tag that are older count as purged: too much of it is safe, too little is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["TagPurges", "Verdict"]

_MAX_TAGS: Final = 65_536


class Verdict(NamedTuple):
    """What purges by tag mean for an object.

    Attributes:
        deleted: Whether it is gone.
        expired: Otherwise: when it was made to expire, wall clock seconds; 0.0 if it was not.
    """

    deleted: bool
    expired: float


_NOTHING: Final = Verdict(deleted=False, expired=0.0)
_DELETED: Final = Verdict(deleted=True, expired=0.0)


@final
class TagPurges:
    """The tags that were purged, and when.

    Args:
        max_tags: How many to remember.

    Attributes:
        epoch: How many purges there have been.
    """

    __slots__ = ("_deleted", "_expired", "_floor", "_max_tags", "epoch")

    def __init__(self, max_tags: int = _MAX_TAGS) -> None:
        self.epoch = 0
        self._max_tags = max_tags
        self._deleted: dict[bytes, int] = {}
        self._expired: dict[bytes, tuple[int, float]] = {}
        # Every tag counts as deleted in this epoch.
        self._floor = 0

    def __bool__(self) -> bool:
        return bool(self._deleted or self._expired or self._floor)

    def delete(self, tag: bytes) -> None:
        """Note that the objects with a tag are gone.

        Args:
            tag: The tag.
        """
        self._begin()
        self._deleted[tag] = self.epoch

    def expire(self, tag: bytes, now: float) -> None:
        """Note that the objects with a tag have expired.

        Args:
            tag: The tag.
            now: Wall clock seconds.
        """
        self._begin()
        self._expired[tag] = (self.epoch, now)

    def _begin(self) -> None:
        self.epoch += 1
        if len(self._deleted) + len(self._expired) >= self._max_tags:
            self._floor = self.epoch
            self._deleted.clear()
            self._expired.clear()

    def judge(self, tags: Iterable[bytes], epoch: int) -> Verdict:
        """Tell what the purges mean for an object.

        Args:
            tags: Its tags.
            epoch: The one in which it was published.

        Returns:
            What they mean.
        """
        when = 0.0
        for tag in tags:
            if epoch < self._floor or epoch < self._deleted.get(tag, 0):
                return _DELETED
            since, now = self._expired.get(tag, (0, 0.0))
            if epoch < since:
                when = max(when, now)
        return Verdict(deleted=False, expired=when) if when else _NOTHING

    def forget(self, epoch: int) -> None:
        """Forget the purges up to an epoch, since they have been applied to all objects.

        Args:
            epoch: The epoch.
        """
        self._deleted = {tag: at for tag, at in self._deleted.items() if at > epoch}
        self._expired = {tag: at for tag, at in self._expired.items() if at[0] > epoch}
        if self._floor <= epoch:
            self._floor = 0
