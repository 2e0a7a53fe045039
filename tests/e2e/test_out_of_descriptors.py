"""A server with more clients than file descriptors: they wait, and nobody is turned away."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 128
CLIENTS = 200

PROGRAM = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
sys.argv = [{script!r}, "--listen", "127.0.0.1:0"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Client:
    """A connection that asks, and sees when it is answered or turned away."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, 60)
        self.sock.setblocking(False)
        self.answers = b""
        self.is_ended = False

    def ask(self, data: bytes) -> None:
        self.sock.send(data)

    def look(self) -> bytes:
        """Read what has come by now; all of it since the start is returned."""
        try:
            data = self.sock.recv(1000)
        except BlockingIOError:
            return self.answers
        except OSError:
            data = b""
        self.is_ended = self.is_ended or not data
        self.answers += data
        return self.answers


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def echo() -> ServerProcess:
    script = str(ROOT / "examples" / "echo_tcp.py")
    return ServerProcess("-c", PROGRAM.format(limit=LIMIT, script=script))


def processor_time(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def seconds_of_work(pid: int) -> float:
    """Let half a second go by, and tell how much of it a process has worked."""
    clock = asyncio.get_running_loop().time
    began, worked = clock(), processor_time(pid)
    while clock() < began + 0.5:  # noqa: ASYNC110 - time itself is waited for
        await asyncio.sleep(0.05)
    return processor_time(pid) - worked


async def test_clients_wait_while_descriptors_have_run_out(stack: ExitStack) -> None:
    """Those that are in are served, the others when there is room; one line says what to do."""
    async with echo() as server:
        address = await server.running()
        clients = []
        for _ in range(CLIENTS):
            client = Client(address)
            stack.callback(client.sock.close)
            client.ask(b"1\n")
            clients.append(client)
        line = await server.line_with("file descriptors are in use")
        served, waiting = list[Client](), list[Client]()
        # Until no more are: those that are in may wait for their turn a little.
        while len(served) <= LIMIT // 2 or any(each.look() for each in waiting):
            served = [client for client in clients if client.look()]
            waiting = [client for client in clients if not client.look()]
            await seconds_of_work(server.process.pid)

        assert f"of {LIMIT} file descriptors" in line
        assert "ulimit -n" in line
        assert 32 < len(served) < LIMIT
        assert await seconds_of_work(server.process.pid) < 0.25
        for client in served:
            client.ask(b"2\n")
        await eventually(lambda: all(client.look() == b"1\n2\n" for client in served))
        assert not any(client.look() or client.is_ended for client in waiting)

        for client in served:
            client.sock.close()
        await eventually(lambda: all(client.look() == b"1\n" for client in waiting[: LIMIT // 2]))
        for client in waiting[: LIMIT // 2]:
            client.sock.close()
        rest = waiting[LIMIT // 2 :]
        await eventually(lambda: all(client.look() == b"1\n" for client in rest))

        assert not any(client.is_ended for client in rest)
        server.send(signal.SIGTERM)
        assert await server.wait() == 0
    assert [line for line in server.lines if "new connections wait" in line] == [line]
