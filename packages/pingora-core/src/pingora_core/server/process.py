"""How a server uses the process it is given: its event loop, and the way out of it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NoReturn

import uvloop

from pingora_core.conf import CONFIG_ERROR
from pingora_core.conf._opt import program_name
from pingora_core.runtime.allocator import keep_freed_memory
from pingora_core.runtime.collector import calm_collector
from pingora_core.server._streams import settle_streams
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from pingora_core.conf import ServerConf

__all__ = ["exit_code_of", "exit_on_error", "leave", "run_in_event_loop", "say"]

_logger = logging.getLogger(__name__)

_EXIT_FAILURE: Final = 1
_EXIT_CONFIG: Final = 2


def say(line: str) -> None:
    """Write one line to standard error, with the name of the program in front.

    Args:
        line: What to say; line breaks in it become spaces.
    """
    with suppress(OSError, ValueError, AttributeError):  # closed: there is nobody to tell
        sys.stderr.write(f"{program_name()}: {' '.join(line.split())}\n")
        sys.stderr.flush()


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Make an `Error` the end of the program: one line on standard error and an exit code.

    The code is 2 if the configuration is to blame, else 1. For the ``main`` of a program that
    does things before ``Server.run_forever`` that an operator's mistake can break, such as
    reading its own section of the configuration.

    Yields:
        Nothing.

    Raises:
        SystemExit: Instead of the `Error`.
    """
    try:
        yield
    except Error as error:
        say(f"error: {error.context if error.etype == CONFIG_ERROR else error}")
        settle_streams()
        raise SystemExit(exit_code_of(error)) from error


def exit_code_of(error: Error) -> int:
    """Tell what a program ends with because of an error.

    Args:
        error: What ends it.

    Returns:
        2 if the configuration is to blame, else 1.
    """
    return _EXIT_CONFIG if error.root_etype == CONFIG_ERROR else _EXIT_FAILURE


def leave(within: float) -> NoReturn:
    """End the program with exit code 0, at the latest after a while.

    Args:
        within: How long threads that were left behind may delay the end, seconds.

    Raises:
        SystemExit: To end it in the ordinary way.
    """
    others = [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.current_thread()
    ]
    if others:
        # The interpreter waits for them without limit, for instance for one that is stuck in
        # a lookup; a server that was told to stop has to stop.
        timer = threading.Timer(within, os._exit, (0,))
        timer.daemon = True
        timer.start()
    settle_streams()
    raise SystemExit(0)


def run_in_event_loop(
    main: Callable[[], Coroutine[object, object, None]], conf: ServerConf
) -> None:
    """Run a coroutine in a uvloop of its own; leave nothing of the loop behind.

    Unlike ``asyncio.run`` this never waits without limit for tasks or threads that will not end.

    Args:
        main: Makes the coroutine.
        conf: Tells the number of threads for blocking calls, and how long an end may take.
    """
    keep_freed_memory()
    calm_collector()
    loop = uvloop.new_event_loop()
    executor = ThreadPoolExecutor(conf.max_blocking_threads, thread_name_prefix="blocking")
    loop.set_default_executor(executor)
    try:
        loop.run_until_complete(main())
    finally:
        try:
            loop.run_until_complete(_finish_tasks(conf.graceful_shutdown_timeout))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            loop.close()


async def _finish_tasks(timeout: float) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=timeout)
        for task in pending:
            _logger.error("a task would not end and is left behind: %s", task.get_name())
    # Transports close in a later turn of the loop than the one they are told to.
    await asyncio.sleep(0)
