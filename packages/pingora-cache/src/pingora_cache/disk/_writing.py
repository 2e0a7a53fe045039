"""The file of a write that goes on, as the threads that write it see it.

Theory of operation: the file has its final form from the beginning; only STATE says that the body
is not complete. It is locked by its writer (flock): whoever else has it open can tell a writer that
has died from one that is slow. Finishing it means to complete STATE, and then to give it the name of
an object in one step. A purge takes its name away before that, so that it can never have another.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final, NamedTuple, final

from xxhash import xxh3_64

from pingora_cache.disk._descriptor import Descriptor
from pingora_cache.disk._format import MARK_AT, STATE_AT, pack_front, pack_mark, pack_state, seed_of
from pingora_cache.disk._layout import (
    BLOCK,
    BLOCK_SHIFT,
    META_AT,
    SUM,
    Front,
    Layout,
    Pointer,
    State,
    block_sum,
    meta_sum,
    plan,
    sum_place,
)
from pingora_cache.disk._locked import lock_own, open_locked, unlock
from pingora_cache.disk._tree import make_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_cache.disk._tree import Tree

__all__ = ["Subject", "WriteFile", "write_all"]

_MASK: Final = (1 << 64) - 1
# Of what the kernel takes at once (IOV_MAX).
_MOST_PIECES: Final = 1024
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Subject(NamedTuple):
    """What is written.

    Attributes:
        slot: The hash of the key.
        tag: The tag of the write.
        meta: The meta, serialised.
        tags: Those of the meta.
        epoch: The log of purges that the position is of.
        position: What had been purged when the write began.
    """

    slot: bytes
    tag: bytes
    meta: bytes
    tags: tuple[bytes, ...]
    epoch: int
    position: int


def write_all(fd: int, pieces: Sequence[bytes], at: int) -> None:
    """Write pieces one behind the other.

    Args:
        fd: The file.
        pieces: The pieces.
        at: Where the first goes.

    Raises:
        OSError: If that fails; some of it may be written.
    """
    for first in range(0, len(pieces), _MOST_PIECES):
        some = pieces[first : first + _MOST_PIECES]
        size = sum(map(len, some))
        written = os.pwritev(fd, some, at)
        if written < size:
            # A disk that is nearly full, or a signal: the next try tells.
            rest = memoryview(b"".join(some))
            while written < size:
                written += os.pwrite(fd, rest[written:], at + written)
        at += size


@final
class WriteFile:
    """The file. For one thread at a time.

    Args:
        tree: Where it is.
        subject: What is written.

    Attributes:
        descriptor: The file; None before ``create``.
        layout: Where things lie in it.
        seed: The seed of its sums.
        size: Bytes of the body so far.
        sums: Those of its whole blocks.
        last_sum: That of what follows the last of them.
    """

    __slots__ = (
        "_hasher",
        "_path",
        "_subject",
        "_tree",
        "descriptor",
        "last_sum",
        "layout",
        "seed",
        "size",
        "sums",
    )

    def __init__(self, tree: Tree, subject: Subject) -> None:
        self._tree = tree
        self._subject = subject
        self._path = tree.write(subject.slot, subject.tag)
        self.descriptor: Descriptor | None = None
        self.layout = Layout(0, 0, 0)
        self.seed = seed_of(subject.tag)
        self.size = 0
        self.sums: array.array[int] = array.array("Q")
        self._hasher = xxh3_64(seed=self.seed)
        self.last_sum = block_sum(b"", self.seed, 0)

    @property
    def _fd(self) -> int:
        assert self.descriptor is not None
        return self.descriptor.fd

    # ------------------------------------------------------------------------- writing

    def create(self, body_size: int | None) -> None:
        """Make the file, so that others find the write.

        Args:
            body_size: Bytes of the body as far as they are known; need not be true.

        Raises:
            OSError: If that fails.
        """
        subject = self._subject
        self.descriptor = Descriptor(self._open())
        lock_own(self._fd, self._path)
        self.layout = plan(len(subject.meta), body_size)
        state = State(0, self.last_sum, complete=False)
        write_all(self._fd, [self._front(state)], 0)

    def _open(self) -> int:
        try:
            return os.open(self._path, _FLAGS, 0o600)
        except FileNotFoundError:
            self._tree.make()
            make_folder(os.path.dirname(self._path))
            return os.open(self._path, _FLAGS, 0o600)

    def _front(self, state: State) -> bytes:
        subject = self._subject
        slot, tag, meta, _, epoch, position = subject
        pointer = Pointer(1, META_AT, len(meta), epoch, position, meta_sum(meta, self.seed))
        front = Front(slot, tag, self.seed, self.layout, state, pointer, None, 0.0)
        return pack_front(front, meta)

    def append(self, pieces: Sequence[bytes]) -> None:
        """Add to the body, and let others see it.

        Args:
            pieces: What follows; a megabyte at most, since the ring of sums allows for no more.

        Raises:
            OSError: If that fails; the write has failed then.
        """
        blocks = len(self.sums)
        write_all(self._fd, pieces, self.layout.body_at + self.size)
        self._count(pieces)
        self._write_sums(blocks)
        self._write_state(complete=False)

    def _count(self, pieces: Sequence[bytes]) -> None:
        hasher = self._hasher
        for piece in pieces:
            view = memoryview(piece)
            while view:
                room = BLOCK - (self.size & (BLOCK - 1))
                part = view[:room]
                hasher.update(part)
                self.size += len(part)
                view = view[room:]
                if len(part) == room:
                    self.sums.append(hasher.intdigest())
                    hasher = self._hasher = xxh3_64(seed=(self.seed + len(self.sums)) & _MASK)
        self.last_sum = hasher.intdigest()

    def _write_sums(self, first: int) -> None:
        for number in range(first, len(self.sums)):
            place = sum_place(self.layout, number)
            if place is not None:
                os.pwrite(self._fd, SUM.pack(self.sums[number]), place)

    def _write_state(self, *, complete: bool) -> None:
        state = State(self.size, self.last_sum, complete)
        os.pwrite(self._fd, pack_state(state, self.seed), STATE_AT)

    # ------------------------------------------------------------------------ finishing

    def complete(self, pieces: Sequence[bytes]) -> None:
        """Add the last pieces, and say that this is all.

        Args:
            pieces: What follows.

        Raises:
            OSError: If that fails; the write has failed then.
        """
        if self.descriptor is None:
            self._write_at_once(pieces)
            return
        if pieces:
            self.append(pieces)
        if len(self.sums) > self.layout.table_size:
            at = self.layout.body_at + self.size
            write_all(self._fd, [self._packed_sums()], at)
        self._write_state(complete=True)

    def _write_at_once(self, pieces: Sequence[bytes]) -> None:
        subject = self._subject
        self.descriptor = Descriptor(self._open())
        lock_own(self._fd, self._path)
        self._count(pieces)
        self.layout = plan(len(subject.meta), self.size)
        front = self._front(State(self.size, self.last_sum, complete=True))
        sums = self._packed_sums()
        capacity = self.layout.table_size
        fits = len(self.sums) <= capacity
        front = front.ljust(self.layout.table_at, b"\0") + (sums if fits else b"")
        front = front.ljust(self.layout.body_at, b"\0")
        write_all(self._fd, [front, *pieces] if fits else [front, *pieces, sums], 0)

    def _packed_sums(self) -> bytes:
        return b"".join(map(SUM.pack, self.sums))

    def publish(self, expired: float, *, sync: bool) -> bool:
        """Make an object of it, after ``complete``.

        Args:
            expired: When it was made to expire while it was written, wall clock seconds; or 0.0.
            sync: Whether its bytes are to be on the medium before.

        Returns:
            False if it has been purged meanwhile.

        Raises:
            OSError: If that fails.
        """
        if expired:
            os.pwrite(self._fd, pack_mark(1, expired, self.seed), MARK_AT)
        if sync:
            os.fdatasync(self._fd)
        slot = self._subject.slot
        replaced = None
        # Who is about to remove what had this name before must not find this in its place. What
        # cannot be locked gives way all the same.
        with contextlib.suppress(OSError):
            replaced = open_locked(self._tree.object(slot.hex()))
        try:
            published = self._tree.publish(self._path, slot)
        finally:
            if replaced is not None:
                unlock(replaced)
        # Whoever changes or replaces it next must not have to wait for the loop of this process.
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return published

    @property
    def file_size(self) -> int:
        """Bytes of the file, once it is complete."""
        blocks = self.size >> BLOCK_SHIFT
        trailer = SUM.size * blocks if blocks > self.layout.table_size else 0
        return self.layout.body_at + self.size + trailer

    def discard(self) -> None:
        """Delete it, unless it is an object by now; and let those who follow it know."""
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self.release()

    def abandon(self) -> None:
        """Close what a forked process has inherited; the lock is its parent's."""
        if self.descriptor is not None and self.descriptor.fd >= 0:
            os.close(self.descriptor.fd)
            self.descriptor.fd = -1

    def release(self) -> None:
        """Let go of it: readers in this process keep the descriptor, others see the lock gone."""
        descriptor = self.descriptor
        if descriptor is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor.fd, fcntl.LOCK_UN)
            descriptor.release()
