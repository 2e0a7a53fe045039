"""Processes forked from the test, which do what the test tells them, and a clock for all of them."""

from __future__ import annotations

import mmap
import os
import signal
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Forked", "SharedClock"]

_LIMIT = 60.0


class SharedClock:
    """Stands in for ``time.monotonic`` in the test and in all processes forked from it.

    Args:
        now: Its first reading in seconds.
    """

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._memory = memoryview(mmap.mmap(-1, 8)).cast("d")
        self._memory[0] = now

    def __call__(self) -> float:
        return self._memory[0]

    def advance(self, seconds: float) -> None:
        """Move on, or back.

        Args:
            seconds: By how much.
        """
        self._memory[0] += seconds


class Forked:
    """A child process with some functions, as a context manager; killed if it is still there.

    Args:
        functions: What it can do; arguments and results are numbers and texts.
    """

    def __init__(self, functions: Mapping[str, object]) -> None:
        self._functions = functions
        self._pid = 0

    def __enter__(self) -> Self:
        self._connection, theirs = Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._connection.close()
                while True:
                    name, arguments = theirs.recv()
                    function = self._functions[name]
                    assert callable(function)
                    theirs.send(function(*arguments))
            finally:
                os._exit(1)
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def tell(self, name: str, *arguments: object) -> None:
        """Let it call a function, without waiting for the result.

        Args:
            name: Which one.
            arguments: With what.
        """
        self._connection.send((name, arguments))

    def result(self) -> object:
        """Wait for the result of the call it was told longest ago.

        Returns:
            What the function returned.

        Raises:
            AssertionError: If none comes.
        """
        if not self._connection.poll(_LIMIT):
            msg = f"process {self._pid} does not answer"
            raise AssertionError(msg)
        return self._connection.recv()

    def call(self, name: str, *arguments: object) -> object:
        """Let it call a function.

        Args:
            name: Which one.
            arguments: With what.

        Returns:
            What the function returned.
        """
        self.tell(name, *arguments)
        return self.result()

    def number(self, name: str, *arguments: object) -> int:
        """Let it call a function that returns a number.

        Args:
            name: Which one.
            arguments: With what.

        Returns:
            What the function returned.
        """
        result = self.call(name, *arguments)
        assert isinstance(result, int)
        return result

    def kill(self) -> None:
        """End it as hard as can be, and wait until it is gone."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            self._connection.close()
