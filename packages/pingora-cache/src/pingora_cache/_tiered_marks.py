"""What a two-level store has to remember while something is under way.

Theory of operation: between a look into the second tier and a write into the first there is time, in
which the object may be purged, replaced or revalidated. Whoever is going to write registers a *mark*
before it looks; purges and writes leave their message on the marks of the key. So nothing is put into
the first tier that is not in the second any more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Mark", "Marks", "Recent", "Turns"]


@final
class Mark:
    """What has happened to a key since somebody began with it.

    Args:
        key_hash: The key.
        tags: The tags of the object; None as long as they are not known.
        is_copy: Whether it is about a copy of an object, and not about a new one.

    Attributes:
        key_hash: The key.
        tags: The tags of the object; None as long as they are not known.
        is_copy: Whether it is about a copy of an object, and not about a new one.
        is_void: Whether it was purged; of a copy, also whether there is a newer one.
        expired_at: When it was made to expire, in seconds since the epoch; None if it was not.
    """

    __slots__ = ("expired_at", "is_copy", "is_void", "key_hash", "tags")

    def __init__(self, key_hash: bytes, tags: frozenset[bytes] | None, *, is_copy: bool) -> None:
        self.key_hash = key_hash
        self.tags = tags
        self.is_copy = is_copy
        self.is_void = False
        self.expired_at: float | None = None

    def purge(self, expired_at: float | None) -> None:
        """Leave the message that the object was purged.

        Args:
            expired_at: When it was made to expire; None if it was removed.
        """
        # A copy is not worth the trouble.
        if expired_at is None or self.is_copy:
            self.is_void = True
        elif self.expired_at is None:
            self.expired_at = expired_at


@final
class Marks:
    """The marks of all keys that somebody is at."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: dict[bytes, list[Mark]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._marks.values()))

    def set(self, key_hash: bytes, tags: frozenset[bytes] | None, *, is_copy: bool) -> Mark:
        """Begin with a key.

        Args:
            key_hash: The key.
            tags: The tags of the object; None if they are not known yet.
            is_copy: Whether it is about a copy of an object.

        Returns:
            A mark, to be given back.
        """
        mark = Mark(key_hash, tags, is_copy=is_copy)
        self._marks.setdefault(key_hash, []).append(mark)
        return mark

    def remove(self, mark: Mark) -> None:
        """End with a key; nothing on the second call.

        Args:
            mark: The mark.
        """
        marks = self._marks.get(mark.key_hash)
        if marks is not None and mark in marks:
            marks.remove(mark)
            if not marks:
                del self._marks[mark.key_hash]

    def purge(
        self, key_hash: bytes, expired_at: float | None, *, copies_only: bool = False
    ) -> None:
        """Tell whoever is at a key that it was purged.

        Args:
            key_hash: The key.
            expired_at: When it was made to expire; None if it was removed.
            copies_only: Whether new objects are not meant.
        """
        for mark in self._marks.get(key_hash, ()):
            if mark.is_copy or not copies_only:
                mark.purge(expired_at)

    def purge_tag(self, tag: bytes, expired_at: float | None) -> None:
        """Tell whoever is at an object with a tag, or that may have it, that it was purged.

        Args:
            tag: The tag.
            expired_at: When it was made to expire; None if it was removed.
        """
        for marks in self._marks.values():
            for mark in marks:
                if mark.tags is None or tag in mark.tags:
                    mark.purge(expired_at)

    def supersede(self, key_hash: bytes) -> None:
        """Tell whoever copies the object of a key that there is a newer one.

        Args:
            key_hash: The key.
        """
        for mark in self._marks.get(key_hash, ()):
            if mark.is_copy:
                mark.is_void = True


@final
class _Turn:
    """A lock, and how many have it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


@final
class Turns:
    """One at a time for each key."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: dict[bytes, _Turn] = {}

    def is_taken(self, key_hash: bytes) -> bool:
        """Tell whether somebody has the turn of a key, or waits for it.

        Args:
            key_hash: The key.

        Returns:
            Whether it is so.
        """
        return key_hash in self._turns

    @asynccontextmanager
    async def take(self, key_hash: bytes) -> AsyncIterator[None]:
        """Wait for the turn of a key, and have it.

        Args:
            key_hash: The key.

        Yields:
            When it has come.
        """
        turn = self._turns.setdefault(key_hash, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key_hash]


@final
class Recent:
    """The keys that something was noted about, and the note; the oldest make way.

    Args:
        room: How many.
    """

    __slots__ = ("_notes", "_room")

    def __init__(self, room: int) -> None:
        self._notes: OrderedDict[bytes, float] = OrderedDict()
        self._room = room

    def get(self, key_hash: bytes) -> float | None:
        """Look up a note.

        Args:
            key_hash: The key.

        Returns:
            The note; None if there is none.
        """
        return self._notes.get(key_hash)

    def note(self, key_hash: bytes, note: float) -> None:
        """Make a note.

        Args:
            key_hash: The key.
            note: The note.
        """
        notes = self._notes
        notes[key_hash] = note
        notes.move_to_end(key_hash)
        if len(notes) > self._room:
            notes.popitem(last=False)

    def forget(self, key_hash: bytes) -> None:
        """Drop a note, if there is one.

        Args:
            key_hash: The key.
        """
        self._notes.pop(key_hash, None)
