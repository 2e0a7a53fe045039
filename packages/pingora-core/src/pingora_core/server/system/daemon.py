"""Going to the background, and telling whoever has started the server when it is ready.

Theory of operation
-------------------
What can fail is done before the process forks: looking up the user, opening the error log,
changing to the working directory. So a mistake is told on the terminal, with an exit code, whether
or not anybody waits for readiness.

Then it forks twice: the first child makes a session of its own, which takes it away from the
terminal, and forks again, because only a process that leads no session can never be given another
terminal. The second child is the daemon, the first one ends.

The process that was started, which the shell or the service manager looks at, keeps the reading
end of a pipe. It learns the daemon's process id over it, then, if it is to wait, that the daemon is
ready (exit code 0) or why it is not (one line on the terminal and the daemon's exit code); an end
of the pipe without a word is the daemon's death. Pingora has SIGUSR1 for that, which here reopens
the logs; a pipe needs no retries, so ``daemon_notify_timeout_seconds`` has no meaning.

No descriptor comes along by accident. What Python opens is closed in other programs, so a
descriptor above 2 that is not marked in that way (``FD_CLOEXEC``) was left open by whoever started
this program, and is closed here; except sockets of a service manager. A program that was given a
descriptor on purpose keeps it by calling ``os.set_inheritable(fd, False)``.

Source: pingora-core/src/server/daemon.rs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from pingora_core.conf import CONFIG_ERROR
from pingora_core.server.process import say
from pingora_core.server.system._ready import NO_PIPE, ReadyPipe, Waiter
from pingora_core.server.system.privileges import check_privileges
from pingora_core.server.system.systemd import FIRST_SOCKET
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf
    from pingora_core.server.system.privileges import Identity

__all__ = [
    "NO_PIPE",
    "ReadyPipe",
    "daemonize",
    "leave_parent",
    "open_error_log",
    "resolve_paths",
]

_logger = logging.getLogger(__name__)

_UMASK: Final = 0o007
_LOG_MODE: Final = 0o640
_LOG_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
_STDERR: Final = 2
_MAX_SOCKETS: Final = 4096
_MAX_DESCRIPTOR: Final = 1024


# ----------------------------------------------------------------------------------- daemonizing


def resolve_paths(conf: ServerConf, folder: Path | None = None) -> ServerConf:
    """Make the paths of a configuration independent of the working directory.

    Relative ones belong to the directory in which the program was started, whatever
    ``working_directory`` says. To be called before anything changes the directory.

    Args:
        conf: The configuration.
        folder: The directory in which the program was started; None for that of the process.

    Returns:
        The same with absolute paths.
    """
    start = Path.cwd() if folder is None else folder

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(start / path)

    return replace(
        conf,
        pid_file=str(start / conf.pid_file),
        upgrade_sock=str(start / conf.upgrade_sock),
        error_log=absolute(conf.error_log),
        ca_file=absolute(conf.ca_file),
        working_directory=absolute(conf.working_directory),
    )


def daemonize(conf: ServerConf) -> ReadyPipe:
    """Go to the background; returns there.

    The process that called this never returns: it ends with exit code 0 as soon as the daemon is
    on its own or, with ``daemon_wait_for_ready``, when it is ready; otherwise with what was given
    to `ReadyPipe.say_failed`, or 1 if the daemon died or was not ready in time, which leaves it
    running, and one line on standard error.

    The daemon has its own session, the ``umask`` of the configuration or 007, standard input and
    output from and to nowhere, standard error in the ``error_log`` or, without one, where it was.
    Without a ``working_directory`` it stays where it is, so that relative paths go on meaning the
    same. It has one thread: threads do not survive a fork.

    Args:
        conf: The configuration.

    Returns:
        Where the daemon tells that it is ready.

    Raises:
        Error: Before anything has forked: ``CONFIG_ERROR`` if the user, the group, the error log
            or the working directory is wrong; ``INTERNAL_ERROR`` if the system is out of
            processes or descriptors.
        RuntimeError: If an event loop runs.
    """
    if _is_in_event_loop():
        msg = "a process goes to the background before it runs an event loop"
        raise RuntimeError(msg)
    conf = resolve_paths(conf)
    owner = check_privileges(conf)
    _warn_of_threads()
    original = os.getpid()
    try:
        with ExitStack() as opened:
            files = _Files.open(conf, owner, opened)
            if conf.working_directory is not None:
                _change_directory(conf, conf.working_directory)
            child = _fork()
            opened.pop_all()
    except OSError as error:
        context = "go to the background"
        raise Error(
            ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL, cause=error
        ) from error
    if child:
        os.close(files.writer)
        Waiter(conf, files.reader, child).leave()
    pipe = ReadyPipe(files.writer)
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        _settle(conf, files, original)
    except BaseException as error:  # noqa: BLE001 - only the daemon may get back to the program
        problem = f"cannot go to the background: {error}"
        say(f"error: {problem}")
        pipe.say_failed(problem)
        os._exit(1)
    pipe.say_detached()
    if not conf.daemon_wait_for_ready:
        pipe.close()
    return pipe


def leave_parent(conf: ServerConf) -> ReadyPipe:
    """Become a child of the service manager; returns in another process.

    A successor that a running server has started is that server's child. systemd notices the end
    of its own children only, and once it is told that another process is the main one, it does not
    wait for that when it stops the service: it kills it. (It looks at the moment when it is told,
    so that it does not help to lose the parent later.) A process whose parent ends becomes its
    child.

    The process that called this ends when the successor says that the next step is the running
    server's, or fails: so that server learns of a start that goes wrong.

    Args:
        conf: The configuration.

    Returns:
        Where the successor tells how far it is; as soon as it has, it has the other parent.

    Raises:
        Error: ``INTERNAL_ERROR`` if the system is out of processes or descriptors.
    """
    original = os.getpid()
    try:
        with ExitStack() as opened:
            reader, writer = os.pipe()
            opened.callback(os.close, reader)
            opened.callback(os.close, writer)
            child = _fork()
            opened.pop_all()
    except OSError as error:
        context = "leave the server that has started this one"
        raise Error(
            ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL, cause=error
        ) from error
    if child:
        os.close(writer)
        # Standard error is the same for both, and what is to be said is said there already.
        plain = replace(conf, daemon_wait_for_ready=True, error_log=None)
        Waiter(plain, reader, child, pid=str(child)).leave()
    os.close(reader)
    _rename_in_environment(original)
    return ReadyPipe(writer, waiting=original)


def open_error_log(path: str, owner: Identity | None = None) -> int:
    """Open the file that takes standard error in the background.

    A pipe or a terminal is not waited for: what does not fit is lost and the server goes on.

    Args:
        path: The file; made, readable for owner and group, if it is not there.
        owner: Whose it is when it is made here; None for who this process is. A file that is
            there already keeps its owner.

    Returns:
        Its descriptor, for appending, closed in other programs.

    Raises:
        OSError: If it cannot be opened.
    """
    try:
        fd = os.open(path, _LOG_FLAGS | os.O_CREAT | os.O_EXCL, _LOG_MODE)
    except FileExistsError:
        return os.open(path, _LOG_FLAGS)
    try:
        # Made by this very call, so it is no file of somebody else's behind a link.
        os.fchmod(fd, _LOG_MODE)
        if owner is not None and not owner.is_ours:
            os.fchown(fd, owner.uid, owner.gid)
    except OSError:
        os.close(fd)
        raise
    return fd


# ------------------------------------------------------------------------- before and after a fork


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _warn_of_threads() -> None:
    ours = threading.current_thread()
    names = [thread.name for thread in threading.enumerate() if thread is not ours]
    if names:
        _logger.warning("threads started too early, not there in the background: %s", names)


@dataclass(frozen=True, slots=True)
class _Files:
    # What is opened while a mistake can still be told on the terminal.
    null: int
    log: int | None
    reader: int
    writer: int

    @classmethod
    def open(cls, conf: ServerConf, owner: Identity | None, opened: ExitStack) -> _Files:
        null = -1
        while null <= _STDERR:
            # Standard streams that are closed get a file first, or what is opened below would
            # have their numbers.
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, null <= _STDERR)
        opened.callback(os.close, null)
        log = None
        if conf.error_log is not None:
            try:
                log = open_error_log(conf.error_log, owner)
            except OSError as error:
                _refuse(conf, "error_log", "a file that can be written to", error)
            opened.callback(os.close, log)
        reader, writer = os.pipe()
        opened.callback(os.close, reader)
        opened.callback(os.close, writer)
        return cls(null, log, reader, writer)


def _change_directory(conf: ServerConf, where: str) -> None:
    try:
        os.chdir(where)
    except OSError as error:
        _refuse(conf, "working_directory", "a directory that can be entered", error)


def _refuse(conf: ServerConf, key: str, allowed: str, error: OSError) -> NoReturn:
    line = conf.problem(key, f"{allowed} ({error.strerror})")
    raise Error(CONFIG_ERROR, line, source=ErrorSource.INTERNAL, cause=error)


def _fork() -> int:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or None
            # What is buffered would be written twice.
            stream.flush()
    return os.fork()


def _settle(conf: ServerConf, files: _Files, original: int) -> None:
    # In the daemon: its own streams and mask, and nothing of others.
    os.umask(_UMASK if conf.umask is None else conf.umask)
    os.close(files.reader)
    for stream in (0, 1):
        os.dup2(files.null, stream)
    os.close(files.null)
    if files.log is not None:
        os.dup2(files.log, _STDERR)
        os.close(files.log)
    # Streams that were closed at the start have a file only now.
    if sys.__stdout__ is None:
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    if sys.__stderr__ is None:
        sys.stderr = os.fdopen(_STDERR, "w", buffering=1, errors="backslashreplace", closefd=False)
    passed = 0
    if os.environ.get("LISTEN_PID") == str(original):
        count = os.environ.get("LISTEN_FDS", "")
        passed = min(int(count), _MAX_SOCKETS) if count.isascii() and count.isdecimal() else 0
    _close_strays(range(FIRST_SOCKET, FIRST_SOCKET + passed))
    _rename_in_environment(original)


def _rename_in_environment(original: int) -> None:
    # What a service manager has said to the process that it started is meant for this one.
    for key in ("LISTEN_PID", "WATCHDOG_PID"):
        if os.environ.get(key) == str(original):
            os.environ[key] = str(os.getpid())


def _close_strays(passed: range) -> None:
    try:
        # Path.iterdir would hold a descriptor of its own.
        open_ones = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    except OSError:
        open_ones = list(range(_MAX_DESCRIPTOR))
    for fd in open_ones:
        if fd <= _STDERR or fd in passed:
            continue
        with suppress(OSError):  # the listing's own, or not open
            if os.get_inheritable(fd):
                os.close(fd)
                _logger.debug("closed descriptor %d, which was left open at the start", fd)
