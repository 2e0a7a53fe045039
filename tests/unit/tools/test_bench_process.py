"""What the benchmark reads about a process, and that it leaves none behind."""

from __future__ import annotations

import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest

from bench.process import BenchError, Running
from tests.support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

# A server whose child is busy for a while: both count.
_SERVER = """
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
ballast = b"x" * 20_000_000
if os.fork() == 0:
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    open(sys.argv[2], "w").close()
while True:
    listener.accept()[0].close()
"""


def _goes_away(port: int) -> bool:
    # A killed process takes a moment to let go of its sockets.
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_a_tree_of_processes_is_measured_and_ended(tmp_path: Path) -> None:
    """CPU and memory of children count, and stopping the parent is enough."""
    port = free_port()
    done = tmp_path / "done"
    command = [sys.executable, "-c", _SERVER, str(port), str(done)]
    running = Running("server", command, port=port, log=tmp_path / "log")
    try:
        while not done.exists():
            running.check_alive()

        assert running.cpu_seconds() >= 0.2
        assert running.rss_kib() > 20_000
    finally:
        running.stop()

    with pytest.raises(BenchError, match="server ended with exit code"):
        running.check_alive()
    assert running.rss_kib() == 0
    assert _goes_away(port)


def test_a_server_that_ends_at_once_is_reported_with_its_words(tmp_path: Path) -> None:
    """The error holds the exit code and what the program said."""
    command = [sys.executable, "-c", "import sys; sys.exit('no such option')"]

    with pytest.raises(BenchError, match=r"(?s)exit code 1.*no such option"):
        Running("server", command, port=free_port(), log=tmp_path / "log")


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """Nothing is started, and the error says what is not there."""
    with pytest.raises(BenchError, match="no-such-program is not installed"):
        Running("x", ["no-such-program"], port=free_port(), log=tmp_path / "log")
