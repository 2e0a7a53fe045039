"""One run: an origin, fresh proxies for each scenario, cores that keep them apart."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench.process import BenchError, Running, free_port
from bench.servers import PEERS, Site, origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Rig", "say"]


def say(text: str) -> None:
    """Print a line of progress, apart from the results.

    Args:
        text: The line.
    """
    print(text, file=sys.stderr, flush=True)


class Rig:
    """The origin and the folders of a run; use it as a context manager.

    The proxy under measurement has one core, this program, wrk and the origin have another.

    Attributes:
        cores: Both core numbers, the proxy's first; equal on a machine with one core.
        broken: Names of peers that could not be measured, with the reason.
    """

    def __init__(self, peers: Sequence[str]) -> None:
        """Choose the peers.

        Args:
            peers: Their names.
        """
        self._peers = list(peers)
        self._stack = contextlib.ExitStack()
        self.broken: dict[str, str] = {}
        usable = sorted(os.sched_getaffinity(0))
        self.cores = (usable[0], usable[min(1, len(usable) - 1)])

    def __enter__(self) -> Self:
        os.sched_setaffinity(0, {self.cores[1]})
        with contextlib.ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="pingora-bench-"))
            self._directory = Path(name)
            site = self._site("origin", 0)
            self._origin = Running(
                "origin", origin(site), port=site.port, log=site.directory / "log"
            )
            stack.callback(self._origin.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def proxies(self) -> Iterator[dict[str, Running]]:
        """Start every peer that can be started.

        Yields:
            The running peers by name; they are stopped afterwards.
        """
        running: dict[str, Running] = {}
        with contextlib.ExitStack() as stack:
            for name in [name for name in self._peers if name not in self.broken]:
                try:
                    running[name] = self._start(name)
                except BenchError as error:
                    self.give_up(name, error)
                else:
                    stack.callback(running[name].stop)
            yield running

    def give_up(self, name: str, error: BenchError) -> None:
        """Leave a peer out from now on.

        Args:
            name: The peer.
            error: Why.
        """
        self.broken[name] = str(error)
        say(f"  without {name}: {error}")

    def _start(self, name: str) -> Running:
        site = self._site(name, self._origin.port)
        command = ["taskset", "-c", str(self.cores[0]), *PEERS[name](site)]
        return Running(name, command, port=site.port, log=site.directory / "log")

    def _site(self, name: str, origin_port: int) -> Site:
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._directory))
        return Site(directory, free_port(), origin_port)
