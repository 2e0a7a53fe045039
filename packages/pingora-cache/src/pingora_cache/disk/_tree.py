"""The directory of a store: what is called how, and that it is there.

```
 objects/a/bc/<32 digits>        finished objects, by the hash of their key, in 4096 folders
 filling/00..3f/<32>.<16>        writes that go on: key and tag of the write
 journals/<16 digits>            what each process has done lately
 eviction/                       the saved state of the eviction manager
 purges                          the log of purges
 usage                           what the manager has counted
 manager                         locked by the process that is the manager
```
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LEAVES", "Tree", "is_same", "leaf_of", "make_folder"]

LEAVES: Final = 4096
"""Folders that finished objects are in."""

_FIRST: Final = re.compile(r"[0-9a-f]")
_SECOND: Final = re.compile(r"[0-9a-f]{2}")
_OBJECT: Final = re.compile(r"[0-9a-f]{32}")
_WRITE: Final = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{16})")
# Tells backup programs that there is nothing to keep: https://bford.info/cachedir/
_CACHEDIR_TAG: Final = b"Signature: 8a477f597d28d172789f06886806bc55\n"


def leaf_of(slot: bytes) -> int:
    """Tell which folder an object is in.

    Args:
        slot: The hash of its key.

    Returns:
        Its number.
    """
    return slot[0] << 4 | slot[1] >> 4


def make_folder(path: str) -> None:
    """Make a folder for its owner only, and those above it that are not there.

    Args:
        path: Where.

    Raises:
        FileExistsError: If something else is there.
        OSError: If that fails otherwise.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):  # somebody else was as fast
            os.mkdir(path, 0o700)


@final
class Tree:
    """The directory.

    Args:
        root: Where it is.

    Attributes:
        root: Where it is.
        journals: Where the journals are.
        eviction: Where the eviction manager saves its state.
        purges: The log of purges.
        usage: What the manager has counted.
        manager: What the manager locks.
    """

    __slots__ = (
        "_filling",
        "_objects",
        "eviction",
        "journals",
        "manager",
        "purges",
        "root",
        "usage",
    )

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(root)  # paths are text here: a hit makes one
        self._objects = f"{self.root}/objects/"
        self._filling = f"{self.root}/filling/"
        self.journals = f"{self.root}/journals"
        self.eviction = f"{self.root}/eviction"
        self.purges = f"{self.root}/purges"
        self.usage = f"{self.root}/usage"
        self.manager = f"{self.root}/manager"

    def make(self) -> None:
        """Make the folders that are not there.

        Raises:
            OSError: If that fails.
        """
        for folder in (self._objects, self._filling, self.journals, self.eviction):
            make_folder(folder)
        with contextlib.suppress(FileExistsError):
            fd = os.open(
                f"{self.root}/CACHEDIR.TAG",
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                0o600,
            )
            try:
                os.write(fd, _CACHEDIR_TAG)
            finally:
                os.close(fd)

    def object(self, name: str) -> str:
        """Tell where a finished object is.

        Args:
            name: The hash of its key, in digits.

        Returns:
            Its path.
        """
        return f"{self._objects}{name[0]}/{name[1:3]}/{name}"

    def write(self, slot: bytes, tag: bytes) -> str:
        """Tell where a write that goes on is.

        Args:
            slot: The hash of its key.
            tag: Its tag.

        Returns:
            Its path.
        """
        return f"{self._drawer(slot)}/{slot.hex()}.{tag.hex()}"

    def _drawer(self, slot: bytes) -> str:
        return f"{self._filling}{slot[0] >> 2:02x}"

    def writes_of(self, slot: bytes) -> list[tuple[bytes, str]]:
        """Find the writes of a key that go on, in all processes.

        Args:
            slot: The hash of the key.

        Returns:
            Their tags and paths, the one that began last first.

        Raises:
            OSError: If the folder cannot be read.
        """
        drawer = self._drawer(slot)
        try:
            names = os.listdir(drawer)  # a third of the time
        except FileNotFoundError:
            return []
        if not names:
            return []
        start = slot.hex() + "."
        found = [
            (bytes.fromhex(match[2]), f"{drawer}/{name}")
            for name in names
            if name.startswith(start) and (match := _WRITE.fullmatch(name))
        ]
        found.sort(reverse=True)
        return found

    def all_writes(self) -> Iterator[os.DirEntry[str]]:
        """Walk through all writes that go on.

        Yields:
            Their entries.

        Raises:
            OSError: If a folder cannot be read.
        """
        for drawer in os.listdir(self._filling):
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                os.scandir(f"{self._filling}{drawer}") as entries,
            ):
                for entry in entries:
                    if _WRITE.fullmatch(entry.name):
                        yield entry

    def leaves(self) -> list[int]:
        """Find the folders that finished objects are in.

        Returns:
            Their numbers.

        Raises:
            OSError: If a folder cannot be read.
        """
        return [
            int(first + second, 16)
            for first in os.listdir(self._objects)
            if _FIRST.fullmatch(first)
            for second in os.listdir(f"{self._objects}{first}")
            if _SECOND.fullmatch(second)
        ]

    def leaf(self, number: int) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
        """Walk through the objects in one folder; what does not belong there is passed over.

        Args:
            number: Which folder.

        Yields:
            The hash of each key, and the entry.

        Raises:
            OSError: If the folder cannot be read.
        """
        start = f"{number:03x}"
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(f"{self._objects}{start[0]}/{start[1:]}") as entries,
        ):
            for entry in entries:
                name = entry.name
                if name.startswith(start) and _OBJECT.fullmatch(name):
                    yield bytes.fromhex(name), entry

    def publish(self, path: str, slot: bytes) -> bool:
        """Make an object of a write, in one step.

        Args:
            path: Where the write is.
            slot: The hash of its key.

        Returns:
            False if the write is not there any more: it has been purged.

        Raises:
            OSError: If that fails.
        """
        target = self.object(slot.hex())
        for _ in range(2):
            try:
                os.rename(path, target)
            except FileNotFoundError:
                # Either is missing: the write, or the folder it is to go to.
                if not os.path.lexists(path):
                    return False
                make_folder(os.path.dirname(target))
            else:
                return True
        return False

    def remove_same(self, path: str, slot: bytes, fd: int) -> None:
        """Remove an object, unless another has taken its place.

        Args:
            path: Where it is.
            slot: The hash of its key.
            fd: Its file.

        Raises:
            OSError: If that fails.
        """
        if not is_same(path, fd):
            return
        # One may be published now, so it is looked at once more where nobody else finds it.
        aside = self.write(slot, secrets.token_bytes(8))
        try:
            _rename(path, aside)
        except FileNotFoundError:
            return
        if not is_same(aside, fd):
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        os.unlink(aside)


def is_same(path: str, fd: int) -> bool:
    """Tell whether a name is that of an open file.

    Args:
        path: The name.
        fd: The file.

    Returns:
        Whether it is.

    Raises:
        OSError: If that cannot be found out.
    """
    with contextlib.suppress(FileNotFoundError):
        named, opened = os.lstat(path), os.fstat(fd)
        return (named.st_ino, named.st_dev) == (opened.st_ino, opened.st_dev)
    return False


def _rename(path: str, target: str) -> None:
    try:
        os.rename(path, target)
    except FileNotFoundError:
        make_folder(os.path.dirname(target))
        os.rename(path, target)
