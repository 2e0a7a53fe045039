"""Between a hot path and a sink: a bounded queue and a thread.

Theory of operation: a line is appended to a deque, which needs no lock, and the thread takes all
there are at once. When the sink is too slow, or does not work, lines are dropped and counted; who
logs is never held up. What could not be written is tried again twice, so that a sink that is away
for a moment costs nothing. The thread begins with the first line, so that a process may fork before;
one that forks later leaves what waits to the parent.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, final

from pingora_core.runtime.log_sinks.sink import PartlyWrittenError

if TYPE_CHECKING:
    from pingora_core.runtime.log_sinks.sink import LogSink

__all__ = ["LogQueue"]

_logger = logging.getLogger(__name__)

_BATCH: Final = 512
_LINGER: Final = 0.05
_TRIES: Final = 3


@final
class LogQueue:
    """Passes lines to a sink, in a thread.

    Args:
        sink: Where they go; closed with the queue.
        capacity: Lines that may wait; more are dropped.
        max_bytes: What those lines may come to, bytes: how long one is, clients decide.
        retry: After how long a sink that has failed is tried again, seconds.

    Attributes:
        written: Lines that the sink has taken.
        dropped: Lines that there was no room for, or that the sink could not write.
        failures: How often the sink has failed.

    Raises:
        ValueError: If there is room for no line.
    """

    def __init__(
        self,
        sink: LogSink,
        *,
        capacity: int = 10_000,
        max_bytes: int = 16 * 1024 * 1024,
        retry: float = 1.0,
    ) -> None:
        if capacity < 1:
            msg = f"a queue has room for at least one line, not {capacity}"
            raise ValueError(msg)
        self._sink = sink
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._retry = retry
        self._is_closed = False
        self._begin()
        _living.add(self)

    def _begin(self) -> None:
        # One of them is changed by each side only, so that neither needs a lock.
        self._bytes_put = 0
        self._bytes_taken = 0
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._is_idle = False
        self._closing = threading.Event()
        self._reopen = False
        self._thread: threading.Thread | None = None
        self.written: int = 0
        self.dropped: int = 0
        self.failures: int = 0

    def put(self, line: bytes) -> None:
        """Add a line; never waits. HOT. To be called by one thread only.

        Args:
            line: Without a line end.
        """
        lines = self._lines
        size = len(line)
        if (
            len(lines) >= self._capacity
            or self._bytes_put + size - self._bytes_taken > self._max_bytes
            or self._is_closed
        ):
            self.dropped += 1
            return
        self._bytes_put += size
        lines.append(line)
        if self._is_idle:
            self._wake.set()
        elif self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log queue", daemon=True)
            self._thread.start()

    @property
    def waiting(self) -> int:
        """How many lines wait."""
        return len(self._lines)

    def reopen(self) -> None:
        """Have the sink open anew what it has opened by name; for log rotation."""
        self._reopen = True
        self._wake.set()

    def close(self, timeout: float = 2.0) -> None:
        """Write what waits and close the sink; nothing on the second call.

        Args:
            timeout: Seconds that may take; what is left then is dropped, and counted.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._closing.set()
        self._wake.set()
        thread = self._thread
        if thread is None:
            self._sink.close()
            return
        thread.join(timeout)
        if thread.is_alive():
            # It ends when what it does now has come to an end.
            left = len(self._take(len(self._lines)))
            self.dropped += left
            _logger.warning("%d log lines were left unwritten", left)

    def forked(self) -> None:
        """Begin anew, in a process that was just forked: what waits, the parent writes."""
        self._begin()
        if self._is_closed:
            self._closing.set()
        self._sink.close()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while True:
                if self._reopen:
                    self._reopen = False
                    self._reopen_sink()
                if self._lines:
                    self._write()
                    if len(self._lines) < _BATCH:
                        # Not a system call for each line.
                        self._closing.wait(_LINGER)
                elif self._is_closed:
                    return
                else:
                    self._rest()
        finally:
            self._sink.close()

    def _reopen_sink(self) -> None:
        try:
            self._sink.reopen()
        except Exception as error:  # noqa: BLE001 - such as a close that tells of a full disk
            self._failed(error, 0)

    def _rest(self) -> None:
        self._wake.clear()
        self._is_idle = True
        if not self._lines and not self._is_closed and not self._reopen:
            self._wake.wait()
        self._is_idle = False

    def _take(self, most: int) -> list[bytes]:
        batch: list[bytes] = []
        lines = self._lines
        try:
            for _ in range(min(len(lines), most)):
                batch.append(lines.popleft())  # noqa: PERF401 - one by one: what was taken stays
        except IndexError:
            pass  # the other side was faster, at the end
        return batch

    def _write(self) -> None:
        batch = self._take(_BATCH)
        size = sum(map(len, batch))
        for _ in range(_TRIES):
            try:
                self._sink.write(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on
                done = error.written if isinstance(error, PartlyWrittenError) else 0
                self.written += done
                del batch[:done]
                self._failed(error, len(batch))
                if self._closing.wait(self._retry) or not batch:
                    break
            else:
                self.written += len(batch)
                batch.clear()
                break
        self.dropped += len(batch)
        self._bytes_taken += size

    def _failed(self, error: Exception, left: int) -> None:
        self.failures += 1
        # One that fails for hours is in the log the 1st, 2nd, 4th, 8th ... time.
        if self.failures & (self.failures - 1) == 0:
            _logger.warning(
                "%d log lines could not be written, %d were dropped so far: %s",
                left,
                self.dropped,
                error,
            )


_living: Final[weakref.WeakSet[LogQueue]] = weakref.WeakSet()


def _after_fork() -> None:
    for queue in tuple(_living):
        queue.forked()


os.register_at_fork(after_in_child=_after_fork)
