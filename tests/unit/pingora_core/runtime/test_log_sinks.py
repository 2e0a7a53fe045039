"""Log lines go through a queue that never waits, into files and to syslog."""

from __future__ import annotations

import os
import re
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from pingora_core.runtime.log_sinks import FileSink, LogQueue, LogSink, SyslogSink

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class _Gate(LogSink):
    # Writes nothing until it is opened.

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.lines: list[bytes] = []
        self.closed = False
        self.reopened = 0

    def write(self, lines: Sequence[bytes]) -> None:
        self.entered.set()
        assert self.opened.wait(10)
        self.lines += lines

    def reopen(self) -> None:
        self.reopened += 1

    def close(self) -> None:
        self.closed = True


def test_lines_arrive_in_order_and_closing_writes_what_waits() -> None:
    """Nothing is lost where there is room."""
    sink = _Gate()
    sink.opened.set()
    queue = LogQueue(sink)
    for number in range(2000):
        queue.put(b"%d" % number)
    queue.close()
    assert sink.lines == [b"%d" % number for number in range(2000)]
    assert (queue.written, queue.dropped, sink.closed) == (2000, 0, True)
    queue.put(b"late")
    assert queue.dropped == 1


def test_a_sink_that_is_stuck_costs_lines_and_not_time() -> None:
    """Beyond the capacity lines are dropped, and counted."""
    sink = _Gate()
    queue = LogQueue(sink, capacity=10)
    queue.put(b"first")
    assert sink.entered.wait(10)
    for _ in range(25):
        queue.put(b"x")
    assert queue.waiting == 10
    assert queue.dropped == 15
    sink.opened.set()
    queue.close()
    assert queue.written == 11


def test_long_lines_count_by_their_bytes() -> None:
    """A client that makes its lines long does not make the queue large."""
    sink = _Gate()
    queue = LogQueue(sink, max_bytes=1000)
    queue.put(b"first")
    assert sink.entered.wait(10)
    for _ in range(5):
        queue.put(b"x" * 300)
    assert queue.waiting == 3
    assert queue.dropped == 2
    sink.opened.set()
    queue.close()
    assert queue.written == 4


def test_a_queue_that_was_idle_wakes_up() -> None:
    """The thread sleeps without polling, and is woken by the next line."""
    sink = _Gate()
    sink.opened.set()
    queue = LogQueue(sink)
    for number in range(3):
        sink.entered.clear()
        queue.put(b"%d" % number)
        assert sink.entered.wait(10)
    queue.reopen()
    queue.put(b"after")
    queue.close()
    assert sink.lines == [b"0", b"1", b"2", b"after"]
    assert sink.reopened == 1


def test_a_full_disk_costs_lines_only(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be written is counted and told, not raised."""
    queue = LogQueue(FileSink("/dev/full"))
    queue.put(b"lost")
    queue.close()
    assert (queue.written, queue.dropped, queue.failures) == (0, 1, 1)
    assert "could not be written" in caplog.text


def test_a_file_is_opened_anew_by_its_name(tmp_path: Path) -> None:
    """After a rotation the next line is in the new file; until it can be opened, in the old one."""
    path = tmp_path / "access.log"
    sink = FileSink(path)
    sink.write([b"one", b"two"])
    rotated = path.rename(tmp_path / "access.log.1")
    sink.write([b"three"])
    path.mkdir()
    sink.reopen()
    sink.write([b"four"])
    path.rmdir()
    sink.write([b"five"])
    sink.close()
    sink.close()
    assert rotated.read_bytes() == b"one\ntwo\nthree\nfour\n"
    assert path.read_bytes() == b"five\n"
    assert path.stat().st_mode & 0o007 == 0


def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The queue takes it as a failure of the sink."""
    with pytest.raises(OSError, match="No such file"):
        FileSink(tmp_path / "no" / "file").write([b"x"])


_MESSAGE = re.compile(rb"<134>1 1970-01-01T00:00:01\.500Z \S+ edge \d+ - - (.*)", re.DOTALL)


def test_syslog_over_udp_and_unix_sockets_is_a_datagram_each(tmp_path: Path) -> None:
    """RFC 5424 messages, cut where a datagram ends."""
    unix = str(tmp_path / "log")
    for family, bound, address in (
        (socket.AF_INET, ("127.0.0.1", 0), "udp:127.0.0.1:{}"),
        (socket.AF_UNIX, unix, f"unix:{unix}"),
    ):
        with socket.socket(family, socket.SOCK_DGRAM) as server:
            server.bind(bound)
            server.settimeout(10)
            name = server.getsockname()
            port = name[1] if isinstance(name, tuple) else 0
            sink = SyslogSink(address.format(port), app_name="edge", clock=lambda: 1.5)
            sink.write([b"hello", b"x" * 20_000])
            first = _MESSAGE.fullmatch(server.recv(65536))
            assert first is not None
            assert first[1] == b"hello"
            assert len(server.recv(65536)) == 8192
            sink.close()


def test_syslog_over_tcp_counts_octets_and_connects_again() -> None:
    """A line break in a message does not make two of it; who has closed is connected to anew."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        sink = SyslogSink(f"tcp:127.0.0.1:{server.getsockname()[1]}", clock=lambda: 1.5)
        sink.write([b"a\nb"])
        peer, _ = server.accept()
        with peer:
            data = peer.recv(65536)
        length, _, message = data.partition(b" ")
        assert int(length) == len(message)
        assert message.endswith(b" pingora %d - - a\nb" % os.getpid())
        sink.write([b"again"])
        peer, _ = server.accept()
        with peer:
            assert peer.recv(65536).endswith(b"again")
        # Now it knows, before it writes, that nobody listens to it any more.
        sink.write([b"once more"])
        peer, _ = server.accept()
        with peer:
            assert peer.recv(65536).endswith(b"once more")
        sink.close()


@pytest.mark.parametrize(
    "address",
    ["", "udp:host", "udp::514", "tcp:host:0", "tcp:h:99999", "unix:", "unix-stream:", "file:/x"],
)
def test_what_is_no_address_is_told(address: str) -> None:
    """The forms are named."""
    with pytest.raises(ValueError, match="no syslog address"):
        SyslogSink(address)


def test_what_is_no_name_or_capacity_is_told() -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match="no name for syslog"):
        SyslogSink("udp:127.0.0.1:514", app_name="")
    with pytest.raises(ValueError, match="at least one line"):
        LogQueue(FileSink("/dev/null"), capacity=0)
