"""Where the file operations of a store run, and how their failures are counted and told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar, final

from pingora_cache._handlers import STORAGE_CLOSED
from pingora_cache.disk._descriptor import Cold, Reader
from pingora_cache.disk._layout import BLOCK_SHIFT, Damaged, block_sum
from pingora_cache.disk._locked import open_locked, unlock
from pingora_cache.stats import StorageStats
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from pingora_cache.disk._descriptor import Descriptor
    from pingora_cache.disk._tree import Tree

__all__ = ["Blocks", "DiskStats", "Io", "told"]

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

_MAX_FAILURES: Final = 64


@final
class DiskStats(StorageStats):
    """What happened in a store on disk.

    Reads, writes and failures are those of this process. Evictions are those of the process that is
    the manager. ``used_bytes`` and ``objects`` are those of all, as the manager counted them last.

    Attributes:
        failures: Why calls failed and objects were found damaged, and how often: names of system
            errors (``ENOSPC``), parts of a file (``damaged body``).
    """

    __slots__ = ("failures",)

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, int] = {}

    def count_failure(self, why: str) -> None:
        """Count why something failed.

        Args:
            why: Why; one of a few dozen.
        """
        if why in self.failures or len(self.failures) < _MAX_FAILURES:
            self.failures[why] = self.failures.get(why, 0) + 1

    def snapshot(self) -> dict[str, int]:
        """Tell all the numbers.

        Returns:
            They by name; failures as ``failures.<why>``.
        """
        numbers = {name: getattr(self, name) for name in StorageStats.__slots__}
        return numbers | {f"failures.{why}": count for why, count in self.failures.items()}


def told(error: OSError) -> str:
    """Name a system error.

    Args:
        error: The error.

    Returns:
        Its symbol, such as ``ENOSPC``.
    """
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


@final
class Io:
    """Threads for what may take long, and the rest.

    Args:
        tree: The directory.
        threads: How many.
        inline: Whether what is in memory is read on the loop.

    Attributes:
        on_removed: Told of objects that were removed because they are damaged.
        reader: Reads on the loop.
        stats: Counts.
        tree: The directory.
    """

    __slots__ = ("_executor", "_tasks", "on_removed", "reader", "stats", "tree")

    def __init__(self, tree: Tree, *, threads: int, inline: bool) -> None:
        self._executor = ThreadPoolExecutor(threads, "pingora-cache-disk")
        self._tasks: set[asyncio.Task[object]] = set()
        self.reader = Reader(inline=inline)
        self.stats = DiskStats()
        self.tree = tree
        self.on_removed: Callable[[bytes], None] = _nobody

    async def run(self, do: Callable[[], _T]) -> _T:
        """Do something in a thread. When cancelled, it is done all the same.

        Args:
            do: What.

        Returns:
            What it came to.

        Raises:
            Error: If the store has been closed.
        """
        try:
            doing = asyncio.get_running_loop().run_in_executor(self._executor, do)
        except RuntimeError as error:  # what the executor says after its end
            raise Error(STORAGE_CLOSED, "the store on disk", source=ErrorSource.INTERNAL) from error
        # Even before it has begun: what it has taken on has to be let go.
        return await asyncio.shield(doing)

    def spawn(self, doing: Coroutine[None, None, _T]) -> asyncio.Task[_T]:
        """Begin something that is waited for when the store is closed.

        Args:
            doing: What.

        Returns:
            Its task.
        """
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def go(self, doing: Coroutine[None, None, None]) -> None:
        """Begin something that only the end of the store waits for.

        Args:
            doing: What.
        """
        self.spawn(doing)  # type: ignore[unused-awaitable]  # kept in the set

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to who waits for it; if nobody does, it is counted already

    async def close(self) -> None:
        """Wait for what was begun, and end the threads."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        # Its threads are idle by now, unless the disk hangs; then they must not hang us.
        self._executor.shutdown(wait=False)

    # ------------------------------------------------------------------------- failures

    def failed(self, error: OSError, etype: ErrorType, what: str) -> Error:
        """Count a failure of the medium.

        Args:
            error: It.
            etype: What it is to callers.
            what: What was going on.

        Returns:
            The error for them, not raised.
        """
        self.stats.errors += 1
        self.stats.count_failure(told(error))
        return Error(etype, what, source=ErrorSource.INTERNAL, cause=error)

    @contextlib.contextmanager
    def telling(self, etype: ErrorType, what: str) -> Iterator[None]:
        """Tell callers of failures of the medium.

        Args:
            etype: What they are to them.
            what: What is going on.

        Raises:
            Error: For an ``OSError``, which is counted.
        """
        try:
            yield
        except OSError as error:
            raise self.failed(error, etype, what) from error

    def count_damaged(self, why: Damaged, path: str) -> None:
        """Count a damaged object.

        Args:
            why: What is damaged.
            path: Where it is.
        """
        self.stats.corrupt += 1
        self.stats.count_failure(f"damaged {why}")
        _logger.warning("damaged (%s): %s", why, path)

    def remove_damaged(self, path: str, descriptor: Descriptor) -> None:
        """Remove a damaged object.

        Args:
            path: Where it is, unless it has been replaced.
            descriptor: What was read.
        """
        self.go(self._remove(path, descriptor.hold()))

    async def _remove(self, path: str, descriptor: Descriptor) -> None:
        try:
            slot = bytes.fromhex(os.path.basename(path))
            await self.run(lambda: self._remove_locked(path, slot, descriptor.fd))
        finally:
            descriptor.release()
        self.on_removed(slot)

    def _remove_locked(self, path: str, slot: bytes, fd: int) -> None:
        locked = open_locked(path)
        if locked is not None:
            try:
                self.tree.remove_same(path, slot, fd)
            finally:
                unlock(locked)


def _nobody(slot: bytes) -> None:
    """Nobody is to be told."""


@final
class Blocks:
    """The body of one file, block by block.

    Args:
        io: Where it is read.
        descriptor: The file; one use of it is taken over.
        path: Where it is, to remove it when it is damaged; None if it is not finished yet.
        body_at: Where the body begins.
        seed: The seed of its sums.
    """

    __slots__ = ("_body_at", "_descriptor", "_io", "_path", "_seed")

    def __init__(
        self, io: Io, descriptor: Descriptor, path: str | None, *, body_at: int, seed: int
    ) -> None:
        self._io = io
        self._descriptor = descriptor
        self._path = path
        self._body_at = body_at
        self._seed = seed

    async def block(self, number: int, size: int, expected: int) -> bytes:
        """Read a block, and check it.

        Args:
            number: Which one.
            size: Its bytes, at least 1.
            expected: Its sum.

        Returns:
            The block.

        Raises:
            Error: If it cannot be read, or is damaged.
        """
        data = await self.bytes_at(self._body_at + (number << BLOCK_SHIFT), size)
        if len(data) < size:
            raise self._damaged("end")
        if block_sum(data, self._seed, number) != expected:
            raise self._damaged("body")
        return data

    async def bytes_at(self, at: int, size: int) -> bytes:
        """Read something.

        Args:
            at: Where.
            size: Bytes, at least 1.

        Returns:
            So many bytes, unless the file ends before.

        Raises:
            Error: If it cannot be read.
        """
        descriptor = self._descriptor
        try:
            try:
                return self._io.reader.read(descriptor.fd, size, at)
            except Cold:
                return await self._read_cold(descriptor.hold(), size, at)
        except OSError as error:
            raise self._io.failed(error, ErrorType.FILE_READ_ERROR, "a cached body") from error

    async def _read_cold(self, descriptor: Descriptor, size: int, at: int) -> bytes:
        # The thread lets go itself: who waits may be cancelled, and the file closed meanwhile.
        def read() -> bytes:
            try:
                return os.pread(descriptor.fd, size, at)
            finally:
                descriptor.release()

        return await self._io.run(read)

    def _damaged(self, what: str) -> Error:
        why = Damaged(what)
        self._io.count_damaged(why, self._path or "a write that goes on")
        if self._path is not None:
            self._io.remove_damaged(self._path, self._descriptor)
        return Error(ErrorType.FILE_READ_ERROR, f"damaged {why}", source=ErrorSource.INTERNAL)

    def close(self) -> None:
        """Let go of the file."""
        self._descriptor.release()
