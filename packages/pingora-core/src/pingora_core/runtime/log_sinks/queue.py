"""Between a hot path and a sink: a bounded queue and a thread.

Theory of operation: a line is appended to a deque, which needs no lock, and the thread takes all
there are at once. When the sink is too slow, or does not work, lines are dropped and counted; who
logs is never held up. The thread begins with the first line, so that a process may fork before.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from pingora_core.runtime.log_sinks.sink import LogSink

__all__ = ["LogQueue"]

_logger = logging.getLogger(__name__)

_BATCH: Final = 512
_LINGER: Final = 0.05
_RETRY: Final = 1.0


@final
class LogQueue:
    """Passes lines to a sink, in a thread.

    Args:
        sink: Where they go; closed with the queue.
        capacity: Lines that may wait; more are dropped.
        max_bytes: What those lines may come to, bytes: how long one is, clients decide.

    Attributes:
        written: Lines that the sink has taken.
        dropped: Lines that there was no room for, or that the sink could not write.
        failures: How often the sink has failed.
    """

    def __init__(
        self, sink: LogSink, *, capacity: int = 10_000, max_bytes: int = 16 * 1024 * 1024
    ) -> None:
        if capacity < 1:
            msg = f"a queue has room for at least one line, not {capacity}"
            raise ValueError(msg)
        self._sink = sink
        self._capacity = capacity
        self._max_bytes = max_bytes
        # One of them is changed by each side only, so that neither needs a lock.
        self._bytes_put = 0
        self._bytes_taken = 0
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._is_idle = False
        self._is_closing = threading.Event()
        self._reopen = False
        self._thread: threading.Thread | None = None
        self.written: int = 0
        self.dropped: int = 0
        self.failures: int = 0

    def put(self, line: bytes) -> None:
        """Add a line; never waits.

        Args:
            line: Without a line end.
        """
        lines = self._lines
        size = len(line)
        if (
            len(lines) >= self._capacity
            or self._bytes_put + size - self._bytes_taken > self._max_bytes
            or self._is_closing.is_set()
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

    def close(self, timeout: float = 2.0) -> None:
        """Write what waits and close the sink; nothing on the second call.

        Args:
            timeout: Seconds that may take; what is left then is dropped, and counted.
        """
        if self._is_closing.is_set():
            return
        self._is_closing.set()
        self._wake.set()
        thread = self._thread
        if thread is None:
            self._sink.close()
            return
        thread.join(timeout)
        if thread.is_alive():
            self.dropped += len(self._lines)
            _logger.warning("%d log lines were left unwritten", len(self._lines))

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while True:
                if self._lines:
                    self._write()
                    if len(self._lines) < _BATCH and not self._is_closing.is_set():
                        # Not a system call for each line.
                        self._is_closing.wait(_LINGER)
                elif self._is_closing.is_set():
                    return
                else:
                    self._rest()
        finally:
            self._sink.close()

    def _rest(self) -> None:
        self._wake.clear()
        self._is_idle = True
        if not self._lines and not self._is_closing.is_set():
            self._wake.wait()
        self._is_idle = False

    def _write(self) -> None:
        lines = self._lines
        batch = [lines.popleft() for _ in range(min(len(lines), _BATCH))]
        self._bytes_taken += sum(map(len, batch))
        if self._reopen:
            self._reopen = False
            self._sink.reopen()
        try:
            self._sink.write(batch)
        except OSError as error:
            self.failures += 1
            self.dropped += len(batch)
            # One that fails for hours is in the log the 1st, 2nd, 4th, 8th ... time.
            if self.failures & (self.failures - 1) == 0:
                _logger.warning(
                    "log lines could not be written, %d were dropped so far: %s",
                    self.dropped,
                    error,
                )
            self._is_closing.wait(_RETRY)
        else:
            self.written += len(batch)
