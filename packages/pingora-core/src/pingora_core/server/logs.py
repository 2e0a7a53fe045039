"""What the server does with logs: their level, and opening their files anew.

Theory of operation
-------------------
Programs that rotate logs (logrotate) rename a file and send SIGUSR1; whoever goes on writing to the
open file fills the renamed one. So each file is opened again by its name, and only when that has
worked the old one is let go: a disk that is full or a directory that is gone costs log lines, never
the server. Each process of a server does this for itself: what one opens the others do not have.

What a program logs to in its own way (an access log, a queue) is told with `on_reopen`.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pingora_core.server.system.daemon import open_error_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pingora_core.conf import ServerConf

__all__ = ["configure_logging", "on_reopen", "reopen_logs"]

_logger = logging.getLogger(__name__)

_STDERR: Final = 2
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _State:
    # What belongs to the process: logging does, too.
    level_of_program: int | None = None
    callbacks: Final[list[Callable[[], None]]] = []


def configure_logging(conf: ServerConf) -> None:
    """Set the level of logging to what a configuration says; also at a reload.

    The level of the root logger, so that of all that have none of their own. In a program that has
    not set logging up at all, the log goes to standard error.

    Args:
        conf: Without a ``log_level`` the level is the program's own.
    """
    root = logging.getLogger()
    if _State.level_of_program is None:
        if conf.log_level is None:
            return
        _State.level_of_program = root.level
    if conf.log_level is None:
        root.setLevel(_State.level_of_program)
        _State.level_of_program = None
        return
    logging.basicConfig(format=_FORMAT)  # nothing if there is a handler
    root.setLevel(conf.log_level.upper())


def on_reopen(callback: Callable[[], None]) -> Callable[[], None]:
    """Have a function called when log files should be opened anew.

    Args:
        callback: Called in the thread of the event loop, in each process; must not block for long.
            What it raises is logged.

    Returns:
        A function that takes the subscription back.
    """
    _State.callbacks.append(callback)

    def forget() -> None:
        with suppress(ValueError):
            _State.callbacks.remove(callback)

    return forget


def reopen_logs(conf: ServerConf) -> None:
    """Open anew all files that this process logs to; never fails.

    That is the ``error_log`` if the server is in the background, the file of every handler of the
    standard library's logging, and what callbacks of `on_reopen` see to. A file that cannot be
    opened is told in one warning, and the old one stays in use.

    Args:
        conf: Names the error log.
    """
    if conf.daemon and conf.error_log is not None:
        _reopen_stderr(conf.error_log)
    for handler in set(_file_handlers()):
        try:
            _reopen_handler(handler)
        except OSError as error:
            _warn(handler.baseFilename, error)
    for callback in list(_State.callbacks):
        try:
            callback()
        except Exception:
            _logger.exception("a callback for opening logs anew failed")
    _logger.info("log files were opened anew")


def _reopen_stderr(path: str) -> None:
    try:
        fd = open_error_log(path)
    except OSError as error:
        _warn(path, error)
        return
    try:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
        os.dup2(fd, _STDERR)
    finally:
        os.close(fd)


def _file_handlers() -> Iterator[logging.FileHandler]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    pending: list[object] = []
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            pending.extend(logger.handlers)
    while pending:
        handler = pending.pop()
        if isinstance(handler, logging.FileHandler):
            yield handler
        # Those that pass records on, such as MemoryHandler.
        target: object = getattr(handler, "target", None)
        if isinstance(target, logging.Handler):
            pending.append(target)


def _reopen_handler(handler: logging.FileHandler) -> None:
    handler.acquire()
    try:
        if handler.stream is None:  # not written to yet, or closed
            return
        # What was there at the start may have been truncated; what is there now must not be.
        handler.mode = handler.mode.replace("w", "a").replace("x", "a")
        fresh = handler._open()  # noqa: SLF001 - meant for those who derive; nothing else opens
        old, handler.stream = handler.stream, fresh
        with suppress(OSError, ValueError):  # what could not be written is lost with the file
            old.close()
    finally:
        handler.release()


def _warn(path: str, error: OSError) -> None:
    _logger.warning(
        "log file %s cannot be opened anew, the old one stays in use: %s", path, error.strerror
    )
