"""The files of writes that go on, as the manager sees them: counted, and removed if they were left."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final, final

from pingora_cache.disk._descriptor import READ_FLAGS
from pingora_cache.disk._shop import disk_size

if TYPE_CHECKING:
    from pingora_cache.disk._tree import Tree

__all__ = ["Writes"]

# A write that nobody has locked was left; unless it has been made just now.
_GRACE: Final = 1.0


@final
class Writes:
    """The files.

    Args:
        tree: Where they are.

    Attributes:
        are_any: Whether there were any the last time.
    """

    __slots__ = ("_seen", "_tree", "are_any")

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        # Their sizes, and since when they have them.
        self._seen: dict[str, tuple[int, float]] = {}
        self.are_any = False

    def count(self, now: float) -> int:
        """Count them, and remove those that were left by a writer that has died.

        Args:
            now: Seconds that only grow.

        Returns:
            Bytes that they take.

        Raises:
            OSError: If a folder cannot be read.
        """
        total = 0
        seen = {}
        for entry in self._tree.all_writes():
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
            before, since = self._seen.get(entry.path, (-1, now))
            if size != before:
                since = now
            elif now - since >= _GRACE and _remove_left(entry.path):
                continue
            seen[entry.path] = (size, since)
            total += disk_size(size)
        self._seen = seen
        self.are_any = bool(seen)
        return total


def _remove_left(path: str) -> bool:
    # Whether nobody has locked it, and it is gone now.
    try:
        fd = os.open(path, READ_FLAGS)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)
