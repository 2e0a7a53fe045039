"""A proxy with all its surroundings, as processes: to be upgraded, reloaded and hurt."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml

from tests.support.certificates import CertificateAuthority
from tests.support.load.target import Target
from tests.support.ports import free_address
from tests.support.process import ROOT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.load.origin import LoadOrigin
    from tests.support.load.process import OriginProcess

__all__ = ["ProxyProcess", "Site"]

_PROGRAM = Path(__file__).with_name("program.py")
_PATIENCE = 60.0


class Site:
    """The addresses, the certificate and the configuration file of a proxy.

    Args:
        directory: Where all files are made.
        origin: What it proxies to.
        conf: More keys of the server's configuration.

    Attributes:
        target: Where it is to be found.
        certificate: What it shows.
        conf_path: Its configuration file.
        upgrade_sock: Its upgrade socket.
    """

    def __init__(
        self,
        directory: Path,
        origin: LoadOrigin | OriginProcess,
        conf: Mapping[str, object] | None = None,
    ) -> None:
        authority = CertificateAuthority(directory)
        self.certificate = authority.issue("localhost", "127.0.0.1")
        plain, tls = free_address(), free_address()
        self.target = Target(plain, tls, str(directory / "proxy.sock"), str(authority.cert_path))
        self.conf_path = directory / "conf.yaml"
        self.upgrade_sock = directory / "upgrade.sock"
        self.log_directory = directory
        self._site: dict[str, object] = {
            "plain": plain,
            "tls": tls,
            "uds": self.target.uds,
            "certificate": str(self.certificate.chain_path),
            "key": str(self.certificate.key_path),
            "origin": f"127.0.0.1:{origin.port}",
            "websockets": f"127.0.0.1:{origin.websocket_port}",
        }
        self._conf = {
            "upgrade_sock": str(self.upgrade_sock),
            "pid_file": str(directory / "pid"),
            "grace_period_seconds": 20,
            # A successor may take long to start.
            "upgrade_sock_connect_accept_max_retries": 60,
            # So long may a busy machine take between a client's connection and its request.
            "keepalive_min_seconds": 0.5,
            **(conf or {}),
        }
        self.configure("1")

    def configure(self, version: str, **site: object) -> None:
        """Write the configuration file.

        Args:
            version: What the answers are marked with.
            **site: More keys of the program's own section.
        """
        content = self._conf | {"site": self._site | {"version": version} | site}
        self.conf_path.write_text(yaml.safe_dump(content))

    async def version(self, address: str | None = None) -> str:
        """Ask the proxy for the version that it marks its answers with.

        Args:
            address: Where; None for its first address.
        """
        host, port = (address or self.target.plain).split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"GET /echo/version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.read()
        finally:
            writer.transport.abort()
        return head.partition("x-version: ")[2].partition("\r\n")[0]


class ProxyProcess:
    """One generation of the proxy with all processes it makes, as an async context manager.

    At the end of the block whatever is left of it is killed.

    Args:
        site: What it serves.
        *arguments: More of its command line, such as ``-u``.
        environment: More variables of its environment.
        log: Its log; None for a new one.
    """

    def __init__(
        self,
        site: Site,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self._command = [str(_PROGRAM), "-c", str(site.conf_path), *arguments]
        self._environment = os.environ | {"PYTHONPATH": _python_path()} | dict(environment or {})
        number = len(list(site.log_directory.glob("log-*")))
        self.log = log or site.log_directory / f"log-{number}"
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._command,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        # Successors and workers are of its session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self.process.returncode is not None

    def lines(self) -> list[str]:
        """Read what it has logged so far."""
        return self.log.read_text(errors="replace").splitlines()

    def send(self, number: signal.Signals) -> None:
        """Send a signal.

        Args:
            number: Which one.
        """
        self.process.send_signal(number)

    async def says(self, text: str, times: int = 1) -> None:
        """Wait for a line of the log.

        Args:
            text: Part of it.
            times: How many such lines there have to be.
        """
        try:
            await eventually(lambda: self.has_ended or self.count(text) >= times, timeout=_PATIENCE)
            assert self.count(text) >= times
        except AssertionError:
            msg = f"{text!r} is not in the log {times} times:\n" + "\n".join(self.lines()[-60:])
            raise AssertionError(msg) from None

    def count(self, text: str) -> int:
        """Count the lines of the log with a text.

        Args:
            text: The text.
        """
        return sum(text in line for line in self.lines())

    async def running(self) -> Self:
        """Wait until it runs."""
        await self.says("phase Running")
        return self

    async def ended(self) -> int:
        """Wait for its end.

        Returns:
            The exit code; minus the signal if one killed it.
        """
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self.process.wait()
        except TimeoutError:
            msg = "it does not end:\n" + "\n".join(self.lines()[-60:])
            raise AssertionError(msg) from None

    async def stop(self) -> int:
        """Stop it gracefully.

        Returns:
            The exit code.
        """
        self.send(signal.SIGTERM)
        return await self.ended()


def _python_path() -> str:
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
