"""The example ``load_balancer.py`` as a process."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EXAMPLE", "Answer", "Balancer", "StoryError"]

EXAMPLE = Path("examples") / "load_balancer.py"
_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 10.0
_STOP_SECONDS = 15.0
_USUAL_PORT = 6188


class StoryError(Exception):
    """The demonstration does not show what it should; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client got.

    Attributes:
        status: The status code.
        origin: The name of the origin that answered; empty if none did.
        text: The body.
    """

    status: int
    origin: str
    text: str


class Balancer:
    """The example, running; use it as a context manager.

    Attributes:
        address: ``host:port`` it listens on.
        command: Its command line, as one would type it in the root of the repository.
    """

    def __init__(self, upstreams: Sequence[str], options: Sequence[str]) -> None:
        """Choose its address and its command line.

        Args:
            upstreams: Addresses of the origins.
            options: Further options of the example.
        """
        self._port = _free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._arguments = [*upstreams, "--listen", self.address, *options]
        self.command = " ".join(["python", str(EXAMPLE), *self._arguments])
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, str(_ROOT / EXAMPLE), *self._arguments]
        self._process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        try:
            self._wait_until_it_accepts(self._process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, path: str = "/") -> Answer:
        """Send one GET request on a connection of its own.

        Args:
            path: The request target.

        Returns:
            The answer.

        Raises:
            StoryError: No answer came.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            origin = response.getheader("X-Origin", "")
            return Answer(response.status, origin, response.read().decode().strip())
        except (OSError, http.client.HTTPException) as error:
            raise StoryError(f"no answer from the load balancer: {error}\n{self.log}") from error
        finally:
            connection.close()

    def stop(self) -> int:
        """Ask it to stop, as an operator would, and wait.

        Returns:
            Its exit code.

        Raises:
            StoryError: It does not stop in time; it is killed then.
        """
        process = self._process
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            message = f"the load balancer did not stop within {_STOP_SECONDS:.0f} s of SIGTERM"
            raise StoryError(f"{message}\n{self.log}") from None

    def wait(self) -> None:
        """Wait until it ends by itself.

        Raises:
            StoryError: It ended, though nobody had told it to.
        """
        if self._process is not None:
            code = self._process.wait()
            raise StoryError(f"the load balancer ended with exit code {code}\n{self.log}")

    @property
    def log(self) -> str:
        """What it has printed so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").rstrip()

    def _wait_until_it_accepts(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                message = f"the load balancer ended at once, exit code {process.returncode}"
                raise StoryError(f"{message}\n{self.log}")
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        message = f"the load balancer did not listen within {_START_SECONDS:.0f} s"
        raise StoryError(f"{message}\n{self.log}")

    def _end(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


def _free_port() -> int:
    for wanted in (_USUAL_PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", wanted)) as probe:
                port: int = probe.getsockname()[1]
                return port
        except OSError:
            continue
    raise StoryError("no free port on 127.0.0.1")
