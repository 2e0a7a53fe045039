"""The load generators: wrk for requests, plain sockets for idle connections."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.process import BenchError
from bench.servers import SMALL

if TYPE_CHECKING:
    import contextlib

__all__ = ["Counted", "open_idle", "wrk"]

_SCRIPTS = Path(__file__).resolve().parent / "wrk"
_REQUEST = b"GET /small HTTP/1.1\r\nHost: bench.test\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Counted:
    """What a load generator counted in one run.

    Attributes:
        requests: Answered requests.
        seconds: Duration in seconds.
        p50_ms: Median latency in milliseconds.
        p99_ms: 99th percentile of it in milliseconds.
        errors: Failed connects, reads and writes, time-outs, and statuses over 399.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int


def wrk(port: int, path: str, connections: int, *, seconds: float, script: str = "") -> Counted:
    """Load a server with one thread.

    Args:
        port: Its port on 127.0.0.1.
        path: The request target.
        connections: Connections kept open.
        seconds: How long, rounded to whole seconds, at least 1.
        script: A Lua file beside this module that shapes the request; none for plain GET.

    Returns:
        What was counted.

    Raises:
        BenchError: wrk is missing or fails.
    """
    names = [script, "report.lua"] if script else ["report.lua"]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        # wrk takes one script, and reads it once for itself and once for each thread.
        file.write("\n".join((_SCRIPTS / name).read_text() for name in names))
        file.flush()
        counted = _run([*command, "-s", file.name, f"http://127.0.0.1:{port}{path}"], seconds + 60)
    return Counted(
        requests=int(counted["requests"]),
        seconds=counted["seconds"],
        p50_ms=counted["p50_ms"],
        p99_ms=counted["p99_ms"],
        errors=int(
            sum(counted[name] for name in ("connect", "read", "write", "timeout", "status"))
        ),
    )


def _run(command: list[str], timeout: float) -> dict[str, float]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise BenchError("wrk is not installed (./tools/dev deps)") from None
    except subprocess.TimeoutExpired:
        raise BenchError("wrk does not end") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise BenchError(f"wrk failed with exit code {done.returncode}: {done.stderr.strip()}")
    counted: dict[str, float] = json.loads(lines[-1])
    return counted


def open_idle(port: int, count: int, stack: contextlib.ExitStack) -> None:
    """Open connections that each serve one request and then stay idle.

    Args:
        port: The server's port on 127.0.0.1.
        count: How many.
        stack: Closes them when it is closed.

    Raises:
        BenchError: A connection fails or is not kept open.
    """
    for number in range(count):
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            stack.callback(connection.close)
            connection.sendall(_REQUEST)
            answer = b""
            while not answer.endswith(SMALL):
                piece = connection.recv(65536)
                if not piece:
                    raise BenchError(f"idle connection {number} was closed after {answer!r}")
                answer += piece
        except OSError as error:
            raise BenchError(f"idle connection {number}: {error}") from None
