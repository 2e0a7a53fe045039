"""What each process tells the manager: a file of its own that it adds to, and the manager reads.

Theory of operation: a record names a slot and means "look there": what is on the disk is the truth,
so a record too many, or one that comes late, does no harm. One that is missing would leave an
object uncounted, so a process says that it is about to publish before it does, and afterwards that
it has. A journal is locked by its process for as long as that adds to it. When it is not locked any
more, whatever was announced and not confirmed is looked at, and the journal is deleted.

A process that is killed leaves what it has written, since that is the kernel's already. After a
power failure the manager looks at everything anyway.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, final

from xxhash import xxh32_intdigest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_cache.disk._tree import Tree

__all__ = ["Journal", "JournalReader", "Note", "Saying"]

_RECORD: Final = Struct("<II16s")
_ROTATE: Final = 1 << 20
_AT_ONCE: Final = 2048 * _RECORD.size


class Saying(IntEnum):
    """What a record says of a slot.

    Attributes:
        SOON: An object is about to be published there.
        STORED: An object has been published there.
        LOOK: Something has changed there, or been used.
        ROOM: There is no room to write so many bytes; in place of the slot.
    """

    SOON = 1
    STORED = 2
    LOOK = 3
    ROOM = 4


class Note(NamedTuple):
    """A record.

    Attributes:
        saying: What it says.
        slot: Of what.
    """

    saying: Saying
    slot: bytes

    def pack(self) -> bytes:
        """Write it down.

        Returns:
            The bytes.
        """
        return _RECORD.pack(self.saying, xxh32_intdigest(self.slot, self.saying), self.slot)


@final
class Journal:
    """The journal that this process adds to. For several threads at once.

    Args:
        tree: Where it is.
    """

    __slots__ = ("_announced", "_fd", "_lock", "_path", "_size", "_tree")

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._fd = -1
        self._path = ""
        self._size = 0
        self._announced = 0

    def open(self) -> None:
        """Begin one.

        Raises:
            OSError: If that fails.
        """
        while True:
            path = f"{self._tree.journals}/{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            fd = os.open(path, flags, 0o600)
            try:
                # The manager may take it for one left behind, before it is locked, and then be
                # stopped: another one is as good.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_there = os.fstat(fd).st_nlink
            except BlockingIOError:
                is_there = 0
            except OSError:
                os.close(fd)
                raise
            if is_there:
                self._fd, self._path, self._size = fd, path, 0
                return
            os.close(fd)

    def close(self) -> None:
        """Leave it to the manager; nothing on the second call."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def abandon(self) -> None:
        """Close what a forked process has inherited, where a lock may be held for ever."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def announce(self, slot: bytes) -> None:
        """Say that an object is about to be published.

        Args:
            slot: Where.

        Raises:
            OSError: If that cannot be said; then it must not be done.
        """
        with self._lock:
            self._write(Note(Saying.SOON, slot).pack())
            self._announced += 1

    def confirm(self, slot: bytes) -> None:
        """Say that it has been published, or will not be.

        Args:
            slot: Where.
        """
        with self._lock:
            self._announced -= 1
            # If there is no room, the announcement will do: it is looked at in the end.
            with contextlib.suppress(OSError):
                self._write(Note(Saying.STORED, slot).pack())

    def look(self, slots: Iterable[bytes]) -> None:
        """Say that something has changed or been used.

        Args:
            slots: Where.

        Raises:
            OSError: If that cannot be said.
        """
        with self._lock:
            self._write(b"".join([Note(Saying.LOOK, slot).pack() for slot in slots]))

    def ask(self, size: int) -> None:
        """Ask for room.

        Args:
            size: Bytes that are to be written.

        Raises:
            OSError: If that cannot be said.
        """
        with self._lock:
            self._write(Note(Saying.ROOM, size.to_bytes(16, "little")).pack())

    def renew(self) -> None:
        """Begin another one if this has become long, or has been deleted.

        Raises:
            OSError: If that fails.
        """
        with self._lock:
            if self._announced or self._fd < 0:
                return
            if self._size > _ROTATE or not os.fstat(self._fd).st_nlink:
                old = self._fd
                self.open()
                os.close(old)

    def _write(self, data: bytes) -> None:
        if self._fd < 0:
            msg = "the journal is closed"
            raise OSError(msg)
        if data and os.write(self._fd, data) < len(data):
            os.ftruncate(self._fd, self._size)
            msg = "no room in the journal"
            raise OSError(msg)
        self._size += len(data)


@final
class JournalReader:
    """A journal as the manager reads it.

    Args:
        path: Where it is.

    Attributes:
        announced: The slots that were announced and not confirmed.

    Raises:
        OSError: If it cannot be opened.
    """

    __slots__ = ("_at", "_fd", "_path", "announced")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        self._at = 0
        self.announced: dict[bytes, int] = {}

    def read(self) -> list[Note]:
        """Read on, so much as is a bounded amount of work.

        Returns:
            What was read; nothing at the end. Announcements are kept, not returned.

        Raises:
            OSError: If it cannot be read.
        """
        while data := os.pread(self._fd, _AT_ONCE, self._at):
            size = len(data) - len(data) % _RECORD.size
            self._at += size
            notes = [note for note in map(self._take, _RECORD.iter_unpack(data[:size])) if note]
            if notes or not size:
                return notes
        return []

    def _take(self, record: tuple[int, int, bytes]) -> Note | None:
        saying, check, slot = record
        if check != xxh32_intdigest(slot, saying) or not 1 <= saying <= len(Saying):
            return None
        if saying == Saying.SOON:
            self.announced[slot] = self.announced.get(slot, 0) + 1
            return None
        if saying == Saying.STORED:
            self._confirm(slot)
        return Note(Saying(saying), slot)

    def _confirm(self, slot: bytes) -> None:
        left = self.announced.get(slot, 0) - 1
        if left > 0:
            self.announced[slot] = left
        else:
            self.announced.pop(slot, None)

    def is_left(self) -> bool:
        """Tell whether nobody adds to it any more, and all of it has been read.

        Returns:
            Whether it can be deleted.

        Raises:
            OSError: If that cannot be found out.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Locked, so that whoever is about to lock it finds that it has gone.
        if os.fstat(self._fd).st_size - self._at >= _RECORD.size:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            return False
        return True

    def delete(self) -> None:
        """Delete it, after ``is_left``."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self.close()

    def close(self) -> None:
        """Close it; nothing on the second call."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
