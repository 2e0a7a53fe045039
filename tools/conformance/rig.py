"""The servers under test: an origin, our proxy before it, and certificates made for the run."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from tests.support.certificates import CertificateAuthority

from bench.process import Running, free_port
from bench.servers import Site, origin
from conformance.score import SuiteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.certificates import IssuedCertificate

__all__ = ["PATH", "Engine", "Proxy", "Rig", "program", "say"]

Engine = Literal["h2", "jh2"]
PATH = "/upload"
"""What the origin answers with 200 and 44 bytes, after it has read the request's body."""

_HERE = Path(__file__).resolve().parent
_DAYS_VALID = 90


def say(text: str) -> None:
    """Print a line of progress, apart from the results.

    Args:
        text: The line.
    """
    print(text, file=sys.stderr, flush=True)


def program(name: str) -> str:
    """Find a program that comes with the environment of the suites.

    Args:
        name: Its name.

    Returns:
        Its path.

    Raises:
        SuiteError: It is not there.
    """
    path = Path(os.environ.get("CONFORMANCE_PROGRAMS", ".")) / name
    if not path.exists():
        raise SuiteError(f"{name} is not installed; run it through ./tools/dev conformance")
    return str(path)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is running.

    Attributes:
        plain: Its port for HTTP/1 and HTTP/2 in clear.
        tls: Its port for both over TLS.
    """

    plain: int
    tls: int


class Rig:
    """The folder, the certificates and the origin of a run; use it as a context manager.

    Attributes:
        authority: The root that the certificate is signed under.
        certificate: The proxy's, for ``localhost`` and ``127.0.0.1``, one intermediate below.
        origin_port: Where the origin listens.
    """

    authority: CertificateAuthority
    certificate: IssuedCertificate
    origin_port: int

    def __init__(self) -> None:
        """Prepare nothing yet."""
        self._stack = contextlib.ExitStack()
        self._directory = Path()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="pingora-conformance-"))
            self._directory = Path(name)
            self.authority = CertificateAuthority(self._directory, "Conformance Root")
            intermediate = self.authority.intermediate("Conformance Intermediate")
            self.certificate = intermediate.issue(
                "localhost",
                "127.0.0.1",
                days=_DAYS_VALID,
                crl_url="http://localhost/intermediate.crl",
            )
            site = Site(self.directory("origin"), free_port())
            running = Running("origin", origin(site), port=site.port, log=site.directory / "log")
            stack.callback(running.stop)
            self.origin_port = site.port
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def directory(self, name: str) -> Path:
        """Make a folder that goes away with the rig.

        Args:
            name: How its name begins.

        Returns:
            The folder.
        """
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._directory))

    @contextlib.contextmanager
    def server(self, name: str, command: Sequence[str], port: int) -> Iterator[Running]:
        """Run a server until the end of the block.

        Args:
            name: What messages call it.
            command: Its command line.
            port: The port of 127.0.0.1 it listens on.

        Yields:
            The running server.
        """
        running = Running(name, command, port=port, log=self.directory(name) / "log")
        try:
            yield running
        finally:
            running.stop()

    @contextlib.contextmanager
    def proxy(self, *, engine: Engine = "h2", origin_port: int | None = None) -> Iterator[Proxy]:
        """Run our proxy until the end of the block.

        Args:
            engine: The HTTP/2 library it uses.
            origin_port: Where it forwards to; None for the rig's origin.

        Yields:
            Its ports.
        """
        ports = Proxy(free_port(), free_port())
        options = {
            "plain": ports.plain,
            "tls": ports.tls,
            "origin": self.origin_port if origin_port is None else origin_port,
            "certificate": str(self.certificate.chain_path),
            "key": str(self.certificate.key_path),
            "engine": engine,
        }
        command = [sys.executable, str(_HERE / "proxy_app.py"), json.dumps(options)]
        with self.server("proxy", command, ports.plain) as running:
            yield ports
            running.check_alive()
