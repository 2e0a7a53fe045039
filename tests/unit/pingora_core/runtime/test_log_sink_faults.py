"""What becomes of log lines when files, pipes and syslog servers fail, and come back."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pingora_core.runtime.log_sinks import (
    FileSink,
    LogQueue,
    LogSink,
    PartlyWrittenError,
    StdoutSink,
    SyslogSink,
    file as file_sinks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


def wait_until(predicate: Callable[[], object]) -> None:
    """Wait for a thread."""
    deadline = time.monotonic() + 10
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class _Flaky(LogSink):
    # Fails as often as it is told to; of each batch it takes some lines before.

    def __init__(self, failures: int, takes: int = 0) -> None:
        self.failures = failures
        self.takes = takes
        self.lines: list[bytes] = []
        self.done = threading.Event()

    def write(self, lines: Sequence[bytes]) -> None:
        if self.failures:
            self.failures -= 1
            taken = lines[: self.takes]
            self.lines += taken
            raise PartlyWrittenError(len(taken), OSError(28, "No space left"))
        self.lines += lines
        self.done.set()


@pytest.fixture
def small_files() -> Iterator[int]:
    """Files that cannot grow beyond so many bytes, as on a disk that is full."""
    size = 1000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield size
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_sink_that_fails_for_a_moment_costs_nothing() -> None:
    """What it did not take is written again, and only that."""
    sink = _Flaky(failures=2, takes=1)
    queue = LogQueue(sink, retry=0.001)
    for line in (b"a", b"b", b"c", b"d", b"e"):
        queue.put(line)
    wait_until(lambda: queue.written == 5)
    queue.close()
    assert sink.lines == [b"a", b"b", b"c", b"d", b"e"]
    assert (queue.written, queue.dropped, queue.failures) == (5, 0, 2)


def test_a_sink_that_goes_on_failing_costs_what_it_was_given() -> None:
    """After three tries lines are dropped, so that newer ones have their turn."""
    sink = _Flaky(failures=3)
    queue = LogQueue(sink, retry=0.001)
    queue.put(b"lost")
    wait_until(lambda: queue.dropped)
    queue.put(b"kept")
    assert sink.done.wait(10)
    queue.close()
    assert sink.lines == [b"kept"]
    assert (queue.written, queue.dropped, queue.failures) == (1, 1, 3)


class _Odd(LogSink):
    # Fails in ways of its own until it is opened anew, which fails as well.

    def __init__(self) -> None:
        self.is_open = False
        self.lines: list[bytes] = []

    def write(self, lines: Sequence[bytes]) -> None:
        if not self.is_open:
            raise UnicodeError("label empty or too long")
        self.lines += lines

    def reopen(self) -> None:
        self.is_open = True
        raise OSError(122, "Disk quota exceeded")


def test_whatever_a_sink_raises_the_queue_goes_on() -> None:
    """Each is a failure that is counted; what comes later is written."""
    sink = _Odd()
    queue = LogQueue(sink, retry=0.001)
    queue.put(b"a")
    wait_until(lambda: queue.dropped == 1)
    assert (queue.failures, queue.waiting) == (3, 0)
    queue.reopen()
    wait_until(lambda: queue.failures == 4)
    queue.put(b"b")
    wait_until(lambda: queue.written == 1)
    queue.close()
    assert sink.lines == [b"b"]


def test_a_line_that_a_full_disk_cuts_is_not_mixed_with_another(
    tmp_path: Path, small_files: int
) -> None:
    """How many lines were written is known; the next ones begin where lines begin."""
    path = tmp_path / "access.log"
    sink = FileSink(path)
    with pytest.raises(PartlyWrittenError) as caught:
        sink.write([b"x" * 299] * 4)
    assert caught.value.written == 3
    with pytest.raises(OSError, match="too large"):
        sink.write([b"y"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * small_files, before[1]))
    sink.write([b"after"])
    sink.close()
    lines = path.read_bytes().split(b"\n")
    assert [len(line) for line in lines[:4]] == [299, 299, 299, 100]
    assert lines[4:] == [b"after", b""]


def test_a_directory_may_come_later(tmp_path: Path) -> None:
    """Lines are kept for a moment; they are written when there is a place."""
    path = tmp_path / "logs" / "access.log"
    queue = LogQueue(FileSink(path), retry=0.02)
    queue.put(b"early")
    wait_until(lambda: queue.failures)
    path.parent.mkdir()
    wait_until(lambda: queue.written + queue.dropped)
    queue.put(b"late")
    queue.close()
    assert path.read_bytes().endswith(b"late\n")


def test_a_rotation_needs_no_line_to_happen(tmp_path: Path) -> None:
    """The old file is let go at once, so that it may be compressed."""
    path = tmp_path / "access.log"
    queue = LogQueue(FileSink(path))
    queue.put(b"one")
    wait_until(lambda: queue.written)
    path.rename(tmp_path / "old")
    queue.reopen()
    wait_until(path.exists)
    queue.put(b"two")
    queue.close()
    assert path.read_bytes() == b"two\n"
    assert (tmp_path / "old").read_bytes() == b"one\n"


def test_a_pipe_that_is_full_is_waited_for_and_one_without_a_reader_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where somebody has made it non-blocking; nothing of a line is written twice."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    monkeypatch.setattr(file_sinks, "_STDOUT", writer)
    sink = StdoutSink()
    got: list[bytes] = []

    def read() -> None:
        while piece := os.read(reader, 65536):
            got.append(piece)

    thread = threading.Thread(target=read)
    thread.start()
    lines = [b"%d" % number * 50 for number in range(20_000)]
    sink.write(lines)
    os.close(writer)
    thread.join(10)
    assert b"".join(got) == b"\n".join(lines) + b"\n"
    os.close(reader)

    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(file_sinks, "_STDOUT", writer)
    with pytest.raises(OSError, match="Broken pipe"):
        sink.write([b"x"])
    os.close(writer)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_thread_of_its_own(tmp_path: Path) -> None:
    """What waits in the parent the parent writes; both write their own lines, each once."""
    path = tmp_path / "access.log"
    queue = LogQueue(FileSink(path))
    queue.put(b"parent")
    wait_until(lambda: queue.written)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            queue.put(b"child")
            queue.close()
            status = 0 if (queue.written, queue.dropped) == (1, 0) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    queue.put(b"parent again")
    queue.close()
    assert path.read_bytes() == b"parent\nchild\nparent again\n"


def test_a_queue_that_is_left_counts_each_line_once() -> None:
    """What the thread has in its hands is not what was left."""
    entered, opened = threading.Event(), threading.Event()

    class Stuck(LogSink):
        def write(self, lines: Sequence[bytes]) -> None:
            entered.set()
            opened.wait(10)

    queue = LogQueue(Stuck())
    queue.put(b"first")
    assert entered.wait(10)
    for _ in range(3):
        queue.put(b"x")
    queue.close(timeout=0.01)
    assert queue.dropped == 3
    opened.set()
    wait_until(lambda: queue.written)
    assert (queue.written, queue.dropped) == (1, 3)


def test_syslog_over_a_unix_stream_counts_octets(tmp_path: Path) -> None:
    """As over TCP."""
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()
        server.settimeout(10)
        sink = SyslogSink(f"unix-stream:{path}")
        sink.write([b"one", b"two"])
        peer, _ = server.accept()
        with peer:
            data = peer.recv(65536)
        sink.close()
    length, _, rest = data.partition(b" ")
    assert rest[: int(length)].endswith(b" - - one")
    length, _, rest = rest[int(length) :].partition(b" ")
    assert rest[: int(length)].endswith(b" - - two")


def test_a_syslog_server_that_refuses_and_comes_back(tmp_path: Path) -> None:
    """Lines are tried again; what did not arrive is counted."""
    path = str(tmp_path / "log")
    queue = LogQueue(SyslogSink(f"unix:{path}"), retry=0.02)
    queue.put(b"early")
    wait_until(lambda: queue.failures)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(10)
        wait_until(lambda: queue.written + queue.dropped)
        queue.put(b"late")
        queue.close()
        assert queue.written + queue.dropped == 2
        got = [server.recv(65536) for _ in range(queue.written)]
    assert got[-1].endswith(b"late")
