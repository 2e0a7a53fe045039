"""One run: the origins, fresh proxies for each scenario, cores that keep them apart."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.certificates import CertificateAuthority

from bench.process import BenchError, Running, free_port
from bench.servers import CACHES, PEERS, Site, grpc_origin, origin, pingora

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.certificates import IssuedCertificate

    from bench.servers import Front

__all__ = ["Rig", "say"]


def say(text: str) -> None:
    """Print a line of progress, apart from the results.

    Args:
        text: The line.
    """
    print(text, file=sys.stderr, flush=True)


class Rig:
    """The origins and the folders of a run; use it as a context manager.

    The proxy under measurement has one core; this program, the load and the origins have another.

    Attributes:
        cores: Both core numbers, the proxy's first; equal on a machine with one core.
        usable_cores: All core numbers that this program may use.
        broken: Names of peers that could not be measured, with the reason.
    """

    def __init__(self, peers: Sequence[str]) -> None:
        """Choose the peers.

        Args:
            peers: Their names.
        """
        self._peers = list(peers)
        self._stack = contextlib.ExitStack()
        self._origins: dict[Front, Running] = {}
        self.broken: dict[str, str] = {}
        usable = sorted(os.sched_getaffinity(0))
        self.usable_cores = tuple(usable)
        self.cores = (usable[0], usable[min(1, len(usable) - 1)])

    def __enter__(self) -> Self:
        os.sched_setaffinity(0, {self.cores[1]})
        with contextlib.ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="pingora-bench-"))
            self._directory = Path(name)
            authority = CertificateAuthority(self._directory, "Benchmark Root")
            self._certificate: IssuedCertificate = authority.issue("localhost", "127.0.0.1")
            plain = self._start_origin(stack, "plain")
            self._origins = dict.fromkeys(("plain", "tls", *CACHES), plain)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def proxies(
        self, front: Front = "plain", without: str | None = None, *, origin: int | None = None
    ) -> Iterator[dict[str, Running]]:
        """Start every peer that can be started.

        Args:
            front: What they shall speak; those that do not are left out.
            without: One that is left out too.
            origin: The port of the origin; None for the rig's own.

        Yields:
            The running peers by name; they are stopped afterwards.
        """
        running: dict[str, Running] = {}
        with contextlib.ExitStack() as stack:
            if front not in self._origins:
                self._origins[front] = self._start_origin(self._stack, front)
            able = [name for name in self._peers if front in PEERS[name].fronts]
            for name in [name for name in able if name not in {without, *self.broken}]:
                try:
                    running[name] = self._start(name, front, origin)
                except BenchError as error:
                    self.give_up(name, error)
                else:
                    stack.callback(running[name].stop)
            yield running

    @contextlib.contextmanager
    def pingora(self, workers: int, front: Front = "plain") -> Iterator[Running]:
        """Start our proxy with some workers, on all cores but the load's if that leaves enough.

        Args:
            workers: How many.
            front: What it shall speak, in clear.

        Yields:
            The running proxy; it is stopped afterwards.
        """
        site = Site(self._folder("pingora"), free_port(), self._origins["plain"].port, front)
        others = [core for core in self.usable_cores if core != self.cores[1]]
        cores = others if len(others) >= workers else self.usable_cores
        command = ["taskset", "-c", ",".join(map(str, cores)), *pingora(site, workers=workers)]
        name = f"{workers} worker" + "s" * (workers > 1)
        running = Running(name, command, port=site.port, log=site.directory / "log")
        try:
            yield running
        finally:
            running.stop()

    def give_up(self, name: str, error: BenchError) -> None:
        """Leave a peer out from now on.

        Args:
            name: The peer.
            error: Why.
        """
        self.broken[name] = str(error)
        say(f"  without {name}: {error}")

    def _start(self, name: str, front: Front, origin: int | None) -> Running:
        site = Site(
            self._folder(name),
            free_port(),
            self._origins[front].port if origin is None else origin,
            front,
            self._certificate.chain_path,
            self._certificate.key_path,
        )
        command = ["taskset", "-c", str(self.cores[0]), *PEERS[name].command(site)]
        return Running(name, command, port=site.port, log=site.directory / "log")

    def _start_origin(self, stack: contextlib.ExitStack, front: Front) -> Running:
        site = Site(self._folder(f"{front}-origin"), free_port())
        command = grpc_origin(site) if front == "grpc" else origin(site)
        running = Running("origin", command, port=site.port, log=site.directory / "log")
        stack.callback(running.stop)
        return running

    def _folder(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._directory))
