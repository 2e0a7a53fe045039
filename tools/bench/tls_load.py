"""Load over TLS and HTTP/2: h2load for requests, plain sockets for handshakes and idle ones."""

from __future__ import annotations

import re
import socket
import ssl
import statistics
import struct
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.load import Counted
from bench.process import BenchError
from bench.servers import SMALL

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence

__all__ = ["GRPC_BODY", "GRPC_PATH", "H2Load", "Handshakes", "open_idle_h2", "parse_h2load"]

GRPC_PATH = "/bench.Echo/Unary"
GRPC_BODY = b"\0" + struct.pack(">I", 100) + b"x" * 100
"""A message of 100 bytes as gRPC frames it."""

_GRPC = ("content-type: application/grpc", "te: trailers")
_CIPHER = "TLS_AES_128_GCM_SHA256"
_HTTP_1 = b"GET /small HTTP/1.1\r\nHost: bench.test\r\nConnection: close\r\n\r\n"
_MOST_HANDSHAKES = 100_000

# The preface, empty SETTINGS, and stream 1: GET, https, /small, bench.test, none of it indexed.
_FIELDS = b"\x82\x87\x04\x06/small\x01\x0abench.test"
_OPENING = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
    + bytes([0, 0, len(_FIELDS), 1, 5, 0, 0, 0, 1])
    + _FIELDS
)
_SETTINGS_ACK = b"\0\0\0\x04\x01\0\0\0\0"
_DATA, _SETTINGS = 0, 4
_END_STREAM, _ACK = 1, 1


def parse_h2load(text: str, log: str, seconds: float) -> Counted:
    """Read what h2load prints at its end, and its log of requests.

    Args:
        text: What it prints.
        log: Lines of start, status and microseconds, apart by tabs.
        seconds: How long it was told to run.

    Returns:
        What was counted.

    Raises:
        BenchError: There are no totals.
    """
    totals = re.search(r"^requests: \d+ total, .*?(\d+) done, .*?(\d+) errored", text, re.MULTILINE)
    codes = re.search(
        r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text, re.MULTILINE
    )
    if totals is None or codes is None:
        raise BenchError(f"h2load gives no totals: {text.strip()[-500:]}")
    good = int(codes[1])
    took = [
        int(line.rpartition("\t")[2]) / 1000 for line in log.splitlines() if "\t-1\t" not in line
    ]
    return _counted(good, seconds, took, int(totals[2]) + sum(int(codes[n]) for n in (2, 3, 4)))


@dataclass(frozen=True, slots=True)
class H2Load:
    """Requests with h2load on one thread, over TLS 1.3 with one cipher.

    Attributes:
        path: The request target.
        connections: Connections kept open.
        streams: Requests at a time on each.
        http1: Whether HTTP/1.1 is spoken instead of HTTP/2.
        grpc: Whether a gRPC message is sent, and an answer with status 0 wanted.
    """

    path: str
    connections: int
    streams: int = 1
    http1: bool = False
    grpc: bool = False

    def __call__(self, port: int, seconds: float) -> Counted:
        """Load a server.

        Args:
            port: Its port on 127.0.0.1.
            seconds: How long, rounded to whole seconds, at least 1.

        Returns:
            What was counted.

        Raises:
            BenchError: h2load is missing or fails, or the server is not up to gRPC.
        """
        url = f"https://127.0.0.1:{port}{self.path}"
        whole = max(1, round(seconds))
        with tempfile.TemporaryDirectory(prefix="pingora-h2load-") as name:
            directory = Path(name)
            body, log = directory / "body", directory / "log"
            command = ["h2load", f"-D{whole}", f"-c{self.connections}", f"-m{self.streams}"]
            command += [f"--tls13-ciphers={_CIPHER}", f"--log-file={log}"]
            if self.http1:
                command.append("--h1")
            if self.grpc:
                body.write_bytes(GRPC_BODY)
                command += [f"--data={body}", *(f"--header={line}" for line in _GRPC)]
                _check_grpc(url, body)
            text = _output([*command, url], whole + 60)
            return parse_h2load(text, log.read_text() if log.exists() else "", whole)


@dataclass(frozen=True, slots=True)
class Handshakes:
    """A new connection for each request, eight at a time.

    Attributes:
        resumed: Whether each goes on with the session of the one before; otherwise every
            handshake is a full one.
    """

    resumed: bool

    def __call__(self, port: int, seconds: float) -> Counted:
        """Load a server.

        Args:
            port: Its port on 127.0.0.1.
            seconds: How long.

        Returns:
            What was counted; a session that was not resumed as it should, or was, is an error.
        """
        tally = _Tally()
        deadline = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._repeat, args=(port, deadline, tally)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _counted(len(tally.took), seconds, tally.took, tally.errors)

    def _repeat(self, port: int, deadline: float, tally: _Tally) -> None:
        context = _client_context("http/1.1")
        session: ssl.SSLSession | None = None
        while (started := time.monotonic()) < deadline and len(tally.took) < _MOST_HANDSHAKES:
            try:
                with (
                    socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                    context.wrap_socket(plain, session=session) as secured,
                ):
                    secured.sendall(_HTTP_1)
                    answer = b""
                    while not answer.endswith(SMALL) and (piece := secured.recv(65536)):
                        answer += piece
                    good = answer.endswith(SMALL) and secured.session_reused == bool(session)
                    session = secured.session if self.resumed else None
            except OSError:
                good = False
            tally.errors += not good
            tally.took.append((time.monotonic() - started) * 1000)


@dataclass(slots=True)
class _Tally:
    took: list[float] = field(default_factory=list)
    errors: int = 0


def open_idle_h2(port: int, count: int, stack: contextlib.ExitStack) -> None:
    """Open HTTP/2 connections over TLS that each serve one request and then stay idle.

    Args:
        port: The server's port on 127.0.0.1.
        count: How many.
        stack: Closes them when it is closed.

    Raises:
        BenchError: A connection fails or is not kept open.
    """
    context = _client_context("h2")
    for number in range(count):
        try:
            plain = socket.create_connection(("127.0.0.1", port), timeout=10)
            stack.callback(plain.close)
            connection = context.wrap_socket(plain)
            stack.callback(connection.close)
            connection.sendall(_OPENING)
            _await_answer(connection)
        except OSError as error:
            raise BenchError(f"idle connection {number}: {error}") from None


def _await_answer(connection: ssl.SSLSocket) -> None:
    buffer = bytearray()
    while True:
        piece = connection.recv(65536)
        if not piece:
            raise BenchError("an idle connection was closed")
        buffer += piece
        while len(buffer) >= 9 and len(buffer) >= (size := 9 + int.from_bytes(buffer[:3], "big")):
            kind, flags = buffer[3], buffer[4]
            del buffer[:size]
            if kind == _SETTINGS and not flags & _ACK:
                connection.sendall(_SETTINGS_ACK)
            elif kind == _DATA and flags & _END_STREAM:
                return


def _client_context(protocol: str) -> ssl.SSLContext:
    # Whom it talks to is certain, and verification would only cost the client.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([protocol])
    return context


def _check_grpc(url: str, body: Path) -> None:
    # h2load counts an answer by its status in the head: what gRPC thinks stands in the trailers.
    command = ["nghttp", "--null-out", "--verbose", "--no-verify-peer", f"--data={body}"]
    text = _output([*command, *(f"--header={line}" for line in _GRPC), url], 30)
    if not re.search(r"grpc-status: 0\b", text):
        raise BenchError(f"no gRPC answer: {text.strip()[-500:]}")


def _output(command: list[str], timeout: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise BenchError(f"{command[0]} is not installed (./tools/dev deps)") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} does not end") from None
    if done.returncode != 0:
        raise BenchError(f"{command[0]} failed with exit code {done.returncode}: {done.stderr}")
    return done.stdout


def _counted(good: int, seconds: float, took: Sequence[float], errors: int) -> Counted:
    p50, p99 = _percentiles(took)
    return Counted(requests=good, seconds=seconds, p50_ms=p50, p99_ms=p99, errors=errors)


def _percentiles(took: Sequence[float]) -> tuple[float, float]:
    if len(took) < 2:
        return (took[0], took[0]) if took else (0.0, 0.0)
    cuts = statistics.quantiles(took, n=100)
    return cuts[49], cuts[98]
